//! The transmit path: control, packet buffers, queues, rate limits.

macro_rules! transmit_registers {
    ([$next:ident $($rest:ident)*] $($before:tt)*) => { $next! { [$($rest)*] $($before)*
        /// Transmit Control.
        TCTL: RW @ 0x0400 reset 0x0004_00F8, "8.12" {
            /// Transmit enable.
            EN: 1,
            /// Pad short packets.
            PSP: 3,
            /// Collision threshold.
            CT: 4..=11,
            /// Back-off time.
            BST: 12..=21,
            SWXOFF: 22,
            /// Retransmit on late collision.
            RTLC: 24,
        }
        /// Transmit Control Extended.
        TCTL_EXT: RW @ 0x0404 reset 0x0001_0840, "8.12" {
            /// Collision distance.
            COLD: 10..=19,
        }
        /// Transmit Inter Packet Gap.
        TIPG: RW @ 0x0410 reset 0x0060_1008, "8.12" {
            IPGT: 0..=9,
            IPGR1: 10..=19,
            IPGR: 20..=29,
        }
        /// Retry Buffer Control.
        RETX_CTL: RW @ 0x041C, "8.12" {}
        /// Adaptive Interframe Spacing Throttle.
        AIT: RW @ 0x0458, "8.12" {}
        /// Switch Packet Buffer Size.
        SWPBS: RW @ 0x3004 reset 0x14, "8.3" {
            /// In KiB.
            SIZE: 0..=5,
        }
        /// Transmit Packet Buffer Size.
        TXPBS: RW @ 0x3404 reset 0x28, "8.3" {
            /// In KiB.
            SIZE: 0..=5,
        }
        /// Transmit Data FIFO Head.
        TDFH: RW @ 0x3410, "8.26" {}
        /// Transmit Data FIFO Tail.
        TDFT: RW @ 0x3418, "8.26" {}
        /// Transmit Data FIFO Head Saved.
        TDFHS: RW @ 0x3420, "8.26" {}
        /// Transmit Data FIFO Packet Count.
        TDFPC: RW @ 0x3430, "8.26" {}
        /// Transmit Packet Buffer Wrap Around Counter.
        PBTWAC: RO @ 0x34E8, "8.3" {
            WALPB: 0..=2,
            PBE: 3,
        }
        /// DMA Transmit Maximum Total Size of Requests.
        DTXMXSZRQ: RW @ 0x3540 reset 0x10, "8.12" {
            MAX_BYTES_NUM_REQ: 0..=11,
        }
        /// DMA Transmit Control.
        DTXCTL: RW @ 0x3590 reset 0x0000_0044, "8.12" {
            /// 802.3 length fields count the tag.
            EN_8023LL: 2,
            /// Frames with a tag that software inserted are flagged as such.
            VLAN_ADDED: 3,
            /// A ring out of synchronization raises ICR.DOUTSYNC.
            OUT_OF_SYNC_ENABLE: 4,
            /// Malicious driver protection.
            MDP_EN: 5,
            /// A spoofed frame raises ICR.DOUTSYNC.
            SPOOF_INT: 6,
        }
        /// DMA Transmit TCP Flags Control Low: masks for the first and middle segments.
        DTXTCPFLGL: RW @ 0x359C reset 0x0FF6_0FF6, "8.12" {
            FIRST_SEG: 0..=11,
            MID_SEG: 16..=27,
        }
        /// DMA Transmit TCP Flags Control High: mask for the last segment.
        DTXTCPFLGH: RW @ 0x35A0 reset 0x0000_0F7F, "8.12" {
            LAST_SEG: 0..=11,
        }
        /// Transmit Descriptor Plane Control and Status.
        RTTDCS: RW @ 0x3600, "8.12" {}
        /// Transmit Descriptor Plane Queue Select: the queue that RTTBCNRC and its like mean.
        RTTDQSEL: RW @ 0x3604, "8.12" {
            TXDQ_IDX: 0..=3,
        }
        /// Transmit Rate Scheduler Maximum Memory Window.
        RTTBCNRM: RW @ 0x3690, "8.12" {
            MMW_SIZE: 0..=25,
        }
        /// Transmit Rate Scheduler Configuration of the queue RTTDQSEL selects.
        RTTBCNRC: RW @ 0x36B0, "8.12" {
            /// Link rate divided by the limit: fraction (2^-14).
            RF_DEC: 0..=13,
            /// Its integer part.
            RF_INT: 14..=23,
            /// The limit is enabled.
            RS_ENA: 31,
        }

        /// Transmit Descriptor Base Address Low.
        TDBAL[16]: RW @ 0xE000 stride 0x40 alias [4] @ 0x3800 stride 0x100, "8.12" {
            /// 128-byte aligned.
            ADDRESS: 7..=31,
        }
        /// Transmit Descriptor Base Address High.
        TDBAH[16]: RW @ 0xE004 stride 0x40 alias [4] @ 0x3804 stride 0x100, "8.12" {}
        /// Transmit Descriptor Ring Length, in bytes.
        TDLEN[16]: RW @ 0xE008 stride 0x40 alias [4] @ 0x3808 stride 0x100, "8.12" {
            /// A multiple of 128.
            LENGTH: 7..=19,
        }
        /// Transmit Descriptor Head.
        TDH[16]: RW @ 0xE010 stride 0x40 alias [4] @ 0x3810 stride 0x100, "8.12" {
            TDH: 0..=15,
        }
        /// Transmit DCA Control.
        TXCTL[16]: RW @ 0xE014 stride 0x40 alias [4] @ 0x3814 stride 0x100
            reset 0x0000_2A00, "8.13"
        {
            TX_DESC_DCA_EN: 5,
            TX_DESC_READ_RO_EN: 9,
            TX_DESC_WB_RO_EN: 11,
            TX_DATA_READ_RO_EN: 13,
            CPUID: 24..=31,
        }
        /// Transmit Descriptor Tail.
        TDT[16]: RW @ 0xE018 stride 0x40 alias [4] @ 0x3818 stride 0x100, "8.12" {
            TDT: 0..=15,
        }
        /// Transmit Descriptor Control.
        TXDCTL[16]: RW @ 0xE028 stride 0x40 alias [4] @ 0x3828 stride 0x100, "8.12" {
            /// Prefetch threshold.
            PTHRESH: 0..=4,
            /// Host threshold.
            HTHRESH: 8..=12,
            /// Write-back threshold.
            WTHRESH: 16..=20,
            /// The queue is enabled.
            ENABLE: 25,
            /// Flush write-backs.
            SWFLSH: 26,
            /// The queue has high priority.
            PRIORITY: 27,
        }
        /// Transmit Descriptor Completion Write-Back Address Low.
        TDWBAL[16]: RW @ 0xE038 stride 0x40 alias [4] @ 0x3838 stride 0x100, "8.12" {
            /// Head write-back instead of descriptor write-back.
            HEAD_WB_EN: 0,
            WB_ON_EITR: 1,
            ADDRESS: 2..=31,
        }
        /// Transmit Descriptor Completion Write-Back Address High.
        TDWBAH[16]: RW @ 0xE03C stride 0x40 alias [4] @ 0x383C stride 0x100, "8.12" {}
    }};
}
