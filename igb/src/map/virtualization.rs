//! Virtualization: pools, the VM switch, mailboxes, and the PF's view of VF registers.

macro_rules! virtualization_registers {
    ([$next:ident $($rest:ident)*] $($before:tt)*) => { $next! { [$($rest)*] $($before)*
        /// VM Mailbox Memory: VF n has words 16n to 16n + 15.
        VMBMEM[128]: RW @ 0x0800 stride 4, "8.14" {}
        /// PF to VF Mailbox, the PF's side of the mailbox of VF n.
        P2VMAILBOX[8]: RW @ 0x0C00 stride 4, "8.14" {
            /// A message for the VF is there: sets PFSTS of the VF and interrupts it.
            STS: 0,
            /// The VF's message was received: sets PFACK of the VF and interrupts it.
            ACK: 1,
            /// The VF uses the memory.
            VFU: 2,
            /// The PF uses the memory; cannot be set while VFU is.
            PFU: 3,
            /// Clear VFU, for a VF that is stuck.
            RVFU: 4,
        }
        /// VF to PF Mailbox, the VF's side, as the VF finds it at 0xC40.
        V2PMAILBOX[8]: RW @ 0x0C40 stride 4 reset 0x0000_0040, "8.14" {
            /// A message for the PF is there; reads 0.
            REQ: 0,
            /// The PF's message was received; reads 0.
            ACK: 1,
            /// The VF uses the memory; cannot be set while PFU is.
            VFU: 2,
            /// The PF uses the memory.
            PFU: 3,
            /// The PF wrote a message; a read clears it.
            PFSTS: 4,
            /// The PF received the message; a read clears it.
            PFACK: 5,
            /// Reset indication: the PF is in reset.
            RSTI: 6,
            /// The PF's reset is done; a read clears it.
            RSTD: 7,
        }
        /// Mailbox VF Interrupt Causes.
        MBVFICR: W1C @ 0x0C80, "8.14" {
            /// VF n has set V2PMAILBOX.REQ.
            VFREQ: 0..=7,
            /// VF n has set V2PMAILBOX.ACK.
            VFACK: 16..=23,
        }
        /// Mailbox VF Interrupt Mask.
        MBVFIMR: RW @ 0x0C84 reset 0x0000_00FF, "8.14" {
            /// VF n may raise ICR.VMMB.
            VFIM: 0..=7,
        }
        /// VF Level Reset Events.
        VFLRE: W1C @ 0x0C88, "8.14" {
            /// VF n was reset, by FLR or by VTCTRL.RST.
            VFLRE: 0..=7,
        }
        /// VF Receive Enable.
        VFRE: RW @ 0x0C8C reset 0x0000_00FF, "8.14" {
            VFRE: 0..=7,
        }
        /// VF Transmit Enable.
        VFTE: RW @ 0x0C90 reset 0x0000_00FF, "8.14" {
            VFTE: 0..=7,
        }
        /// DMA Transmit Switch Control.
        DTXSWC: RW @ 0x3500, "8.14" {
            /// MAC anti-spoof, one bit per pool.
            MACAS: 0..=7,
            /// VLAN anti-spoof, one bit per pool.
            VLANAS: 8..=15,
            /// Local loopback enable: pool n may receive what it sent.
            LLE: 16..=23,
            /// VMDq loopback: frames between pools do not leave the device.
            LOOPBACK_EN: 31,
        }
        /// Last VM Misbehavior Cause; a read clears it. With any of bits 2 to 4 a queue was blocked.
        LVMMC: RC @ 0x3548, "8.14" {
            /// A source address that is none of the pool's.
            MAC_SPOOF: 0,
            /// A VLAN that is none of the pool's.
            VLAN_SPOOF: 1,
            /// Type or number of descriptors.
            DESCRIPTOR: 2,
            /// Size of a packet.
            SIZE: 3,
            /// A context, or what was to be done by it.
            CONTEXT: 4,
            /// The queue concerned.
            LAST_Q: 16..=19,
        }
        /// VM Wrong Behavior; a read clears it.
        WVBR: RC @ 0x3554, "8.14" {
            /// Queues whose frame was dropped as spoofed.
            QUEUES: 0..=15,
            /// Queues that were blocked.
            BLOCKED: 16..=31,
        }
        /// Malicious Driver Free Block: queues that are blocked; writing 1 frees one.
        MDFB: W1C @ 0x3558, "8.14" {
            QUEUES: 0..=15,
        }
        /// VM VLAN Insert, one per pool.
        VMVIR[8]: RW @ 0x3700 stride 4, "8.14" {
            /// The tag: VID, DEI, priority.
            PORT_VLAN_ID: 0..=15,
            /// 0 use the descriptor's command, 1 always insert PORT_VLAN_ID, 2 never insert.
            VLANA: 30..=31,
        }
        /// VMDq Control.
        VT_CTL: RW @ 0x581C, "8.14" {
            /// Default pool.
            DEF_PL: 7..=9,
            /// The pool is chosen by VLAN only.
            FILTER: 28,
            /// Packets without a pool are dropped.
            DIS_DEF_POOL: 29,
            /// Replication of broadcast and multicast to pools.
            REPL_EN: 30,
        }
        /// Transmit Switch Control.
        TXSWC: RW @ 0x5ACC, "8.14" {}
        /// VM Offload, one per pool.
        VMOLR[8]: RW @ 0x5AD0 stride 4 reset 0x8000_2600, "8.14" {
            /// Longest packet, when LPE.
            RLPML: 0..=13,
            /// Long packets.
            LPE: 16,
            /// RSS between the pool's two queues.
            RSSE: 17,
            /// Accept untagged packets.
            AUPE: 24,
            /// Accept multicast by MTA.
            ROMPE: 25,
            /// Accept unicast by UTA.
            ROPE: 26,
            /// Accept broadcast.
            BAM: 27,
            /// Multicast promiscuous.
            MPME: 28,
            /// Strip the VLAN tag.
            STRVLAN: 30,
            /// Strip the CRC.
            STRCRC: 31,
        }
        /// Replication Offload: how replicated packets are handled.
        RPLOLR: RW @ 0x5AF0 reset 0x8000_0000, "8.14" {
            /// Strip the VLAN tag.
            STRVLAN: 30,
            /// Strip the CRC.
            STRCRC: 31,
        }
        /// VLAN VM Filter.
        VLVF[32]: RW @ 0x5D00 stride 4, "8.14" {
            VLAN_ID: 0..=11,
            /// Pools in the VLAN.
            POOLSEL: 12..=19,
            /// The VLAN is local: its frames do not leave to the network.
            LVLAN: 20,
            /// The entry is valid.
            VI_EN: 31,
        }
        /// Virtual Mirror Rule Control.
        VMRCTL[4]: RW @ 0x5D80 stride 4, "8.14" {
            VPME: 0,
            UPME: 1,
            DPME: 2,
            VLME: 3,
            /// Pool that gets the copies.
            MP: 8..=10,
        }
        /// Virtual Mirror Rule VLAN.
        VMRVLAN[4]: RW @ 0x5D90 stride 4, "8.14" {}
        /// Virtual Mirror Rule VM.
        VMRVM[4]: RW @ 0x5DA0 stride 4, "8.14" {}
        /// Storm Control Control.
        SCCRL: RW @ 0x5DB0, "8.14" {}
        /// Storm Control Status.
        SCSTS: RO @ 0x5DB4, "8.14" {}
        /// Broadcast Storm Control Threshold.
        BSCTRH: RW @ 0x5DB8, "8.14" {}
        /// Multicast Storm Control Threshold.
        MSCTRH: RW @ 0x5DBC, "8.14" {}
        /// Broadcast Storm Control Current Count.
        BSCCNT: RO @ 0x5DC0, "8.14" {}
        /// Multicast Storm Control Current Count.
        MSCCNT: RO @ 0x5DC4, "8.14" {}
        /// Storm Control Time Counter.
        SCTC: RO @ 0x5DC8, "8.14" {}
        /// Storm Control Basic Interval.
        SCBI: RW @ 0x5DCC, "8.14" {}

        /// VTCTRL of VF n, the PF's view.
        PVTCTRL[8]: RW @ 0x1_0000 stride 0x100, "8.14" {
            /// Resets the VF's queues and interrupts; clears itself.
            RST: 26,
        }
        /// VTSTATUS of VF n, the PF's view.
        PVTSTATUS[8]: RO @ 0x1_0008 stride 0x100, "8.14" {}
        /// VTEICS of VF n, the PF's view.
        PVTEICS[8]: WO @ 0x1_0020 stride 0x100, "8.14" {
            /// One bit per vector of the VF.
            VECTORS: 0..=2,
        }
        /// VTEIMS of VF n, the PF's view.
        PVTEIMS[8]: W1S @ 0x1_0024 stride 0x100, "8.14" {
            VECTORS: 0..=2,
        }
        /// VTEIMC of VF n, the PF's view.
        PVTEIMC[8]: WO @ 0x1_0028 stride 0x100, "8.14" {
            VECTORS: 0..=2,
        }
        /// VTEIAC of VF n, the PF's view.
        PVTEIAC[8]: RW @ 0x1_002C stride 0x100, "8.14" {
            VECTORS: 0..=2,
        }
        /// VTEIAM of VF n, the PF's view.
        PVTEIAM[8]: RW @ 0x1_0030 stride 0x100, "8.14" {
            VECTORS: 0..=2,
        }
        /// VTEICR of VF n, the PF's view. Read clears, writing 1 clears.
        PVTEICR[8]: RC @ 0x1_0080 stride 0x100, "8.14" {
            VECTORS: 0..=2,
        }
        /// VTIVAR of VF n, the PF's view.
        VTIVAR[8]: RW @ 0x1_1700 stride 4, "8.14" {
            /// Receive queue 0 of the VF.
            RXQ0: 0..=1,
            RXQ0_VALID: 7,
            /// Transmit queue 0.
            TXQ0: 8..=9,
            TXQ0_VALID: 15,
            /// Receive queue 1.
            RXQ1: 16..=17,
            RXQ1_VALID: 23,
            /// Transmit queue 1.
            TXQ1: 24..=25,
            TXQ1_VALID: 31,
        }
        /// VTIVAR_MISC of VF n, the PF's view.
        VTIVAR_MISC[8]: RW @ 0x1_1720 stride 4, "8.14" {
            /// Vector of the mailbox.
            MAILBOX: 0..=1,
            MAILBOX_VALID: 7,
        }
        /// Good Packets Received Count of VF n.
        PVFGPRC[8]: RO @ 0x1_0010 stride 0x100, "8.18" {}
        /// Good Packets Transmitted Count of VF n.
        PVFGPTC[8]: RO @ 0x1_0014 stride 0x100, "8.18" {}
        /// Good Octets Received Count of VF n.
        PVFGORC[8]: RO @ 0x1_0018 stride 0x100, "8.18" {}
        /// Good Octets Transmitted Count of VF n.
        PVFGOTC[8]: RO @ 0x1_0034 stride 0x100, "8.18" {}
        /// Multicast Packets Received Count of VF n; Linux's and DPDK's headers say 0x10038.
        PVFMPRC[8]: RO @ 0x1_003C stride 0x100, "8.18" {}
        /// Good Receive Packets Loopback Count of VF n.
        PVFGPRLBC[8]: RO @ 0x1_0040 stride 0x100, "8.18" {}
        /// Good Transmit Packets Loopback Count of VF n.
        PVFGPTLBC[8]: RO @ 0x1_0044 stride 0x100, "8.18" {}
        /// Good Receive Octets Loopback Count of VF n.
        PVFGORLBC[8]: RO @ 0x1_0048 stride 0x100, "8.18" {}
        /// Good Transmit Octets Loopback Count of VF n.
        PVFGOTLBC[8]: RO @ 0x1_0050 stride 0x100, "8.18" {}
    }};
}
