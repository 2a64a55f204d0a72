//! The driver pair against the emulated card, in process and without a mediator: requests go through
//! the card's own mailbox.

mod running;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use igb::frame::MacAddress;
use igb::{CTRL, FunctionId, Register, Value};
use igb_driver::netdev::NetDevice;
use iommu::backend::InProcess;
use iommu::function::{Function, region};
use iommu::interrupt::InterruptSet;
use pf_driver::{LinkState, PfDriver, PfError, PfOptions, Policy};
use running::{PATIENCE, Running, step};
use vf_driver::{ChannelKind, Status, VfDriver, VfOptions, VfRequest};
use vfio_user_device::{Card, CardOptions, MailboxMode};

fn card() -> Arc<Card> {
    Card::new(CardOptions {
        mailbox: MailboxMode::Open,
        ..CardOptions::default()
    })
    .unwrap()
}

fn function(card: &Arc<Card>, id: FunctionId) -> Arc<InProcess> {
    Arc::new(InProcess::new(card.function(id)).unwrap())
}

/// A driver that answers the card's mailbox.
fn probe(card: &Arc<Card>, options: PfOptions) -> PfDriver {
    let options = PfOptions {
        mailbox: true,
        ..options
    };
    PfDriver::probe(function(card, FunctionId::PF), options).unwrap()
}

fn options(policy: &str) -> PfOptions {
    PfOptions {
        policy: Policy::parse(policy).unwrap(),
        ..PfOptions::default()
    }
}

fn vf(card: &Arc<Card>, n: u8) -> VfDriver {
    let options = VfOptions {
        channel: ChannelKind::Mailbox,
        ..VfOptions::default()
    };
    VfDriver::probe(function(card, FunctionId::vf(n)), &options).unwrap()
}

fn frame(to: MacAddress, from: MacAddress, len: usize, fill: u8) -> Vec<u8> {
    let mut frame = vec![fill; len];
    frame[..6].copy_from_slice(&to.bytes());
    frame[6..12].copy_from_slice(&from.bytes());
    frame[12..14].copy_from_slice(&igb::frame::ETHERTYPE_EXPERIMENTAL.to_be_bytes());
    frame
}

fn send(from: &mut dyn NetDevice, frame: &[u8]) {
    from.xmit(frame).unwrap();
    from.flush();
}

/// The next frame that arrives; `None` if none does.
fn receive(device: &mut dyn NetDevice, wait: Duration) -> Option<Vec<u8>> {
    let end = Instant::now() + wait;
    loop {
        let mut arrived = None;
        device.poll(1, &mut |frame| arrived = Some(frame.to_vec()));
        if arrived.is_some() || Instant::now() >= end {
            return arrived;
        }
        step(device, end.saturating_duration_since(Instant::now()));
    }
}

/// Sends from one to the other until the last of a burst has come; returns what came in order.
fn burst(from: &mut VfDriver, to: &mut VfDriver, frames: u8, len: usize) {
    let (source, target) = (from.mac(), to.mac());
    for n in 0..frames {
        send(from, &frame(target, source, len, n));
    }
    for n in 0..frames {
        let arrived = receive(to, PATIENCE).expect("frame arrives");
        assert_eq!(arrived, frame(target, source, len, n));
    }
}

#[test]
fn probe_reports_what_the_card_can_do() {
    let card = card();
    let driver = probe(&card, PfOptions::default());
    let capabilities = driver.capabilities();
    assert!(capabilities.sriov);
    assert_eq!((capabilities.total_vfs, capabilities.max_vfs), (8, 7));
    assert_eq!(
        (capabilities.first_vf_offset, capabilities.vf_stride),
        (0x80, 2)
    );
    assert_eq!(capabilities.vf_device_id, 0x10CA);
    let bars: Vec<_> = capabilities
        .vf_bars
        .iter()
        .map(|b| (b.index, b.size))
        .collect();
    assert_eq!(bars, [(0, 0x4000), (3, 0x4000)]);
    assert_eq!(capabilities.missing, Vec::<String>::new());
    assert_eq!(driver.mac(), CardOptions::default().mac);
    assert!(driver.carrier());
    driver.remove();
}

