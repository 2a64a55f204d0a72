//! Waiting for a file to appear or to go, by inotify and with a bound.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::os::fd::AsFd;

/// Wait at most `limit` until `path` exists. Its directory must exist already.
pub fn wait_for(path: &Path, limit: Duration) -> anyhow::Result<()> {
    wait_until(path, limit, || path.exists())
        .with_context(|| format!("{} did not appear", path.display()))
}

/// Wait at most `limit` until `path` is gone.
pub fn wait_gone(path: &Path, limit: Duration) -> anyhow::Result<()> {
    wait_until(path, limit, || !path.exists())
        .with_context(|| format!("{} is still there", path.display()))
}

fn wait_until(path: &Path, limit: Duration, done: impl Fn() -> bool) -> anyhow::Result<()> {
    if done() {
        return Ok(());
    }
    let directory = path.parent().context("the path has no directory")?;
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    let events = AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_DELETE_SELF;
    match inotify.add_watch(directory, events) {
        Ok(_) => {}
        Err(_) if done() => return Ok(()),
        Err(error) => {
            return Err(error).with_context(|| format!("watching {}", directory.display()));
        }
    }
    let end = Instant::now() + limit;
    // Looked at after the watch stands, so that no change falls between.
    while !done() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!("not within {} s", limit.as_secs_f32());
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("waiting for a change"),
        }
        match inotify.read_events() {
            Ok(_) | Err(Errno::EAGAIN) => {}
            Err(error) => return Err(error).context("reading the change"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_a_file_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let there = path.clone();
        let writer = std::thread::spawn(move || std::fs::write(there, b"").unwrap());
        wait_for(&path, Duration::from_secs(10)).unwrap();
        writer.join().unwrap();
        std::fs::remove_file(&path).unwrap();
        wait_gone(&path, Duration::from_secs(10)).unwrap();
    }

    #[test]
    fn says_which_file_did_not_appear() {
        let dir = tempfile::tempdir().unwrap();
        let error = wait_for(&dir.path().join("absent"), Duration::from_millis(10)).unwrap_err();
        assert!(
            format!("{error:#}").contains("absent did not appear"),
            "{error:#}"
        );
    }
}
