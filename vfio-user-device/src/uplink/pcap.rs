//! An uplink that plays the frames of a pcap or pcapng file into the card, then is silent. What the
//! card sends to the wire is taken and forgotten (a capture shows it).

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use pcap_file::DataLink;
use pcap_file::pcap::PcapReader;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::{Block, PcapNgReader};

use super::{MAX_FRAME, Uplink, UplinkError, UplinkLoss};
use crate::lock;

/// First bytes of a pcapng section header block.
const PCAPNG_MAGIC: [u8; 4] = [0x0A, 0x0D, 0x0D, 0x0A];

/// How fast a file is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// With the gaps that the file records.
    Recorded,
    /// As fast as the card takes frames.
    Fast,
}

enum Source {
    Pcap(Box<PcapReader<BufReader<File>>>),
    PcapNg(Box<PcapNgReader<BufReader<File>>>),
}

struct Frame {
    at: Duration,
    data: Vec<u8>,
}

struct State {
    /// `None` once the file has ended.
    source: Option<Source>,
    next: Option<Frame>,
    /// When playing began, and the time of the first frame in the file.
    origin: Option<(Instant, Duration)>,
    played: u64,
}

/// A file of frames that is played once, from the moment [`Uplink::begin`] is called.
pub struct Playback {
    path: PathBuf,
    pace: Pace,
    state: Mutex<State>,
}

impl Playback {
    /// Open `path`, whose format its first bytes tell. The first frame is read at once, so that a
    /// file that is no capture is refused here.
    pub fn open(path: &Path, pace: Pace) -> Result<Self, UplinkError> {
        let open_error = |source| UplinkError::Open {
            path: path.to_path_buf(),
            source,
        };
        let format = |reason: String| UplinkError::Format {
            path: path.to_path_buf(),
            reason,
        };
        let mut file = File::open(path).map_err(open_error)?;
        let mut magic = [0; 4];
        file.read_exact(&mut magic)
            .map_err(|_| format("it is no capture file".to_owned()))?;
        file.rewind().map_err(open_error)?;
        let reader = BufReader::new(file);
        let source = if magic == PCAPNG_MAGIC {
            let reader = PcapNgReader::new(reader).map_err(|error| format(error.to_string()))?;
            Source::PcapNg(Box::new(reader))
        } else {
            let reader = PcapReader::new(reader).map_err(|error| format(error.to_string()))?;
            if reader.header().datalink != DataLink::ETHERNET {
                return Err(format("its link type is not Ethernet".to_owned()));
            }
            Source::Pcap(Box::new(reader))
        };
        let mut state = State {
            source: Some(source),
            next: None,
            origin: None,
            played: 0,
        };
        state.advance().map_err(format)?;
        Ok(Self {
            path: path.to_path_buf(),
            pace,
            state: Mutex::new(state),
        })
    }

    fn due(&self, state: &State) -> Option<Instant> {
        let (began, first) = state.origin?;
        let frame = state.next.as_ref()?;
        Some(match self.pace {
            Pace::Fast => began,
            Pace::Recorded => began + frame.at.saturating_sub(first),
        })
    }
}

impl State {
    /// Read the next Ethernet frame; at the end of the file, or of what can be read of it, there is
    /// none.
    fn advance(&mut self) -> Result<(), String> {
        self.next = None;
        let next = match &mut self.source {
            None => return Ok(()),
            Some(Source::Pcap(reader)) => next_of_pcap(reader),
            Some(Source::PcapNg(reader)) => next_of_pcapng(reader),
        };
        match next {
            Ok(Some(frame)) => self.next = Some(frame),
            Ok(None) => self.source = None,
            Err(reason) => {
                self.source = None;
                return Err(reason);
            }
        }
        Ok(())
    }
}

fn plays(data: &[u8]) -> bool {
    !data.is_empty() && data.len() <= MAX_FRAME
}

