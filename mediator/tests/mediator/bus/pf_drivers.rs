//! PF drivers: dead ones, second ones, slow ones, and those that send garbage.

use super::*;

#[test]
fn the_pf_driver_goes_and_another_adopts_the_vfs() {
    let (mediator, card) = mediator(1, |_| {});
    let mut pf = FakePf::connect(&mediator);
    pf.offer(0);
    let guest = Guest::attach(&mediator, 0);
    let generation = guest.bar(BarRegister::Generation);
    guest.ask_block(Command::Read, 1, 4);
    pf.request();
    let connects = card.vf(0).count(&Seen::Connect);
    drop(pf);
    // A second connection is a new PF driver: by then the first one's requests have been answered.
    let mut pf = FakePf::connect(&mediator);
    assert_eq!(guest.block_status().verdict(), Ok(Some(Status::PfGone)));
    guest.ask_block(Command::Read, 1, 4);
    assert_eq!(
        guest.block_status().verdict(),
        Ok(Some(Status::PfGone)),
        "not adopted yet"
    );
    pf.offer(0);
    assert_eq!(
        pf.receive(),
        Some(ToPf::Attached { vf: 0, generation }),
        "the guest was not disturbed"
    );
    assert_eq!(card.vf(0).count(&Seen::Connect), connects);
    guest.ask_block(Command::Read, 1, 4);
    let request = pf.request();
    assert_eq!(request.generation, generation);
}

#[test]
fn only_one_pf_driver_and_only_the_right_one() {
    let token = Token::from_secret(b"83c2f1aa-0d8f-4e0c-9bb1-40de0b65ab7e");
    let (mediator, _card) = mediator(0, |options| options.token = Some(token));
    let refused = |act: &dyn Fn(&mut FakePf)| {
        let mut pf = FakePf::silent(mediator.connect_pf().unwrap());
        act(&mut pf);
        let answer = pf.receive();
        assert_eq!(pf.receive(), None, "and closed");
        answer
    };
    let reason = |reason| Some(ToPf::Refused { reason });
    assert_eq!(
        refused(&|pf| pf.hello(Token::ABSENT)),
        reason(RefuseReason::Token)
    );
    assert_eq!(
        refused(&|pf| pf.hello(Token::from_secret(b"other"))),
        reason(RefuseReason::Token)
    );
    assert_eq!(refused(&|pf| pf.offer(0)), reason(RefuseReason::Sequence));
    assert_eq!(
        refused(&|pf| pf.send_bytes(&[0xFF; 64])),
        reason(RefuseReason::Malformed)
    );
    let old = FromPf::Hello {
        version: VERSION + 1,
        features: PfFeatures::all(),
        token,
    };
    assert_eq!(refused(&|pf| pf.send(old)), reason(RefuseReason::Version));
    let mut first = FakePf::silent(mediator.connect_pf().unwrap());
    first.hello(token);
    assert!(matches!(first.receive(), Some(ToPf::Welcome { .. })));
    assert_eq!(
        refused(&|pf| pf.hello(token)),
        reason(RefuseReason::Occupied)
    );
    first.send(FromPf::Revoke { vf: 1 });
    assert!(
        matches!(first.receive(), Some(ToPf::Rejected { .. })),
        "the first is still served"
    );
}

/// Whatever a connected PF driver sends that is no message ends its connection, and no VF notices.
#[test]
fn garbage_from_the_pf_driver_ends_its_connection_only() {
    let (mediator, _card) = mediator(1, |_| {});
    let mut pf = FakePf::connect(&mediator);
    pf.offer(0);
    let guest = Guest::attach(&mediator, 0);
    let generation = guest.bar(BarRegister::Generation);
    let frame = |kind: u16, length: u32, payload: &[u8]| {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend([0; 2]);
        bytes.extend(length.to_le_bytes());
        bytes.extend(payload);
        bytes
    };
    let hello = FromPf::Hello {
        version: VERSION,
        features: PfFeatures::all(),
        token: Token::ABSENT,
    };
    let garbage = [
        frame(0x82, u32::MAX, &[]),  // length beyond everything
        frame(0x82, 513, &[0; 513]), // one more than allowed
        frame(0x84, 0, &[]),         // shorter than its layout
        frame(0x84, 3, &[0; 3]),     // longer than its layout
        frame(0x99, 0, &[]),         // unknown
        frame(0x06, 2, &[0; 2]),     // the mediator's own kind: a PF does not ask
        frame(0x86, 14, &[0; 14]),   // invalidation of nothing
        hello.to_bytes(),            // renegotiation in mid-session
    ];
    for bytes in garbage {
        pf.send_bytes(&bytes);
        pf.until(|m| matches!(m, ToPf::Refused { .. }));
        assert_eq!(pf.receive(), None, "{bytes:02x?}");
        pf = FakePf::connect(&mediator);
        pf.offer(0);
        assert_eq!(pf.receive(), Some(ToPf::Attached { vf: 0, generation }));
    }
    // Half a frame and silence: that connection alone waits.
    pf.send_bytes(&frame(0x84, 2, &[0]));
    guest.ask_block(Command::Read, 1, 4);
    assert!(guest.block_status().is_busy());
}

/// Whatever a VF does, giving up and resetting itself included, while the PF driver is slow: only so
/// much of it waits for the PF driver, and a sibling's request is not far behind.
#[test]
fn a_vf_cannot_bury_a_slow_pf_driver() {
    let (mediator, _card) = mediator(2, |_| {});
    let mut pf = FakePf::connect(&mediator);
    pf.offer(0);
    pf.offer(1);
    let (flooder, sibling) = (Guest::attach(&mediator, 0), Guest::attach(&mediator, 1));
    pf.settle();
    for n in 0..3000 {
        flooder.ask_block(Command::Read, 1, 4);
        flooder.set_bar(BarRegister::Command, Command::Abandon as u32);
        if n % 3 == 0 {
            flooder.write(igb::vf::VTCTRL::OFFSET, igb::PVTCTRL::RST.mask());
        }
    }
    sibling.ask_block(Command::Read, 1, 4);
    let mut before = 0;
    while !matches!(pf.receive(), Some(ToPf::Request(Request { vf: 1, .. }))) {
        before += 1;
    }
    // The burst, of which each request may have expired, and what came back while this ran.
    assert!(before < 2000, "{before} messages before the sibling's");
    assert!(mediator.list()[0].pf, "the connection lives");
}