#[test]
fn vfs_come_and_go_and_never_outlive_sriov() {
    let card = card();
    let mut driver = probe(&card, PfOptions::default());
    for n in [1, 7, 3] {
        driver.sriov_configure(n).unwrap();
        assert_eq!(u16::from(card.num_vfs()), n);
        assert!(matches!(
            driver.sriov_configure(2),
            Err(PfError::VfsEnabled { .. })
        ));
        assert!(driver.get_vf_config(n).is_err());
        driver.get_vf_config(n - 1).unwrap();
        driver.sriov_configure(0).unwrap();
        assert_eq!(card.num_vfs(), 0);
        assert!(driver.get_vf_config(0).is_err());
    }
    assert!(matches!(
        driver.sriov_configure(8),
        Err(PfError::TooManyVfs { .. })
    ));
    driver.sriov_configure(2).unwrap();
    driver.remove();
    assert_eq!(card.num_vfs(), 0);
}

#[test]
fn the_hardware_mailbox_is_answered_only_if_that_was_asked_for() {
    use igb::mailbox::VfMessage;
    use igb::{Register, V2PMAILBOX, Value};
    let card = card();
    for answers in [false, true] {
        let options = PfOptions {
            mailbox: answers,
            ..PfOptions::default()
        };
        let mut driver = PfDriver::probe(function(&card, FunctionId::PF), options).unwrap();
        driver.sriov_configure(1).unwrap();
        let vf = function(&card, FunctionId::vf(0));
        let write = |register: u64, word: u32| {
            vf.write(region::BAR0, register, &word.to_le_bytes())
                .unwrap();
        };
        for (n, word) in (0..).zip(VfMessage::Reset.encode()) {
            write(igb::vf::VMBMEM::offset(n).into(), word);
        }
        let request = Value::<V2PMAILBOX>::default().set(V2PMAILBOX::REQ);
        write(igb::vf::V2PMAILBOX::offset(0).into(), request.raw());
        let counter = if answers {
            "mailbox_requests"
        } else {
            "mailbox_unanswered"
        };
        let end = Instant::now() + PATIENCE;
        while driver.stats().get(counter) != Some(1) {
            assert!(Instant::now() < end, "the PF does not see the message");
            step(&mut driver, PATIENCE);
        }
        let mut word = [0; 4];
        let register = igb::vf::V2PMAILBOX::offset(0).into();
        vf.read(region::BAR0, register, &mut word).unwrap();
        let seen = Value::<V2PMAILBOX>::from_raw(u32::from_le_bytes(word));
        assert_eq!(seen.has(V2PMAILBOX::PFSTS), answers);
        driver.remove();
    }
}

/// News are written where requests and answers are, and must not take the place of either.
#[test]
fn news_for_a_vf_wait_until_its_mailbox_is_free() {
    use igb::V2PMAILBOX;
    use igb::mailbox::{PfReply, VfMessage};
    let card = card();
    let mut driver = probe(&card, PfOptions::default());
    driver.sriov_configure(1).unwrap();
    let vf = function(&card, FunctionId::vf(0));
    let write = |register: u32, word: u32| {
        vf.write(region::BAR0, register.into(), &word.to_le_bytes())
            .unwrap();
    };
    let read = |register: u32| {
        let mut word = [0; 4];
        vf.read(region::BAR0, register.into(), &mut word).unwrap();
        u32::from_le_bytes(word)
    };
    let mailbox = igb::vf::V2PMAILBOX::offset(0);
    let words = || std::array::from_fn(|n| read(igb::vf::VMBMEM::offset(n as u32)));
    // What the PF rang for.
    let message = |driver: &mut PfDriver| {
        let end = Instant::now() + PATIENCE;
        while read(mailbox) & V2PMAILBOX::PFSTS.mask() == 0 {
            assert!(Instant::now() < end, "the PF does not ring");
            step(driver, Duration::from_millis(5));
        }
        PfReply::parse(&words()).unwrap()
    };
    for (n, word) in (0..).zip(VfMessage::Reset.encode()) {
        write(igb::vf::VMBMEM::offset(n), word);
    }
    write(mailbox, V2PMAILBOX::REQ.mask());
    card.set_link(false);
    let answer = message(&mut driver);
    assert!(
        matches!(answer, PfReply::ResetAck(_)),
        "a request is not written over: {answer:?}"
    );
    driver.set_vf_link_state(0, LinkState::Disable).unwrap();
    driver.service();
    assert_eq!(
        words(),
        answer.encode(),
        "nor is an answer that is not read"
    );
    write(mailbox, V2PMAILBOX::ACK.mask());
    assert_eq!(message(&mut driver), PfReply::Control { cts: true });
    driver.remove();
}