fn next_of_pcap(reader: &mut PcapReader<BufReader<File>>) -> Result<Option<Frame>, String> {
    while let Some(packet) = reader.next_packet() {
        let packet = packet.map_err(|error| error.to_string())?;
        if plays(&packet.data) {
            return Ok(Some(Frame {
                at: packet.timestamp,
                data: packet.data.into_owned(),
            }));
        }
    }
    Ok(None)
}

fn next_of_pcapng(reader: &mut PcapNgReader<BufReader<File>>) -> Result<Option<Frame>, String> {
    loop {
        let (interface, ticks, data) = match reader.next_block() {
            None => return Ok(None),
            Some(Err(error)) => return Err(error.to_string()),
            Some(Ok(Block::EnhancedPacket(packet))) => {
                // The crate hands the ticks out as if they were nanoseconds.
                (
                    packet.interface_id,
                    packet.timestamp.as_nanos(),
                    packet.data.into_owned(),
                )
            }
            Some(Ok(_)) => continue,
        };
        let Some(interface) = reader.interfaces().get(interface as usize) else {
            continue;
        };
        if interface.linktype == DataLink::ETHERNET && plays(&data) {
            return Ok(Some(Frame {
                at: ticks_to_time(ticks, resolution(interface)),
                data,
            }));
        }
    }
}

/// `if_tsresol` of an interface; microseconds where it says nothing (pcapng, section 4.2).
fn resolution(interface: &InterfaceDescriptionBlock<'_>) -> u8 {
    let given = interface.options.iter().find_map(|option| match option {
        InterfaceDescriptionOption::IfTsResol(resolution) => Some(*resolution),
        _ => None,
    });
    given.unwrap_or(6)
}

/// A count of ticks of 10^-n seconds, or of 2^-n with the top bit of `resolution` set.
fn ticks_to_time(ticks: u128, resolution: u8) -> Duration {
    let exponent = u32::from(resolution & 0x7F);
    let per_second = if resolution & 0x80 == 0 {
        10_u128.checked_pow(exponent)
    } else {
        1_u128.checked_shl(exponent)
    };
    // Finer than any time that 64 bits of ticks can express.
    let Some(per_second) = per_second else {
        return Duration::ZERO;
    };
    let seconds = u64::try_from(ticks / per_second).unwrap_or(u64::MAX);
    let nanoseconds = (ticks % per_second)
        .checked_mul(1_000_000_000)
        .map_or(0, |scaled| u32::try_from(scaled / per_second).unwrap_or(0));
    Duration::new(seconds, nanoseconds)
}

impl Uplink for Playback {
    fn send(&self, _frame: &[u8]) -> Result<(), UplinkLoss> {
        Ok(())
    }

    fn receive(&self, buffer: &mut [u8]) -> Option<usize> {
        let mut state = lock(&self.state);
        if self.due(&state)? > Instant::now() {
            return None;
        }
        let frame = state.next.take()?;
        let len = frame.data.len();
        buffer.get_mut(..len)?.copy_from_slice(&frame.data);
        state.played += 1;
        if let Err(reason) = state.advance() {
            log::warn!("{}: {reason}; playing ends here", self.path.display());
        }
        if state.next.is_none() {
            log::info!(
                "{}: all {} frames are played",
                self.path.display(),
                state.played
            );
        }
        Some(len)
    }

    fn next_due(&self) -> Option<Instant> {
        self.due(&lock(&self.state))
    }

    fn waits(&self) -> bool {
        true
    }

