//! Faults on purpose: what hardware shows once a year, so that a driver's error paths can be tested.
//!
//! [`InjectSpec`] is a rule as a user writes it, [`plan`] decides from it alone which opportunities
//! it strikes, and [`Injector`] is what the card asks, and where it leaves what is to happen later.

mod help;
mod injector;
mod plan;
mod spec;

pub use help::HELP;
pub use spec::{After, DmaKind, FaultKind, InjectSpec, SpecError, Target};

pub use injector::TooManyRules;
pub(crate) use injector::{Delayed, DelayedAction, Injector, Strike};
pub(crate) use plan::Opportunity;
