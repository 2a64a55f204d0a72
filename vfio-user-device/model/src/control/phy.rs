//! The internal PHY behind MDIC (datasheet 8.2.4, 3.5.7): a link partner that can do everything,
//! agrees at once, and is there as long as the cable is.

use igb::phy::{self, advertise, control, gigabit, port_status, status};
use igb::{MDIC, Value};

/// Registers of the PHY.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Phy {
    registers: [u16; phy::REGISTER_COUNT],
}

/// What a link runs at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LinkMode {
    pub(crate) speed: Speed,
    pub(crate) full_duplex: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Speed {
    Ten,
    Hundred,
    Thousand,
}

/// What a command did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Done {
    /// MDIC as it reads now: the operation has ended at once.
    pub(crate) mdic: Value<MDIC>,
    /// The link was torn down and made anew, if there is one.
    pub(crate) renegotiated: bool,
}

impl Phy {
    pub(crate) fn new() -> Self {
        let mut phy = Self {
            registers: [0; phy::REGISTER_COUNT],
        };
        phy.reset();
        phy
    }

    pub(crate) fn reset(&mut self) {
        self.registers = [0; phy::REGISTER_COUNT];
        let defaults = [
            (
                phy::PCTRL,
                control::SPEED_1000 | control::FULL_DUPLEX | control::AUTONEG_ENABLE,
            ),
            (phy::PHY_ID1, phy::ID1),
            (phy::PHY_ID2, phy::ID2),
            (
                phy::ANA,
                advertise::SELECTOR
                    | advertise::ALL_10_100
                    | advertise::PAUSE
                    | advertise::ASYMMETRIC_PAUSE,
            ),
            (phy::GCON, gigabit::ADVERTISE_FULL),
            (phy::ESTATUS, gigabit::ABILITIES),
        ];
        for (register, value) in defaults {
            self.registers[usize::from(register)] = value;
        }
    }

    fn stored(&self, register: u8) -> u16 {
        self.registers
            .get(usize::from(register))
            .copied()
            .unwrap_or(0)
    }

    /// Frames to the wire come back.
    pub(crate) fn is_looped(&self) -> bool {
        let control = self.stored(phy::PCTRL);
        control & control::LOOPBACK != 0 && control & control::POWER_DOWN == 0
    }

    /// The link, if there is one; `cable`: somebody is at its other end.
    pub(crate) fn link(&self, cable: bool) -> Option<LinkMode> {
        let control = self.stored(phy::PCTRL);
        if control & control::POWER_DOWN != 0 || !cable && !self.is_looped() {
            return None;
        }
        if control & control::AUTONEG_ENABLE == 0 || self.is_looped() {
            let speed = match control & (control::SPEED_1000 | control::SPEED_100) {
                0 => Speed::Ten,
                control::SPEED_100 => Speed::Hundred,
                _ => Speed::Thousand,
            };
            return Some(LinkMode {
                speed,
                full_duplex: control & control::FULL_DUPLEX != 0,
            });
        }
        let offered = self.stored(phy::ANA);
        [
            (
                self.stored(phy::GCON) & gigabit::ADVERTISE_FULL,
                Speed::Thousand,
                true,
            ),
            (offered & advertise::HUNDRED_FULL, Speed::Hundred, true),
            (offered & advertise::HUNDRED_HALF, Speed::Hundred, false),
            (offered & advertise::TEN_FULL, Speed::Ten, true),
            (offered & advertise::TEN_HALF, Speed::Ten, false),
        ]
        .into_iter()
        .find(|(offered, ..)| *offered != 0)
        .map(|(_, speed, full_duplex)| LinkMode { speed, full_duplex })
    }

    /// Carry out a command.
    pub(crate) fn command(&mut self, command: Value<MDIC>, cable: bool) -> Done {
        let mdic = command.set(MDIC::READY).clear(MDIC::ERROR);
        let failed = mdic.set(MDIC::ERROR);
        let mut renegotiated = false;
        let mdic = if command.get(MDIC::PHYADD) != phy::ADDRESS {
            failed
        } else {
            let register = command.get(MDIC::REGADD) as u8;
            match command.get(MDIC::OP) {
                phy::OP_READ => mdic.with(MDIC::DATA, u32::from(self.read(register, cable))),
                phy::OP_WRITE => {
                    renegotiated = self.write(register, command.get(MDIC::DATA) as u16);
                    mdic
                }
                _ => failed,
            }
        };
        Done { mdic, renegotiated }
    }

