//! Everything that can happen to a slot, in any order.

use super::*;

/// Random orders of everything that can happen to a slot: no deadlock, no panic, and in the end the
/// VF can be offered again.
#[test]
fn any_order_of_events_leaves_a_working_bus() {
    for seed in 0..24u32 {
        let (mediator, card) = mediator(1, |_| {});
        let mut pf = FakePf::connect(&mediator);
        pf.offer(0);
        let mut guest = None;
        let mut state = seed.wrapping_mul(0x9E37_79B9) | 1;
        for _ in 0..12 {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            match state % 8 {
                0 => pf.offer(0),
                1 => pf.send(FromPf::Eject {
                    vf: 0,
                    timeout_ms: 1,
                }),
                2 => pf.send(FromPf::Revoke { vf: 0 }),
                3 => {
                    // One client at a time.
                    drop(guest.take());
                    guest = mediator.device(0).map(Guest::on);
                }
                4 => drop(guest.take()),
                5 => {
                    card.vf(0).unplug();
                    card.plug(0);
                }
                6 => {
                    drop(pf);
                    pf = FakePf::connect(&mediator);
                }
                _ => {
                    if let Some(guest) = &guest {
                        let _ = guest.function.write(
                            bar::INDEX,
                            BarRegister::Command.offset(),
                            &[1, 0, 0, 0],
                        );
                    }
                }
            }
        }
        drop(guest);
        // What is still on its way could take away what comes next.
        pf.settle();
        let _ = mediator.eject(0, Duration::ZERO);
        assert!(
            mediator.list().is_empty() || mediator.wait_absent(0, SOON),
            "seed {seed}"
        );
        pf.offer(0);
        assert!(mediator.wait_for_device(0, SOON).is_some(), "seed {seed}");
        assert!(Guest::attach(&mediator, 0).bar(BarRegister::Magic) == bar::MAGIC);
        let _ = mediator.eject(0, NEVER);
    }
}
