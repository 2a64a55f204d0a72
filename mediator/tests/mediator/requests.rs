//! A VF's requests through a running mediator, between a fake card and a fake PF driver: igbvf's
//! own register sequences, config blocks, notification, reset order, deadlines.

use std::time::Duration;

use crate::fixture::{FakePf, Guest, SOON, Seen, eics, mediator};
use igb::mailbox::{ACK, CTS, MessageId, NACK, PfReply, VfMessage};
use igb::{PVTCTRL, Register, STATUS, V2PMAILBOX, vf};
use iommu::function::Function;
use mediator::Backchannel;
use mediator::clock::Clock;
use mediator_protocol::bar::{BUFFER, Command, MAGIC, Register as BarRegister};
use mediator_protocol::*;
use vfio_user::device::region;

const MAC: [u8; 6] = [0x02, 0, 0, 0x11, 0x22, 0x33];

fn words(reply: PfReply) -> ReplyBody {
    ReplyBody::Mailbox(MailboxWords::new(&reply.encode()[..reply.len()]).unwrap())
}

fn mailbox(request: &Request) -> VfMessage {
    let RequestBody::Mailbox(words) = request.body else {
        panic!("a mailbox request: {request:?}")
    };
    VfMessage::parse(&words).unwrap()
}

/// igbvf's reset: CTRL.RST, RSTI/RSTD clear, RESET message, MAC address.
fn igbvf_reset(guest: &Guest, pf: &mut FakePf) {
    guest.write(vf::VTCTRL::OFFSET, PVTCTRL::RST.mask());
    assert_eq!(
        guest.v2p() & (V2PMAILBOX::RSTI.mask() | V2PMAILBOX::RSTD.mask()),
        0
    );
    guest.write_mailbox(&[MessageId::Reset as u32]);
    let request = pf.request();
    assert_eq!(mailbox(&request), VfMessage::Reset);
    pf.answer(&request, Status::Ok, words(PfReply::ResetAck(MAC.into())));
}

#[test]
fn igbvf_probes_and_sets_mac_and_vlan() {
    let (mediator, card) = mediator(1, |_| {});
    let mut pf = FakePf::connect(&mediator);
    pf.offer(0);
    let guest = Guest::attach(&mediator, 0);
    // The mediator has tried out the card's mailbox, before anybody had the VF.
    let before = card.vf(0).log().len();
    igbvf_reset(&guest, &mut pf);
    pf.settle();
    let answer = guest.read_mailbox(3);
    let mut all = [0; 16];
    all[..3].copy_from_slice(&answer);
    assert_eq!(PfReply::parse(&all), Ok(PfReply::ResetAck(MAC.into())));

    guest.write_mailbox(&VfMessage::SetMac(MAC.into()).encode()[..3]);
    let request = pf.request();
    assert_eq!(mailbox(&request), VfMessage::SetMac(MAC.into()));
    pf.answer(&request, Status::Ok, ReplyBody::Empty);
    pf.settle();
    assert_eq!(
        guest.read_mailbox(1),
        [ACK | CTS | MessageId::SetMac as u32]
    );

    let join = VfMessage::SetVlan {
        add: true,
        vid: 100,
    };
    guest.write_mailbox(&join.encode()[..2]);
    let request = pf.request();
    assert_eq!(mailbox(&request), join);
    pf.answer(&request, Status::Denied, ReplyBody::Empty);
    pf.settle();
    assert_eq!(
        guest.read_mailbox(1),
        [NACK | CTS | MessageId::SetVlan as u32]
    );
    // Nothing of this ever reached the card's own mailbox.
    let touched = |seen: &Seen| {
        let (Seen::Write {
            region: region::BAR0,
            offset,
            ..
        }
        | Seen::Post {
            region: region::BAR0,
            offset,
            ..
        }) = seen
        else {
            return false;
        };
        (u64::from(vf::VMBMEM::OFFSET)..=u64::from(vf::V2PMAILBOX::OFFSET)).contains(offset)
    };
    let log = card.vf(0).log();
    assert!(!log[before..].iter().any(touched));
    assert_eq!(
        log.iter().rfind(|seen| touched(seen)),
        Some(&Seen::Write {
            region: region::BAR0,
            offset: vf::VMBMEM::offset(15).into(),
            data: vec![0; 4],
        }),
        "what was tried is left behind"
    );
    assert_eq!(mediator.list()[0].backchannel, Some(Backchannel::Fenced));
}

