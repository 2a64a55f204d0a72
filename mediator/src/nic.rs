//! Where the VFs come from: the card whose functions the mediator offers on its bus.

use std::error::Error;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use iommu::backend::VfioUser;
use iommu::function::Function;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use vfio_user::client::ClientOptions;

/// Something that becomes readable when it is worth while to try a connection again.
pub trait Watch: Send {
    /// What to poll.
    fn event(&self) -> &dyn AsFd;
    /// Take the events that came, so that it is not readable any more.
    fn drain(&self);
}

/// A card.
pub trait Nic: Send + Sync {
    /// Connect to a VF. Fails while the card has no such VF or another client has it.
    fn connect(&self, vf: u16) -> Result<Arc<dyn Function>, Box<dyn Error + Send + Sync>>;

    /// Whether the card has this VF, or may get it. One that it will never have is refused at once.
    fn serves(&self, vf: u16) -> bool {
        let _ = vf;
        true
    }

    /// Tells when a VF may have appeared. `None`: this card cannot tell, try again after a while.
    fn watch(&self) -> io::Result<Option<Box<dyn Watch>>> {
        Ok(None)
    }
}

/// A card whose functions are served on vfio-user sockets: `DIR/vf0.sock`, ...
#[derive(Debug, Clone)]
pub struct SocketNic {
    directory: PathBuf,
    timeout: Duration,
}

impl SocketNic {
    /// The card whose sockets lie in `directory`.
    pub fn new(directory: &Path) -> Self {
        // Less than the 5 s after which QEMU gives up: its own request waits meanwhile.
        Self {
            directory: directory.into(),
            timeout: Duration::from_secs(3),
        }
    }
}

/// The name of a VF's socket in its directory.
pub fn vf_socket(directory: &Path, vf: u16) -> PathBuf {
    directory.join(format!("vf{vf}.sock"))
}

impl Nic for SocketNic {
    fn connect(&self, vf: u16) -> Result<Arc<dyn Function>, Box<dyn Error + Send + Sync>> {
        let path = vf_socket(&self.directory, vf);
        // Listening sockets accept before their server looks: without the file, do not even try.
        path.symlink_metadata()?;
        let function = VfioUser::connect(
            &path,
            ClientOptions {
                timeout: self.timeout,
            },
        )?;
        Ok(Arc::new(function))
    }

    fn watch(&self) -> io::Result<Option<Box<dyn Watch>>> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        inotify.add_watch(
            &self.directory,
            AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO,
        )?;
        Ok(Some(Box::new(DirectoryWatch(inotify))))
    }
}

struct DirectoryWatch(Inotify);

impl Watch for DirectoryWatch {
    fn event(&self) -> &dyn AsFd {
        &self.0
    }

    fn drain(&self) {
        while self.0.read_events().is_ok_and(|events| !events.is_empty()) {}
    }
}
