//! What two runs of the same thing do not have in common anyhow.

use std::collections::BTreeSet;

use igb::register::RegisterId;
use igb::vf;

use crate::trace::entry::Place;

/// Registers of a group; names as both kinds of function spell them.
const INTERRUPTS: &[&str] = &[
    "ICR", "ICS", "IMS", "IMC", "EICR", "EICS", "EIMS", "EIMC", "VTEICR", "VTEICS", "VTEIMS",
    "VTEIMC",
];
const DOORBELLS: &[&str] = &["RDT", "RDH", "TDT", "TDH"];
const TIME: &[&str] = &["FRTIMER", "VTFRTIMER"];
/// Addresses of memory are another in every run: only that they were written counts.
const ADDRESSES: &[&str] = &[
    "RDBAL", "RDBAH", "TDBAL", "TDBAH", "TDWBAL", "TDWBAH", "BAR0", "BAR1", "BAR2", "BAR3", "BAR4",
    "BAR5",
];
/// The datasheet's sections of statistics, and of the clock of IEEE 1588.
const STATISTICS_SECTION: &str = "8.18";
const TIME_SECTION: &str = "8.16";

/// Groups of registers that can be ignored by one word.
pub(crate) const GROUPS: [&str; 4] = ["statistics", "time", "doorbells", "interrupts"];

/// A register that the user wants ignored and that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no register: say its name in the datasheet, such as EITR or EITR[3], or one of the \
     groups statistics, time, doorbells and interrupts"
)]
pub struct UnknownRegister(String);

/// What does not count as a difference. By default: statistics, clocks, doorbells, the values of
/// addresses of memory, and how often a register was polled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noise {
    /// Names, with or without an index.
    names: BTreeSet<String>,
    groups: BTreeSet<&'static str>,
    addresses: bool,
    polls: bool,
}

impl Default for Noise {
    fn default() -> Self {
        Self {
            names: BTreeSet::new(),
            groups: ["statistics", "time", "doorbells"].into(),
            addresses: true,
            polls: true,
        }
    }
}

impl Noise {
    /// Nothing is noise.
    pub fn none() -> Self {
        Self {
            names: BTreeSet::new(),
            groups: BTreeSet::new(),
            addresses: false,
            polls: false,
        }
    }

    /// Leave a register out, by its name with or without an index, or a group of them.
    pub fn ignore(&mut self, name: &str) -> Result<(), UnknownRegister> {
        if let Some(group) = GROUPS.iter().find(|group| **group == name) {
            self.groups.insert(group);
            return Ok(());
        }
        let plain = name.split('[').next().unwrap_or_default();
        let known = super::info_of(plain).is_some()
            || plain.starts_with("0x")
            || crate::names::is_config_name(plain);
        if !known {
            return Err(UnknownRegister(name.to_owned()));
        }
        self.names.insert(name.to_owned());
        Ok(())
    }

    pub(super) fn counts_polls(&self) -> bool {
        !self.polls
    }

    /// Whether an access of this place takes no part at all.
    pub(super) fn ignores(&self, region: &str, place: &Place) -> bool {
        if self.names.contains(&place.to_string()) {
            return true;
        }
        let name = match place {
            Place::Register { name, .. } => name,
            Place::Bytes {
                name: Some(name), ..
            } => return self.names.contains(name),
            Place::Offset(_) | Place::Bytes { .. } => return false,
        };
        self.names.contains(name)
            || region == "bar0" && self.groups.iter().any(|group| belongs(name, group))
    }

    /// Whether only the access counts, not its value.
    pub(super) fn ignores_value(&self, region: &str, place: &Place) -> bool {
        if !self.addresses {
            return false;
        }
        match place {
            Place::Register { name, .. } => ADDRESSES.contains(&name.as_str()),
            // Where interrupts go is the guest's, vector by vector.
            Place::Bytes {
                name: Some(name), ..
            } => {
                region == "msix" && !name.ends_with("CONTROL") || ADDRESSES.contains(&name.as_str())
            }
            _ => false,
        }
    }
}

fn belongs(name: &str, group: &str) -> bool {
    let section = || {
        let window = vf::WINDOW.iter().find(|window| window.name == name);
        let id = window.map(|window| window.id);
        let own = || RegisterId::ALL.iter().find(|id| id.info().name == name);
        id.or_else(|| own().copied()).map(|id| id.info().section)
    };
    match group {
        "statistics" => section() == Some(STATISTICS_SECTION),
        "time" => TIME.contains(&name) || section() == Some(TIME_SECTION),
        "doorbells" => DOORBELLS.contains(&name),
        "interrupts" => INTERRUPTS.contains(&name),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn register(name: &str, index: Option<u32>) -> Place {
        Place::Register {
            name: name.to_owned(),
            index,
        }
    }

    #[test]
    fn counters_clocks_and_doorbells_are_noise_and_the_rest_is_not() {
        let noise = Noise::default();
        for name in [
            "GPRC",
            "PVFGPRC",
            "VFGPRC",
            "SYSTIML",
            "FRTIMER",
            "VTFRTIMER",
            "RDT",
        ] {
            assert!(noise.ignores("bar0", &register(name, None)), "{name}");
        }
        for name in ["CTRL", "RXDCTL", "EIMS", "RDBAL"] {
            assert!(!noise.ignores("bar0", &register(name, None)), "{name}");
        }
        assert!(noise.ignores_value("bar0", &register("RDBAL", Some(3))));
        assert!(!Noise::none().ignores("bar0", &register("GPRC", None)));
    }

    #[test]
    fn a_register_or_an_element_of_it_can_be_left_out() {
        let mut noise = Noise::none();
        noise.ignore("EITR[3]").expect("a register");
        assert!(noise.ignores("bar0", &register("EITR", Some(3))));
        assert!(!noise.ignores("bar0", &register("EITR", Some(4))));
        noise.ignore("EITR").expect("a register");
        assert!(noise.ignores("bar0", &register("EITR", Some(4))));
        noise.ignore("VTEITR").expect("a VF's register");
        noise
            .ignore("SRIOV.CONTROL")
            .expect("of configuration space");
        let error = noise.ignore("ETIR").unwrap_err().to_string();
        assert!(error.contains("\"ETIR\" is no register"), "{error}");
    }
}
