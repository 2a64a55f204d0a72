//! Faults on purpose, as a driver reduced to register accesses meets them.

mod rig;

use std::time::{Duration, Instant};

use igb::{FunctionId, Register};
use iommu::function::Function;
use vfio_user_device::trace::{Entry, What};
use vfio_user_device::{InProcessCard, MailboxMode};

use rig::{LONG, Station, broadcast, read_register, write_register};

const VF0: FunctionId = FunctionId::vf(0);
const VF1: FunctionId = FunctionId::vf(1);

fn card(vfs: u8, rules: &[&str]) -> InProcessCard {
    let mut builder = InProcessCard::builder().vfs(vfs).mailbox(MailboxMode::Open);
    for rule in rules {
        builder = builder.inject(rule.parse().expect(rule));
    }
    builder.build().expect("a card")
}

fn stations(card: &InProcessCard, count: u8) -> Vec<Station> {
    (0..count).map(|n| Station::open(card.vf(n))).collect()
}

/// Reset a VF, and begin anew once the PF lets it.
fn reset(card: &InProcessCard, station: &mut Station) {
    let on = |pf: &dyn Function| {
        let [rx, tx] = [igb::VFRE::OFFSET, igb::VFTE::OFFSET];
        (read_register(pf, rx), read_register(pf, tx))
    };
    let all = on(&*card.pf());
    station.function.reset().expect("a reset");
    rig::eventually("the PF has seen it", || on(&*card.pf()) == all);
    station.start();
}

/// The injections that the trace tells of.
fn told(card: &InProcessCard) -> Vec<String> {
    let injected = |entry: &Entry| match &entry.what {
        What::Event(event) if event.name == "inject" => {
            Some(format!("{} {}", entry.who, event.details))
        }
        _ => None,
    };
    card.trace().iter().filter_map(injected).collect()
}

#[test]
fn a_lost_interrupt_is_lost_and_the_frame_is_there() {
    let card = card(2, &["interrupt-lost,vf1,vector=0,count=1"]);
    let mut stations = stations(&card, 2);
    let frame = broadcast(0, 60, 1);
    assert!(stations[0].send(&frame));
    rig::eventually("an injection", || card.injected() == 1);
    assert!(!stations[1].interrupted(), "it was lost");
    assert_eq!(stations[1].poll(), Some(frame));
    let frame = broadcast(0, 60, 2);
    assert!(stations[0].send(&frame));
    assert_eq!(stations[1].receive(), frame, "the next one comes");
    assert_eq!(told(&card), ["vf1 interrupt-lost rule 0 msix[0]"]);
}

#[test]
fn a_late_interrupt_comes_when_it_is_due() {
    let card = card(2, &["interrupt-late=50ms,vf1,count=1"]);
    let mut stations = stations(&card, 2);
    let began = Instant::now();
    assert!(stations[0].send(&broadcast(0, 60, 1)));
    stations[1].wait_for_interrupt();
    assert!(began.elapsed() >= Duration::from_millis(50));
    assert_eq!(told(&card).len(), 1);
}

#[test]
fn a_late_interrupt_does_not_outlive_a_reset() {
    let card = card(2, &["interrupt-late=100ms,vf1,count=1"]);
    let mut stations = stations(&card, 2);
    assert!(stations[0].send(&broadcast(0, 60, 1)));
    rig::eventually("an injection", || card.injected() == 1);
    reset(&card, &mut stations[1]);
    assert!(stations[1].stays_quiet(Duration::from_millis(150)));
    let frame = broadcast(0, 60, 2);
    assert!(stations[0].send(&frame));
    assert_eq!(stations[1].receive(), frame);
}

#[test]
fn a_late_write_back_comes_with_an_interrupt() {
    for (rule, of_sender) in [
        ("writeback-late=50ms,vf1,count=1", false),
        ("writeback-late=50ms,vf0,count=1", true),
    ] {
        let card = card(2, &[rule]);
        let mut stations = stations(&card, 2);
        let frame = broadcast(0, 60, 1);
        let began = Instant::now();
        assert!(stations[0].send(&frame));
        rig::eventually("an injection", || card.injected() == 1);
        if of_sender {
            assert!(!stations[0].has_sent(0));
            while !stations[0].has_sent(0) {
                stations[0].wait_for_interrupt();
            }
        }
        assert_eq!(stations[1].receive(), frame);
        assert!(began.elapsed() >= Duration::from_millis(50));
    }
}

