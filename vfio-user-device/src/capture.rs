//! Capture of every port into a pcapng file: an interface per port, nanosecond timestamps, the
//! direction in the packet's flags. A bounded queue and a writer thread stand between the data path
//! and the disk; what does not fit is counted and left out.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TryRecvError};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::{DataLink, PcapError};

use crate::lock;

/// Frames that may wait for the disk.
const QUEUE_LEN: usize = 4096;

/// `if_tsresol` for nanoseconds (pcapng, section 4.2).
const NANOSECONDS: u8 = 9;

/// Which way a frame crosses a port, seen from the owner of the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crossing {
    /// The owner received it.
    Inbound,
    /// The owner sent it.
    Outbound,
}

impl Crossing {
    /// The two low bits of `epb_flags` (pcapng, section 4.3.1).
    fn flags(self) -> u32 {
        match self {
            Self::Inbound => 1,
            Self::Outbound => 2,
        }
    }
}

/// Why a capture could not start.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file could not be created.
    #[error("cannot create the capture file {path}: {source}")]
    Create {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The file's head could not be written.
    #[error("cannot write the head of the capture file {path}: {source}")]
    Head {
        /// The file.
        path: String,
        /// What the writer said.
        source: PcapError,
    },
    /// No writer thread.
    #[error("cannot start the thread that writes the capture file: {0}")]
    Thread(io::Error),
}

enum Message {
    Frame(Record),
    End,
}

struct Record {
    interface: u32,
    crossing: Crossing,
    at: Duration,
    frame: Vec<u8>,
}

/// A capture file that is being written. Dropping it ends the file.
pub struct Capture {
    records: SyncSender<Message>,
    lost: Arc<AtomicU64>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Capture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Capture")
            .field("lost", &self.lost())
            .finish_non_exhaustive()
    }
}

impl Capture {
    /// Create the file with one interface per `(name, description)`.
    pub fn create(path: &Path, interfaces: &[(String, String)]) -> Result<Arc<Self>, CaptureError> {
        let shown = || path.display().to_string();
        let file = File::create(path).map_err(|source| CaptureError::Create {
            path: shown(),
            source,
        })?;
        let mut writer =
            start(BufWriter::new(file), interfaces).map_err(|source| CaptureError::Head {
                path: shown(),
                source,
            })?;
        let (records, queue) = mpsc::sync_channel(QUEUE_LEN);
        let lost = Arc::new(AtomicU64::new(0));
        let handle = thread::Builder::new()
            .name("capture".to_owned())
            .spawn({
                let path = shown();
                move || {
                    if let Err(error) = write_all(&mut writer, &queue) {
                        log::error!("capture file {path}: {error}; the capture ends here");
                    }
                }
            })
            .map_err(CaptureError::Thread)?;
        Ok(Arc::new(Self {
            records,
            lost,
            writer: Mutex::new(Some(handle)),
        }))
    }

    /// A handle for one thread that records frames.
    pub fn tap(&self) -> CaptureTap {
        CaptureTap {
            records: self.records.clone(),
            lost: Arc::clone(&self.lost),
        }
    }