#[test]
fn frames_pass_between_vfs_and_the_pf() {
    let card = card();
    let mut driver = probe(&card, PfOptions::default());
    driver.sriov_configure(2).unwrap();
    driver.open().unwrap();
    let pf = Running::start(driver);
    let (mut a, mut b) = (vf(&card, 0), vf(&card, 1));
    a.open().unwrap();
    b.open().unwrap();
    assert!(a.carrier());
    burst(&mut a, &mut b, 50, 64);
    burst(&mut b, &mut a, 50, 1514);

    let mut driver = pf.finish();
    let hello = frame(driver.mac(), a.mac(), 100, 7);
    send(&mut a, &hello);
    assert_eq!(receive(&mut driver, PATIENCE), Some(hello));
    let answer = frame(a.mac(), driver.mac(), 100, 8);
    send(&mut driver, &answer);
    assert_eq!(receive(&mut a, PATIENCE), Some(answer));

    let everybody = frame(MacAddress::BROADCAST, b.mac(), 100, 9);
    send(&mut b, &everybody);
    assert_eq!(receive(&mut a, PATIENCE).as_ref(), Some(&everybody));
    assert_eq!(receive(&mut driver, PATIENCE), Some(everybody));
    assert_eq!(
        receive(&mut b, Duration::from_millis(50)),
        None,
        "not its own"
    );

    let stats = driver.get_vf_stats(0).unwrap();
    assert_eq!(stats.rx_packets, 52);
    assert_eq!(stats.tx_packets, 51);
    a.remove();
    b.remove();
    driver.remove();
}

#[test]
fn jumbo_frames_pass_where_the_pf_allows_them() {
    let card = card();
    let mut driver = probe(
        &card,
        PfOptions {
            mtu: 9216,
            ..PfOptions::default()
        },
    );
    driver.sriov_configure(2).unwrap();
    let pf = Running::start(driver);
    let (mut a, mut b) = (vf(&card, 0), vf(&card, 1));
    for device in [&mut a, &mut b] {
        device.set_mtu(9216).unwrap();
        device.open().unwrap();
    }
    burst(&mut a, &mut b, 20, 9216 + 14);
    assert!(a.xmit(&vec![0; 9216 + 19]).is_err());
    pf.finish().remove();
}

#[test]
fn requests_are_granted_and_refused_by_policy() {
    let policy = r#"{ "vfs": { "1": { "mac": "02:00:00:00:aa:01", "allowed_vlans": [10] } } }"#;
    let card = card();
    let mut driver = probe(&card, options(policy));
    driver.sriov_configure(2).unwrap();
    let pf = Running::start(driver);
    let (mut a, mut b) = (vf(&card, 0), vf(&card, 1));
    assert_eq!(b.mac().to_string(), "02:00:00:00:aa:01");
    let own = [2, 0, 0, 0, 0xBB, 0];
    let ask = |vf: &mut VfDriver, request| vf.request(&request).unwrap();
    assert_eq!(ask(&mut a, VfRequest::SetMac(own)), Status::Ok);
    assert_eq!(a.mac().bytes(), own);
    for (request, granted) in [
        (VfRequest::SetMac(own), false),
        (VfRequest::AddMac(own), false),
        (VfRequest::AddVlan(10), true),
        (VfRequest::AddVlan(11), false),
        (VfRequest::SetMtu(1400), true),
        (VfRequest::SetMtu(1501), false),
        (
            VfRequest::SetPromisc {
                unicast: true,
                multicast: false,
            },
            false,
        ),
    ] {
        let status = ask(&mut b, request);
        assert_eq!(status == Status::Ok, granted, "{request:?}: {status:?}");
    }
    let (config, stats) = pf.run(|pf| (pf.get_vf_config(1).unwrap(), pf.get_vf_stats(1).unwrap()));
    assert_eq!((config.mtu, config.vlans), (1400, vec![10]));
    assert_eq!(stats.refused["promisc-not-trusted"], 1);
    assert_eq!(stats.refused["vlan-not-allowed"], 1);
    pf.finish().remove();
}