#[test]
fn an_answer_raises_the_vector_that_ivar_misc_names() {
    let (mediator, card) = mediator(1, |_| {});
    let mut pf = FakePf::connect(&mediator);
    pf.offer(0);
    let guest = Guest::attach(&mediator, 0);
    guest.write(vf::VTCTRL::OFFSET, PVTCTRL::RST.mask());
    guest.route_mailbox_vector(1);
    guest.write_mailbox(&[MessageId::Reset as u32]);
    let request = pf.request();
    pf.answer(&request, Status::Ok, words(PfReply::ResetNack));
    card.vf(0).wait_seen(&eics(1), 1);
    // Changed by a narrow write: the mediator asks the card.
    guest
        .function
        .write(region::BAR0, vf::VTIVAR_MISC::OFFSET.into(), &[0x80])
        .unwrap();
    card.vf(0).set_register(vf::VTIVAR_MISC::OFFSET, 0x80);
    pf.send(FromPf::Link {
        vf: 0,
        up: false,
        speed: 1000,
    });
    card.vf(0).wait_seen(&eics(0), 1);
}

#[test]
fn link_state_is_the_pf_drivers() {
    let (mediator, card) = mediator(1, |_| {});
    card.vf(0).set_register(vf::VTSTATUS::OFFSET, 0);
    let mut pf = FakePf::connect(&mediator);
    pf.offer(0);
    let guest = Guest::attach(&mediator, 0);
    card.vf(0)
        .set_register(vf::VTSTATUS::OFFSET, STATUS::FD.mask());
    assert_eq!(
        guest.read(vf::VTSTATUS::OFFSET),
        STATUS::FD.mask() | STATUS::LU.mask()
    );
    pf.send(FromPf::Link {
        vf: 0,
        up: false,
        speed: 0,
    });
    pf.settle();
    card.vf(0)
        .set_register(vf::VTSTATUS::OFFSET, STATUS::FD.mask() | STATUS::LU.mask());
    assert!(!guest.link_up(), "the card's link bit is not the VF's");
    let mut byte = [0xFF];
    guest
        .function
        .read(region::BAR0, vf::VTSTATUS::OFFSET.into(), &mut byte)
        .unwrap();
    assert_eq!(u32::from(byte[0]), STATUS::FD.mask(), "in any width");
}

#[test]
fn reset_indications_come_from_the_card() {
    let (mediator, card) = mediator(1, |_| {});
    let mut pf = FakePf::connect(&mediator);
    pf.offer(0);
    let guest = Guest::attach(&mediator, 0);
    card.vf(0).set_register(
        vf::V2PMAILBOX::OFFSET,
        V2PMAILBOX::RSTD.mask() | V2PMAILBOX::PFSTS.mask(),
    );
    assert_eq!(
        guest.v2p(),
        V2PMAILBOX::RSTD.mask(),
        "its message bits do not count"
    );
    assert_eq!(guest.v2p(), 0);
}

#[test]
fn a_reset_of_the_pf_before_a_tenant_came_is_no_news_to_it() {
    let (mediator, card) = mediator(1, |_| {});
    card.vf(0)
        .set_register(vf::V2PMAILBOX::OFFSET, V2PMAILBOX::RSTD.mask());
    let mut pf = FakePf::connect(&mediator);
    pf.offer(0);
    let guest = Guest::attach(&mediator, 0);
    assert_eq!(guest.v2p(), 0);
}

