//! Device control, NVM, PHY access, semaphores, power management and PCIe registers.

macro_rules! device_registers {
    ([$next:ident $($rest:ident)*] $($before:tt)*) => { $next! { [$($rest)*] $($before)*
        /// Device Control.
        CTRL: RW @ 0x0000 reset 0x0010_0209, "8.2" {
            /// Full duplex.
            FD: 0,
            /// 1 asks for no new bus master requests; STATUS.GIO_MASTER_EN follows.
            GIO_MASTER_DISABLE: 2,
            /// Link reset (SerDes).
            LRST: 3,
            /// Set link up.
            SLU: 6,
            /// Invert loss of signal.
            ILOS: 7,
            /// Forced speed; 2 is 1000 Mbit/s.
            SPEED: 8..=9,
            /// Force speed.
            FRCSPD: 11,
            /// Force duplex.
            FRCDPLX: 12,
            SDP0_GPIEN: 16,
            SDP1_GPIEN: 17,
            SDP0_DATA: 18,
            SDP1_DATA: 19,
            /// Advertise wake-up from D3cold.
            ADVD3WUC: 20,
            SDP0_IODIR: 22,
            SDP1_IODIR: 23,
            /// Function reset; clears itself. The VF has this bit in VTCTRL.
            RST: 26,
            /// Receive flow control.
            RFCE: 27,
            /// Transmit flow control.
            TFCE: 28,
            /// VLAN mode: tags are handled.
            VME: 30,
            PHY_RST: 31,
        }
        /// Device Status.
        STATUS: RO @ 0x0008 reset 0x0008_0081, "8.2" {
            FD: 0,
            /// Link up.
            LU: 1,
            /// LAN port of this device.
            LAN_ID: 2..=3,
            /// Transmission paused.
            TXOFF: 4,
            /// 2 and 3 are 1000 Mbit/s.
            SPEED: 6..=7,
            /// Auto speed detection value.
            ASDV: 8..=9,
            /// PHY reset asserted; software clears it.
            PHYRA: 10,
            /// VFs enabled; valid while IOV_MODE.
            NUM_VFS: 14..=17,
            /// SR-IOV VF Enable is set.
            IOV_MODE: 18,
            /// Bus master requests may be issued.
            GIO_MASTER_EN: 19,
            DMA_CLOCK_GATING: 31,
        }
        /// EEPROM/Flash Control.
        EECD: RW @ 0x0010 reset 0x0000_1310, "8.4" {
            EE_SK: 0,
            EE_CS: 1,
            EE_DI: 2,
            EE_DO: 3,
            FWE: 4..=5,
            /// Request access.
            EE_REQ: 6,
            /// Access granted.
            EE_GNT: 7,
            /// An EEPROM is there, with a valid signature.
            EE_PRES: 8,
            /// Reading the EEPROM after reset has ended.
            AUTO_RD: 9,
            EE_ADDR_SIZE: 10,
            /// Size is 2^(SIZE_EX + 7) bytes up to the limit of the format.
            EE_SIZE_EX: 11..=14,
            EE_BLOCKED: 15,
            EE_ABORT: 16,
            EE_RD_TIMEOUT: 17,
            EE_CLR_ERR: 18,
            EE_DET: 19,
        }
        /// EEPROM Read.
        EERD: RW @ 0x0014, "8.4" {
            /// Start the read of the word at ADDR.
            START: 0,
            DONE: 1,
            /// Word address.
            ADDR: 2..=15,
            DATA: 16..=31,
        }
        /// Extended Device Control.
        CTRL_EXT: RW @ 0x0018, "8.2" {
            I2C_ENABLED: 25,
            SDP2_GPIEN: 2,
            SDP3_GPIEN: 3,
            SDP2_DATA: 6,
            SDP3_DATA: 7,
            SDP2_IODIR: 10,
            SDP3_IODIR: 11,
            ASDCHK: 12,
            /// Reload from the EEPROM.
            EE_RST: 13,
            /// The PF's reset is done: clears RSTI and sets RSTD of every VF.
            PFRSTD: 14,
            SPD_BYPS: 15,
            /// No snoop disable.
            NS_DIS: 16,
            /// Relaxed ordering disable.
            RO_DIS: 17,
            SERDES_LOW_POWER: 18,
            DMA_DYN_CLK_EN: 19,
            PHY_POWER_DOWN_EN: 20,
            /// 0 is the internal PHY.
            LINK_MODE: 22..=23,
            EXT_VLAN: 26,
            /// The driver has taken over from firmware.
            DRV_LOAD: 28,
        }
        /// Flash Access.
        FLA: RW @ 0x001C, "8.4" {}
        /// MDI Control: access to the PHY.
        MDIC: RW @ 0x0020 reset 0x1000_0000, "8.2" {
            DATA: 0..=15,
            /// PHY register.
            REGADD: 16..=20,
            /// PHY address; the internal one is 1.
            PHYADD: 21..=25,
            /// 1 writes, 2 reads.
            OP: 26..=27,
            /// The operation has ended.
            READY: 28,
            /// Interrupt at the end.
            INTERRUPT: 29,
            ERROR: 30,
            DESTINATION: 31,
        }
        /// SerDes Analog Control.
        SERDESCTL: RW @ 0x0024, "8.2" {}
        /// Flow Control Address Low.
        FCAL: RW @ 0x0028 reset 0x00C2_8001, "8.5" {}
        /// Flow Control Address High.
        FCAH: RW @ 0x002C reset 0x0000_0100, "8.5" {}
        /// Flow Control Type.
        FCT: RW @ 0x0030 reset 0x0000_8808, "8.5" {}
        /// Copper/Fiber Switch Control.
        CONNSW: RW @ 0x0034, "8.2" {
            AUTOSENSE_EN: 0,
            AUTOSENSE_CONF: 1,
            ENRGSRC: 2,
            SERDESD: 9,
            PHYSD: 10,
            PHY_PDN: 11,
        }
        /// VLAN Ether Type.
        VET: RW @ 0x0038 reset 0x8100_8100, "8.2" {
            /// EtherType of a VLAN tag.
            VET: 0..=15,
            /// EtherType of an outer tag, with CTRL_EXT.EXT_VLAN.
            VET_EXT: 16..=31,
        }
        /// Flow Control Transmit Timer Value.
        FCTTV: RW @ 0x0170, "8.5" {}
        /// LED Control.
        LEDCTL: RW @ 0x0E00 reset 0x0706_8302, "8.2" {}
        /// PHY Power Management.
        PHPM: RW @ 0x0E14, "8.2" {}
        /// Management EEPROM Control.
        EEMNGCTL: RW @ 0x1010 reset 0x0004_0000, "8.4" {
            /// Configuration of port 0's PHY is done.
            CFG_DONE0: 18,
            /// Configuration of port 1's PHY is done.
            CFG_DONE1: 19,
        }
        /// EEPROM Auto Read Bus Control.
        EEARBC: RW @ 0x1024, "8.4" {}
        /// SFP I2C Command.
        I2CCMD: RW @ 0x1028, "8.2" {
            DATA: 0..=15,
            REGADD: 16..=23,
            PHYADD: 24..=26,
            OP: 27,
            RESET_I2C: 28,
            READY: 29,
            INTERRUPT: 30,
            ERROR: 31,
        }
        /// SFP I2C Parameters.
        I2CPARAMS: RW @ 0x102C, "8.2" {}
        /// Watchdog Setup.
        WDSTP: RW @ 0x1040, "8.15" {}
        /// Watchdog Software Device Status.
        WDSWSTS: RW @ 0x1044, "8.15" {}
        /// Free Running Timer, in ms.
        FRTIMER: RW @ 0x1048, "8.15" {}
        /// TCP Timer.
        TCPTIMER: RW @ 0x104C, "8.15" {}
        /// Wake Up Control.
        WUC: RW @ 0x5800, "8.19" {}
        /// Wake Up Filter Control.
        WUFC: RW @ 0x5808, "8.19" {}
        /// Wake Up Status.
        WUS: W1C @ 0x5810, "8.19" {}
        /// Management Control.
        MANC: RW @ 0x5820, "8.20" {
            RCV_TCO_EN: 17,
            /// Management blocks PHY resets.
            BLK_PHY_RST: 18,
            EN_MNG2HOST: 21,
        }
        /// IP Address Valid.
        IPAV: RW @ 0x5838, "8.19" {}
        /// IPv4 Address Table.
        IP4AT[4]: RW @ 0x5840 stride 8, "8.19" {}
        /// Management Control To Host.
        MANC2H: RW @ 0x5860, "8.20" {}
        /// IPv6 Address Table.
        IP6AT[4]: RW @ 0x5880, "8.19" {}
        /// Wake Up Packet Length.
        WUPL: RO @ 0x5900, "8.19" {}
        /// Wake Up Packet Memory.
        WUPM[32]: RO @ 0x5A00, "8.19" {}
        /// PCIe Control.
        GCR: RW @ 0x5B00, "8.6" {
            CMPL_TMOUT: 12..=15,
            CMPL_TMOUT_RESEND: 16,
            CAP_VER2: 18,
        }
        /// PCIe Statistic Control 1.
        GSCL_1: RW @ 0x5B10, "8.6" {}
        /// PCIe Statistic Control 2.
        GSCL_2: RW @ 0x5B14, "8.6" {}
        /// PCIe Statistic Control 3.
        GSCL_3: RW @ 0x5B18, "8.6" {}
        /// PCIe Statistic Control 4.
        GSCL_4: RW @ 0x5B1C, "8.6" {}
        /// Function Active and Power State to Management.
        FACTPS: RO @ 0x5B30, "8.6" {
            FUNC0_POWER_STATE: 0..=1,
            LAN0_VALID: 2,
            FUNC0_AUX_EN: 3,
            MNGCG: 29,
            LAN_FUNC_SEL: 30,
        }
        /// GIO Analog Control.
        GIOANACTL0: RW @ 0x5B34, "8.6" {}
        /// GIO Analog Control (PHY side).
        GIOCTL: RW @ 0x5B44, "8.6" {}
        /// CCM Control.
        CCMCTL: RW @ 0x5B48, "8.6" {}
        /// PCIe PLL Configuration.
        SCCTL: RW @ 0x5B4C, "8.6" {}
        /// Software Semaphore.
        SWSM: RW @ 0x5B50, "8.7" {
            /// Semaphore between drivers: a read returns it and sets it.
            SMBI: 0,
            /// Semaphore between driver and firmware.
            SWESMBI: 1,
            /// Wake the management clock.
            WMNG: 2,
        }
        /// Firmware Semaphore.
        FWSM: RW @ 0x5B54, "8.7" {
            EEP_FW_SEMAPHORE: 0,
            FW_MODE: 1..=3,
            FW_VAL_BIT: 15,
        }
        /// Software-Firmware Synchronization.
        SW_FW_SYNC: RW @ 0x5B5C, "8.7" {
            SW_FLASH_SM: 0,
            SW_PHY_SM0: 1,
            SW_PHY_SM1: 2,
            SW_MAC_CSR_SM: 3,
            FW_FLASH_SM: 16,
            FW_PHY_SM0: 17,
            FW_PHY_SM1: 18,
            FW_MAC_CSR_SM: 19,
        }
        /// PCIe Control 2.
        GCR2: RW @ 0x5B64, "8.6" {}
        /// MSI-X PBA Clear.
        PBACL: W1C @ 0x5B68, "8.8" {
            /// One bit per vector.
            PENBIT: 0..=24,
        }
        /// DCA Requester ID Information.
        DCA_ID: RO @ 0x5B70, "8.13" {}
        /// DCA Control.
        DCA_CTRL: RW @ 0x5B74 reset 0x0000_0001, "8.13" {
            DCA_DIS: 0,
            DCA_MODE: 1..=4,
        }
        /// PCIe Miscellaneous.
        PCIEMISC: RW @ 0x5BB8, "8.6" {}
        /// IOV Control.
        IOVCTL: RW @ 0x5BBC, "8.14" {
            /// Queues of a disabled VF may serve the PF.
            REUSE_VFQ: 0,
        }
        /// Host Interface Control.
        HICR: RW @ 0x8F00, "8.21" {}
        /// Firmware Status.
        FWSTS: RW @ 0x8F0C, "8.21" {}
        /// PCS Configuration 0.
        PCS_CFG: RW @ 0x4200, "8.17" {
            PCS_EN: 3,
            PCS_ISOLATE: 30,
            SRESET: 31,
        }
        /// PCS Link Control.
        PCS_LCTL: RW @ 0x4208, "8.17" {
            FLV_LINK_UP: 0,
            FSV_SPEED: 1..=2,
            FDV_FULL_DUPLEX: 3,
            FSD: 4,
            FORCE_LINK: 5,
            LINK_LATCH_LOW: 6,
            FORCE_FCTRL: 7,
            AN_ENABLE: 16,
            AN_RESTART: 17,
            AN_TIMEOUT: 18,
        }
        /// PCS Link Status.
        PCS_LSTS: RO @ 0x420C, "8.17" {
            LINK_OK: 0,
            SPEED: 1..=2,
            DUPLEX: 3,
            SYNK_OK: 4,
            AN_COMPLETE: 16,
        }
        /// AN Advertisement.
        PCS_ANADV: RW @ 0x4218, "8.17" {}
        /// Link Partner Ability.
        PCS_LPAB: RO @ 0x421C, "8.17" {}
        /// Next Page Transmit.
        PCS_NPTX: RW @ 0x4220, "8.17" {}
        /// Link Partner Ability Next Page.
        PCS_LPABNP: RO @ 0x4224, "8.17" {}
    }};
}
