//! Storage of the registers of BAR0.

use std::fmt;

use igb::{BAR0_SIZE, REGISTERS, Register, RegisterId, Value};

/// One dword for each place in BAR0; aliases share the register's own.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Bank(Box<[u32]>);

impl fmt::Debug for Bank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bank")
    }
}

fn place(id: RegisterId, index: u32) -> Option<usize> {
    id.info().offset_of(index).map(|offset| offset as usize / 4)
}

impl Bank {
    /// Every register at its reset value.
    pub(crate) fn new() -> Self {
        let mut bank = Bank(vec![0; BAR0_SIZE as usize / 4].into_boxed_slice());
        bank.reset_where(|_| true);
        bank
    }

    /// Set the registers that `chosen` names to their reset values.
    pub(crate) fn reset_where(&mut self, chosen: impl Fn(RegisterId) -> bool) {
        for info in &REGISTERS {
            if chosen(info.id) {
                for index in 0..info.count {
                    self.store(info.id, index, info.reset);
                }
            }
        }
    }

    /// The raw value of an element; 0 beyond the array.
    pub(crate) fn load(&self, id: RegisterId, index: u32) -> u32 {
        place(id, index)
            .and_then(|place| self.0.get(place).copied())
            .unwrap_or(0)
    }

    /// Set the raw value of an element; nothing beyond the array.
    pub(crate) fn store(&mut self, id: RegisterId, index: u32, value: u32) {
        if let Some(word) = place(id, index).and_then(|place| self.0.get_mut(place)) {
            *word = value;
        }
    }

    /// A register.
    pub(crate) fn get<R: Register>(&self) -> Value<R> {
        self.get_at(0)
    }

    /// An element of an array of registers.
    pub(crate) fn get_at<R: Register>(&self, index: u32) -> Value<R> {
        Value::from_raw(self.load(R::ID, index))
    }

    /// Set a register.
    pub(crate) fn set<R: Register>(&mut self, value: Value<R>) {
        self.set_at(0, value);
    }

    /// Set an element of an array of registers.
    pub(crate) fn set_at<R: Register>(&mut self, index: u32, value: Value<R>) {
        self.store(R::ID, index, value.raw());
    }

    /// Count up, and stay at the top as the statistics of the 82576 do (datasheet 8.18).
    pub(crate) fn count<R: Register>(&mut self, by: u64) {
        let sum = u64::from(self.get::<R>().raw()).saturating_add(by);
        self.set::<R>(Value::from_raw(u32::try_from(sum).unwrap_or(u32::MAX)));
    }

    /// Count a pair of registers up.
    pub(crate) fn count_pair<Low: Register, High: Register>(&mut self, by: u64) {
        let value = u64::from(self.get::<Low>().raw()) | u64::from(self.get::<High>().raw()) << 32;
        let sum = value.saturating_add(by);
        self.set::<Low>(Value::from_raw(sum as u32));
        self.set::<High>(Value::from_raw((sum >> 32) as u32));
    }

    /// Count up an element of a function's counters, which wrap.
    pub(crate) fn count_wrapping<R: Register>(&mut self, index: u32, by: u64) {
        let value = self.get_at::<R>(index).raw().wrapping_add(by as u32);
        self.set_at::<R>(index, Value::from_raw(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use igb::{CTRL, GORCH, GORCL, GPRC, PVFGPRC, RAL};

    #[test]
    fn arrays_in_two_pieces_do_not_overlap() {
        let mut bank = Bank::new();
        for index in 0..RAL::COUNT {
            bank.set_at::<RAL>(index, Value::from_raw(index + 1));
        }
        for index in 0..RAL::COUNT {
            assert_eq!(bank.get_at::<RAL>(index).raw(), index + 1);
        }
        assert_eq!(bank.load(RAL::ID, RAL::COUNT), 0);
        assert_eq!(bank.get::<CTRL>(), Value::RESET);
    }

    #[test]
    fn counters_stick_or_wrap() {
        let mut bank = Bank::new();
        bank.count::<GPRC>(u64::from(u32::MAX) + 5);
        assert_eq!(bank.get::<GPRC>().raw(), u32::MAX);
        bank.count_pair::<GORCL, GORCH>(0x1_0000_0001);
        assert_eq!(
            (bank.get::<GORCL>().raw(), bank.get::<GORCH>().raw()),
            (1, 1)
        );
        bank.set_at::<PVFGPRC>(3, Value::from_raw(u32::MAX));
        bank.count_wrapping::<PVFGPRC>(3, 2);
        assert_eq!(bank.get_at::<PVFGPRC>(3).raw(), 1);
    }
}