/// What a card may have in page 0 that is no register of a VF's: QEMU's igb has an alias of CTRL, by which a
/// VF would reset itself unseen, and a register of the PF's.
#[test]
fn page_0_has_the_registers_of_a_vf_and_no_others() {
    let (mediator, card) = mediator(1, |_| {});
    let mut pf = FakePf::connect(&mediator);
    pf.offer(0);
    let guest = Guest::attach(&mediator, 0);
    let before = card.vf(0).log().len();
    for offset in (0..0x1000)
        .step_by(4)
        .filter(|at| vf::window_at(*at).is_none())
    {
        card.vf(0).set_register(offset, 0x5A5A_5A5A);
        guest.write(offset, PVTCTRL::RST.mask());
        assert_eq!(guest.read(offset), 0, "{offset:#x}");
    }
    // Across the end of one that is.
    let mut both = [0xAA; 8];
    let at = vf::VTCTRL::OFFSET.into();
    guest.function.read(region::BAR0, at, &mut both).unwrap();
    assert_eq!(both[4..], [0; 4]);
    let log = card.vf(0).log();
    assert_eq!(log[before..], [], "nothing of it got to the card");
}

#[test]
fn config_blocks_both_ways() {
    let (mediator, card) = mediator(1, |_| {});
    let mut pf = FakePf::connect(&mediator);
    pf.offer(0);
    let guest = Guest::attach(&mediator, 0);
    guest.route_mailbox_vector(2);
    assert_eq!(guest.bar(BarRegister::Magic), MAGIC);
    guest.ask_block(Command::Read, block::CONFIG, 28);
    let request = pf.request();
    assert_eq!(
        request.body,
        RequestBody::ReadBlock {
            block: block::CONFIG,
            length: 28
        }
    );
    assert!(guest.block_status().is_busy());
    let config = block::Config {
        mac: MAC,
        mtu: 1500,
        ..Default::default()
    };
    pf.answer(&request, Status::Ok, ReplyBody::Block(config.encode()));
    card.vf(0).wait_seen(&eics(2), 1);
    assert_eq!(guest.block_status().verdict(), Ok(Some(Status::Ok)));
    let mut data = vec![0; guest.bar(BarRegister::Length) as usize];
    guest.function.read(bar::INDEX, BUFFER, &mut data).unwrap();
    assert_eq!(block::Config::parse(&data), Ok(config));

    let wish = block::VfRequest::SetPromisc {
        unicast: true,
        multicast: false,
    };
    guest
        .function
        .write(bar::INDEX, BUFFER, &wish.encode())
        .unwrap();
    guest.ask_block(Command::Write, block::REQUEST, wish.encode().len() as u32);
    let request = pf.request();
    let RequestBody::WriteBlock {
        block: block::REQUEST,
        data,
    } = request.body
    else {
        panic!("{request:?}")
    };
    assert_eq!(block::VfRequest::parse(&data), Ok(wish));
    pf.answer(&request, Status::Denied, ReplyBody::Empty);
    card.vf(0).wait_seen(&eics(2), 2);
    assert_eq!(guest.block_status().verdict(), Ok(Some(Status::Denied)));

    pf.send(FromPf::Invalidate {
        vf: 0,
        generation: request.generation,
        mask: 1 << block::CONFIG,
    });
    card.vf(0).wait_seen(&eics(2), 3);
    assert_eq!(guest.bar(BarRegister::InvalidatedLo), 1 << block::CONFIG);
}

#[test]
fn the_bar_is_in_config_space() {
    let (mediator, _card) = mediator(1, |_| {});
    let mut pf = FakePf::connect(&mediator);
    pf.offer(0);
    let guest = Guest::attach(&mediator, 0);
    let at = u64::from(igb::pci::header::bar(2));
    guest
        .function
        .write(region::CONFIG, at, &u32::MAX.to_le_bytes())
        .unwrap();
    assert_eq!(
        guest.read_region(region::CONFIG, at),
        !(bar::SIZE as u32 - 1)
    );
    assert_eq!(guest.function.region(bar::INDEX).unwrap().size, bar::SIZE);
}

#[test]
fn interrupt_page_writes_are_posted_in_order() {
    let (mediator, card) = mediator(1, |_| {});
    let mut pf = FakePf::connect(&mediator);
    pf.offer(0);
    let guest = Guest::attach(&mediator, 0);
    let writes: Vec<Seen> = (1..5)
        .map(|n| {
            Seen::post(
                if n % 2 == 0 {
                    vf::VTEIMS::OFFSET
                } else {
                    vf::VTEIMC::OFFSET
                },
                n,
            )
        })
        .collect();
    for (n, seen) in (1..).zip(&writes) {
        let Seen::Post { offset, .. } = seen else {
            unreachable!()
        };
        guest.write(*offset as u32, n);
    }
    let log = card.vf(0).log();
    assert!(
        log.windows(writes.len()).any(|window| window == writes),
        "{log:x?}"
    );
}

