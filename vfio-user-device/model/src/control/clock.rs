//! The 1588 clock and the registers of time stamps (datasheet 7.9, 8.16).

use igb::{RegisterId, TIMADJH, TIMADJL, TIMINCA, TSYNCRXCTL, TSYNCTXCTL};

use super::Control;
use super::bank::Bank;
use crate::effects::{Effects, FunctionSet};
use crate::stamps::{Side, Stamps};

/// The unit of TIMINCA.IP.
const PERIOD_NS: u64 = 16;

/// SYSTIM: where it was, and when.
#[derive(Clone, Debug, Default)]
pub(super) struct Clock {
    systim: u64,
    since: u64,
    /// SYSTIMH as it was when SYSTIML was read.
    latched_high: Option<u32>,
    pub(super) stamps: Stamps,
}

/// TIMINCA as a rate.
#[derive(Clone, Copy)]
struct Rate {
    increment: u64,
    /// 0: the clock stands.
    period_ns: u64,
}

impl Rate {
    fn of(bank: &Bank) -> Self {
        let timinca = bank.get::<TIMINCA>();
        Self {
            increment: timinca.get(TIMINCA::IV).into(),
            period_ns: u64::from(timinca.get(TIMINCA::IP)) * PERIOD_NS,
        }
    }

    fn periods(self, ns: u64) -> u64 {
        ns.checked_div(self.period_ns).unwrap_or(0)
    }
}

impl Clock {
    /// SYSTIM at `when`, which may lie before the last change of the rate.
    fn at(&self, when: u64, rate: Rate) -> u64 {
        let passed = |ns| rate.periods(ns).wrapping_mul(rate.increment);
        match when.checked_sub(self.since) {
            Some(ns) => self.systim.wrapping_add(passed(ns)),
            None => self.systim.wrapping_sub(passed(self.since - when)),
        }
    }

    /// Everything up to `now` went by this rate. What is left of a period counts in the next.
    fn settle(&mut self, now: u64, rate: Rate) {
        self.systim = self.at(now, rate);
        self.since = match rate.period_ns {
            0 => now,
            period => now - now.saturating_sub(self.since) % period,
        };
    }

    fn replace(&mut self, now: u64, systim: u64) {
        self.systim = systim;
        self.since = now;
    }

    /// After a reset of the card.
    pub(super) fn reset(&mut self, now: u64) {
        self.replace(now, 0);
        self.latched_high = None;
        self.stamps.free(Side::Tx);
        self.stamps.free(Side::Rx);
    }
}

/// Whether a register is one of those below.
pub(super) fn is_time(id: RegisterId) -> bool {
    matches!(
        id,
        RegisterId::SYSTIML
            | RegisterId::SYSTIMH
            | RegisterId::TIMINCA
            | RegisterId::TIMADJH
            | RegisterId::TSYNCTXCTL
            | RegisterId::TXSTMPL
            | RegisterId::TXSTMPH
            | RegisterId::TSYNCRXCTL
            | RegisterId::RXSTMPL
            | RegisterId::RXSTMPH
            | RegisterId::RXSATRL
            | RegisterId::RXSATRH
            | RegisterId::TSYNCRXCFG
    )
}

impl Control {
    pub(super) fn read_time(&mut self, id: RegisterId) -> u32 {
        let rate = Rate::of(&self.bank);
        let clock = &mut self.clock;
        let stamp = |clock: &Clock, side| clock.at(clock.stamps.when(side), rate);
        match id {
            RegisterId::SYSTIML => {
                let systim = clock.at(self.now, rate);
                clock.latched_high = Some((systim >> 32) as u32);
                systim as u32
            }
            RegisterId::SYSTIMH => clock
                .latched_high
                .take()
                .unwrap_or_else(|| (clock.at(self.now, rate) >> 32) as u32),
            RegisterId::TSYNCTXCTL => {
                let full = clock.stamps.is_full(Side::Tx);
                let control = self.bank.get::<TSYNCTXCTL>();
                control.with(TSYNCTXCTL::TXTT, full.into()).raw()
            }
            RegisterId::TSYNCRXCTL => {
                let full = clock.stamps.is_full(Side::Rx);
                let control = self.bank.get::<TSYNCRXCTL>();
                control.with(TSYNCRXCTL::RXTT, full.into()).raw()
            }
            RegisterId::TXSTMPL => stamp(clock, Side::Tx) as u32,
            RegisterId::RXSTMPL => stamp(clock, Side::Rx) as u32,
            RegisterId::TXSTMPH | RegisterId::RXSTMPH => {
                let side = if id == RegisterId::TXSTMPH {
                    Side::Tx
                } else {
                    Side::Rx
                };
                let high = (stamp(clock, side) >> 32) as u32;
                clock.stamps.free(side);
                high
            }
            RegisterId::RXSATRL => clock.stamps.attribute(0),
            RegisterId::RXSATRH => clock.stamps.attribute(1),
            _ => self.bank.load(id, 0),
        }
    }

