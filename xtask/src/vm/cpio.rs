//! The "newc" cpio format, in which the kernel takes an initramfs.

use std::collections::BTreeSet;

/// An archive under construction.
pub(super) struct Archive {
    bytes: Vec<u8>,
    inode: u32,
    folders: BTreeSet<String>,
}

const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const DEVICE: u32 = 0o020_000;
const TRAILER: &str = "TRAILER!!!";

impl Archive {
    pub(super) fn new() -> Self {
        Self {
            bytes: Vec::new(),
            inode: 0,
            folders: BTreeSet::new(),
        }
    }

    /// Adds a folder and those in which it lies.
    pub(super) fn folder(&mut self, path: &str) {
        let path = path.trim_start_matches('/');
        if path.is_empty() || !self.folders.insert(path.to_owned()) {
            return;
        }
        self.parents(path);
        self.entry(path, FOLDER | 0o755, (0, 0), &[]);
    }

    fn parents(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.folder(parent);
        }
    }

    /// Adds a symbolic link.
    pub(super) fn link(&mut self, path: &str, target: &str) {
        self.parents(path);
        self.entry(path, LINK | 0o777, (0, 0), target.as_bytes());
    }

    /// Adds a file.
    pub(super) fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.parents(path);
        self.entry(path, FILE | mode, (0, 0), content);
    }

    /// Adds a character device.
    pub(super) fn device(&mut self, path: &str, mode: u32, number: (u32, u32)) {
        self.parents(path);
        self.entry(path, DEVICE | mode, number, &[]);
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.inode += 1;
        let path = path.trim_start_matches('/');
        let fields = [
            self.inode,
            mode,
            0, // uid
            0, // gid
            1, // links
            0, // modification time
            // A module or program is far below the format's 4 GiB.
            u32::try_from(content.len()).unwrap_or(u32::MAX),
            0, // device of the archive, major and minor
            0,
            device.0,
            device.1,
            u32::try_from(path.len() + 1).unwrap_or(u32::MAX),
            0, // checksum, unused in this variant
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, (0, 0), &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Reads an archive back by the format's own rules.
    fn read(bytes: &[u8]) -> BTreeMap<String, (u32, Vec<u8>)> {
        let mut out = BTreeMap::new();
        let mut at = 0;
        loop {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let field = |n: usize| {
                let text = std::str::from_utf8(&bytes[at + 6 + 8 * n..at + 14 + 8 * n]).unwrap();
                u32::from_str_radix(text, 16).unwrap() as usize
            };
            let (mode, size, name_size) = (field(1), field(6), field(11));
            let name = &bytes[at + 110..at + 110 + name_size - 1];
            assert_eq!(bytes[at + 110 + name_size - 1], 0);
            let name = String::from_utf8(name.to_vec()).unwrap();
            let start = (at + 110 + name_size).next_multiple_of(4);
            if name == TRAILER {
                assert_eq!(start, bytes.len());
                return out;
            }
            out.insert(name, (mode as u32, bytes[start..start + size].to_vec()));
            at = (start + size).next_multiple_of(4);
        }
    }

    #[test]
    fn entries_of_any_length_are_read_back() {
        let mut archive = Archive::new();
        archive.folder("/a");
        for length in 0..9 {
            archive.file(
                &format!("/a/{}", "n".repeat(length + 1)),
                0o644,
                &vec![7; length],
            );
        }
        archive.device("/dev/console", 0o600, (5, 1));
        let entries = read(&archive.finish());
        assert_eq!(entries["a"].0, 0o040_755);
        assert_eq!(entries["dev/console"].0, 0o020_600);
        for length in 0..9 {
            let (mode, content) = &entries[&format!("a/{}", "n".repeat(length + 1))];
            assert_eq!((*mode, content.len()), (0o100_644, length));
        }
    }
}