/// CTRL.RST and FLR: the card has completed it, and the PF driver has been told, before a later
/// request is relayed; what was outstanding is answered RESET.
#[test]
fn a_reset_is_complete_before_the_next_request() {
    let (mediator, card) = mediator(1, |_| {});
    let mut pf = FakePf::connect(&mediator);
    pf.offer(0);
    let guest = Guest::attach(&mediator, 0);
    let flr = igb::pci::express::INITIATE_FLR.to_le_bytes();
    let device_control = u64::from(0xA0 + igb::pci::express::DEVICE_CONTROL);
    let resets: [(ResetCause, &(dyn Fn() + Sync)); 3] = [
        (ResetCause::CtrlRst, &|| {
            guest.write(vf::VTCTRL::OFFSET, PVTCTRL::RST.mask())
        }),
        (ResetCause::Flr, &|| {
            guest
                .function
                .write(region::CONFIG, device_control, &flr)
                .unwrap()
        }),
        (ResetCause::Device, &|| guest.function.reset().unwrap()),
    ];
    for (cause, reset) in resets {
        guest.ask_block(Command::Read, 1, 8);
        let old = pf.request();
        let resets_before = card.vf(0).count(&Seen::Reset);
        card.vf(0).hold_resets(true);
        std::thread::scope(|scope| {
            scope.spawn(reset);
            // The card is still at it: the PF driver must hear of nothing. An answer now is in time.
            pf.settle();
            assert_eq!(card.vf(0).count(&Seen::Reset), resets_before);
            card.vf(0).hold_resets(false);
        });
        assert_eq!(
            guest.block_status().verdict(),
            Ok(Some(Status::Reset)),
            "{cause:?}"
        );
        guest.ask_block(Command::Read, 1, 8);
        let told = pf.receive();
        assert_eq!(
            told,
            Some(ToPf::Reset {
                vf: 0,
                generation: old.generation + 1,
                cause
            })
        );
        let Some(ToPf::Request(new)) = pf.receive() else {
            panic!("the request follows the reset")
        };
        assert_eq!(new.generation, old.generation + 1);
        assert_eq!(card.vf(0).count(&Seen::Reset), resets_before + 1);
        // The kernel's VFIO would take the bit without telling whether the reset was done.
        let bit = Seen::Write {
            region: region::CONFIG,
            offset: device_control,
            data: flr.to_vec(),
        };
        assert_eq!(card.vf(0).count(&bit), 0, "an FLR is asked for as a reset");
        // The old answer is too late for anything.
        pf.answer(
            &old,
            Status::Ok,
            ReplyBody::Block(BlockData::new(&[0xEE; 8]).unwrap()),
        );
        pf.settle();
        assert!(guest.block_status().is_busy());
        pf.answer(
            &new,
            Status::Ok,
            ReplyBody::Block(BlockData::new(&[0x11; 8]).unwrap()),
        );
        pf.settle();
        assert_eq!(guest.read_region(bar::INDEX, BUFFER), 0x1111_1111);
    }
}

#[test]
fn a_reset_that_does_not_complete_takes_the_vf_away() {
    let (mediator, card) = mediator(2, |_| {});
    let mut pf = FakePf::connect(&mediator);
    pf.offer(0);
    let guest = Guest::attach(&mediator, 0);
    card.vf(0).fail_resets();
    let reset = PVTCTRL::RST.mask().to_le_bytes();
    assert!(
        guest
            .function
            .write(region::BAR0, vf::VTCTRL::OFFSET.into(), &reset)
            .is_err()
    );
    let ejected = pf.until(|message| matches!(message, ToPf::Ejected { .. }));
    assert_eq!(
        ejected,
        ToPf::Ejected {
            vf: 0,
            graceful: false
        }
    );
    // It is not gone for good: the PF driver is to offer it again.
    assert_eq!(
        pf.receive(),
        Some(ToPf::Rejected {
            vf: 0,
            status: Status::TimedOut
        })
    );
    pf.offer(1);
    assert!(
        mediator.wait_for_device(1, SOON).is_some(),
        "the other VF is none the worse"
    );
}

