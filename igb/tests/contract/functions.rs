//! What belongs to which function.

use igb::function::{
    CAUSE_COUNT, FUNCTION_COUNT, QUEUE_COUNT, VF_COUNT, VF_QUEUES, VF_VECTORS, queue_of_vf,
    vf_eicr_mask, vf_eitr, vf_of_cause, vf_queue,
};
use igb::interrupt::{Direction, Entry, eitr, interval_us};
use igb::{FunctionId, FunctionKind};

#[test]
fn slots_are_a_bijection() {
    let all: Vec<_> = FunctionId::all().collect();
    assert_eq!(all.len(), FUNCTION_COUNT);
    for (slot, function) in all.iter().enumerate() {
        assert_eq!(function.slot(), slot);
        assert_eq!(FunctionId::from_slot(slot), Some(*function));
    }
    assert_eq!(FunctionId::from_slot(FUNCTION_COUNT), None);
    assert_eq!(FunctionId::try_vf(VF_COUNT), None);
    assert_eq!(FunctionId::PF.vf_index(), None);
    assert_eq!(FunctionId::vf(3).vf_index(), Some(3));
    assert_eq!(
        format!("{} {}", FunctionId::PF, FunctionId::vf(3)),
        "PF VF3"
    );
    assert!(FunctionId::vfs().all(FunctionId::is_vf));
}

#[test]
fn each_queue_has_one_vf() {
    for queue in 0..QUEUE_COUNT {
        let (vf, own) = queue_of_vf(queue).unwrap();
        assert!(own < VF_QUEUES);
        assert_eq!(vf_queue(vf, own), queue);
        assert_eq!(FunctionId::vf(vf).queue(own), Some(queue));
    }
    assert_eq!(queue_of_vf(QUEUE_COUNT), None);
    assert_eq!(FunctionId::vf(0).queue(2), None);
    assert_eq!(FunctionId::PF.queue(15), Some(15));
    assert_eq!(FunctionId::PF.queue(16), None);
}

#[test]
fn each_cause_but_the_first_has_one_vf() {
    let mut all = 0u32;
    for vf in 0..VF_COUNT {
        assert_eq!(all & vf_eicr_mask(vf), 0);
        all |= vf_eicr_mask(vf);
        for vector in 0..VF_VECTORS {
            let cause = vf_eitr(vf, vector);
            assert_eq!(cause, 22 - 3 * u32::from(vf) + vector);
            assert_eq!(vf_of_cause(cause), Some((vf, vector)));
        }
    }
    assert_eq!(all, igb::EICR::VECTORS.mask() & !1);
    assert_eq!(vf_of_cause(0), None);
    assert_eq!(vf_of_cause(CAUSE_COUNT), None);
}

#[test]
fn the_pf_has_the_first_free_pool() {
    assert_eq!(FunctionId::PF.pool(0), Some(0));
    assert_eq!(FunctionId::PF.pool(7), Some(7));
    assert_eq!(FunctionId::PF.pool(8), None);
    assert_eq!(FunctionId::vf(5).pool(7), Some(5));
}

#[test]
fn vector_entries() {
    let entry = Entry::of_queue(FunctionKind::Physical, 11, Direction::Tx);
    assert_eq!(entry.index, 3);
    assert_eq!(entry.with_vector(0x0102_0304, Some(9)), 0x8902_0304);
    assert_eq!(entry.vector(0x8902_0304), Some(9));
    assert_eq!(entry.vector(0x0902_0304), None);
    // What igb and igbvf write.
    let other = Entry::of_other(FunctionKind::Physical);
    assert_eq!(other.with_vector(0, Some(0)), 0x8000);
    let rx = Entry::of_queue(FunctionKind::Virtual, 0, Direction::Rx);
    let tx = Entry::of_queue(FunctionKind::Virtual, 0, Direction::Tx);
    assert_eq!(tx.with_vector(rx.with_vector(0, Some(1)), Some(0)), 0x8081);
    let mailbox = Entry::of_other(FunctionKind::Virtual);
    assert_eq!(mailbox.with_vector(0x81, Some(2)), 0x82);
    assert_eq!(mailbox.with_vector(0x82, None), 0);
}

#[test]
fn no_two_queues_share_a_vector_entry() {
    for (kind, queues) in [(FunctionKind::Physical, 16), (FunctionKind::Virtual, 2)] {
        let mut entries = std::collections::HashSet::new();
        for queue in 0..queues {
            for direction in [Direction::Rx, Direction::Tx] {
                assert!(entries.insert(Entry::of_queue(kind, queue, direction)));
            }
        }
    }
}

#[test]
fn intervals() {
    assert_eq!(eitr(162), 648);
    assert_eq!(interval_us(eitr(162)), 162);
    assert_eq!(interval_us(eitr(u32::MAX)), 8191);
}