    /// Registers from 16 on exist once for each page; all but the first page read 0.
    fn is_elsewhere(&self, register: u8) -> bool {
        let page = self.stored(phy::PAGE_SELECT) >> phy::PAGE_SHIFT;
        (phy::FIRST_PAGED..phy::PAGE_SELECT).contains(&register) && page != 0
    }

    fn read(&self, register: u8, cable: bool) -> u16 {
        if self.is_elsewhere(register) {
            return 0;
        }
        let link = self.link(cable);
        let when_up = |value: u16| if link.is_some() { value } else { 0 };
        let negotiates = self.stored(phy::PCTRL) & control::AUTONEG_ENABLE != 0;
        match register {
            phy::PSTATUS => {
                let complete = if negotiates {
                    status::AUTONEG_COMPLETE
                } else {
                    0
                };
                status::EXTENDED_CAPABILITY
                    | status::AUTONEG_ABLE
                    | status::PREAMBLE_SUPPRESSION
                    | status::EXTENDED_STATUS
                    | status::ABILITIES
                    | when_up(status::LINK | complete)
            }
            phy::ANLPA if negotiates => when_up(
                advertise::SELECTOR
                    | advertise::ALL_10_100
                    | advertise::PAUSE
                    | advertise::ACKNOWLEDGE,
            ),
            phy::ANLPA => 0,
            phy::GSTATUS => match link {
                Some(LinkMode {
                    speed: Speed::Thousand,
                    ..
                }) => {
                    gigabit::PARTNER_HALF
                        | gigabit::PARTNER_FULL
                        | gigabit::REMOTE_RECEIVER_OK
                        | gigabit::LOCAL_RECEIVER_OK
                }
                // The partner says what it can do whatever came of it.
                Some(_) if negotiates => gigabit::PARTNER_HALF | gigabit::PARTNER_FULL,
                _ => 0,
            },
            phy::PSTAT => link.map_or(0, |mode| {
                let speed = match mode.speed {
                    Speed::Ten => port_status::SPEED_10,
                    Speed::Hundred => port_status::SPEED_100,
                    Speed::Thousand => port_status::SPEED_1000,
                };
                let duplex = if mode.full_duplex {
                    port_status::FULL_DUPLEX
                } else {
                    0
                };
                port_status::LINK | speed | duplex
            }),
            _ => self.stored(register),
        }
    }

