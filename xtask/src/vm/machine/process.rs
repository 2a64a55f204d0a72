//! QEMU's process.

use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, mpsc};
use std::thread;

use anyhow::{Context as _, Result};

/// QEMU's process, which is not reaped by anybody else.
#[derive(Debug)]
pub(super) struct Process(pub(super) Mutex<Child>);

impl Process {
    pub(super) fn child(&self) -> MutexGuard<'_, Child> {
        self.0.lock().expect("no holder panics")
    }

    /// Kills and reaps; both fail only for a process that is already gone.
    pub(super) fn end(&self) {
        let mut child = self.child();
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// What outlives a VM: who its QEMU was, and where its logs are.
#[derive(Debug)]
pub(in crate::vm) struct Handle {
    pub(super) process: Arc<Process>,
    pub(in crate::vm) logs: PathBuf,
}

impl Handle {
    /// Kills QEMU if it runs. Whoever owns the VM sees that its agent is gone.
    pub(in crate::vm) fn kill(&self) {
        // Fails only for a process that is already gone.
        let _ = self.process.child().kill();
    }
}

/// utime and stime of a process, which the kernel tells in hundredths of a
/// second; its name, in parentheses, may hold anything.
pub(super) fn used_ms(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some((ticks()? + ticks()?) * 10)
}

type Order = (Command, mpsc::Sender<std::io::Result<Child>>);

/// Starts `command` from a thread that lives as long as this process: the
/// kernel takes the end of the starting thread for the end of the parent, on
/// which QEMU is told to end.
pub(super) fn spawn(command: Command) -> Result<Child> {
    static STARTER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, answer) in inbox {
                let child = command.spawn();
                // Closes this process's copies of QEMU's ends of the sockets.
                drop(command);
                // The caller waits for it just below.
                let _ = answer.send(child);
            }
        });
        orders
    });
    let program = command.get_program().to_string_lossy().into_owned();
    let (answer, child) = mpsc::channel();
    starter
        .send((command, answer))
        .ok()
        .context("the starting thread is gone")?;
    child
        .recv()
        .context("the starting thread is gone")?
        .with_context(|| format!("run {program}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_past_a_name_of_any_shape() {
        let stat = "77 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 30 12 13 14";
        assert_eq!(used_ms(stat), Some(420));
        assert_eq!(used_ms("77 (a) S 1"), None);
    }
}
