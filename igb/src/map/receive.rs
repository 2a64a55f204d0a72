//! The receive path: control, packet buffer, flow control thresholds, queues.

macro_rules! receive_registers {
    ([$next:ident $($rest:ident)*] $($before:tt)*) => { $next! { [$($rest)*] $($before)*
        /// Receive Control.
        RCTL: RW @ 0x0100, "8.10" {
            /// Receive enable.
            RXEN: 1,
            /// Store bad packets.
            SBP: 2,
            /// Unicast promiscuous.
            UPE: 3,
            /// Multicast promiscuous.
            MPE: 4,
            /// Long packets: longer than 1522 bytes, up to RLPML.
            LPE: 5,
            /// Loopback mode: 0 none, 1 MAC, 3 transceiver.
            LBM: 6..=7,
            /// Which bits of the address index MTA: 0 is 47:36, 1 46:35, 2 45:34, 3 43:32.
            MO: 12..=13,
            /// Broadcast accept.
            BAM: 15,
            /// Buffer size when SRRCTL.BSIZEPACKET is 0: 0 2048, 1 1024, 2 512, 3 256 bytes.
            BSIZE: 16..=17,
            /// VLAN filter enable.
            VFE: 18,
            /// Canonical form indicator filter.
            CFIEN: 19,
            CFI: 20,
            /// Pad small received packets.
            PSP: 21,
            /// Discard pause frames.
            DPF: 22,
            /// Pass MAC control frames.
            PMCF: 23,
            /// Strip the CRC.
            SECRC: 26,
        }
        /// Flow Control Receive Threshold Low.
        FCRTL0: RW @ 0x2160, "8.5" {
            RTL: 4..=15,
            /// XON enable.
            XONE: 31,
        }
        /// Flow Control Receive Threshold High.
        FCRTH0: RW @ 0x2168, "8.5" {
            RTH: 4..=15,
        }
        /// Receive Packet Buffer Size.
        RXPBS: RW @ 0x2404 reset 0x40, "8.3" {
            /// In KiB.
            SIZE: 0..=6,
        }
        /// Queue Drop Enable: one bit per queue; SRRCTL.DROP_EN does the same.
        QDE: RW @ 0x2408, "8.14" {
            QUEUES: 0..=15,
        }
        /// Receive Data FIFO Head.
        RDFH: RW @ 0x2410, "8.26" {}
        /// Receive Data FIFO Tail.
        RDFT: RW @ 0x2418, "8.26" {}
        /// Receive Data FIFO Packet Count.
        RDFPC: RW @ 0x2430, "8.26" {}
        /// Flow Control Refresh Threshold.
        FCRTV: RW @ 0x2460, "8.5" {}
        /// Receive Packet Buffer Wrap Around Counter.
        PBRWAC: RO @ 0x24E8, "8.3" {
            WALPB: 0..=2,
            PBE: 3,
        }

        /// Receive Descriptor Base Address Low.
        RDBAL[16]: RW @ 0xC000 stride 0x40 alias [4] @ 0x2800 stride 0x100, "8.10" {
            /// 128-byte aligned.
            ADDRESS: 7..=31,
        }
        /// Receive Descriptor Base Address High.
        RDBAH[16]: RW @ 0xC004 stride 0x40 alias [4] @ 0x2804 stride 0x100, "8.10" {}
        /// Receive Descriptor Ring Length, in bytes.
        RDLEN[16]: RW @ 0xC008 stride 0x40 alias [4] @ 0x2808 stride 0x100, "8.10" {
            /// A multiple of 128.
            LENGTH: 7..=19,
        }
        /// Split and Replication Receive Control.
        SRRCTL[16]: RW @ 0xC00C stride 0x40 alias [4] @ 0x280C stride 0x100
            reset 0x0000_0400, "8.10"
        {
            /// Packet buffer size in KiB; 0 leaves it to RCTL.BSIZE.
            BSIZEPACKET: 0..=6,
            /// Header buffer size in units of 64 bytes.
            BSIZEHEADER: 8..=11,
            /// Free descriptors below which RXDMT0 is caused, in units of 16.
            RDMTS: 20..=24,
            /// 0 legacy, 1 advanced one buffer, 2 header split, 3 header replication, 4 the same of
            /// large packets only, 5 header split always.
            DESCTYPE: 25..=27,
            /// Time stamp in the packet (later devices; reserved in the 82576).
            TIMESTAMP: 30,
            /// Drop when no descriptor is free, instead of holding the packet buffer.
            DROP_EN: 31,
        }
        /// Receive Descriptor Head.
        RDH[16]: RW @ 0xC010 stride 0x40 alias [4] @ 0x2810 stride 0x100, "8.10" {
            RDH: 0..=15,
        }
        /// Receive DCA Control.
        RXCTL[16]: RW @ 0xC014 stride 0x40 alias [4] @ 0x2814 stride 0x100
            reset 0x0000_A200, "8.13"
        {
            RX_DESC_DCA_EN: 5,
            RX_HEAD_DCA_EN: 6,
            RX_PAYLOAD_DCA_EN: 7,
            RX_DESC_READ_RO_EN: 9,
            RX_DESC_WB_RO_EN: 11,
            RX_DATA_RO_EN: 13,
            RX_REP_HDR_RO_EN: 15,
            CPUID: 24..=31,
        }
        /// Receive Descriptor Tail.
        RDT[16]: RW @ 0xC018 stride 0x40 alias [4] @ 0x2818 stride 0x100, "8.10" {
            RDT: 0..=15,
        }
        /// Receive Descriptor Control.
        RXDCTL[16]: RW @ 0xC028 stride 0x40 alias [4] @ 0x2828 stride 0x100
            reset 0x0001_0000, "8.10"
        {
            /// Prefetch threshold.
            PTHRESH: 0..=4,
            /// Host threshold.
            HTHRESH: 8..=12,
            /// Write-back threshold.
            WTHRESH: 16..=20,
            /// The queue is enabled.
            ENABLE: 25,
            /// Flush write-backs.
            SWFLUSH: 26,
        }
        /// Receive Queue Drop Packet Count; a read clears it.
        RQDPC[16]: RC @ 0xC030 stride 0x40 alias [4] @ 0x2830 stride 0x100, "8.18" {
            RQDPC: 0..=11,
        }
        /// Receive Checksum Control.
        RXCSUM: RW @ 0x5000 reset 0x0000_0300, "8.10" {
            /// Where the packet checksum starts.
            PCSS: 0..=7,
            /// IP checksum offload.
            IPOFLD: 8,
            /// TCP/UDP checksum offload.
            TUOFLD: 9,
            /// SCTP CRC offload.
            CRCOFL: 11,
            /// IP payload checksum of fragments.
            IPPCSE: 12,
            /// No packet checksum: the RSS hash takes its place.
            PCSD: 13,
        }
        /// Receive Long Packet Maximum Length.
        RLPML: RW @ 0x5004 reset 0x0000_2600, "8.10" {
            RLPML: 0..=13,
        }
        /// Receive Filter Control.
        RFCTL: RW @ 0x5008, "8.10" {
            NFSW_DIS: 6,
            NFSR_DIS: 7,
            IPV6_DIS: 10,
            IPV6XSUM_DIS: 11,
            IPFRSP_DIS: 14,
            LEF: 18,
            SYNQFP: 19,
        }
        /// Packet Split Receive Type, one per pool.
        PSRTYPE[8]: RW @ 0x5480 stride 4 reset 0x0007_FFFF, "8.10" {
            /// Kinds of packets whose header is split: 1 IPv4, 2 with TCP, 3 with UDP, 4 IPv6 in
            /// IPv4, 5 with TCP, 6 with UDP, 7 IPv6, 8 with TCP, 9 with UDP, others with NFS.
            PSR_TYPE: 0..=18,
        }
    }};
}
