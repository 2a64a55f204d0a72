//! The kernel's tree of attributes, below `/sys` or below a folder that stands for it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// What the kernel does when an attribute is written: its path below the root, and the text.
#[cfg(test)]
type Reaction = std::sync::Arc<dyn Fn(&Path, &str, &str) -> io::Result<()> + Send + Sync>;

/// The tree.
#[derive(Clone)]
pub(super) struct Tree {
    root: PathBuf,
    #[cfg(test)]
    kernel: Option<Reaction>,
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tree").field("root", &self.root).finish()
    }
}

impl Tree {
    /// The tree below `root`.
    pub(super) fn below(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            #[cfg(test)]
            kernel: None,
        }
    }

    /// The same with somebody who does what the kernel would.
    #[cfg(test)]
    pub(super) fn with_kernel(
        root: &Path,
        kernel: impl Fn(&Path, &str, &str) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self {
            root: root.to_owned(),
            kernel: Some(std::sync::Arc::new(kernel)),
        }
    }

    pub(super) fn path(&self, below: &str) -> PathBuf {
        self.root.join(below)
    }

    pub(super) fn exists(&self, below: &str) -> bool {
        self.path(below).exists()
    }

    /// An attribute without the white space around it.
    pub(super) fn read(&self, below: &str) -> io::Result<String> {
        fs::read_to_string(self.path(below)).map(|text| text.trim().to_owned())
    }

    /// The name of what a link leads to.
    pub(super) fn target(&self, below: &str) -> Option<String> {
        let target = fs::read_link(self.path(below)).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    }

    /// Write an attribute, which must be there: a missing one is not made.
    pub(super) fn write(&self, below: &str, text: &str) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(self.path(below))?;
        file.write_all(text.as_bytes())?;
        #[cfg(test)]
        if let Some(kernel) = &self.kernel {
            kernel(&self.root, below, text)?;
        }
        Ok(())
    }
}
