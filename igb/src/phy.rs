//! The internal PHY, as MDIC reaches it: IEEE 802.3 clause 22 registers and the vendor's that
//! drivers use (datasheet 8.24, 3.5.7).

/// Its address on the MDIO bus (MDIC.PHYADD).
pub const ADDRESS: u32 = 1;
/// MDIC.OP of a write.
pub const OP_WRITE: u32 = 1;
/// MDIC.OP of a read.
pub const OP_READ: u32 = 2;
/// Registers of a page.
pub const REGISTER_COUNT: usize = 32;

/// Control.
pub const PCTRL: u8 = 0;
/// Status.
pub const PSTATUS: u8 = 1;
/// Identifier, high half.
pub const PHY_ID1: u8 = 2;
/// Identifier, low half.
pub const PHY_ID2: u8 = 3;
/// Auto-negotiation advertisement.
pub const ANA: u8 = 4;
/// Link partner ability.
pub const ANLPA: u8 = 5;
/// Auto-negotiation expansion.
pub const ANE: u8 = 6;
/// 1000BASE-T control.
pub const GCON: u8 = 9;
/// 1000BASE-T status.
pub const GSTATUS: u8 = 10;
/// Extended status.
pub const ESTATUS: u8 = 15;
/// Port configuration.
pub const PCONF: u8 = 16;
/// Port status 1.
pub const PSTAT: u8 = 17;
/// Port control.
pub const PCONT: u8 = 18;
/// Link health.
pub const LINK: u8 = 19;
/// Channel quality, power management (register 25).
pub const POWER_MANAGEMENT: u8 = 25;
/// Page select; the page is in the register's value.
pub const PAGE_SELECT: u8 = 31;
/// In PAGE_SELECT, bits of the register; the page is above them.
pub const PAGE_SHIFT: u32 = 5;
/// The first register that pages have one of each.
pub const FIRST_PAGED: u8 = 16;

/// PHY_ID1 of the internal PHY.
pub const ID1: u16 = 0x02A8;
/// PHY_ID2 of the internal PHY; the lowest four bits are the revision.
pub const ID2: u16 = 0x0391;

/// Bits of PCTRL.
pub mod control {
    /// Speed selection, high bit: with bit 13 clear, 1000 Mbit/s.
    pub const SPEED_1000: u16 = 1 << 6;
    /// Full duplex.
    pub const FULL_DUPLEX: u16 = 1 << 8;
    /// Restart auto-negotiation; clears itself.
    pub const RESTART_AUTONEG: u16 = 1 << 9;
    /// Isolate.
    pub const ISOLATE: u16 = 1 << 10;
    /// Power down.
    pub const POWER_DOWN: u16 = 1 << 11;
    /// Auto-negotiation.
    pub const AUTONEG_ENABLE: u16 = 1 << 12;
    /// Speed selection, low bit.
    pub const SPEED_100: u16 = 1 << 13;
    /// Loopback.
    pub const LOOPBACK: u16 = 1 << 14;
    /// Reset; clears itself.
    pub const RESET: u16 = 1 << 15;
}

/// Bits of PSTATUS.
pub mod status {
    /// There are extended registers.
    pub const EXTENDED_CAPABILITY: u16 = 1 << 0;
    /// Link up; latches low.
    pub const LINK: u16 = 1 << 2;
    /// Can auto-negotiate.
    pub const AUTONEG_ABLE: u16 = 1 << 3;
    /// Auto-negotiation is complete.
    pub const AUTONEG_COMPLETE: u16 = 1 << 5;
    /// MF preamble suppression.
    pub const PREAMBLE_SUPPRESSION: u16 = 1 << 6;
    /// There is an extended status register.
    pub const EXTENDED_STATUS: u16 = 1 << 8;
    /// 10BASE-T and 100BASE-TX, half and full duplex.
    pub const ABILITIES: u16 = 0xF << 11;
}

/// Bits of ANA and ANLPA.
pub mod advertise {
    /// IEEE 802.3.
    pub const SELECTOR: u16 = 1;
    /// 10BASE-T, half duplex.
    pub const TEN_HALF: u16 = 1 << 5;
    /// 10BASE-T, full duplex.
    pub const TEN_FULL: u16 = 1 << 6;
    /// 100BASE-TX, half duplex.
    pub const HUNDRED_HALF: u16 = 1 << 7;
    /// 100BASE-TX, full duplex.
    pub const HUNDRED_FULL: u16 = 1 << 8;
    /// 10BASE-T and 100BASE-TX, half and full duplex.
    pub const ALL_10_100: u16 = 0xF << 5;
    /// Pause.
    pub const PAUSE: u16 = 1 << 10;
    /// Asymmetric pause.
    pub const ASYMMETRIC_PAUSE: u16 = 1 << 11;
    /// The word was received (ANLPA).
    pub const ACKNOWLEDGE: u16 = 1 << 14;
}

/// Bits of GCON and GSTATUS.
pub mod gigabit {
    /// GCON: advertise 1000BASE-T half duplex.
    pub const ADVERTISE_HALF: u16 = 1 << 8;
    /// GCON: advertise 1000BASE-T full duplex.
    pub const ADVERTISE_FULL: u16 = 1 << 9;
    /// GSTATUS: the partner can do 1000BASE-T half duplex.
    pub const PARTNER_HALF: u16 = 1 << 10;
    /// GSTATUS: the partner can do 1000BASE-T full duplex.
    pub const PARTNER_FULL: u16 = 1 << 11;
    /// GSTATUS: the partner's receiver is well. Linux waits for it while it sets the link up.
    pub const REMOTE_RECEIVER_OK: u16 = 1 << 12;
    /// GSTATUS: the local receiver is well.
    pub const LOCAL_RECEIVER_OK: u16 = 1 << 13;
    /// ESTATUS: can do 1000BASE-T half and full duplex.
    pub const ABILITIES: u16 = 3 << 12;
}

/// Bits of PSTAT.
pub mod port_status {
    /// Polarity is reversed.
    pub const POLARITY_REVERSED: u16 = 1 << 1;
    /// Full duplex.
    pub const FULL_DUPLEX: u16 = 1 << 9;
    /// Link up.
    pub const LINK: u16 = 1 << 10;
    /// The pairs are crossed.
    pub const MDIX: u16 = 1 << 11;
    /// Speed.
    pub const SPEED: u16 = 3 << 14;
    /// Speed: 10 Mbit/s.
    pub const SPEED_10: u16 = 1 << 14;
    /// Speed: 100 Mbit/s.
    pub const SPEED_100: u16 = 2 << 14;
    /// Speed: 1000 Mbit/s.
    pub const SPEED_1000: u16 = 3 << 14;
}
