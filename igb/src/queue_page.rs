//! The pages that hold nothing but queue registers, so that they can be shared memory: where each
//! register of each queue lies in them.

use crate::function::{FunctionKind, QUEUE_COUNT, VF_QUEUES};
use crate::register::RegisterId;

/// Bytes of a queue page.
pub const SIZE: u32 = 0x1000;

/// BAR0 offset of the PF's receive page.
pub const PF_RX: u32 = 0xC000;
/// BAR0 offset of the PF's transmit page.
pub const PF_TX: u32 = 0xE000;
/// BAR0 offset of a VF's receive page.
pub const VF_RX: u32 = 0x2000;
/// BAR0 offset of a VF's transmit page.
pub const VF_TX: u32 = 0x3000;

/// In every transmit page: the driver writes 1 to say that it looks at [`DOORBELL_ASLEEP`] after each
/// tail it writes. Tandem's extension; the 82576 has no register here.
pub const DOORBELL_WAKE: u32 = 0xF00;
/// In every transmit page: the card writes 1 when it no longer looks at this function's pages. A
/// driver that finds it set writes its tail once more, not through the mapping but as an access that
/// traps, which wakes the card; the card then writes 0. Tandem's extension; the 82576 has no register
/// here.
pub const DOORBELL_ASLEEP: u32 = 0xF04;
/// First byte of the extension words; everything below is the 82576's.
pub const EXTENSION: u32 = 0xF00;

/// The two pages of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Page {
    /// Receive queues.
    Rx,
    /// Transmit queues.
    Tx,
}

impl Page {
    /// Byte offset of the page in the BAR0 of a function of this kind.
    #[must_use]
    pub const fn offset(self, kind: FunctionKind) -> u32 {
        match (kind, self) {
            (FunctionKind::Physical, Page::Rx) => PF_RX,
            (FunctionKind::Physical, Page::Tx) => PF_TX,
            (FunctionKind::Virtual, Page::Rx) => VF_RX,
            (FunctionKind::Virtual, Page::Tx) => VF_TX,
        }
    }

    /// The page that `offset` of the BAR0 of a function of this kind lies in, and the offset there.
    #[must_use]
    pub const fn at(kind: FunctionKind, offset: u32) -> Option<(Page, u32)> {
        let page = match offset / SIZE * SIZE {
            base if base == Page::Rx.offset(kind) => Page::Rx,
            base if base == Page::Tx.offset(kind) => Page::Tx,
            _ => return None,
        };
        Some((page, offset % SIZE))
    }
}

macro_rules! queue_registers {
    ($( $name:ident $page:ident $offset:literal $doc:literal )*) => {
        /// A register of a queue.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum QueueRegister {
            $( #[doc = $doc] $name, )*
        }

        impl QueueRegister {
            /// All of them.
            pub const ALL: &'static [QueueRegister] = &[$(QueueRegister::$name),*];

            /// The page it lies in.
            #[must_use]
            pub const fn page(self) -> Page {
                match self { $(QueueRegister::$name => Page::$page,)* }
            }

            /// Bytes from the start of its queue's registers.
            #[must_use]
            pub const fn offset(self) -> u32 {
                match self { $(QueueRegister::$name => $offset,)* }
            }

            /// The register of the map.
            #[must_use]
            pub const fn id(self) -> RegisterId {
                match self { $(QueueRegister::$name => RegisterId::$name,)* }
            }

            /// The inverse of [`QueueRegister::id`].
            #[must_use]
            pub const fn from_id(id: RegisterId) -> Option<QueueRegister> {
                match id {
                    $(RegisterId::$name => Some(QueueRegister::$name),)*
                    _ => None,
                }
            }

            const fn at(page: Page, offset: u32) -> Option<QueueRegister> {
                match (page, offset) {
                    $((Page::$page, $offset) => Some(QueueRegister::$name),)*
                    _ => None,
                }
            }
        }
    };
}

queue_registers! {
    RDBAL Rx 0x00 "Receive Descriptor Base Address Low."
    RDBAH Rx 0x04 "Receive Descriptor Base Address High."
    RDLEN Rx 0x08 "Receive Descriptor Ring Length."
    SRRCTL Rx 0x0C "Split and Replication Receive Control."
    RDH Rx 0x10 "Receive Descriptor Head."
    RXCTL Rx 0x14 "Receive DCA Control."
    RDT Rx 0x18 "Receive Descriptor Tail."
    RXDCTL Rx 0x28 "Receive Descriptor Control."
    RQDPC Rx 0x30 "Receive Queue Drop Packet Count."
    TDBAL Tx 0x00 "Transmit Descriptor Base Address Low."
    TDBAH Tx 0x04 "Transmit Descriptor Base Address High."
    TDLEN Tx 0x08 "Transmit Descriptor Ring Length."
    TDH Tx 0x10 "Transmit Descriptor Head."
    TXCTL Tx 0x14 "Transmit DCA Control."
    TDT Tx 0x18 "Transmit Descriptor Tail."
    TXDCTL Tx 0x28 "Transmit Descriptor Control."
    TDWBAL Tx 0x38 "Transmit Descriptor Completion Write-Back Address Low."
    TDWBAH Tx 0x3C "Transmit Descriptor Completion Write-Back Address High."
}

/// First queue, stride and number of queues in a page of this kind of function.
const fn queues(kind: FunctionKind) -> (u32, u32, u32) {
    match kind {
        FunctionKind::Physical => (0, 0x40, QUEUE_COUNT),
        FunctionKind::Virtual => (0x800, 0x100, VF_QUEUES),
    }
}

/// The page and the offset in it of a register of the function's own queue `queue`; `None` if a
/// function of this kind has no such queue.
#[must_use]
pub const fn slot(kind: FunctionKind, queue: u32, register: QueueRegister) -> Option<(Page, u32)> {
    let (first, stride, count) = queues(kind);
    if queue >= count {
        return None;
    }
    Some((register.page(), first + queue * stride + register.offset()))
}

/// The inverse of [`slot`]: the function's own queue and its register at `offset` (of a dword) of a
/// page.
#[must_use]
pub const fn decode(kind: FunctionKind, page: Page, offset: u32) -> Option<(u32, QueueRegister)> {
    let (first, stride, count) = queues(kind);
    if offset < first || offset >= first + count * stride {
        return None;
    }
    let offset = offset - first;
    match QueueRegister::at(page, offset % stride) {
        Some(register) => Some((offset / stride, register)),
        None => None,
    }
}
