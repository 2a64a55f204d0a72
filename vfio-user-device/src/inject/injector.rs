//! What the card asks before it does something that can go wrong, and what it was told to do later.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use igb::FunctionId;
use igb_model::{FunctionSet, Ring, Signal};
use serde_json::{Value, json};

use super::plan::{Opportunity, Rule};
use super::spec::{FaultKind, InjectSpec, Target};
use crate::lock;

/// Rules at a time.
const MOST_RULES: usize = 64;
/// What may wait to be done later; beyond that it is done at once.
const MOST_DELAYED: usize = 4096;

/// A rule has struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Strike {
    pub(crate) rule: u32,
    pub(crate) kind: FaultKind,
    /// For whatever chance has to decide about it.
    pub(crate) bits: u64,
}

/// Something that was put off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Delayed {
    /// When it is to be done, since the card started.
    pub(crate) due: Duration,
    pub(crate) action: DelayedAction,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DelayedAction {
    Interrupt {
        function: FunctionId,
        signal: Signal,
    },
    Writeback {
        function: FunctionId,
        ring: Ring,
        queue: u32,
        iova: u64,
        value: u64,
    },
    LinkUp,
}

impl DelayedAction {
    fn function(&self) -> Option<FunctionId> {
        match self {
            DelayedAction::Interrupt { function, .. }
            | DelayedAction::Writeback { function, .. } => Some(*function),
            DelayedAction::LinkUp => None,
        }
    }
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    next_id: u32,
    /// In the order in which they were put off.
    delayed: Vec<Delayed>,
}

impl State {
    fn bits(&self) -> u32 {
        self.rules
            .iter()
            .fold(0, |bits, rule| bits | rule.spec.bit())
    }
}

/// See the module. Its lock is taken last of all.
#[derive(Default)]
pub(crate) struct Injector {
    /// The opportunities that some rule looks at: all others cost one load.
    looked_at: AtomicU32,
    state: Mutex<State>,
}

/// Why a rule was not taken on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there are {MOST_RULES} rules already: remove one first")]
pub struct TooManyRules;

impl Injector {
    /// Take on a rule; its number.
    pub(crate) fn add(&self, spec: InjectSpec, now: Duration) -> Result<u32, TooManyRules> {
        let mut state = lock(&self.state);
        if state.rules.len() >= MOST_RULES {
            return Err(TooManyRules);
        }
        let id = state.next_id;
        state.next_id += 1;
        state.rules.push(Rule::new(id, spec, now));
        self.looked_at.store(state.bits(), Ordering::Release);
        Ok(id)
    }

    /// Forget a rule, or all; how many went. What was put off is still done.
    pub(crate) fn remove(&self, id: Option<u32>) -> usize {
        let mut state = lock(&self.state);
        let before = state.rules.len();
        state
            .rules
            .retain(|rule| id.is_some_and(|id| rule.id != id));
        self.looked_at.store(state.bits(), Ordering::Release);
        before - state.rules.len()
    }

    /// The rules, and how often each struck.
    pub(crate) fn to_json(&self) -> Value {
        lock(&self.state)
            .rules
            .iter()
            .map(|rule| {
                json!({
                    "id": rule.id,
                    "rule": rule.spec.to_string(),
                    "opportunities": rule.seen,
                    "injected": rule.struck,
                })
            })
            .collect()
    }

    /// How often rules have struck.
    pub(crate) fn struck(&self) -> u64 {
        lock(&self.state).rules.iter().map(|rule| rule.struck).sum()
    }

    pub(crate) fn looks_at(&self, opportunity: Opportunity) -> bool {
        self.looked_at.load(Ordering::Acquire) & opportunity.bit() != 0
    }

    /// Whether this goes wrong, and how. Every rule sees it; the first that strikes counts.
    pub(crate) fn take(
        &self,
        at: Duration,
        function: Option<FunctionId>,
        opportunity: Opportunity,
    ) -> Option<Strike> {
        if !self.looks_at(opportunity) {
            return None;
        }
        let mut strike = None;
        for rule in &mut lock(&self.state).rules {
            if strike.is_some() {
                break;
            }
            strike = rule.take(at, function, opportunity).map(|bits| Strike {
                rule: rule.id,
                kind: rule.spec.kind,
                bits,
            });
        }
        strike
    }

    /// Rules whose time has come: those that strike without an opportunity, and whom.
    pub(crate) fn take_timed(&self, now: Duration) -> Vec<(Strike, Vec<FunctionId>)> {
        let mut strikes = Vec::new();
        for rule in &mut lock(&self.state).rules {
            if rule.due().is_none_or(|due| due > now) {
                continue;
            }
            let Some(bits) = rule.next() else { continue };
            let functions = match rule.spec.target {
                Target::Any => FunctionId::all().collect(),
                Target::Function(function) => vec![function],
            };
            let strike = Strike {
                rule: rule.id,
                kind: rule.spec.kind,
                bits,
            };
            strikes.push((strike, functions));
        }
        strikes
    }