    pub(super) fn write_time(&mut self, id: RegisterId, value: u32) -> Effects {
        let rate = Rate::of(&self.bank);
        let now = self.now;
        let systim = self.clock.at(now, rate);
        match id {
            RegisterId::SYSTIML => {
                let high = systim & u64::from(u32::MAX) << 32;
                self.clock.replace(now, high | u64::from(value));
            }
            RegisterId::SYSTIMH => {
                let low = systim & u64::from(u32::MAX);
                self.clock.replace(now, low | u64::from(value) << 32);
            }
            RegisterId::TIMINCA => {
                self.clock.settle(now, rate);
                self.bank.store(id, 0, value);
            }
            // The write of the high half adjusts the clock.
            RegisterId::TIMADJH => {
                self.bank.store(id, 0, value);
                let offset = u64::from(TIMADJH::OFFSET.get(value)) << 32
                    | u64::from(self.bank.get::<TIMADJL>().raw());
                self.clock.settle(now, rate);
                self.clock.systim = if TIMADJH::SIGN.get(value) != 0 {
                    self.clock.systim.wrapping_sub(offset)
                } else {
                    self.clock.systim.wrapping_add(offset)
                };
            }
            RegisterId::TSYNCTXCTL | RegisterId::TSYNCRXCTL | RegisterId::TSYNCRXCFG => {
                self.bank.store(id, 0, value);
                return self.republish(FunctionSet::EMPTY);
            }
            _ => {}
        }
        Effects::NONE
    }

    /// A frame that asked for it left at `when`.
    pub(super) fn stamp_sent(&mut self, when: u64) {
        if self.bank.get::<TSYNCTXCTL>().has(TSYNCTXCTL::EN) {
            self.clock.stamps.sent(when);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use igb::Value;

    #[test]
    fn the_clock_goes_by_its_increment() {
        let mut bank = Bank::new();
        let mut clock = Clock::default();
        assert_eq!(clock.at(1_000, Rate::of(&bank)), 0, "it stands until told");
        clock.settle(1_000, Rate::of(&bank));
        // As igb sets it: 16 ns a period, in units of 2^-19 ns.
        let nominal = Value::default()
            .with(TIMINCA::IP, 1)
            .with(TIMINCA::IV, 16 << 19);
        bank.set::<TIMINCA>(nominal);
        let second = 1_000_000_000u64;
        assert_eq!(clock.at(1_000 + second, Rate::of(&bank)), second << 19);
        // Twice the increment from half a second on.
        clock.settle(1_000 + second / 2, Rate::of(&bank));
        bank.set::<TIMINCA>(nominal.with(TIMINCA::IV, (16 << 19) / 2));
        let end = clock.at(1_000 + second, Rate::of(&bank));
        assert_eq!(end, ((second / 2) << 19) + ((second / 2) << 18));
        // A stamp from before the change.
        assert!(clock.at(1_000, Rate::of(&bank)) < second << 19);
    }

    #[test]
    fn no_part_of_a_period_is_lost() {
        let mut bank = Bank::new();
        let mut clock = Clock::default();
        bank.set::<TIMINCA>(Value::from_raw(0).with(TIMINCA::IP, 1).with(TIMINCA::IV, 1));
        for now in (0..1_600).step_by(7) {
            clock.settle(now, Rate::of(&bank));
        }
        assert_eq!(clock.at(1_600, Rate::of(&bank)), 100);
    }
}