    /// Whether the write tears the link down, if only for a moment.
    fn write(&mut self, register: u8, value: u16) -> bool {
        match register {
            phy::PCTRL if value & control::RESET != 0 => {
                self.reset();
                return true;
            }
            phy::PCTRL => {
                self.registers[usize::from(register)] = value & !control::RESTART_AUTONEG;
                return value & control::RESTART_AUTONEG != 0;
            }
            phy::PSTATUS
            | phy::PHY_ID1
            | phy::PHY_ID2
            | phy::ANLPA
            | phy::ANE
            | phy::GSTATUS
            | phy::ESTATUS
            | phy::PSTAT => {}
            _ if self.is_elsewhere(register) => {}
            _ => {
                if let Some(stored) = self.registers.get_mut(usize::from(register)) {
                    *stored = value;
                }
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(op: u32, register: u8, data: u16) -> Value<MDIC> {
        Value::from_raw(0)
            .with(MDIC::OP, op)
            .with(MDIC::PHYADD, phy::ADDRESS)
            .with(MDIC::REGADD, u32::from(register))
            .with(MDIC::DATA, u32::from(data))
    }

    fn write(phy: &mut Phy, register: u8, data: u16) -> bool {
        let done = phy.command(command(phy::OP_WRITE, register, data), true);
        assert!(done.mdic.has(MDIC::READY) && !done.mdic.has(MDIC::ERROR));
        done.renegotiated
    }

    fn mode(speed: Speed, full_duplex: bool) -> Option<LinkMode> {
        Some(LinkMode { speed, full_duplex })
    }

    #[test]
    fn a_driver_identifies_the_phy_and_sees_the_link() {
        let mut phy = Phy::new();
        let mut read = |register, cable| {
            let value = phy.command(command(phy::OP_READ, register, 0), cable).mdic;
            assert!(value.has(MDIC::READY) && !value.has(MDIC::ERROR));
            value.get(MDIC::DATA) as u16
        };
        assert_eq!(
            (read(phy::PHY_ID1, true), read(phy::PHY_ID2, true)),
            (phy::ID1, phy::ID2)
        );
        let up = read(phy::PSTATUS, true);
        assert_eq!(up & status::LINK, status::LINK);
        assert_eq!(up & status::AUTONEG_COMPLETE, status::AUTONEG_COMPLETE);
        assert_eq!(read(phy::PSTATUS, false) & status::LINK, 0);
        assert_ne!(read(phy::GSTATUS, true) & gigabit::REMOTE_RECEIVER_OK, 0);
    }

    #[test]
    fn reset_clears_itself_and_other_addresses_do_not_answer() {
        let mut phy = Phy::new();
        write(&mut phy, phy::PCONF, 0x1234);
        assert_eq!(phy.read(phy::PCONF, true), 0x1234);
        assert!(write(&mut phy, phy::PCTRL, control::RESET));
        assert_eq!(phy.read(phy::PCTRL, true) & control::RESET, 0);
        assert_eq!(phy.read(phy::PCONF, true), 0);
        let elsewhere = command(phy::OP_READ, phy::PHY_ID1, 0).with(MDIC::PHYADD, 2);
        assert!(phy.command(elsewhere, true).mdic.has(MDIC::ERROR));
    }

    #[test]
    fn the_link_runs_at_the_best_that_is_offered() {
        let mut phy = Phy::new();
        assert_eq!(phy.link(true), mode(Speed::Thousand, true));
        assert_eq!(phy.link(false), None);
        write(&mut phy, phy::GCON, 0);
        assert_eq!(phy.link(true), mode(Speed::Hundred, true));
        write(
            &mut phy,
            phy::ANA,
            advertise::SELECTOR | advertise::TEN_HALF,
        );
        assert_eq!(phy.link(true), mode(Speed::Ten, false));
        assert_eq!(
            phy.read(phy::PSTAT, true),
            port_status::LINK | port_status::SPEED_10
        );
        write(&mut phy, phy::ANA, advertise::SELECTOR);
        assert_eq!(phy.link(true), None, "nothing in common");
        let restart = control::AUTONEG_ENABLE | control::RESTART_AUTONEG;
        assert!(write(&mut phy, phy::PCTRL, restart));
        assert_eq!(phy.read(phy::PCTRL, true) & control::RESTART_AUTONEG, 0);
        let forced = control::SPEED_100 | control::FULL_DUPLEX;
        assert!(!write(&mut phy, phy::PCTRL, forced));
        assert_eq!(phy.link(true), mode(Speed::Hundred, true));
        assert_eq!(phy.read(phy::PSTATUS, true) & status::AUTONEG_COMPLETE, 0);
    }

    #[test]
    fn loopback_needs_no_cable_and_power_down_ends_everything() {
        let mut phy = Phy::new();
        let looped = control::LOOPBACK | control::SPEED_1000 | control::FULL_DUPLEX;
        write(&mut phy, phy::PCTRL, looped);
        assert!(phy.is_looped());
        assert_eq!(phy.link(false), mode(Speed::Thousand, true));
        write(&mut phy, phy::PCTRL, looped | control::POWER_DOWN);
        assert!(!phy.is_looped());
        assert_eq!(phy.link(true), None);
    }

    #[test]
    fn other_pages_leave_the_first_alone() {
        let mut phy = Phy::new();
        write(&mut phy, phy::PCONT, 0x77);
        write(&mut phy, phy::PAGE_SELECT, 0x2F52);
        write(&mut phy, phy::PCONT, 0x1111);
        assert_eq!(phy.read(phy::PCONT, true), 0);
        assert_eq!(phy.read(phy::PHY_ID1, true), phy::ID1, "not paged");
        write(&mut phy, phy::PAGE_SELECT, u16::from(phy::PCONT));
        assert_eq!(phy.read(phy::PCONT, true), 0x77);
    }
}