#[test]
fn a_late_write_back_does_not_reach_a_queue_that_was_stopped() {
    let card = card(2, &["writeback-late=50ms,vf1,count=1"]);
    let mut stations = stations(&card, 2);
    assert!(stations[0].send(&broadcast(0, 60, 1)));
    rig::eventually("an injection", || card.injected() == 1);
    // The interrupt of the frame itself comes at once; the second one would be the write-back's.
    stations[1].wait_for_interrupt();
    write_register(&*stations[1].function, igb::vf::RXDCTL::offset(0), 0);
    assert!(stations[1].stays_quiet(Duration::from_millis(100)));
    assert_eq!(stations[1].poll(), None);
}

#[test]
fn a_dma_fault_halts_one_queue_and_is_counted() {
    for (rule, victim, sender_sees) in [
        (
            "dma-fault=descriptor,vf0,count=1",
            VF0,
            "dma-fault rule 0 descriptor",
        ),
        ("dma-fault=read,vf0,count=1", VF0, "dma-fault rule 0 read"),
        ("dma-fault=write,vf1,count=1", VF1, "dma-fault rule 0 write"),
    ] {
        let card = card(3, &[rule]);
        let mut stations = stations(&card, 3);
        assert!(stations[0].send(&broadcast(0, 60, 1)));
        rig::eventually("an injection", || card.injected() == 1);
        assert_eq!(card.stats().function(victim).faults, 1, "{rule}");
        let lines = told(&card);
        assert!(lines[0].contains(sender_sees), "{lines:?}");
        // Others go on.
        let frame = broadcast(2, 60, 2);
        assert!(stations[2].send(&frame));
        let other = if victim == VF0 { 1 } else { 0 };
        while stations[other].receive() != frame {}
        // And so does the victim, once it is reset.
        let at = usize::from(victim.vf_index().expect("a VF"));
        reset(&card, &mut stations[at]);
        let frame = broadcast(2, 60, 3);
        assert!(stations[2].send(&frame));
        while stations[at].receive() != frame {}
    }
}

#[test]
fn a_register_reads_all_ones_once() {
    let card = card(1, &["read-ones,vf0,after=2,count=1"]);
    let vf = card.vf(0);
    let status = igb::vf::VTSTATUS::offset(0);
    let seen: Vec<bool> = (0..4)
        .map(|_| read_register(&*vf, status) == u32::MAX)
        .collect();
    assert_eq!(seen, [false, false, true, false]);
}

#[test]
fn a_function_is_reset_before_the_access_that_the_rule_names() {
    let card = card(2, &["flr,vf0,after=3"]);
    let (vf, other) = (card.vf(0), card.vf(1));
    let eitr = igb::vf::VTEITR::offset(0);
    write_register(&*other, eitr, 0x40);
    write_register(&*vf, eitr, 0x40);
    assert_eq!(read_register(&*vf, eitr), 0x40);
    assert_eq!(read_register(&*vf, eitr), 0x40);
    assert_eq!(read_register(&*vf, eitr), 0, "it was reset");
    write_register(&*vf, eitr, 0x40);
    assert_eq!(read_register(&*vf, eitr), 0x40, "once");
    assert_eq!(read_register(&*other, eitr), 0x40, "nobody else");
    let lines = card.trace();
    let resets = lines
        .iter()
        .filter(|entry| entry.to_string().ends_with("vf0  # reset done"))
        .count();
    assert_eq!(resets, 2, "when it was enabled, and by the rule");
}

#[test]
fn a_reset_can_come_at_a_time_of_its_own() {
    let card = card(1, &["flr,vf0,after=50ms"]);
    let vf = card.vf(0);
    write_register(&*vf, igb::vf::VTEITR::offset(0), 0x40);
    rig::eventually("a reset", || card.injected() > 0);
    card.stats();
    assert_eq!(read_register(&*vf, igb::vf::VTEITR::offset(0)), 0);
    assert_eq!(told(&card), ["vf0 flr rule 0 by time"]);
}

#[test]
fn the_link_goes_and_comes_back() {
    let card = card(1, &["link-flap=50ms,after=50ms"]);
    rig::eventually("down", || !card.stats().link_up);
    rig::eventually("up", || card.stats().link_up);
    let events: Vec<String> = card
        .trace()
        .iter()
        .map(ToString::to_string)
        .filter(|line| line.contains("# link"))
        .map(|line| line.split_once("# ").expect("an event").1.to_owned())
        .collect();
    assert_eq!(events, ["link down", "link up"]);
}

