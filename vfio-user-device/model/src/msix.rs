//! BAR3: the MSI-X table and the pending bit array.
//!
//! The table is storage. What a vector does is decided by who listens to it (SET_IRQS), as it is by
//! the kernel for a real function under VFIO: a guest cannot choose where an interrupt goes.

use igb::pci::{MSIX_PBA_OFFSET, MSIX_TABLE_OFFSET, msix};

/// The table of one function.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct MsixTable {
    entries: Vec<u8>,
}

const ENTRY: usize = msix::ENTRY_SIZE as usize;
const PBA_BYTES: u64 = 8;

impl MsixTable {
    /// A table of `vectors` entries, all masked.
    pub(crate) fn new(vectors: u32) -> Self {
        let mut table = Self {
            entries: vec![0; vectors as usize * ENTRY],
        };
        table.reset();
        table
    }

    /// As after a reset of the function.
    pub(crate) fn reset(&mut self) {
        self.entries.fill(0);
        for entry in self.entries.chunks_exact_mut(ENTRY) {
            entry[msix::ENTRY_VECTOR_CONTROL as usize] = msix::VECTOR_MASKED as u8;
        }
    }

    /// Read BAR3, given the pending vectors.
    pub(crate) fn read(&self, offset: u64, data: &mut [u8], pending: u32) {
        let pending = u64::from(pending).to_le_bytes();
        for (n, byte) in data.iter_mut().enumerate() {
            let at = offset.saturating_add(n as u64);
            let pba = at
                .checked_sub(u64::from(MSIX_PBA_OFFSET))
                .filter(|at| *at < PBA_BYTES);
            *byte = match (pba, self.place(at)) {
                (Some(at), _) => pending[at as usize],
                (None, Some(at)) => self.entries[at],
                (None, None) => 0,
            };
        }
    }

    /// Write BAR3: the table only.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        for (n, byte) in data.iter().enumerate() {
            if let Some(at) = self.place(offset.saturating_add(n as u64)) {
                self.entries[at] = byte & writable(at);
            }
        }
    }

    fn place(&self, offset: u64) -> Option<usize> {
        let at = usize::try_from(offset.checked_sub(u64::from(MSIX_TABLE_OFFSET))?).ok()?;
        (at < self.entries.len()).then_some(at)
    }
}

/// The writable bits of a byte of the table: addresses are of dwords, and of vector control only the
/// mask exists.
fn writable(at: usize) -> u8 {
    match (at % ENTRY) as u32 {
        msix::ENTRY_ADDRESS_LOW => !3,
        msix::ENTRY_VECTOR_CONTROL => msix::VECTOR_MASKED as u8,
        field if field > msix::ENTRY_VECTOR_CONTROL => 0,
        _ => u8::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_storage_and_the_pba_is_read_only() {
        let mut table = MsixTable::new(3);
        let mut entry = [0; 16];
        table.read(0, &mut entry, 0);
        assert_eq!(entry[12..], [1, 0, 0, 0]);
        table.write(4, &[0xFF; 200]);
        table.read(16, &mut entry, 0);
        assert_eq!(
            entry,
            [
                0xFC, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1, 0, 0, 0
            ]
        );
        table.write(u64::from(MSIX_PBA_OFFSET), &[0xFF; 8]);
        let mut pba = [0; 8];
        table.read(u64::from(MSIX_PBA_OFFSET), &mut pba, 0b101);
        assert_eq!(pba, [5, 0, 0, 0, 0, 0, 0, 0]);
        table.write(u64::MAX - 1, &[1; 8]);
        table.read(u64::MAX - 1, &mut pba, 7);
    }
}