#[test]
fn a_silent_pf_driver_costs_a_nack_at_the_deadline() {
    let clock = Clock::manual();
    let (mediator, card) = mediator(1, |options| options.clock = clock.clone());
    let mut pf = FakePf::connect(&mediator);
    pf.offer(0);
    let guest = Guest::attach(&mediator, 0);
    igbvf_reset(&guest, &mut pf);
    guest.route_mailbox_vector(0);
    pf.settle();
    guest.read_mailbox(3);
    guest.write_mailbox(&VfMessage::SetLpe(9000).encode()[..2]);
    let request = pf.request();
    clock.advance(Duration::from_millis(499));
    pf.settle();
    assert_eq!(guest.v2p() & V2PMAILBOX::PFSTS.mask(), 0);
    clock.advance(Duration::from_millis(1));
    let expired = pf.until(|message| matches!(message, ToPf::Expired { .. }));
    assert_eq!(
        expired,
        ToPf::Expired {
            vf: 0,
            generation: request.generation,
            id: request.id
        }
    );
    assert_eq!(
        guest.read_mailbox(1),
        [NACK | CTS | MessageId::SetLpe as u32]
    );
    card.vf(0).wait_seen(&eics(0), 1);
    pf.answer(&request, Status::Ok, ReplyBody::Empty);
    pf.settle();
    assert_eq!(guest.v2p(), 0, "the late answer is dropped");
}

#[test]
fn one_vf_that_floods_costs_its_sibling_nothing() {
    let (mediator, _card) = mediator(2, |_| {});
    let mut pf = FakePf::connect(&mediator);
    pf.offer(0);
    pf.offer(1);
    let (flooder, sibling) = (Guest::attach(&mediator, 0), Guest::attach(&mediator, 1));
    // The PF driver answers nobody: the flooder gets its 8 outstanding requests and no more.
    for _ in 0..2000 {
        flooder.write_mailbox(&[MessageId::SetVlan as u32, 5]);
        flooder.ask_block(Command::Read, 7, 129);
    }
    sibling.ask_block(Command::Read, 1, 4);
    let mut of_flooder = 0;
    let request = loop {
        match pf.request() {
            request if request.vf == 1 => break request,
            _ => of_flooder += 1,
        }
    };
    assert_eq!(of_flooder, 8);
    pf.answer(
        &request,
        Status::Ok,
        ReplyBody::Block(BlockData::new(&[1; 4]).unwrap()),
    );
    pf.settle();
    assert_eq!(sibling.block_status().verdict(), Ok(Some(Status::Ok)));
}

/// A VF's answer reaches that VF alone, whatever the PF driver confuses.
#[test]
fn an_answer_with_a_siblings_id_reaches_nobody() {
    let (mediator, _card) = mediator(2, |_| {});
    let mut pf = FakePf::connect(&mediator);
    pf.offer(0);
    pf.offer(1);
    let guests = [Guest::attach(&mediator, 0), Guest::attach(&mediator, 1)];
    for guest in &guests {
        guest.ask_block(Command::Read, 1, 4);
    }
    let (first, second) = (pf.request(), pf.request());
    let data = ReplyBody::Block(BlockData::new(&[9; 4]).unwrap());
    pf.send(FromPf::Reply(Reply {
        id: second.id,
        ..Reply::to(&first, Status::Ok, data)
    }));
    pf.send(FromPf::Reply(Reply {
        vf: 40,
        ..Reply::to(&first, Status::Ok, data)
    }));
    pf.settle();
    assert!(guests.iter().all(|guest| guest.block_status().is_busy()));
    pf.answer(&first, Status::Ok, data);
    pf.answer(&second, Status::Ok, data);
    pf.settle();
    assert!(
        guests
            .iter()
            .all(|guest| guest.block_status().verdict() == Ok(Some(Status::Ok)))
    );
}
