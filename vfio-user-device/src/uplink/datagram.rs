//! An uplink over a unix datagram socket, one frame per datagram.
//!
//! The card binds `PATH`. Frames for the wire go to the last peer that sent one from a bound socket
//! of its own, and until there is one to `PATH.peer`. So a test binds `PATH.peer` and only listens,
//! or binds anything and speaks first; two cards are cabled by binding the second at the first's
//! `PATH.peer`, and the second knows its peer once the first has sent a frame. Programs that run in
//! different directories use absolute paths, since a peer is known by the path it was bound with.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::{fs, mem};

use super::{MAX_FRAME, Uplink, UplinkError, UplinkLoss};
use crate::lock;

/// A bound datagram socket; the file goes with it.
pub struct Datagram {
    socket: UnixDatagram,
    path: PathBuf,
    peer: Mutex<PathBuf>,
}

impl Datagram {
    /// Bind `path`, replacing the socket of a process that is gone.
    pub fn bind(path: &Path) -> Result<Self, UplinkError> {
        let failed = |source| UplinkError::Bind {
            path: path.to_path_buf(),
            source,
        };
        if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
            let probe = UnixDatagram::unbound().map_err(failed)?;
            match probe.connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(path).map_err(failed)?;
                }
                _ => return Err(UplinkError::InUse(path.to_path_buf())),
            }
        }
        let socket = UnixDatagram::bind(path).map_err(failed)?;
        let mut peer = OsString::from(path);
        peer.push(".peer");
        let bound = Self {
            socket,
            path: path.to_path_buf(),
            peer: Mutex::new(peer.into()),
        };
        bound.socket.set_nonblocking(true).map_err(failed)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(bound)
    }
}

impl Drop for Datagram {
    fn drop(&mut self) {
        // Somebody else may have removed it already.
        let _ = fs::remove_file(&self.path);
    }
}

impl Uplink for Datagram {
    fn send(&self, frame: &[u8]) -> Result<(), UplinkLoss> {
        let peer = lock(&self.peer);
        match self.socket.send_to(frame, &*peer) {
            Ok(_) => Ok(()),
            Err(error) => Err(match error.kind() {
                io::ErrorKind::WouldBlock => UplinkLoss::Full,
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => UplinkLoss::NoPeer,
                _ => UplinkLoss::Failed,
            }),
        }
    }

    fn receive(&self, buffer: &mut [u8]) -> Option<usize> {
        loop {
            match self.socket.recv_from(buffer) {
                // A datagram that fills the buffer may have been cut.
                Ok((len, sender)) if len > 0 && len <= MAX_FRAME && len < buffer.len() => {
                    if let Some(path) = sender.as_pathname() {
                        let mut peer = lock(&self.peer);
                        if *peer != path {
                            log::info!("uplink: frames now go to {}", path.display());
                            drop(mem::replace(&mut *peer, path.to_path_buf()));
                        }
                    }
                    return Some(len);
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    }

    fn ready(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_go_to_the_default_peer_then_to_whoever_spoke_last() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("wire");
        let uplink = Datagram::bind(&path).expect("an uplink");
        assert_eq!(uplink.send(&[1; 60]), Err(UplinkLoss::NoPeer));
        let listener = UnixDatagram::bind(dir.path().join("wire.peer")).expect("a peer");
        assert_eq!(uplink.send(&[1; 60]), Ok(()));
        let mut buffer = vec![0; MAX_FRAME + 1];
        assert_eq!(listener.recv(&mut buffer).expect("a frame"), 60);

        let speaker = UnixDatagram::bind(dir.path().join("other")).expect("a peer");
        speaker.send_to(&[2; 70], &path).expect("sent");
        assert_eq!(uplink.receive(&mut buffer), Some(70));
        assert_eq!(uplink.receive(&mut buffer), None);
        assert_eq!(uplink.send(&[3; 80]), Ok(()));
        assert_eq!(speaker.recv(&mut buffer).expect("a frame"), 80);
        drop(uplink);
        assert!(!path.exists());
    }

    #[test]
    fn oversize_and_empty_datagrams_are_no_frames() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("wire");
        let uplink = Datagram::bind(&path).expect("an uplink");
        let speaker = UnixDatagram::unbound().expect("a socket");
        speaker
            .send_to(&vec![0; MAX_FRAME + 1], &path)
            .expect("sent");
        speaker.send_to(&[], &path).expect("sent");
        speaker.send_to(&[5; 64], &path).expect("sent");
        let mut buffer = vec![0; MAX_FRAME + 1];
        assert_eq!(uplink.receive(&mut buffer), Some(64));
    }

    #[test]
    fn a_dead_predecessor_is_replaced_and_a_live_one_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("wire");
        drop(UnixDatagram::bind(&path).expect("a socket"));
        assert!(path.exists(), "the dead socket's file stays");
        let uplink = Datagram::bind(&path).expect("an uplink");
        assert!(matches!(Datagram::bind(&path), Err(UplinkError::InUse(_))));
        drop(uplink);
    }
}
