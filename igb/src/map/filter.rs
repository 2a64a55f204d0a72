//! Receive filters: addresses, multicast, VLAN, RSS, and the queue filters.

macro_rules! filter_registers {
    ([$next:ident $($rest:ident)*] $($before:tt)*) => { $next! { [$($rest)*] $($before)*
        /// Multicast Table Array: 4096 bits, indexed by 12 bits of the address (RCTL.MO).
        MTA[128]: RW @ 0x5200 stride 4, "8.10" {}
        /// Receive Address Low: bytes 0 to 3, byte 0 lowest.
        RAL[24]: RW @ 0x5400 stride 8 split 16 @ 0x54E0, "8.10" {}
        /// Receive Address High.
        RAH[24]: RW @ 0x5404 stride 8 split 16 @ 0x54E4, "8.10" {
            /// Bytes 4 and 5.
            RAH: 0..=15,
            /// 0 compares the destination address.
            ASEL: 16..=17,
            /// Pools that receive the address.
            POOLSEL: 18..=25,
            /// The entry is valid.
            AV: 31,
        }
        /// VLAN Priority Queue Filter.
        VLAPQF: RW @ 0x55B0, "8.11" {
            /// Queue of frames of priority 0, if valid; four bits for each priority.
            VP0QSEL: 0..=2,
            VLANP0V: 3,
            VP1QSEL: 4..=6,
            VLANP1V: 7,
            VP2QSEL: 8..=10,
            VLANP2V: 11,
            VP3QSEL: 12..=14,
            VLANP3V: 15,
            VP4QSEL: 16..=18,
            VLANP4V: 19,
            VP5QSEL: 20..=22,
            VLANP5V: 23,
            VP6QSEL: 24..=26,
            VLANP6V: 27,
            VP7QSEL: 28..=30,
            VLANP7V: 31,
        }
        /// SYN Packet Queue Filter.
        SYNQF: RW @ 0x55FC, "8.11" {
            QUEUE_ENABLE: 0,
            QUEUE: 1..=3,
        }
        /// VLAN Filter Table Array: 4096 bits, indexed by the VLAN id.
        VFTA[128]: RW @ 0x5600 stride 4, "8.10" {}
        /// Multiple Receive Queues Command.
        MRQC: RW @ 0x5818, "8.11" {
            /// 2 RSS, 3 VMDq, 5 VMDq and RSS.
            MULTIPLE_RECEIVE_QUEUES: 0..=2,
            /// Default queue of packets that are not hashed.
            DEF_Q: 3..=5,
            TCP_IPV4: 16,
            IPV4: 17,
            TCP_IPV6EX: 18,
            IPV6EX: 19,
            IPV6: 20,
            TCP_IPV6: 21,
            UDP_IPV4: 22,
            UDP_IPV6: 23,
            UDP_IPV6EX: 24,
        }
        /// Source Address Queue Filter.
        SAQF[8]: RW @ 0x5980 stride 4, "8.11" {}
        /// Destination Address Queue Filter.
        DAQF[8]: RW @ 0x59A0 stride 4, "8.11" {}
        /// Source Port Queue Filter, in the order of the wire.
        SPQF[8]: RW @ 0x59C0 stride 4, "8.11" {}
        /// Five-tuple Queue Filter.
        FTQF[8]: RW @ 0x59E0 stride 4, "8.11" {
            PROTOCOL: 0..=7,
            QUEUE_ENABLE: 8,
            /// The pool to compare.
            VF: 12..=14,
            /// The pool is not compared.
            VF_MASK: 15,
            QUEUE: 16..=19,
            /// The packet is a 1588 event to be stamped.
            TIME_STAMP_1588: 27,
            /// What is not compared.
            MASK_PROTOCOL: 28,
            MASK_SOURCE: 29,
            MASK_DESTINATION: 30,
            MASK_SOURCE_PORT: 31,
        }
        /// Redirection Table: four queue numbers in each; low nibble of each byte. With pools, bit 3 of
        /// a number says which of the pool's two queues.
        RETA[32]: RW @ 0x5C00 stride 4, "8.11" {
            ENTRY0: 0..=7,
            ENTRY1: 8..=15,
            ENTRY2: 16..=23,
            ENTRY3: 24..=31,
        }
        /// RSS Random Key: 40 bytes, byte 0 lowest.
        RSSRK[10]: RW @ 0x5C80 stride 4, "8.11" {}
        /// EtherType Queue Filter.
        ETQF[8]: RW @ 0x5CB0 stride 4, "8.11" {
            ETYPE: 0..=15,
            QUEUE: 16..=18,
            FILTER_ENABLE: 26,
            IMM_INT: 29,
            /// The packet is a 1588 event to be stamped.
            TIME_STAMP_1588: 30,
            QUEUE_ENABLE: 31,
        }
        /// Flexible Filter Length Table.
        FFLT[4]: RW @ 0x5F00 stride 8, "8.19" {}
        /// Flexible Host Filter Table.
        FHFT[256]: RW @ 0x9000 stride 4, "8.19" {}
        /// Flexible Host Filter Table Extended.
        FHFT_EXT[128]: RW @ 0x9A00 stride 4, "8.19" {}
        /// Unicast Table Array: 4096 bits, hashed as MTA.
        UTA[128]: RW @ 0xA000 stride 4, "8.14" {}
    }};
}
