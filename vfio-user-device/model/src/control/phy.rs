//! The internal PHY behind MDIC (datasheet 8.2.4, 3.5.7): a link partner that always agrees.

use igb::phy::{self, advertise, control, gigabit, port_status, status};
use igb::{MDIC, Value};

/// Registers of the PHY.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Phy {
    registers: [u16; phy::REGISTER_COUNT],
}

impl Phy {
    pub(crate) fn new() -> Self {
        let mut phy = Self {
            registers: [0; phy::REGISTER_COUNT],
        };
        phy.reset();
        phy
    }

    fn reset(&mut self) {
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

    /// MDIC as it reads after `command` was written: the operation has ended at once.
    pub(crate) fn mdic(&mut self, command: Value<MDIC>, link_up: bool) -> Value<MDIC> {
        let done = command.set(MDIC::READY).clear(MDIC::ERROR);
        if command.get(MDIC::PHYADD) != phy::ADDRESS {
            return done.set(MDIC::ERROR);
        }
        let register = command.get(MDIC::REGADD) as u8;
        match command.get(MDIC::OP) {
            phy::OP_READ => done.with(MDIC::DATA, u32::from(self.read(register, link_up))),
            phy::OP_WRITE => {
                self.write(register, command.get(MDIC::DATA) as u16);
                done
            }
            _ => done.set(MDIC::ERROR),
        }
    }

    fn read(&self, register: u8, link_up: bool) -> u16 {
        let stored = self
            .registers
            .get(usize::from(register))
            .copied()
            .unwrap_or(0);
        let powered = self.registers[usize::from(phy::PCTRL)] & control::POWER_DOWN == 0;
        let when_up = |value: u16| if link_up && powered { value } else { 0 };
        match register {
            phy::PSTATUS => {
                status::EXTENDED_CAPABILITY
                    | status::AUTONEG_ABLE
                    | status::PREAMBLE_SUPPRESSION
                    | status::EXTENDED_STATUS
                    | status::ABILITIES
                    | when_up(status::LINK | status::AUTONEG_COMPLETE)
            }
            phy::ANLPA => when_up(
                advertise::SELECTOR
                    | advertise::ALL_10_100
                    | advertise::PAUSE
                    | advertise::ACKNOWLEDGE,
            ),
            phy::GSTATUS => when_up(
                gigabit::PARTNER_HALF
                    | gigabit::PARTNER_FULL
                    | gigabit::REMOTE_RECEIVER_OK
                    | gigabit::LOCAL_RECEIVER_OK,
            ),
            phy::PSTAT => {
                when_up(port_status::LINK | port_status::FULL_DUPLEX | port_status::SPEED_1000)
            }
            _ => stored,
        }
    }

    fn write(&mut self, register: u8, value: u16) {
        match register {
            phy::PCTRL if value & control::RESET != 0 => self.reset(),
            phy::PCTRL => {
                self.registers[usize::from(register)] = value & !control::RESTART_AUTONEG;
            }
            phy::PSTATUS
            | phy::PHY_ID1
            | phy::PHY_ID2
            | phy::ANLPA
            | phy::ANE
            | phy::GSTATUS
            | phy::ESTATUS
            | phy::PSTAT => {}
            _ => {
                if let Some(stored) = self.registers.get_mut(usize::from(register)) {
                    *stored = value;
                }
            }
        }
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

    #[test]
    fn a_driver_identifies_the_phy_and_sees_the_link() {
        let mut phy = Phy::new();
        let mut read = |register, up| {
            let value = phy.mdic(command(phy::OP_READ, register, 0), up);
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
        phy.mdic(command(phy::OP_WRITE, phy::PCONF, 0x1234), true);
        assert_eq!(phy.read(phy::PCONF, true), 0x1234);
        phy.mdic(command(phy::OP_WRITE, phy::PCTRL, control::RESET), true);
        assert_eq!(phy.read(phy::PCTRL, true) & control::RESET, 0);
        assert_eq!(phy.read(phy::PCONF, true), 0);
        let elsewhere = command(phy::OP_READ, phy::PHY_ID1, 0).with(MDIC::PHYADD, 2);
        assert!(phy.mdic(elsewhere, true).has(MDIC::ERROR));
    }
}