    /// Frames left out because the disk was too slow.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Write what is queued and end the file; frames that come later are lost.
    pub fn finish(&self) {
        if let Some(writer) = lock(&self.writer).take() {
            // Fails only if the writer has ended by itself.
            let _ = self.records.send(Message::End);
            // A panic there was reported by the panic hook.
            let _ = writer.join();
        }
        if self.lost() > 0 {
            log::warn!(
                "the capture lacks {} frames: the disk was too slow",
                self.lost()
            );
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Records frames for a [`Capture`], without ever waiting for the disk.
#[derive(Clone)]
pub struct CaptureTap {
    records: SyncSender<Message>,
    lost: Arc<AtomicU64>,
}

impl CaptureTap {
    /// Record a frame that crosses the port with this interface number.
    pub fn record(&self, interface: u32, crossing: Crossing, frame: &[u8]) {
        let at = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let record = Record {
            interface,
            crossing,
            at,
            frame: frame.to_vec(),
        };
        if self.records.try_send(Message::Frame(record)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn start<W: Write>(
    writer: W,
    interfaces: &[(String, String)],
) -> Result<PcapNgWriter<W>, PcapError> {
    let mut writer = PcapNgWriter::new(writer)?;
    for (name, description) in interfaces {
        writer.write_pcapng_block(InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: 0,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Borrowed(name)),
                InterfaceDescriptionOption::IfDescription(Cow::Borrowed(description)),
                InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
            ],
        })?;
    }
    writer.get_mut().flush().map_err(PcapError::IoError)?;
    Ok(writer)
}

fn write_all<W: Write>(
    writer: &mut PcapNgWriter<W>,
    queue: &Receiver<Message>,
) -> Result<(), PcapError> {
    loop {
        let message = match queue.try_recv() {
            Err(TryRecvError::Empty) => {
                // Nothing waits: let a reader of the file see all there is.
                writer.get_mut().flush().map_err(PcapError::IoError)?;
                queue.recv().unwrap_or(Message::End)
            }
            received => received.unwrap_or(Message::End),
        };
        let Message::Frame(record) = message else {
            break;
        };
        writer.write_pcapng_block(EnhancedPacketBlock {
            interface_id: record.interface,
            timestamp: record.at,
            original_len: u32::try_from(record.frame.len()).unwrap_or(u32::MAX),
            data: Cow::Owned(record.frame),
            options: vec![EnhancedPacketOption::Flags(record.crossing.flags())],
        })?;
    }
    writer.get_mut().flush().map_err(PcapError::IoError)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pcap_file::pcapng::{Block, PcapNgReader};

    #[test]
    fn a_finished_capture_parses_with_names_directions_and_times() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("frames.pcapng");
        let names = [("pf", "the PF"), ("vf0", "VF 0")]
            .map(|(name, text)| (name.to_owned(), text.to_owned()));
        let capture = Capture::create(&path, &names).expect("a capture");
        let tap = capture.tap();
        let before = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .expect("a time");
        tap.record(0, Crossing::Outbound, &[1; 60]);
        tap.record(1, Crossing::Inbound, &[2; 61]);
        capture.finish();
        tap.record(0, Crossing::Inbound, &[3; 60]);

        let mut reader =
            PcapNgReader::new(File::open(&path).expect("the file")).expect("a pcapng head");
        let mut packets = Vec::new();
        while let Some(block) = reader.next_block() {
            if let Block::EnhancedPacket(packet) = block.expect("a block") {
                packets.push(packet.into_owned());
            }
        }
        assert_eq!(reader.interfaces().len(), 2);
        let interface = &reader.interfaces()[1];
        assert!(
            interface
                .options
                .contains(&InterfaceDescriptionOption::IfName("vf0".into()))
        );
        assert!(
            interface
                .options
                .contains(&InterfaceDescriptionOption::IfTsResol(9))
        );
        assert_eq!(packets.len(), 2);
        assert_eq!(packets[0].options, [EnhancedPacketOption::Flags(2)]);
        assert_eq!(packets[1].options, [EnhancedPacketOption::Flags(1)]);
        assert_eq!(&packets[1].data[..], &[2; 61]);
        assert!(packets[0].timestamp >= before);
    }

    #[test]
    fn a_full_queue_costs_frames_and_not_time() {
        let (records, queue) = mpsc::sync_channel(1);
        let lost = Arc::new(AtomicU64::new(0));
        let tap = CaptureTap {
            records,
            lost: Arc::clone(&lost),
        };
        for _ in 0..3 {
            tap.record(0, Crossing::Inbound, &[0; 60]);
        }
        assert_eq!(lost.load(Ordering::Relaxed), 2);
        assert!(queue.try_recv().is_ok());
    }
}