#[test]
fn a_stuck_mailbox_belongs_to_the_other_side() {
    use igb::{P2VMAILBOX, V2PMAILBOX, Value};
    let card = card(
        2,
        &["mailbox-stuck,vf0,count=2", "mailbox-stuck,pf,count=1"],
    );
    let [stuck, free] = [card.vf(0), card.vf(1)];
    let v2p = igb::vf::V2PMAILBOX::offset(0);
    let take = |vf: &dyn Function| {
        write_register(
            vf,
            v2p,
            Value::<V2PMAILBOX>::default().set(V2PMAILBOX::VFU).raw(),
        );
        Value::<V2PMAILBOX>::from_raw(read_register(vf, v2p))
    };
    for _ in 0..2 {
        let seen = take(&*stuck);
        assert!(seen.has(V2PMAILBOX::PFU) && !seen.has(V2PMAILBOX::VFU));
    }
    assert!(take(&*stuck).has(V2PMAILBOX::VFU), "then it is free");
    assert!(take(&*free).has(V2PMAILBOX::VFU), "others were never stuck");
    let p2v = igb::P2VMAILBOX::offset(2);
    let pf = card.pf();
    let taken = Value::<P2VMAILBOX>::from_raw(read_register(&*pf, p2v));
    assert!(taken.has(P2VMAILBOX::VFU));
    let free = Value::<P2VMAILBOX>::from_raw(read_register(&*pf, p2v));
    assert!(!free.has(P2VMAILBOX::VFU));
}

#[test]
fn messages_in_the_mailbox_are_traced_decoded() {
    use igb::mailbox::VfMessage;
    use igb::{V2PMAILBOX, Value};
    let card = card(1, &[]);
    let vf = card.vf(0);
    let message = VfMessage::SetVlan { add: true, vid: 42 }.encode();
    for (n, word) in (0..).zip(&message[..2]) {
        write_register(&*vf, igb::vf::VMBMEM::offset(n), *word);
    }
    let req = Value::<V2PMAILBOX>::default().set(V2PMAILBOX::REQ);
    write_register(&*vf, igb::vf::V2PMAILBOX::offset(0), req.raw());
    let told = || -> Vec<String> {
        let trace = card.trace();
        let lines = trace.iter().map(ToString::to_string);
        lines.filter(|line| line.contains("# mailbox")).collect()
    };
    rig::eventually("an answer", || told().len() == 2);
    let [asked, answered] = &told()[..] else {
        panic!("two messages");
    };
    let request = "vf0  # mailbox to-pf add-vlan 42 0x00010004";
    assert!(asked.ends_with(request), "{asked}");
    // The PF of this test grants no VLANs.
    assert!(
        answered.contains("vf0  # mailbox to-vf nack cts 0x"),
        "{answered}"
    );
}

#[test]
fn frames_on_the_wire_are_lost_or_changed() {
    let card = card(1, &["frame-lost,count=1", "frame-corrupt,count=1"]);
    let mut station = Station::open(card.vf(0));
    let frames: Vec<_> = (0..3).map(|n| broadcast(0, 60, n)).collect();
    for frame in &frames {
        assert!(station.send(frame));
    }
    let changed = card.wire().receive(LONG).expect("the second");
    assert_eq!(changed[..14], frames[1][..14]);
    let bits: u32 = (0..60)
        .map(|n| (changed[n] ^ frames[1][n]).count_ones())
        .sum();
    assert_eq!(bits, 1);
    assert_eq!(card.wire().receive(LONG), Some(frames[2].clone()));
    assert_eq!(card.injected(), 2);
}

#[test]
fn the_same_seed_makes_the_same_run_fail_in_the_same_places() {
    let run = |seed: u64| {
        let rule = format!("read-ones,vf0,probability=0.2,seed={seed}");
        let card = card(1, &[&rule]);
        let vf = card.vf(0);
        let status = igb::vf::VTSTATUS::offset(0);
        (0..100)
            .map(|_| read_register(&*vf, status) == u32::MAX)
            .collect::<Vec<_>>()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn rules_come_and_go_at_run_time() {
    let card = card(1, &[]);
    let vf = card.vf(0);
    let status = igb::vf::VTSTATUS::offset(0);
    let rule = card
        .inject("read-ones".parse().expect("a rule"))
        .expect("room");
    assert_eq!(read_register(&*vf, status), u32::MAX);
    card.card().stop_injecting(Some(rule));
    assert_ne!(read_register(&*vf, status), u32::MAX);
}
