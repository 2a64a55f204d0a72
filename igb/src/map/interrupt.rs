//! Interrupt causes, masks, throttling and vector allocation.

macro_rules! interrupt_registers {
    ([$next:ident $($rest:ident)*] $($before:tt)*) => { $next! { [$($rest)*] $($before)*
        /// Interrupt Cause Read. A read clears it, as does writing 1; with GPIE.NSICR a read clears
        /// it even in MSI-X mode.
        ICR: RC @ 0x00C0, "8.8" {
            /// Transmit descriptor written back.
            TXDW: 0,
            /// Link status change.
            LSC: 2,
            /// Receive descriptor minimum threshold.
            RXDMT0: 4,
            MACSEC: 5,
            /// Receiver overrun.
            RX_MISS: 6,
            /// Receive descriptor written back.
            RXDW: 7,
            /// A VF's mailbox (request, acknowledge, or VF reset).
            VMMB: 8,
            GPHY: 10,
            GPI_SDP0: 11,
            GPI_SDP1: 12,
            GPI_SDP2: 13,
            GPI_SDP3: 14,
            PTRAP: 15,
            MNG: 18,
            /// Time synchronization.
            TIME_SYNC: 19,
            OMED: 20,
            FER: 22,
            NFER: 23,
            CSRTO: 24,
            SCE: 25,
            SW_WD: 26,
            /// DMA out of synchronization; also malicious behavior of a VF.
            DOUTSYNC: 28,
            TCP_TIMER: 29,
            /// A reset of the device.
            DRSTA: 30,
            /// The interrupt line is asserted.
            INTA: 31,
        }
        /// Interrupt Cause Set. Fields as in ICR.
        ICS: WO @ 0x00C8, "8.8" {
            TXDW: 0,
            LSC: 2,
            RXDMT0: 4,
            MACSEC: 5,
            RX_MISS: 6,
            RXDW: 7,
            VMMB: 8,
            GPHY: 10,
            GPI_SDP0: 11,
            GPI_SDP1: 12,
            GPI_SDP2: 13,
            GPI_SDP3: 14,
            PTRAP: 15,
            MNG: 18,
            TIME_SYNC: 19,
            OMED: 20,
            FER: 22,
            NFER: 23,
            CSRTO: 24,
            SCE: 25,
            SW_WD: 26,
            DOUTSYNC: 28,
            TCP_TIMER: 29,
            DRSTA: 30,
        }
        /// Interrupt Mask Set/Read. Fields as in ICR.
        IMS: W1S @ 0x00D0, "8.8" {
            TXDW: 0,
            LSC: 2,
            RXDMT0: 4,
            MACSEC: 5,
            RX_MISS: 6,
            RXDW: 7,
            VMMB: 8,
            GPHY: 10,
            GPI_SDP0: 11,
            GPI_SDP1: 12,
            GPI_SDP2: 13,
            GPI_SDP3: 14,
            PTRAP: 15,
            MNG: 18,
            TIME_SYNC: 19,
            OMED: 20,
            FER: 22,
            NFER: 23,
            CSRTO: 24,
            SCE: 25,
            SW_WD: 26,
            DOUTSYNC: 28,
            TCP_TIMER: 29,
            DRSTA: 30,
        }
        /// Interrupt Mask Clear. Fields as in ICR.
        IMC: WO @ 0x00D8, "8.8" {
            TXDW: 0,
            LSC: 2,
            RXDMT0: 4,
            MACSEC: 5,
            RX_MISS: 6,
            RXDW: 7,
            VMMB: 8,
            GPHY: 10,
            GPI_SDP0: 11,
            GPI_SDP1: 12,
            GPI_SDP2: 13,
            GPI_SDP3: 14,
            PTRAP: 15,
            MNG: 18,
            TIME_SYNC: 19,
            OMED: 20,
            FER: 22,
            NFER: 23,
            CSRTO: 24,
            SCE: 25,
            SW_WD: 26,
            DOUTSYNC: 28,
            TCP_TIMER: 29,
            DRSTA: 30,
        }
        /// Interrupt Acknowledge Auto Mask. Fields as in ICR.
        IAM: RW @ 0x00E0, "8.8" {
            TXDW: 0,
            LSC: 2,
            RXDMT0: 4,
            MACSEC: 5,
            RX_MISS: 6,
            RXDW: 7,
            VMMB: 8,
            GPHY: 10,
            GPI_SDP0: 11,
            GPI_SDP1: 12,
            GPI_SDP2: 13,
            GPI_SDP3: 14,
            PTRAP: 15,
            MNG: 18,
            TIME_SYNC: 19,
            OMED: 20,
            FER: 22,
            NFER: 23,
            CSRTO: 24,
            SCE: 25,
            SW_WD: 26,
            DOUTSYNC: 28,
            TCP_TIMER: 29,
            DRSTA: 30,
        }
        /// General Purpose Interrupt Enable.
        GPIE: RW @ 0x1514, "8.8" {
            /// Non-selective clear of ICR on read.
            NSICR: 0,
            /// MSI-X with more than one vector.
            MULTIPLE_MSIX: 4,
            /// Low latency interval.
            LL_INTERVAL: 7..=11,
            /// Auto-mask by EIAM also where MSI-X is used.
            EIAME: 30,
            /// PBA support: a write to EICR or an auto-clear does not clear the PBA bit.
            PBA_SUPPORT: 31,
        }
        /// Extended Interrupt Cause Set.
        EICS: WO @ 0x1520, "8.8" {
            /// One bit per MSI-X vector.
            VECTORS: 0..=24,
        }
        /// Extended Interrupt Mask Set/Read.
        EIMS: W1S @ 0x1524, "8.8" {
            VECTORS: 0..=24,
            /// Outside MSI-X: causes of ICR.
            OTHER: 31,
        }
        /// Extended Interrupt Mask Clear.
        EIMC: WO @ 0x1528, "8.8" {
            VECTORS: 0..=24,
            OTHER: 31,
        }
        /// Extended Interrupt Auto Clear: these causes clear when their message is sent.
        EIAC: RW @ 0x152C, "8.8" {
            VECTORS: 0..=24,
        }
        /// Extended Interrupt Auto Mask: these masks clear when their message is sent.
        EIAM: RW @ 0x1530, "8.8" {
            VECTORS: 0..=24,
        }
        /// Extended Interrupt Cause. Read clears, writing 1 clears.
        EICR: RC @ 0x1580, "8.8" {
            /// One bit per MSI-X vector; outside MSI-X, bits 15:0 are queues.
            VECTORS: 0..=24,
            TCP_TIMER: 30,
            OTHER: 31,
        }
        /// Extended Interrupt Throttle, one per MSI-X vector.
        EITR[25]: RW @ 0x1680 stride 4, "8.8" {
            /// Shortest interval between messages, in us.
            INTERVAL: 2..=14,
            /// Low latency interrupts are moderated.
            LLI_EN: 15,
            LL_COUNTER: 16..=20,
            /// The counter that runs down.
            COUNTER: 21..=30,
            /// A write leaves LL_COUNTER and COUNTER alone.
            CNT_INGR: 31,
        }
        /// Interrupt Vector Allocation: element n is for queues n and n + 8; see [`crate::interrupt`].
        IVAR[8]: RW @ 0x1700 stride 4, "8.8" {
            /// Receive queue n.
            RXQ_LOW: 0..=4,
            RXQ_LOW_VALID: 7,
            /// Transmit queue n.
            TXQ_LOW: 8..=12,
            TXQ_LOW_VALID: 15,
            /// Receive queue n + 8.
            RXQ_HIGH: 16..=20,
            RXQ_HIGH_VALID: 23,
            /// Transmit queue n + 8.
            TXQ_HIGH: 24..=28,
            TXQ_HIGH_VALID: 31,
        }
        /// Interrupt Vector Allocation of other causes.
        IVAR_MISC: RW @ 0x1740, "8.8" {
            /// TCP timer.
            TCP_TIMER: 0..=4,
            TCP_TIMER_VALID: 7,
            /// Causes of ICR.
            OTHER: 8..=12,
            OTHER_VALID: 15,
        }
        /// Immediate Interrupt Rx: the destination port that FTQF of the same number compares.
        IMIR[8]: RW @ 0x5A80 stride 4, "8.8" {
            /// In the order of the wire.
            PORT: 0..=15,
            /// A match interrupts at once.
            PORT_IM_EN: 16,
            /// The port is not compared.
            PORT_BP: 17,
            /// Of the matching filters, the one with the highest decides.
            PRIORITY: 29..=31,
        }
        /// Immediate Interrupt Rx Extended.
        IMIREXT[8]: RW @ 0x5AA0 stride 4, "8.8" {
            SIZE_THRESH: 0..=11,
            /// The size is not compared.
            SIZE_BP: 12,
            /// TCP flags, one of which must be set: URG, ACK, PSH, RST, SYN, FIN from the lowest.
            CTRL: 13..=18,
            /// The flags are not compared.
            CTRL_BP: 19,
        }
        /// Immediate Interrupt Rx VLAN Priority.
        IMIRVP: RW @ 0x5AC0, "8.8" {}
    }};
}