#[test]
fn the_card_enforces_what_the_administrator_sets() {
    let card = card();
    let mut driver = probe(&card, PfOptions::default());
    driver.sriov_configure(3).unwrap();
    let pf = Running::start(driver);
    let mut vfs: Vec<_> = (0..3).map(|n| vf(&card, n)).collect();
    vfs.iter_mut().for_each(|vf| vf.open().unwrap());
    let [a, b, c] = &mut vfs[..] else {
        unreachable!()
    };
    burst(a, b, 3, 64);

    // A source that is not the sender's does not pass, until the check is off.
    let spoofed = frame(b.mac(), MacAddress([2, 9, 9, 9, 9, 9]), 64, 1);
    send(a, &spoofed);
    burst(a, b, 1, 64);
    pf.run(|pf| pf.set_vf_spoofchk(0, false)).unwrap();
    send(a, &spoofed);
    assert_eq!(receive(b, PATIENCE), Some(spoofed));

    // A VLAN separates: A and C are in it, B is not.
    pf.run(|pf| pf.set_vf_vlan(0, 10, 3)).unwrap();
    pf.run(|pf| pf.set_vf_vlan(2, 10, 0)).unwrap();
    let unheard = frame(b.mac(), a.mac(), 64, 2);
    send(a, &unheard);
    burst(a, c, 3, 1514);
    assert_eq!(receive(b, Duration::from_millis(20)), None);
    pf.run(|pf| pf.set_vf_vlan(0, 0, 0)).unwrap();
    burst(a, b, 1, 64);

    // A VF whose link is disabled neither sends nor receives.
    pf.run(|pf| pf.set_vf_link_state(1, LinkState::Disable))
        .unwrap();
    let unheard = frame(b.mac(), a.mac(), 64, 3);
    send(a, &unheard);
    assert_eq!(receive(b, Duration::from_millis(20)), None);
    pf.run(|pf| pf.set_vf_link_state(1, LinkState::Enable))
        .unwrap();
    burst(a, b, 1, 64);

    let refused = pf.run(|pf| pf.set_vf_mac(1, pf.mac()));
    assert!(matches!(refused, Err(PfError::MacInUse(_))));
    let refused = pf.run(|pf| pf.set_vf_min_rate(1, 10));
    assert!(matches!(refused, Err(PfError::NotSupported(_))));
    let spoofs = pf.run(|pf| pf.get_vf_stats(0).unwrap().tx_spoofed);
    assert!(spoofs >= 1, "the card told who spoofs");
    pf.finish().remove();
}

#[test]
fn a_vf_that_is_reset_begins_anew_and_its_sibling_does_not_notice() {
    let card = card();
    let mut driver = probe(&card, PfOptions::default());
    driver.sriov_configure(3).unwrap();
    let pf = Running::start(driver);
    let mut vfs: Vec<_> = (0..3).map(|n| vf(&card, n)).collect();
    vfs.iter_mut().for_each(|vf| vf.open().unwrap());
    let [a, b, c] = &mut vfs[..] else {
        unreachable!()
    };
    let sibling = pf.run(|pf| pf.get_vf_config(1).unwrap());
    for vid in [5, 6] {
        assert_eq!(a.request(&VfRequest::AddVlan(vid)).unwrap(), Status::Ok);
    }
    a.reset().unwrap();
    let config = pf.run(|pf| pf.get_vf_config(0).unwrap());
    assert_eq!(
        config.vlans,
        Vec::<u16>::new(),
        "filters went with the reset"
    );
    assert_eq!(pf.run(|pf| pf.get_vf_config(1).unwrap()), sibling);
    burst(b, c, 5, 64);
    burst(a, b, 5, 64);
    burst(b, a, 5, 64);
    pf.finish().remove();
}

#[test]
fn a_vf_that_is_taken_away_is_gone_and_says_so() {
    let card = card();
    let mut driver = probe(&card, PfOptions::default());
    driver.sriov_configure(1).unwrap();
    let pf = Running::start(driver);
    let taken = function(&card, FunctionId::vf(0));
    let options = VfOptions {
        channel: ChannelKind::Mailbox,
        ..VfOptions::default()
    };
    let mut a = VfDriver::probe(taken.clone(), &options).unwrap();
    a.open().unwrap();
    pf.run(|pf| pf.sriov_configure(0)).unwrap();
    taken.remove();
    assert!(taken.lost());
    assert!(a.service().gone);
    assert!(a.gone());
    a.poll(8, &mut |_| panic!("no frame"));
    assert!(a.request(&VfRequest::SetMtu(1400)).is_err());
    a.remove();
    pf.finish().remove();
}

fn stateful(path: &Path) -> PfOptions {
    PfOptions {
        state: Some(path.to_owned()),
        ..PfOptions::default()
    }
}