    fn begin(&self) {
        let mut state = lock(&self.state);
        if state.origin.is_none()
            && let Some(first) = state.next.as_ref().map(|frame| frame.at)
        {
            log::info!("{}: playing begins", self.path.display());
            state.origin = Some((Instant::now(), first));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::borrow::Cow;

    use pcap_file::pcap::{PcapPacket, PcapWriter};
    use pcap_file::pcapng::PcapNgWriter;
    use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;

    fn play(path: &Path) -> Vec<Vec<u8>> {
        let playback = Playback::open(path, Pace::Fast).expect("a capture");
        let mut buffer = vec![0; MAX_FRAME + 1];
        assert_eq!(
            playback.receive(&mut buffer),
            None,
            "nothing before it begins"
        );
        playback.begin();
        let mut frames = Vec::new();
        while let Some(len) = playback.receive(&mut buffer) {
            frames.push(buffer[..len].to_vec());
        }
        assert!(playback.next_due().is_none());
        frames
    }

    #[test]
    fn both_formats_play_in_order_and_then_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let frames = [vec![1_u8; 60], vec![2; 1514]];

        let path = dir.path().join("a.pcap");
        let mut writer = PcapWriter::new(File::create(&path).expect("a file")).expect("a head");
        for (index, data) in frames.iter().enumerate() {
            let packet = PcapPacket {
                timestamp: Duration::from_millis(index as u64),
                orig_len: data.len() as u32,
                data: Cow::Borrowed(data),
            };
            writer.write_packet(&packet).expect("written");
        }
        drop(writer);
        assert_eq!(play(&path), frames);

        let path = dir.path().join("a.pcapng");
        let mut writer = PcapNgWriter::new(File::create(&path).expect("a file")).expect("a head");
        for linktype in [DataLink::ETHERNET, DataLink::IEEE802_11] {
            let interface = InterfaceDescriptionBlock::new(linktype, 0);
            writer.write_pcapng_block(interface).expect("written");
        }
        for (interface_id, data) in [(0, &frames[0]), (1, &vec![9; 30]), (0, &frames[1])] {
            let packet = EnhancedPacketBlock {
                interface_id,
                timestamp: Duration::from_nanos(5),
                original_len: data.len() as u32,
                data: Cow::Borrowed(data),
                options: Vec::new(),
            };
            writer.write_pcapng_block(packet).expect("written");
        }
        drop(writer);
        assert_eq!(play(&path), frames, "frames of other links are left out");
    }

    #[test]
    fn recorded_gaps_are_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.pcap");
        let mut writer = PcapWriter::new(File::create(&path).expect("a file")).expect("a head");
        for seconds in [100, 700] {
            let timestamp = Duration::from_secs(seconds);
            let packet = PcapPacket {
                timestamp,
                orig_len: 60,
                data: Cow::Owned(vec![0; 60]),
            };
            writer.write_packet(&packet).expect("written");
        }
        drop(writer);
        let playback = Playback::open(&path, Pace::Recorded).expect("a capture");
        playback.begin();
        let mut buffer = vec![0; MAX_FRAME + 1];
        let first = playback.next_due().expect("a frame");
        assert_eq!(playback.receive(&mut buffer), Some(60));
        assert_eq!(playback.receive(&mut buffer), None);
        let second = playback.next_due().expect("a frame");
        assert_eq!(second - first, Duration::from_secs(600));
    }

    #[test]
    fn what_is_no_capture_is_refused_at_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("x");
        for bytes in [
            &b"no"[..],
            b"no capture at all, but long enough to hold a head",
        ] {
            std::fs::write(&path, bytes).expect("written");
            let opened = Playback::open(&path, Pace::Fast);
            assert!(matches!(opened, Err(UplinkError::Format { .. })));
        }
        let opened = Playback::open(&dir.path().join("absent"), Pace::Fast);
        assert!(matches!(opened, Err(UplinkError::Open { .. })));
    }

    #[test]
    fn ticks_of_every_resolution_become_times() {
        assert_eq!(ticks_to_time(1_500_000, 6), Duration::from_millis(1500));
        assert_eq!(ticks_to_time(1_500_000_000, 9), Duration::from_millis(1500));
        assert_eq!(ticks_to_time(3, 0x81), Duration::from_millis(1500));
        assert_eq!(ticks_to_time(7, 0x7F), Duration::ZERO);
        assert_eq!(ticks_to_time(u128::from(u64::MAX), 0xFF), Duration::ZERO);
    }
}