    /// Put something off. `false`: too much waits already, it is to be done now.
    pub(crate) fn delay(&self, delayed: Delayed) -> bool {
        let mut state = lock(&self.state);
        let room = state.delayed.len() < MOST_DELAYED;
        if room {
            state.delayed.push(delayed);
        }
        room
    }

    /// What was put off until now, of the kind that `which` says.
    pub(crate) fn take_due(
        &self,
        now: Duration,
        which: impl Fn(&DelayedAction) -> bool,
    ) -> Vec<Delayed> {
        let mut state = lock(&self.state);
        if state.delayed.is_empty() {
            return Vec::new();
        }
        let due = |delayed: &mut Delayed| delayed.due <= now && which(&delayed.action);
        let mut taken: Vec<_> = state.delayed.extract_if(.., due).collect();
        taken.sort_by_key(|delayed| delayed.due);
        taken
    }

    /// Functions were reset, or have lost their clients: nothing that was put off reaches them.
    pub(crate) fn forget(&self, functions: FunctionSet) {
        if functions.is_empty() {
            return;
        }
        lock(&self.state).delayed.retain(|delayed| {
            let function = delayed.action.function();
            function.is_none_or(|function| !functions.contains(function))
        });
    }

    /// The INTx line was lowered: what was to raise it late does not.
    pub(crate) fn forget_intx(&self, function: FunctionId) {
        let intx = DelayedAction::Interrupt {
            function,
            signal: Signal::Intx { asserted: true },
        };
        lock(&self.state)
            .delayed
            .retain(|delayed| delayed.action != intx);
    }

    /// When there is something to do, since the card started.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        let state = lock(&self.state);
        let delayed = state.delayed.iter().map(|delayed| delayed.due);
        let rules = state.rules.iter().filter_map(Rule::due);
        delayed.chain(rules).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VF0: FunctionId = FunctionId::vf(0);

    fn late(due: u64, function: FunctionId) -> Delayed {
        Delayed {
            due: Duration::from_millis(due),
            action: DelayedAction::Interrupt {
                function,
                signal: Signal::Msix(0),
            },
        }
    }

    #[test]
    fn rules_come_and_go_and_count() {
        let injector = Injector::default();
        let at = Duration::ZERO;
        let opportunity = Opportunity::Writeback;
        assert_eq!(injector.take(at, Some(VF0), opportunity), None);
        let rule = |text: &str| injector.add(text.parse().expect(text), at).expect("room");
        let first = rule("writeback-late=1ms,count=1");
        let second = rule("writeback-late=2ms");
        assert!(injector.looks_at(opportunity) && !injector.looks_at(Opportunity::Read));
        let by = |strike: Option<Strike>| strike.map(|strike| strike.rule);
        assert_eq!(by(injector.take(at, Some(VF0), opportunity)), Some(first));
        assert_eq!(by(injector.take(at, Some(VF0), opportunity)), Some(second));
        assert_eq!(injector.struck(), 2);
        assert_eq!(injector.to_json()[0]["injected"], 1);
        assert_eq!(
            (injector.remove(Some(second)), injector.remove(None)),
            (1, 1)
        );
        assert!(!injector.looks_at(opportunity));
        (0..MOST_RULES).for_each(|_| {
            rule("flr");
        });
        assert_eq!(
            injector.add("flr".parse().expect("a rule"), at),
            Err(TooManyRules)
        );
    }

    #[test]
    fn what_was_put_off_comes_in_time_and_not_to_another_tenant() {
        let injector = Injector::default();
        for (due, function) in [(5, VF0), (3, FunctionId::PF), (9, VF0), (4, VF0)] {
            assert!(injector.delay(late(due, function)));
        }
        assert_eq!(injector.next_due(), Some(Duration::from_millis(3)));
        let due = injector.take_due(Duration::from_millis(5), |_| true);
        assert_eq!(due, [late(3, FunctionId::PF), late(4, VF0), late(5, VF0)]);
        injector.forget(FunctionSet::only(FunctionId::vf(1)));
        assert!(injector.next_due().is_some());
        injector.forget(FunctionSet::only(VF0));
        assert_eq!(injector.next_due(), None);
    }

    #[test]
    fn a_timed_rule_strikes_once_by_itself() {
        let injector = Injector::default();
        let spec = "flr,vf0,after=1s".parse().expect("a rule");
        injector.add(spec, Duration::from_secs(1)).expect("room");
        assert_eq!(injector.next_due(), Some(Duration::from_secs(2)));
        assert!(injector.take_timed(Duration::from_millis(1999)).is_empty());
        let struck = injector.take_timed(Duration::from_secs(2));
        assert_eq!(struck.len(), 1);
        assert_eq!(struck[0].1, [VF0]);
        assert_eq!(injector.next_due(), None);
        assert!(injector.take_timed(Duration::from_secs(3)).is_empty());
    }
}
