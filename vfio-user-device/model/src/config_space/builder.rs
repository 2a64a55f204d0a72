//! A register set made of typed pieces: masks as data.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use igb::pci::{self, Bar, BarKind, EXTENDED_CONFIG_SIZE};

/// What software may do with each bit, and the bits after reset. The same for every reset.
struct Layout {
    reset: Box<[u8; EXTENDED_CONFIG_SIZE]>,
    writable: Box<[u8; EXTENDED_CONFIG_SIZE]>,
    write_one_clear: Box<[u8; EXTENDED_CONFIG_SIZE]>,
}

/// A function's configuration space.
#[derive(Clone)]
pub(crate) struct ConfigSpace {
    layout: Arc<Layout>,
    bytes: Box<[u8; EXTENDED_CONFIG_SIZE]>,
}

impl fmt::Debug for ConfigSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConfigSpace")
    }
}

impl Hash for ConfigSpace {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes.hash(state);
    }
}

/// Describes a configuration space.
pub(super) struct Builder {
    layout: Layout,
    last_capability: Option<u16>,
    last_extended: Option<u16>,
}

impl Builder {
    pub(super) fn new() -> Self {
        Self {
            layout: Layout {
                reset: Box::new([0; EXTENDED_CONFIG_SIZE]),
                writable: Box::new([0; EXTENDED_CONFIG_SIZE]),
                write_one_clear: Box::new([0; EXTENDED_CONFIG_SIZE]),
            },
            last_capability: None,
            last_extended: None,
        }
    }

    fn put(bytes: &mut [u8], offset: u16, value: &[u8]) {
        bytes[usize::from(offset)..usize::from(offset) + value.len()].copy_from_slice(value);
    }

    pub(super) fn u8_ro(&mut self, offset: u16, value: u8) -> &mut Self {
        self.u8_rw(offset, value, 0)
    }

    pub(super) fn u8_rw(&mut self, offset: u16, value: u8, writable: u8) -> &mut Self {
        Self::put(&mut self.layout.reset[..], offset, &[value]);
        Self::put(&mut self.layout.writable[..], offset, &[writable]);
        self
    }

    pub(super) fn u16_ro(&mut self, offset: u16, value: u16) -> &mut Self {
        self.u16_rw(offset, value, 0)
    }

    pub(super) fn u16_rw(&mut self, offset: u16, value: u16, writable: u16) -> &mut Self {
        Self::put(&mut self.layout.reset[..], offset, &value.to_le_bytes());
        Self::put(
            &mut self.layout.writable[..],
            offset,
            &writable.to_le_bytes(),
        );
        self
    }

    pub(super) fn u16_w1c(&mut self, offset: u16, clearable: u16) -> &mut Self {
        Self::put(
            &mut self.layout.write_one_clear[..],
            offset,
            &clearable.to_le_bytes(),
        );
        self
    }

    pub(super) fn u32_ro(&mut self, offset: u16, value: u32) -> &mut Self {
        self.u32_rw(offset, value, 0)
    }

    pub(super) fn u32_rw(&mut self, offset: u16, value: u32, writable: u32) -> &mut Self {
        Self::put(&mut self.layout.reset[..], offset, &value.to_le_bytes());
        Self::put(
            &mut self.layout.writable[..],
            offset,
            &writable.to_le_bytes(),
        );
        self
    }

    pub(super) fn u32_w1c(&mut self, offset: u16, clearable: u32) -> &mut Self {
        Self::put(
            &mut self.layout.write_one_clear[..],
            offset,
            &clearable.to_le_bytes(),
        );
        self
    }

    /// BARs, the first at `first`: storage above the size, so that sizing works.
    pub(super) fn bars(&mut self, first: u16, bars: &[Bar]) -> &mut Self {
        for bar in bars {
            let offset = first + 4 * bar.index as u16;
            let kind = match bar.kind {
                BarKind::Memory32 => 0,
                BarKind::Memory64 => pci::BAR_MEMORY_64 | pci::BAR_PREFETCHABLE,
                BarKind::Io => pci::BAR_IO,
            };
            self.u32_rw(offset, kind, !(bar.size - 1));
            if bar.kind == BarKind::Memory64 {
                self.u32_rw(offset + 4, 0, u32::MAX);
            }
        }
        self
    }

