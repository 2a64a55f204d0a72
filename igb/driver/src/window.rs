//! Where PF and VF find the same registers: the one thing in which their data paths differ.

use igb::{FunctionKind, Register};

macro_rules! windows {
    (
        $( $(#[doc = $doc:literal])* $role:ident: $layout:ident = $pf:ident, $vf:ident; )*
        @per_vector
        $( $(#[doc = $bits_doc:literal])* $bits:ident = $bits_pf:ident, $bits_vf:ident; )*
    ) => {
        /// The registers of queues and interrupts, as a kind of function finds them in its BAR0.
        pub trait Window: Send + 'static {
            /// The kind of function.
            const KIND: FunctionKind;
            /// Bytes of BAR0 that hold registers.
            const SIZE: u32;
            $( $(#[doc = $doc])* type $role: Register<Layout = igb::$layout>; )*
            $( $(#[doc = $bits_doc])* type $bits: Register; )*
        }

        impl Window for PfWindow {
            const KIND: FunctionKind = FunctionKind::Physical;
            const SIZE: u32 = igb::BAR0_SIZE;
            $( type $role = igb::$pf; )*
            $( type $bits = igb::$bits_pf; )*
        }

        impl Window for VfWindow {
            const KIND: FunctionKind = FunctionKind::Virtual;
            const SIZE: u32 = igb::vf::BAR0_SIZE;
            $( type $role = igb::vf::$vf; )*
            $( type $bits = igb::vf::$bits_vf; )*
        }
    };
}

/// The PF's BAR0.
#[derive(Debug, Clone, Copy)]
pub struct PfWindow;

/// A VF's BAR0.
#[derive(Debug, Clone, Copy)]
pub struct VfWindow;

windows! {
    /// Receive Descriptor Base Address Low.
    Rdbal: RDBAL = RDBAL, RDBAL;
    /// Receive Descriptor Base Address High.
    Rdbah: RDBAH = RDBAH, RDBAH;
    /// Receive Descriptor Ring Length.
    Rdlen: RDLEN = RDLEN, RDLEN;
    /// Split and Replication Receive Control.
    Srrctl: SRRCTL = SRRCTL, SRRCTL;
    /// Receive Descriptor Head.
    Rdh: RDH = RDH, RDH;
    /// Receive Descriptor Tail.
    Rdt: RDT = RDT, RDT;
    /// Receive Descriptor Control.
    Rxdctl: RXDCTL = RXDCTL, RXDCTL;
    /// Transmit Descriptor Base Address Low.
    Tdbal: TDBAL = TDBAL, TDBAL;
    /// Transmit Descriptor Base Address High.
    Tdbah: TDBAH = TDBAH, TDBAH;
    /// Transmit Descriptor Ring Length.
    Tdlen: TDLEN = TDLEN, TDLEN;
    /// Transmit Descriptor Head.
    Tdh: TDH = TDH, TDH;
    /// Transmit Descriptor Tail.
    Tdt: TDT = TDT, TDT;
    /// Transmit Descriptor Control.
    Txdctl: TXDCTL = TXDCTL, TXDCTL;
    /// Extended Interrupt Throttle, one per vector.
    Eitr: EITR = EITR, VTEITR;
    @per_vector
    /// Vectors of the queues.
    Ivar = IVAR, VTIVAR;
    /// Vector of all other causes.
    IvarMisc = IVAR_MISC, VTIVAR_MISC;
    /// Extended Interrupt Cause Set, one bit for each vector.
    Eics = EICS, VTEICS;
    /// Extended Interrupt Mask Set, one bit for each vector.
    Eims = EIMS, VTEIMS;
    /// Extended Interrupt Mask Clear, one bit for each vector.
    Eimc = EIMC, VTEIMC;
    /// Extended Interrupt Auto Clear, one bit for each vector.
    Eiac = EIAC, VTEIAC;
    /// Extended Interrupt Auto Mask, one bit for each vector.
    Eiam = EIAM, VTEIAM;
    /// Extended Interrupt Cause, one bit for each vector.
    Eicr = EICR, VTEICR;
}
