//! A VF's BAR0: its registers as types, and what each of its offsets means in the card.
//!
//! A register of this window has the fields of the card's register behind it (its
//! [`Register::Layout`]): `Value::<vf::RXDCTL>` is asked for [`crate::RXDCTL::ENABLE`].

#![expect(
    non_camel_case_types,
    reason = "registers are spelled as the datasheet does"
)]

use crate::function::{VF_COUNT, VF_QUEUES, VF_VECTORS, vf_eitr, vf_queue};
use crate::register::{Access, Decoded, Register, RegisterId};

/// Bytes of a VF's BAR0.
pub const BAR0_SIZE: u32 = 0x4000;

/// How an index in the VF's window becomes an index of the card's register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The card's only one, the same for every VF.
    Card,
    /// Element `vf`.
    Function,
    /// The VF's queue.
    Queue,
    /// The VF's interrupt vector.
    Vector,
    /// The VF's mailbox word.
    Word,
}

impl Scope {
    const fn card_index(self, vf: u8, index: u32) -> u32 {
        match self {
            Scope::Card => 0,
            Scope::Function => vf as u32,
            Scope::Queue => vf_queue(vf, index),
            Scope::Vector => vf_eitr(vf, index),
            Scope::Word => vf as u32 * crate::mailbox::WORDS as u32 + index,
        }
    }
}

/// A register of the VF's window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowInfo {
    /// As the datasheet spells it for the VF.
    pub name: &'static str,
    /// The card's register behind it.
    pub id: RegisterId,
    /// Byte offset of element 0 in the VF's BAR0.
    pub offset: u32,
    /// Bytes between elements.
    pub stride: u32,
    /// Elements.
    pub count: u32,
    /// What the VF can do with it.
    pub access: Access,
    /// How its index maps.
    pub scope: Scope,
    /// What it is.
    pub doc: &'static str,
}

