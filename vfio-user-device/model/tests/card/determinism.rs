//! The same inputs give the same outputs.

use igb::*;
use igb_model::*;
use proptest::prelude::*;

use crate::packets::*;
use crate::world::*;

#[derive(Clone, Debug)]
enum Step {
    Write(usize, u64, u32),
    Read(usize, u64),
    Send(usize, usize, usize),
    Cut(usize, usize, usize),
    Wire(usize, usize),
    Run,
    Take(usize),
    Time(u32),
    Reset(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let function = 0usize..4;
    prop_oneof![
        2 => (function.clone(), 0u64..0x4000, any::<u32>()).prop_map(|(f, at, v)| Step::Write(f, at & !3, v)),
        2 => (function.clone(), 0u64..0x4000).prop_map(|(f, at)| Step::Read(f, at & !3)),
        8 => (function.clone(), 0usize..5, 14usize..3000).prop_map(|(f, to, n)| Step::Send(f, to, n)),
        2 => (function.clone(), 1usize..20_000, 1usize..3000).prop_map(|(f, n, mss)| Step::Cut(f, n, mss)),
        3 => (0usize..5, 14usize..3000).prop_map(|(to, n)| Step::Wire(to, n)),
        4 => Just(Step::Run),
        4 => function.clone().prop_map(Step::Take),
        1 => any::<u32>().prop_map(Step::Time),
        1 => function.prop_map(Step::Reset),
    ]
}

/// Digests, counters, frames on the wire, interrupts, and what was read.
type Seen = (
    Vec<u64>,
    Snapshot,
    Vec<Vec<u8>>,
    Vec<(FunctionId, Signal)>,
    Vec<u8>,
);

/// Everything that can be seen from outside after `steps`.
fn play(steps: &[Step]) -> Seen {
    let mut w = World::open(3);
    let mut seen = Vec::new();
    let mut now = 0u64;
    for step in steps {
        match *step {
            Step::Write(slot, at, value) => {
                let f = FunctionId::from_slot(slot).unwrap();
                w.write32(f, at as u32, value);
            }
            Step::Read(slot, at) => {
                let f = FunctionId::from_slot(slot).unwrap();
                seen.extend_from_slice(&w.read32(f, at as u32).to_le_bytes());
            }
            Step::Send(slot, to, len) => {
                let f = FunctionId::from_slot(slot).unwrap();
                let to = FunctionId::from_slot(to).map_or(MacAddress::BROADCAST, mac_of);
                w.queue_tx(
                    f,
                    &frame(to, mac_of(f), len),
                    igb::descriptor::TxCommand::empty(),
                );
                let tail = w.driver(f).tx_next;
                w.set_queue(f, queue_page::QueueRegister::TDT, tail);
            }
            Step::Cut(slot, len, mss) => {
                let f = FunctionId::from_slot(slot).unwrap();
                queue_packet(&mut w, f, &Packet::new(len, mss), &[]);
                let tail = w.driver(f).tx_next;
                w.set_queue(f, queue_page::QueueRegister::TDT, tail);
            }
            Step::Wire(to, len) => {
                let to = FunctionId::from_slot(to).map_or(MacAddress::BROADCAST, mac_of);
                w.wire_sends(&frame(to, MacAddress([2, 3, 3, 3, 3, 3]), len));
            }
            Step::Run => {
                w.path.run(&mut w.host, &mut w.events);
                w.absorb();
            }
            Step::Take(slot) => {
                let f = FunctionId::from_slot(slot).unwrap();
                while let Some((_, data)) = w.take_descriptor(f) {
                    seen.extend_from_slice(&data);
                }
            }
            Step::Time(by) => {
                now += u64::from(by);
                w.control.advance(now, &mut w.host);
                w.path.advance(now);
            }
            Step::Reset(slot) => {
                let f = FunctionId::from_slot(slot).unwrap();
                let effects = w.control.reset_function(f, &mut w.host);
                w.apply(effects);
            }
        }
    }
    let digests = FunctionId::all().map(|f| w.control.digest(f)).collect();
    (
        digests,
        w.control.snapshot().clone(),
        w.host.wire,
        w.host.interrupts,
        seen,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_run_can_be_repeated(steps in prop::collection::vec(step(), 1..120)) {
        prop_assert_eq!(play(&steps), play(&steps));
    }
}
