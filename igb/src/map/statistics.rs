//! Statistics of the port. Reads clear; the PF's view of VF counters is with virtualization.

macro_rules! statistics_registers {
    ([$next:ident $($rest:ident)*] $($before:tt)*) => { $next! { [$($rest)*] $($before)*
        /// CRC Error Count.
        CRCERRS: RC @ 0x4000, "8.18" {}
        /// Alignment Error Count.
        ALGNERRC: RC @ 0x4004, "8.18" {}
        /// Symbol Error Count.
        SYMERRS: RC @ 0x4008, "8.18" {}
        /// Receive Error Count.
        RXERRC: RC @ 0x400C, "8.18" {}
        /// Missed Packets Count: no room in the packet buffer.
        MPC: RC @ 0x4010, "8.18" {}
        /// Single Collision Count.
        SCC: RC @ 0x4014, "8.18" {}
        /// Excessive Collisions Count.
        ECOL: RC @ 0x4018, "8.18" {}
        /// Multiple Collision Count.
        MCC: RC @ 0x401C, "8.18" {}
        /// Late Collisions Count.
        LATECOL: RC @ 0x4020, "8.18" {}
        /// Collision Count.
        COLC: RC @ 0x4028, "8.18" {}
        /// Circuit Breaker Transmit Manageability Packet Count.
        CBTMPC: RC @ 0x402C, "8.18" {}
        /// Defer Count.
        DC: RC @ 0x4030, "8.18" {}
        /// Transmit With No CRS.
        TNCRS: RC @ 0x4034, "8.18" {}
        /// Sequence Error Count.
        SEC: RC @ 0x4038, "8.18" {}
        /// Host Transmit Discarded Packets by MAC Count.
        HTDPMC: RC @ 0x403C, "8.18" {}
        /// Receive Length Error Count.
        RLEC: RC @ 0x4040, "8.18" {}
        /// Circuit Breaker Receive Dropped Packet Count.
        CBRDPC: RC @ 0x4044, "8.18" {}
        /// XON Received Count.
        XONRXC: RC @ 0x4048, "8.18" {}
        /// XON Transmitted Count.
        XONTXC: RC @ 0x404C, "8.18" {}
        /// XOFF Received Count.
        XOFFRXC: RC @ 0x4050, "8.18" {}
        /// XOFF Transmitted Count.
        XOFFTXC: RC @ 0x4054, "8.18" {}
        /// Flow Control Received Unsupported Count.
        FCRUC: RC @ 0x4058, "8.18" {}
        /// Packets Received, 64 bytes, Count.
        PRC64: RC @ 0x405C, "8.18" {}
        /// Packets Received, 65 to 127 bytes, Count.
        PRC127: RC @ 0x4060, "8.18" {}
        /// Packets Received, 128 to 255 bytes, Count.
        PRC255: RC @ 0x4064, "8.18" {}
        /// Packets Received, 256 to 511 bytes, Count.
        PRC511: RC @ 0x4068, "8.18" {}
        /// Packets Received, 512 to 1023 bytes, Count.
        PRC1023: RC @ 0x406C, "8.18" {}
        /// Packets Received, 1024 bytes to the longest, Count.
        PRC1522: RC @ 0x4070, "8.18" {}
        /// Good Packets Received Count.
        GPRC: RC @ 0x4074, "8.18" {}
        /// Broadcast Packets Received Count.
        BPRC: RC @ 0x4078, "8.18" {}
        /// Multicast Packets Received Count.
        MPRC: RC @ 0x407C, "8.18" {}
        /// Good Packets Transmitted Count.
        GPTC: RC @ 0x4080, "8.18" {}
        /// Good Octets Received Count Low.
        GORCL: RC @ 0x4088, "8.18" {}
        /// Good Octets Received Count High; reading it clears both.
        GORCH: RC @ 0x408C, "8.18" {}
        /// Good Octets Transmitted Count Low.
        GOTCL: RC @ 0x4090, "8.18" {}
        /// Good Octets Transmitted Count High; reading it clears both.
        GOTCH: RC @ 0x4094, "8.18" {}
        /// Receive No Buffers Count.
        RNBC: RC @ 0x40A0, "8.18" {}
        /// Receive Undersize Count.
        RUC: RC @ 0x40A4, "8.18" {}
        /// Receive Fragment Count.
        RFC: RC @ 0x40A8, "8.18" {}
        /// Receive Oversize Count.
        ROC: RC @ 0x40AC, "8.18" {}
        /// Receive Jabber Count.
        RJC: RC @ 0x40B0, "8.18" {}
        /// Management Packets Received Count.
        MNGPRC: RC @ 0x40B4, "8.18" {}
        /// Management Packets Dropped Count.
        MPDC: RC @ 0x40B8, "8.18" {}
        /// Management Packets Transmitted Count.
        MNGPTC: RC @ 0x40BC, "8.18" {}
        /// Total Octets Received Low.
        TORL: RC @ 0x40C0, "8.18" {}
        /// Total Octets Received High; reading it clears both.
        TORH: RC @ 0x40C4, "8.18" {}
        /// Total Octets Transmitted Low.
        TOTL: RC @ 0x40C8, "8.18" {}
        /// Total Octets Transmitted High; reading it clears both.
        TOTH: RC @ 0x40CC, "8.18" {}
        /// Total Packets Received.
        TPR: RC @ 0x40D0, "8.18" {}
        /// Total Packets Transmitted.
        TPT: RC @ 0x40D4, "8.18" {}
        /// Packets Transmitted, 64 bytes, Count.
        PTC64: RC @ 0x40D8, "8.18" {}
        /// Packets Transmitted, 65 to 127 bytes, Count.
        PTC127: RC @ 0x40DC, "8.18" {}
        /// Packets Transmitted, 128 to 255 bytes, Count.
        PTC255: RC @ 0x40E0, "8.18" {}
        /// Packets Transmitted, 256 to 511 bytes, Count.
        PTC511: RC @ 0x40E4, "8.18" {}
        /// Packets Transmitted, 512 to 1023 bytes, Count.
        PTC1023: RC @ 0x40E8, "8.18" {}
        /// Packets Transmitted, 1024 bytes or more, Count.
        PTC1522: RC @ 0x40EC, "8.18" {}
        /// Multicast Packets Transmitted Count.
        MPTC: RC @ 0x40F0, "8.18" {}
        /// Broadcast Packets Transmitted Count.
        BPTC: RC @ 0x40F4, "8.18" {}
        /// TCP Segmentation Context Transmitted Count.
        TSCTC: RC @ 0x40F8, "8.18" {}
        /// Circuit Breaker Receive Manageability Packet Count, TSCTFC to Linux: requests whose
        /// segmentation failed.
        CBRMPC: RC @ 0x40FC, "8.18" {}
        /// Interrupt Assertion Count.
        IAC: RC @ 0x4100, "8.18" {}
        /// Received Packets To Host Count.
        RPTHC: RC @ 0x4104, "8.18" {}
        /// Interrupt Cause Receive Absolute Timer Expire Count (reserved in the 82576, read by Linux).
        ICRXATC: RC @ 0x4108, "8.18" {}
        /// Interrupt Cause Transmit Packet Timer Expire Count (reserved in the 82576, read by Linux).
        ICTXPTC: RC @ 0x410C, "8.18" {}
        /// Interrupt Cause Transmit Absolute Timer Expire Count (reserved in the 82576, read by Linux).
        ICTXATC: RC @ 0x4110, "8.18" {}
        /// Host Good Packets Transmitted Count.
        HGPTC: RC @ 0x4118, "8.18" {}
        /// Interrupt Cause Transmit Queue Minimum Threshold Count (reserved in the 82576, read by Linux).
        ICTXQMTC: RC @ 0x411C, "8.18" {}
        /// Receive Descriptor Minimum Threshold Count.
        RXDMTC: RC @ 0x4120, "8.18" {}
        /// Host Transmit Circuit Breaker Dropped Packets Count.
        HTCBDPC: RC @ 0x4124, "8.18" {}
        /// Host Good Octets Received Count Low.
        HGORCL: RC @ 0x4128, "8.18" {}
        /// Host Good Octets Received Count High.
        HGORCH: RC @ 0x412C, "8.18" {}
        /// Host Good Octets Transmitted Count Low.
        HGOTCL: RC @ 0x4130, "8.18" {}
        /// Host Good Octets Transmitted Count High.
        HGOTCH: RC @ 0x4134, "8.18" {}
        /// Length Errors Count.
        LENERRS: RC @ 0x4138, "8.18" {}
        /// BMC Management Packets Received Count.
        BMNGPRC: RC @ 0x413C, "8.18" {}
        /// BMC Management Receive Multicast Packets Count.
        BMRMPRC: RC @ 0x4140, "8.18" {}
        /// BMC Receive Missed Packet Count.
        BRMPC: RC @ 0x4144, "8.18" {}
        /// BMC To Host Good Packets Received Count (later devices).
        B2OGPRC: RC @ 0x4158, "8.18" {}
        /// Host To BMC Sent Packets Count (later devices).
        O2BSPC: RC @ 0x415C, "8.18" {}
        /// Switch Security Violation Packet Count: frames dropped as spoofed.
        SSVPC: RC @ 0x41A0, "8.18" {}
        /// Switch Drop Packet Count.
        SDPC: RC @ 0x41A4, "8.18" {}
        /// SerDes/SGMII Code Violation Packet Count.
        SCVPC: RC @ 0x4228, "8.18" {}
    }};
}
