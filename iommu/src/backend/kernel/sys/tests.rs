use std::os::fd::AsFd;

use super::*;
use crate::memory::SharedMemory;

#[test]
fn interrupt_requests_are_laid_out_as_the_kernel_reads_them() {
    let trigger = kernel::VFIO_IRQ_SET_ACTION_TRIGGER;
    assert_eq!(
        irq_words(trigger, 2, 0, &Vectors::None),
        [20, 0x21, 2, 0, 0]
    );
    let file = std::io::stderr();
    let fds = [Some(file.as_fd()), None];
    assert_eq!(
        irq_words(trigger, 2, 1, &Vectors::Eventfds(&fds)),
        [28, 0x24, 2, 1, 2, 2, u32::MAX]
    );
    let flags = [true, false, true, true, false, true];
    let words = irq_words(
        kernel::VFIO_IRQ_SET_ACTION_MASK,
        0,
        3,
        &Vectors::Flags(&flags),
    );
    assert_eq!(words[..5], [28, 0x0A, 0, 3, 6]);
    assert_eq!(words[5].to_ne_bytes(), [1, 0, 1, 1]);
    assert_eq!(words[6].to_ne_bytes(), [0, 1, 0, 0]);
}

#[test]
fn a_description_is_asked_for_until_it_fits() {
    let answer = |need: fn(u32) -> u32| {
        move |words: &mut [u64]| {
            let bytes = words.as_mut_bytes();
            let room = u32::from_ne_bytes(bytes[..4].try_into().expect("four bytes"));
            assert_eq!(bytes.len(), room.next_multiple_of(8) as usize);
            bytes[..4].copy_from_slice(&need(room).to_ne_bytes());
            Ok(())
        }
    };
    let fits = described(24, Some(7), answer(|_| 52)).expect("an answer");
    assert_eq!(fits.len(), 52);
    assert_eq!(fits[8..12], 7_u32.to_ne_bytes());
    for need in [|room| room + 8, |_| u32::MAX] {
        assert_eq!(described(24, None, answer(need)), Err(Errno::E2BIG));
    }
    let refused = described(24, None, |_| Err(Errno::EINVAL));
    assert_eq!(refused, Err(Errno::EINVAL));
}

#[test]
fn registers_are_reached_in_one_access_or_not_at_all() {
    // Any file that can be mapped stands for a device here.
    let memory = SharedMemory::create_sealed("registers", 0x2000).expect("memory");
    let registers = Registers::map(memory.fd(), 0x1000, 0x1000).expect("a mapping");
    registers.store(0x10, &[1, 2, 3, 4]).expect("four bytes");
    registers.store(0x14, &[5, 6]).expect("two bytes");
    registers.store(0x16, &[7]).expect("one byte");
    let mut data = [0; 8];
    registers.load(0x10, &mut data).expect("eight bytes");
    assert_eq!(data, [1, 2, 3, 4, 5, 6, 7, 0]);
    let mut direct = [0; 4];
    memory.read(0x1010, &mut direct);
    assert_eq!(direct, [1, 2, 3, 4]);
    // Misaligned, odd, and beyond the end.
    assert_eq!(registers.load(0x12, &mut data[..4]), None);
    assert_eq!(registers.store(0x10, &[0; 3]), None);
    assert_eq!(registers.store(0x10, &[]), None);
    assert_eq!(registers.store(0x1000, &[0; 4]), None);
    assert_eq!(registers.load(usize::MAX - 3, &mut data[..4]), None);
    assert!(Registers::map(memory.fd(), 0, 0).is_err());
}