// NAME[count]: ACCESS @ offset stride s => CARD_REGISTER of Scope
macro_rules! window {
    ($(
        $(#[doc = $doc:literal])*
        $name:ident [$count:literal] : $access:ident @ $offset:literal stride $stride:literal
            => $card:ident of $scope:ident;
    )*) => {
        /// Every register of the window.
        pub static WINDOW: [WindowInfo; INFO.len()] = INFO;

        const INFO: [WindowInfo; [$($offset),*].len()] = [$(
            WindowInfo {
                name: stringify!($name),
                id: RegisterId::$card,
                offset: $offset,
                stride: $stride,
                count: $count,
                access: Access::$access,
                scope: Scope::$scope,
                doc: concat!($($doc),*).trim_ascii(),
            },
        )*];

        $(
            $(#[doc = $doc])*
            #[doc = concat!("\n\nFields: [`crate::", stringify!($card), "`].")]
            #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
            pub struct $name;

            impl Register for $name {
                type Layout = crate::$card;
                const ID: RegisterId = RegisterId::$card;
                const OFFSET: u32 = $offset;
                const STRIDE: u32 = $stride;
                const COUNT: u32 = $count;
                const RESET: u32 = <crate::$card as Register>::RESET;
                const ACCESS: Access = Access::$access;
                const NAME: &'static str = stringify!($name);
            }
        )*
    };
}

window! {
    /// VF Control: RST only.
    VTCTRL[1]: RW @ 0x0000 stride 4 => PVTCTRL of Function;
    /// VF Status: the card's, as far as a VF may see it.
    VTSTATUS[1]: RO @ 0x0008 stride 4 => STATUS of Card;
    /// Mailbox memory.
    VMBMEM[16]: RW @ 0x0800 stride 4 => VMBMEM of Word;
    /// The VF's side of its mailbox.
    V2PMAILBOX[1]: RW @ 0x0C40 stride 4 => V2PMAILBOX of Function;
    /// Packet Split Receive Type.
    PSRTYPE[1]: RW @ 0x0F0C stride 4 => PSRTYPE of Function;
    /// Good Packets Received Count.
    VFGPRC[1]: RO @ 0x0F10 stride 4 => PVFGPRC of Function;
    /// Good Packets Transmitted Count.
    VFGPTC[1]: RO @ 0x0F14 stride 4 => PVFGPTC of Function;
    /// Good Octets Received Count.
    VFGORC[1]: RO @ 0x0F18 stride 4 => PVFGORC of Function;
    /// Good Octets Transmitted Count.
    VFGOTC[1]: RO @ 0x0F34 stride 4 => PVFGOTC of Function;
    /// Multicast Packets Received Count.
    VFMPRC[1]: RO @ 0x0F3C stride 4 => PVFMPRC of Function;
    /// Good Receive Packets Loopback Count.
    VFGPRLBC[1]: RO @ 0x0F40 stride 4 => PVFGPRLBC of Function;
    /// Good Transmit Packets Loopback Count.
    VFGPTLBC[1]: RO @ 0x0F44 stride 4 => PVFGPTLBC of Function;
    /// Good Receive Octets Loopback Count.
    VFGORLBC[1]: RO @ 0x0F48 stride 4 => PVFGORLBC of Function;
    /// Good Transmit Octets Loopback Count.
    VFGOTLBC[1]: RO @ 0x0F50 stride 4 => PVFGOTLBC of Function;
    /// Free Running Timer, in ms.
    VTFRTIMER[1]: RO @ 0x1048 stride 4 => FRTIMER of Card;
    /// Extended Interrupt Cause Set.
    VTEICS[1]: WO @ 0x1520 stride 4 => PVTEICS of Function;
    /// Extended Interrupt Mask Set/Read.
    VTEIMS[1]: W1S @ 0x1524 stride 4 => PVTEIMS of Function;
    /// Extended Interrupt Mask Clear.
    VTEIMC[1]: WO @ 0x1528 stride 4 => PVTEIMC of Function;
    /// Extended Interrupt Auto Clear.
    VTEIAC[1]: RW @ 0x152C stride 4 => PVTEIAC of Function;
    /// Extended Interrupt Auto Mask.
    VTEIAM[1]: RW @ 0x1530 stride 4 => PVTEIAM of Function;
    /// Extended Interrupt Cause.
    VTEICR[1]: RC @ 0x1580 stride 4 => PVTEICR of Function;
    /// Extended Interrupt Throttle, one per vector.
    VTEITR[3]: RW @ 0x1680 stride 4 => EITR of Vector;
    /// Vectors of the two queues.
    VTIVAR[1]: RW @ 0x1700 stride 4 => VTIVAR of Function;
    /// Vector of the mailbox.
    VTIVAR_MISC[1]: RW @ 0x1740 stride 4 => VTIVAR_MISC of Function;
    /// Receive Packet Buffer Wrap Around Counter.
    PBRWAC[1]: RO @ 0x24E8 stride 4 => PBRWAC of Card;
    /// Receive Descriptor Base Address Low.
    RDBAL[2]: RW @ 0x2800 stride 0x100 => RDBAL of Queue;
    /// Receive Descriptor Base Address High.
    RDBAH[2]: RW @ 0x2804 stride 0x100 => RDBAH of Queue;
    /// Receive Descriptor Ring Length, in bytes.
    RDLEN[2]: RW @ 0x2808 stride 0x100 => RDLEN of Queue;
    /// Split and Replication Receive Control.
    SRRCTL[2]: RW @ 0x280C stride 0x100 => SRRCTL of Queue;
    /// Receive Descriptor Head.
    RDH[2]: RW @ 0x2810 stride 0x100 => RDH of Queue;
    /// Receive DCA Control.
    RXCTL[2]: RW @ 0x2814 stride 0x100 => RXCTL of Queue;
    /// Receive Descriptor Tail.
    RDT[2]: RW @ 0x2818 stride 0x100 => RDT of Queue;
    /// Receive Descriptor Control.
    RXDCTL[2]: RW @ 0x2828 stride 0x100 => RXDCTL of Queue;
    /// Receive Queue Drop Packet Count.
    RQDPC[2]: RC @ 0x2830 stride 0x100 => RQDPC of Queue;
    /// Transmit Packet Buffer Wrap Around Counter.
    PBTWAC[1]: RO @ 0x34E8 stride 4 => PBTWAC of Card;
    /// Transmit Descriptor Base Address Low.
    TDBAL[2]: RW @ 0x3800 stride 0x100 => TDBAL of Queue;
    /// Transmit Descriptor Base Address High.
    TDBAH[2]: RW @ 0x3804 stride 0x100 => TDBAH of Queue;
    /// Transmit Descriptor Ring Length, in bytes.
    TDLEN[2]: RW @ 0x3808 stride 0x100 => TDLEN of Queue;
    /// Transmit Descriptor Head.
    TDH[2]: RW @ 0x3810 stride 0x100 => TDH of Queue;
    /// Transmit DCA Control.
    TXCTL[2]: RW @ 0x3814 stride 0x100 => TXCTL of Queue;
    /// Transmit Descriptor Tail.
    TDT[2]: RW @ 0x3818 stride 0x100 => TDT of Queue;
    /// Transmit Descriptor Control.
    TXDCTL[2]: RW @ 0x3828 stride 0x100 => TXDCTL of Queue;
    /// Transmit Descriptor Completion Write-Back Address Low.
    TDWBAL[2]: RW @ 0x3838 stride 0x100 => TDWBAL of Queue;
    /// Transmit Descriptor Completion Write-Back Address High.
    TDWBAH[2]: RW @ 0x383C stride 0x100 => TDWBAH of Queue;
}

/// For every dword of the window, 1 + the entry of [`WINDOW`] it belongs to, or 0.
static OWNERS: [u8; (BAR0_SIZE / 4) as usize] = {
    let mut owners = [0; (BAR0_SIZE / 4) as usize];
    let mut entry = 0;
    while entry < INFO.len() {
        let info = &INFO[entry];
        let mut index = 0;
        while index < info.count {
            let owner = &mut owners[((info.offset + index * info.stride) / 4) as usize];
            assert!(*owner == 0, "two registers at one offset");
            *owner = entry as u8 + 1;
            index += 1;
        }
        entry += 1;
    }
    owners
};

/// The entry of [`WINDOW`] at `offset` of a VF's BAR0 (aligned down to a dword by the caller) and
/// the index in it.
#[must_use]
pub const fn window_at(offset: u32) -> Option<(&'static WindowInfo, u32)> {
    if offset >= BAR0_SIZE {
        return None;
    }
    let owner = OWNERS[(offset / 4) as usize];
    if owner == 0 {
        return None;
    }
    let info = &WINDOW[owner as usize - 1];
    Some((info, (offset - info.offset) / info.stride))
}

/// What `offset` of the BAR0 of VF `vf` means in the card. `None` where the VF has no register, and
/// for a `vf` that no 82576 has.
#[must_use]
pub const fn decode(vf: u8, offset: u32) -> Option<Decoded> {
    if vf >= VF_COUNT {
        return None;
    }
    let Some((info, index)) = window_at(offset) else {
        return None;
    };
    Some(Decoded {
        id: info.id,
        index: info.scope.card_index(vf, index),
    })
}

/// Where a VF finds the card's register `id` in its own BAR0; `index` counts the VF's own queues
/// (0, 1), vectors (0..3) or mailbox words (0..16), and is 0 for everything else.
#[must_use]
pub const fn offset_of(id: RegisterId, index: u32) -> Option<u32> {
    let mut entry = 0;
    while entry < WINDOW.len() {
        let info = &WINDOW[entry];
        if info.id as u16 == id as u16 {
            if index < info.count {
                return Some(info.offset + index * info.stride);
            }
            return None;
        }
        entry += 1;
    }
    None
}

const _: () = assert!(VTEITR::COUNT == VF_VECTORS && RDT::COUNT == VF_QUEUES);
