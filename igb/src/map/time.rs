//! IEEE 1588 time synchronization.

macro_rules! time_registers {
    ([$next:ident $($rest:ident)*] $($before:tt)*) => { $next! { [$($rest)*] $($before)*
        /// Time Sync Rx Configuration.
        TSYNCRXCFG: RW @ 0x5F50, "8.16" {
            /// V1 control field to match.
            CTRLT: 0..=7,
            /// V2 message type to match.
            MSGT: 8..=15,
        }
        /// System Time Low.
        SYSTIML: RW @ 0xB600, "8.16" {}
        /// System Time High.
        SYSTIMH: RW @ 0xB604, "8.16" {}
        /// Time Increment Attributes.
        TIMINCA: RW @ 0xB608, "8.16" {
            /// Added to SYSTIM each period.
            IV: 0..=23,
            /// Period, in units of 16 ns.
            IP: 24..=31,
        }
        /// Time Adjustment Offset Low.
        TIMADJL: RW @ 0xB60C, "8.16" {}
        /// Time Adjustment Offset High.
        TIMADJH: RW @ 0xB610, "8.16" {
            OFFSET: 0..=30,
            /// The offset is taken away.
            SIGN: 31,
        }
        /// Tx Time Sync Control.
        TSYNCTXCTL: RW @ 0xB614, "8.16" {
            /// TXSTMP holds a stamp; reading TXSTMPH clears it.
            TXTT: 0,
            /// Stamp frames whose descriptor asks for it.
            EN: 4,
        }
        /// Tx Time Stamp Low.
        TXSTMPL: RO @ 0xB618, "8.16" {}
        /// Tx Time Stamp High.
        TXSTMPH: RO @ 0xB61C, "8.16" {}
        /// Rx Time Sync Control.
        TSYNCRXCTL: RW @ 0xB620, "8.16" {
            /// RXSTMP holds a stamp; reading RXSTMPH clears it.
            RXTT: 0,
            /// 0 V2 on layer 2, 1 V1 on layer 4, 2 V2 on both, 4 all, 5 V2 event messages.
            TYPE: 1..=3,
            EN: 4,
        }
        /// Rx Time Stamp Low.
        RXSTMPL: RO @ 0xB624, "8.16" {}
        /// Rx Time Stamp High.
        RXSTMPH: RO @ 0xB628, "8.16" {}
        /// Rx Time Stamp Attributes Low.
        RXSATRL: RO @ 0xB62C, "8.16" {}
        /// Rx Time Stamp Attributes High.
        RXSATRH: RO @ 0xB630, "8.16" {
            SOURCE_ID: 0..=15,
            SEQUENCE_ID: 16..=31,
        }
        /// Auxiliary Control.
        TSAUXC: RW @ 0xB640, "8.16" {}
        /// Target Time 0 Low.
        TRGTTIML0: RW @ 0xB644, "8.16" {}
        /// Target Time 0 High.
        TRGTTIMH0: RW @ 0xB648, "8.16" {}
        /// Target Time 1 Low.
        TRGTTIML1: RW @ 0xB64C, "8.16" {}
        /// Target Time 1 High.
        TRGTTIMH1: RW @ 0xB650, "8.16" {}
        /// Frequency Out 0.
        FREQOUT0: RW @ 0xB654, "8.16" {}
        /// Frequency Out 1.
        FREQOUT1: RW @ 0xB658, "8.16" {}
        /// Auxiliary Time Stamp 0 Low.
        AUXSTMPL0: RO @ 0xB65C, "8.16" {}
        /// Auxiliary Time Stamp 0 High.
        AUXSTMPH0: RO @ 0xB660, "8.16" {}
        /// Auxiliary Time Stamp 1 Low.
        AUXSTMPL1: RO @ 0xB664, "8.16" {}
        /// Auxiliary Time Stamp 1 High.
        AUXSTMPH1: RO @ 0xB668, "8.16" {}
        /// Time Sync Interrupt Cause; a read clears it.
        TSICR: RC @ 0xB66C, "8.16" {
            SYS_WRAP: 0,
            TXTS: 1,
            RXTS: 2,
        }
        /// Time Sync Interrupt Mask.
        TSIM: RW @ 0xB674, "8.16" {
            SYS_WRAP: 0,
            TXTS: 1,
            RXTS: 2,
        }
        /// System Time Residue (later devices; read by drivers on every one).
        SYSTIMR: RW @ 0xB6F8, "8.16" {}
        /// Time Sync SDP Configuration.
        TSSDP: RW @ 0x003C, "8.16" {}
    }};
}
