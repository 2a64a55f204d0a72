//! Queue pages agree with the register map.

use igb::function::{QUEUE_COUNT, VF_QUEUES};
use igb::queue_page::{
    DOORBELL_ASLEEP, DOORBELL_WAKE, EXTENSION, Page, QueueRegister, SIZE, decode, slot,
};
use igb::{FunctionKind, vf};

const KINDS: [(FunctionKind, u32); 2] = [
    (FunctionKind::Physical, QUEUE_COUNT),
    (FunctionKind::Virtual, VF_QUEUES),
];

#[test]
fn slots_lie_where_the_map_says() {
    for (kind, queues) in KINDS {
        for &register in QueueRegister::ALL {
            for queue in 0..queues {
                let (page, offset) = slot(kind, queue, register).unwrap();
                let bar = page.offset(kind) + offset;
                assert_eq!(Page::at(kind, bar), Some((page, offset)));
                let (id, index) = match kind {
                    FunctionKind::Physical => {
                        let decoded = igb::decode(bar).unwrap();
                        (decoded.id, decoded.index)
                    }
                    FunctionKind::Virtual => {
                        let (info, index) = vf::window_at(bar).unwrap();
                        (info.id, index)
                    }
                };
                assert_eq!((id, index), (register.id(), queue));
                assert_eq!(QueueRegister::from_id(id), Some(register));
                assert_eq!(decode(kind, page, offset), Some((queue, register)));
            }
            assert_eq!(slot(kind, queues, register), None);
        }
    }
}

#[test]
fn the_rest_of_a_page_is_no_queue_register() {
    for (kind, queues) in KINDS {
        for page in [Page::Rx, Page::Tx] {
            let found = (0..SIZE)
                .step_by(4)
                .filter(|&offset| decode(kind, page, offset).is_some())
                .count();
            let registers = QueueRegister::ALL.iter();
            let expected = registers.filter(|r| r.page() == page).count();
            assert_eq!(found, expected * queues as usize);
            assert_eq!(decode(kind, page, u32::MAX - 3), None);
        }
    }
}

#[test]
fn every_register_of_the_pfs_pages_is_a_queue_register() {
    for page in [Page::Rx, Page::Tx] {
        for offset in (0..SIZE).step_by(4) {
            let bar = page.offset(FunctionKind::Physical) + offset;
            assert_eq!(
                igb::decode(bar).is_some(),
                decode(FunctionKind::Physical, page, offset).is_some(),
                "{bar:#x}"
            );
        }
    }
}

#[test]
fn the_extension_is_where_nothing_else_is() {
    for kind in [FunctionKind::Physical, FunctionKind::Virtual] {
        for offset in (EXTENSION..SIZE).step_by(4) {
            let bar = Page::Tx.offset(kind) + offset;
            match kind {
                FunctionKind::Physical => assert_eq!(igb::decode(bar), None),
                FunctionKind::Virtual => assert!(vf::window_at(bar).is_none()),
            }
        }
    }
    assert!((EXTENSION..SIZE).contains(&DOORBELL_WAKE));
    assert!((EXTENSION..SIZE).contains(&DOORBELL_ASLEEP));
    assert_eq!(Page::at(FunctionKind::Virtual, 0x1000), None);
    assert_eq!(Page::at(FunctionKind::Physical, 0x2818), None);
}
