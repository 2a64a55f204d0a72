//! The state file: what a PF driver that comes back needs to go on with VFs that are still enabled.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::PfError;
use crate::policy::Policy;
use crate::vport::NicSwitch;

/// Version of the file's format.
const VERSION: u32 = 2;

/// The content of a state file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    version: u32,
    /// The NIC switch with every VPort and filter.
    pub switch: NicSwitch,
    /// The policy file that the driver was started with, to notice when it says something else.
    pub policy: Policy,
}

impl State {
    /// The state to save.
    #[must_use]
    pub fn of(switch: &NicSwitch, policy: &Policy) -> Self {
        Self {
            version: VERSION,
            switch: switch.clone(),
            policy: policy.clone(),
        }
    }

    /// Reads a state file. `None` if there is none, or none that can be believed: an old driver then
    /// starts anew, which is always safe.
    ///
    /// # Errors
    ///
    /// [`PfError::State`] if the file is there and cannot be read.
    pub fn load(path: &Path) -> Result<Option<Self>, PfError> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(PfError::State {
                    what: "read",
                    path: path.to_owned(),
                    source,
                });
            }
        };
        let state = match serde_json::from_slice::<Self>(&text) {
            Ok(state) if state.version == VERSION && state.switch.is_sound() => Some(state),
            Ok(_) => {
                log::warn!("the state file {} is not sound; ignored", path.display());
                None
            }
            Err(error) => {
                log::warn!("the state file {} is ignored: {error}", path.display());
                None
            }
        };
        Ok(state)
    }

    /// Writes the state file whole or not at all: to a file beside it, which then takes its name. It is
    /// not synced to the disk: VFs wait for the answer, and none of them outlives the machine.
    ///
    /// # Errors
    ///
    /// [`PfError::State`]; then there is no file. The old one would give VFs back what the
    /// administrator has taken from them since.
    pub fn save(&self, path: &Path) -> Result<(), PfError> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = Path::new(&beside);
        let write = || {
            let text = serde_json::to_vec_pretty(self)?;
            let mut file = File::create(beside)?;
            file.write_all(&text)?;
            std::fs::rename(beside, path)
        };
        let written = write();
        if written.is_err() {
            for stale in [path, beside] {
                if let Err(error) = std::fs::remove_file(stale)
                    && error.kind() != ErrorKind::NotFound
                {
                    log::error!("{} is out of date; remove it: {error}", stale.display());
                }
            }
        }
        written.map_err(|source| PfError::State {
            what: "write",
            path: path.to_owned(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use igb::frame::MacAddress;

    use super::*;
    use crate::policy::{PortVlan, VfPolicy};

    fn switch() -> NicSwitch {
        let mut switch = NicSwitch::new(MacAddress([2, 0, 0, 0, 0, 1]));
        switch.create_switch().unwrap();
        for vlan in [None, Some(PortVlan { vid: 7, qos: 3 })] {
            let vf = switch.allocate_vf().unwrap();
            let policy = VfPolicy {
                vlan,
                ..VfPolicy::default()
            };
            switch.create_vport(vf, policy).unwrap();
            switch.set_filters(vf).unwrap();
        }
        switch.macs.add(1, MacAddress([2, 0, 0, 0, 9, 9])).unwrap();
        switch.vport_mut(0).unwrap().multicast.insert(0xABC);
        switch
    }

    #[test]
    fn what_is_saved_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        assert_eq!(State::load(&path).unwrap(), None);
        let state = State::of(&switch(), &Policy::default());
        state.save(&path).unwrap();
        state.save(&path).unwrap();
        assert_eq!(State::load(&path).unwrap(), Some(state));
        let files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(files.len(), 1, "nothing is left beside the file");
    }

    #[test]
    fn a_state_that_cannot_be_saved_leaves_no_older_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let mut state = State::of(&switch(), &Policy::default());
        state.switch.vport_mut(0).unwrap().policy.trust = true;
        state.save(&path).unwrap();
        // In the way of the new file, as a full disk would be.
        std::fs::create_dir(dir.path().join("state.json.new")).unwrap();
        state.switch.vport_mut(0).unwrap().policy.trust = false;
        assert!(state.save(&path).is_err());
        assert_eq!(State::load(&path).unwrap(), None, "trust is over");
    }

    #[test]
    fn drivers_whose_files_differ_in_the_extension_do_not_meet() {
        let dir = tempfile::tempdir().unwrap();
        // In the way of a neighbour called `pf.new`.
        std::fs::create_dir(dir.path().join("pf.new")).unwrap();
        State::of(&switch(), &Policy::default())
            .save(&dir.path().join("pf.0"))
            .unwrap();
    }

    #[test]
    fn a_damaged_file_is_no_state() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        State::of(&switch(), &Policy::default())
            .save(&path)
            .unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        for damage in [
            text[..text.len() / 2].to_owned(),
            text.replace("\"version\": 2", "\"version\": 1"),
            text.replace("\"vid\": 7", "\"vid\": 4095"),
            text.replace("02:00:00:00:09:09", "01:00:00:00:09:09"),
            String::new(),
        ] {
            assert_ne!(damage, text);
            std::fs::write(&path, damage).unwrap();
            assert_eq!(State::load(&path).unwrap(), None);
        }
    }
}