#[test]
fn a_pf_driver_that_comes_back_adopts_the_vfs_and_disturbs_none() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state.json");
    let card = card();
    let mut driver = probe(&card, stateful(&state));
    assert!(!driver.adopted());
    driver.sriov_configure(2).unwrap();
    let pf = Running::start(driver);
    let (mut a, mut b) = (vf(&card, 0), vf(&card, 1));
    a.open().unwrap();
    b.open().unwrap();
    assert_eq!(a.request(&VfRequest::AddVlan(5)).unwrap(), Status::Ok);
    pf.run(|pf| pf.set_vf_trust(1, true)).unwrap();
    let before = pf.run(|pf| {
        (0..2)
            .map(|n| pf.get_vf_config(n).unwrap())
            .collect::<Vec<_>>()
    });
    // As when it is killed: nothing is taken down.
    drop(pf.finish());
    burst(&mut a, &mut b, 5, 64);

    let driver = probe(&card, stateful(&state));
    assert!(driver.adopted());
    assert_eq!(driver.num_vfs(), 2);
    burst(&mut a, &mut b, 5, 64);
    let pf = Running::start(driver);
    let after = pf.run(|pf| {
        (0..2)
            .map(|n| pf.get_vf_config(n).unwrap())
            .collect::<Vec<_>>()
    });
    assert_eq!(before, after);
    for device in [&mut a, &mut b] {
        assert!(!device.service().reset, "nobody was reset");
    }
    assert_eq!(a.request(&VfRequest::DelVlan(5)).unwrap(), Status::Ok);
    pf.finish().remove();
    assert_eq!(card.num_vfs(), 0);
}