    /// Add a capability to the list.
    pub(super) fn capability(&mut self, offset: u16, id: u8) -> &mut Self {
        let previous = match self.last_capability {
            Some(previous) => previous + pci::capability::NEXT,
            None => pci::header::CAPABILITIES,
        };
        self.u8_ro(previous, offset as u8);
        self.u8_ro(offset + pci::capability::ID, id);
        self.last_capability = Some(offset);
        self
    }

    /// Add an extended capability to the list, whose first one lies at 0x100.
    pub(super) fn extended_capability(&mut self, offset: u16, id: u16, version: u8) -> &mut Self {
        if let Some(previous) = self.last_extended {
            let at = usize::from(previous);
            let mut header = [0; 4];
            header.copy_from_slice(&self.layout.reset[at..at + 4]);
            let linked =
                u32::from_le_bytes(header) | pci::capability::extended_header(0, 0, offset);
            self.u32_ro(previous, linked);
        }
        self.u32_ro(offset, pci::capability::extended_header(id, version, 0));
        self.last_extended = Some(offset);
        self
    }

    pub(super) fn build(self) -> ConfigSpace {
        ConfigSpace {
            bytes: self.layout.reset.clone(),
            layout: Arc::new(self.layout),
        }
    }
}

impl ConfigSpace {
    /// As after a reset of the function.
    pub(crate) fn reset(&mut self) {
        self.bytes.copy_from_slice(&self.layout.reset[..]);
    }

    /// Read; beyond the end there are zeros.
    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) {
        for (n, byte) in data.iter_mut().enumerate() {
            *byte = offset
                .checked_add(n as u64)
                .and_then(|at| self.bytes.get(usize::try_from(at).ok()?).copied())
                .unwrap_or(0);
        }
    }

    /// Write, byte by byte, what may be written; beyond the end nothing happens.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        for (n, byte) in data.iter().enumerate() {
            let at = offset
                .checked_add(n as u64)
                .and_then(|at| usize::try_from(at).ok());
            let Some(at) = at.filter(|at| *at < EXTENDED_CONFIG_SIZE) else {
                return;
            };
            let writable = self.layout.writable[at];
            let cleared = self.layout.write_one_clear[at] & byte;
            self.bytes[at] = (self.bytes[at] & !writable | byte & writable) & !cleared;
        }
    }

    pub(crate) fn u16(&self, offset: u16) -> u16 {
        let mut bytes = [0; 2];
        self.read(u64::from(offset), &mut bytes);
        u16::from_le_bytes(bytes)
    }

    /// Set a field whatever the masks say: for state that the device changes.
    pub(crate) fn set_u16(&mut self, offset: u16, value: u16) {
        let at = usize::from(offset);
        if let Some(bytes) = self.bytes.get_mut(at..at + 2) {
            bytes.copy_from_slice(&value.to_le_bytes());
        }
    }

    /// The 16-bit field at `offset` as a write of `data` at `at` would leave it if all of its bits
    /// were writable; `None` if the write does not touch it.
    pub(crate) fn written_u16(&self, offset: u16, at: u64, data: &[u8]) -> Option<u16> {
        let mut bytes = self.u16(offset).to_le_bytes();
        let mut touched = false;
        for (n, byte) in bytes.iter_mut().enumerate() {
            let place = u64::from(offset) + n as u64;
            let source = place
                .checked_sub(at)
                .and_then(|n| data.get(usize::try_from(n).ok()?));
            if let Some(source) = source {
                *byte = *source;
                touched = true;
            }
        }
        touched.then(|| u16::from_le_bytes(bytes))
    }
}
