//! A VF on the card's own socket, with no mediator between.

use std::process::Command;
use std::time::Duration;

use anyhow::ensure;

use crate::appear::wait_for;
use crate::program::Program;
use crate::rig::{Rig, START_LIMIT};

/// How long a VF driver may take to find out that nobody answers.
const GIVE_UP_LIMIT: Duration = Duration::from_secs(20);

pub(super) fn no_mediator(rig: &mut Rig) -> anyhow::Result<String> {
    rig.start_card()?;
    rig.start_pf_without_mediator()?;
    let socket = rig.nic().join("vf0.sock");
    wait_for(&socket, START_LIMIT)?;
    let mut said = Vec::new();
    for (channel, expected) in [("mailbox", "closed"), ("mediated", "mediator")] {
        let mut command = Command::new(rig.program("vf-driver"));
        command
            .args(["run", "--netdev", "none", "--channel", channel, "--device"])
            .arg(format!("vfio-user:{}", socket.display()));
        let mut program = Program::start(&format!("vf-{channel}"), &mut command, rig.path())?;
        let status = program.wait(GIVE_UP_LIMIT)?;
        ensure!(
            !status.success(),
            "with --channel {channel} it ended with {status}"
        );
        let line = program.wait_for_line(0, expected, Duration::ZERO)?;
        said.push(format!("{channel}: {}", line.trim()));
    }
    rig.stop_all()?;
    Ok(said.join("; "))
}