#[test]
fn an_address_that_the_administrator_sets_is_the_only_one() {
    let card = card();
    let mut driver = probe(&card, options(r#"{"vfs": {"1": {"trust": true}}}"#));
    driver.sriov_configure(2).unwrap();
    let pf = Running::start(driver);
    for n in 0..2 {
        let mut vf = vf(&card, n);
        let extra = VfRequest::AddMac([2, 0, 0, 0, 9, n]);
        assert_eq!(vf.request(&extra).unwrap(), Status::Ok);
        let number = u16::from(n);
        let now = pf.run(move |pf| {
            pf.set_vf_mac(number, MacAddress([2, 0, 0, 0, 8, n]))
                .unwrap();
            pf.get_vf_config(number).unwrap()
        });
        assert_eq!(now.extra_macs.len(), usize::from(now.trust), "VF {n}");
    }
    pf.finish().remove();
}

#[test]
fn an_adopted_vf_is_under_the_policy_file_as_it_is_now() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state.json");
    let card = card();
    let under = |policy: &str| PfOptions {
        policy: Policy::parse(policy).unwrap(),
        ..stateful(&state)
    };
    let mut driver = probe(
        &card,
        under(r#"{"vfs": {"0": {"trust": true, "max_tx_rate": 100}}}"#),
    );
    driver.sriov_configure(2).unwrap();
    let pf = Running::start(driver);
    let (mut a, mut b) = (vf(&card, 0), vf(&card, 1));
    let all = VfRequest::SetPromisc {
        unicast: true,
        multicast: true,
    };
    for request in [
        all,
        VfRequest::AddVlan(5),
        VfRequest::AddVlan(6),
        VfRequest::AddMac([2, 0, 0, 0, 9, 9]),
    ] {
        assert_eq!(a.request(&request).unwrap(), Status::Ok, "{request:?}");
    }
    assert_eq!(b.request(&VfRequest::AddVlan(5)).unwrap(), Status::Ok);
    pf.run(|pf| pf.set_vf_trust(1, true)).unwrap();
    let sibling = pf.run(|pf| pf.get_vf_config(1).unwrap());
    drop(pf.finish());

    let driver = probe(
        &card,
        under(r#"{"vfs": {"0": {"allowed_vlans": [6], "max_mac_filters": 0}}}"#),
    );
    assert!(driver.adopted());
    let now = driver.get_vf_config(0).unwrap();
    assert!(!now.trust && !now.promisc_unicast && now.promisc_multicast);
    assert_eq!((now.vlans, now.max_tx_rate), (vec![6], 0));
    assert!(now.extra_macs.is_empty());
    assert_eq!(
        driver.get_vf_config(1).unwrap(),
        sibling,
        "the file says nothing new of this one"
    );
    let pf = Running::start(driver);
    assert_eq!(a.request(&all).unwrap(), Status::Denied);
    pf.finish().remove();
}

#[test]
fn a_pf_reset_is_seen_by_the_vfs_which_begin_anew() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state.json");
    let card = card();
    let mut driver = probe(&card, stateful(&state));
    driver.sriov_configure(2).unwrap();
    let pf = Running::start(driver);
    let (mut a, mut b) = (vf(&card, 0), vf(&card, 1));
    a.open().unwrap();
    b.open().unwrap();
    burst(&mut a, &mut b, 5, 64);
    drop(pf.finish());
    let driver = probe(
        &card,
        PfOptions {
            reset: true,
            ..stateful(&state)
        },
    );
    assert_eq!(driver.num_vfs(), 2);
    let pf = Running::start(driver);
    begins_anew([&mut a, &mut b]);
    burst(&mut a, &mut b, 5, 64);
    pf.finish().remove();
}

#[test]
fn vfs_of_a_card_that_was_reset_behind_its_driver_are_adopted_and_begin_anew() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state.json");
    let card = card();
    let mut driver = probe(&card, stateful(&state));
    driver.sriov_configure(2).unwrap();
    let pf = Running::start(driver);
    let (mut a, mut b) = (vf(&card, 0), vf(&card, 1));
    a.open().unwrap();
    b.open().unwrap();
    drop(pf.finish());
    // As whoever hands out a card resets it between two drivers.
    let between = function(&card, FunctionId::PF);
    let reset = Value::<CTRL>::RESET.set(CTRL::RST).raw().to_le_bytes();
    between
        .write(region::BAR0, CTRL::OFFSET.into(), &reset)
        .unwrap();
    drop(between);
    let driver = probe(&card, stateful(&state));
    assert!(driver.adopted());
    assert_eq!(driver.num_vfs(), 2);
    let pf = Running::start(driver);
    begins_anew([&mut a, &mut b]);
    burst(&mut a, &mut b, 5, 64);
    pf.finish().remove();
}

/// Waits until each VF has seen that it was reset and works again.
fn begins_anew(vfs: [&mut VfDriver; 2]) {
    for device in vfs {
        let end = Instant::now() + PATIENCE;
        let mut set = InterruptSet::new(0).unwrap();
        set.watch(device.event_fds()[0]).unwrap();
        while !device.service().reset {
            assert!(Instant::now() < end, "the VF noticed the PF's reset");
            let wait = device.next_timeout().unwrap_or(Duration::from_millis(50));
            set.wait(Some(wait)).unwrap();
        }
    }
}

#[test]
fn without_state_vfs_of_an_earlier_driver_go() {
    let card = card();
    let mut driver = probe(&card, PfOptions::default());
    driver.sriov_configure(2).unwrap();
    drop(driver);
    assert_eq!(card.num_vfs(), 2);
    let driver = probe(&card, PfOptions::default());
    assert_eq!((driver.num_vfs(), card.num_vfs()), (0, 0));
    driver.remove();
}

#[test]
fn a_window_closed_under_dma_is_not_written_any_more() {
    let card = card();
    let mut pf = probe(&card, PfOptions::default());
    pf.open().unwrap();
    pf.sriov_configure(1).unwrap();
    let source = pf.mac();
    let pf = Running::start(pf);
    let mut vf = vf(&card, 0);
    vf.open().unwrap();
    let target = vf.mac();
    let over = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Acquire) {
                let frame = frame(target, source, 600, 0x5A);
                // A full ring is no failure: there is a next time.
                pf.run(move |pf| {
                    let _ = pf.xmit(&frame);
                    pf.flush();
                });
            }
        });
        let seen = vf.unmap_in_flight();
        over.store(true, Ordering::Release);
        seen.unwrap()
    });
    assert!(seen.before > 0 && !seen.changed, "{seen:?}");
    vf.reset().unwrap();
    assert_eq!(vf.mac(), target, "and it works again");
    vf.remove();
    pf.finish().remove();
}

#[test]
fn a_closed_mailbox_is_named() {
    let card = Card::new(CardOptions {
        mailbox: MailboxMode::Closed,
        ..CardOptions::default()
    })
    .unwrap();
    let mut driver = probe(&card, PfOptions::default());
    driver.sriov_configure(1).unwrap();
    let pf = Running::start(driver);
    for (channel, words) in [
        (
            ChannelKind::Mailbox,
            "the hardware mailbox of this VF is closed",
        ),
        (ChannelKind::Mediated, "no mediated channel here"),
    ] {
        let options = VfOptions {
            channel,
            ..VfOptions::default()
        };
        let probed = VfDriver::probe(function(&card, FunctionId::vf(0)), &options);
        let error = probed.err().expect("no way to the PF").to_string();
        assert!(error.contains(words), "{error}");
    }
    pf.finish().remove();
}
