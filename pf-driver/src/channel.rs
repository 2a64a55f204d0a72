//! The PF driver's end of the channel to the mediator: a stream socket that never blocks, and comes
//! back when the mediator does.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mediator_protocol::{Decoder, Frame, FromPf, PfFeatures, ToPf, Token, VERSION};

use crate::error::PfError;

/// Wait before the first new attempt to connect; each further one is twice as long.
const FIRST_RETRY: Duration = Duration::from_millis(20);
/// Longest wait between two attempts.
const LAST_RETRY: Duration = Duration::from_secs(1);
/// Bytes that may wait for a mediator that does not read.
const MOST_UNSENT: usize = 256 * 1024;
/// How soon to try again when the socket takes no more.
const SEND_RETRY: Duration = Duration::from_millis(2);
/// Most bytes taken from the socket in one go, so that the data path gets its turn.
const READ_CHUNK: usize = 4096;

/// What this driver can do on the channel.
pub const FEATURES: PfFeatures = PfFeatures::all();

/// The channel to the mediator.
#[derive(Debug)]
pub struct PfChannel {
    path: PathBuf,
    token: Token,
    stream: Option<UnixStream>,
    decoder: Decoder,
    unsent: Vec<u8>,
    /// Welcome has come.
    ready: bool,
    refused: bool,
    retry: Duration,
    next_attempt: Instant,
    /// How often the connection was lost.
    pub losses: u64,
}

/// What came over the channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A message.
    Message(ToPf),
    /// The mediator is gone, or spoke nonsense and was hung up on.
    Lost,
}

impl PfChannel {
    /// A channel to the mediator that listens at `path`. If it does not yet, the channel connects
    /// when it does.
    #[must_use]
    pub fn connect(path: &Path, token: Token) -> Self {
        let mut channel = Self {
            path: path.to_owned(),
            token,
            stream: None,
            decoder: Decoder::new(),
            unsent: Vec::new(),
            ready: false,
            refused: false,
            retry: FIRST_RETRY,
            next_attempt: Instant::now(),
            losses: 0,
        };
        channel.attempt();
        channel
    }

    /// A channel over a socket that is connected already; it does not come back when it is lost.
    ///
    /// # Errors
    ///
    /// [`PfError::Channel`] if the socket cannot be set up.
    pub fn over(stream: UnixStream, token: Token) -> Result<Self, PfError> {
        let mut channel = Self {
            path: PathBuf::new(),
            token,
            stream: None,
            decoder: Decoder::new(),
            unsent: Vec::new(),
            ready: false,
            refused: false,
            retry: FIRST_RETRY,
            next_attempt: Instant::now(),
            losses: 0,
        };
        channel.adopt(stream).map_err(|source| PfError::Channel {
            path: PathBuf::new(),
            source,
        })?;
        Ok(channel)
    }

    fn adopt(&mut self, stream: UnixStream) -> std::io::Result<()> {
        stream.set_nonblocking(true)?;
        self.stream = Some(stream);
        self.decoder = Decoder::new();
        self.unsent.clear();
        self.ready = false;
        self.send(&FromPf::Hello {
            version: VERSION,
            features: FEATURES,
            token: self.token,
        });
        Ok(())
    }

    /// Connects if it is time to. Returns whether there is a new connection.
    pub fn attempt(&mut self) -> bool {
        if self.stream.is_some()
            || self.path.as_os_str().is_empty()
            || Instant::now() < self.next_attempt
        {
            return false;
        }
        match UnixStream::connect(&self.path).and_then(|stream| self.adopt(stream)) {
            Ok(()) => true,
            Err(error) => {
                log::debug!(
                    "the mediator at {} is not there: {error}",
                    self.path.display()
                );
                self.back_off();
                false
            }
        }
    }

    fn back_off(&mut self) {
        self.next_attempt = Instant::now() + self.retry;
        self.retry = (self.retry * 2).min(LAST_RETRY);
    }

    /// Whether the mediator has accepted this driver.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready && self.stream.is_some()
    }

    /// Whether the mediator refused this driver the last time.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.refused
    }

    /// The socket, to wait for.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.stream.as_ref().map(AsFd::as_fd)
    }

    /// When the channel wants to be looked at although nothing came.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Duration> {
        if self.stream.is_none() {
            if self.path.as_os_str().is_empty() {
                return None;
            }
            return Some(self.next_attempt.saturating_duration_since(Instant::now()));
        }
        (!self.unsent.is_empty()).then_some(SEND_RETRY)
    }

    /// Sends a message, at once or as soon as the socket takes it. Without a connection it is
    /// dropped: all that matters is told anew after the next Welcome.
    pub fn send(&mut self, message: &FromPf) {
        if self.stream.is_none() {
            return;
        }
        message.encode(&mut self.unsent);
        self.flush();
    }

    fn flush(&mut self) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        let mut sent = 0;
        let lost = loop {
            if sent == self.unsent.len() {
                break false;
            }
            match stream.write(&self.unsent[sent..]) {
                Ok(0) => break true,
                Ok(n) => sent += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break true,
            }
        };
        self.unsent.drain(..sent);
        if lost || self.unsent.len() > MOST_UNSENT {
            // The read side sees the end and reports it.
            if let Err(error) = stream.shutdown(std::net::Shutdown::Both) {
                log::debug!("the channel is closed already: {error}");
            }
            self.unsent.clear();
        }
    }

    /// The next event that is there; `None` when nothing is.
    pub fn poll(&mut self) -> Option<Event> {
        self.flush();
        loop {
            match self.decoder.next_frame::<ToPf>() {
                Ok(Some(message)) => {
                    self.note(&message);
                    return Some(Event::Message(message));
                }
                Ok(None) => {}
                Err(error) => {
                    log::error!("{}; the connection is closed", PfError::from(error));
                    return Some(self.hang_up());
                }
            }
            let mut bytes = [0; READ_CHUNK];
            match self.stream.as_mut()?.read(&mut bytes) {
                Ok(0) => return Some(self.hang_up()),
                Ok(n) => self.decoder.push(&bytes[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    log::warn!("the channel failed: {error}");
                    return Some(self.hang_up());
                }
            }
        }
    }

    fn note(&mut self, message: &ToPf) {
        match message {
            ToPf::Welcome { .. } => {
                self.ready = true;
                self.refused = false;
                self.retry = FIRST_RETRY;
            }
            ToPf::Refused { reason } => {
                let reason = reason.name();
                log::error!("{}", PfError::Refused(reason.to_owned()));
                self.refused = true;
            }
            _ => {}
        }
    }

    fn hang_up(&mut self) -> Event {
        self.stream = None;
        // What came after nonsense is nonsense too.
        self.decoder = Decoder::new();
        self.unsent.clear();
        self.ready = false;
        self.losses += 1;
        self.back_off();
        Event::Lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_ends_the_connection_and_nothing_else() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut channel = PfChannel::over(ours, Token::ABSENT).unwrap();
        assert_eq!(channel.poll(), None);
        theirs.write_all(&[0xFF; 64]).unwrap();
        assert_eq!(channel.poll(), Some(Event::Lost));
        assert_eq!(channel.poll(), None);
        channel.send(&FromPf::Revoke { vf: 0 });
    }

    #[test]
    fn a_message_in_pieces_is_one_message() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut channel = PfChannel::over(ours, Token::ABSENT).unwrap();
        let welcome = ToPf::Welcome {
            version: VERSION,
            features: FEATURES,
        };
        for byte in welcome.to_bytes() {
            assert_eq!(channel.poll(), None);
            theirs.write_all(&[byte]).unwrap();
        }
        assert_eq!(channel.poll(), Some(Event::Message(welcome)));
        assert!(channel.is_ready());
        drop(theirs);
        assert_eq!(channel.poll(), Some(Event::Lost));
        assert!(!channel.is_ready());
    }

    #[test]
    fn it_connects_when_the_mediator_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pf.sock");
        let mut channel = PfChannel::connect(&path, Token::ABSENT);
        assert!(channel.fd().is_none());
        assert!(channel.next_timeout().is_some());
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        channel.next_attempt = Instant::now();
        assert!(channel.attempt());
        let (mut server, _) = listener.accept().unwrap();
        let mut hello = [0; 64];
        let n = server.read(&mut hello).unwrap();
        let mut decoder = Decoder::new();
        decoder.push(&hello[..n]);
        assert!(matches!(
            decoder.next_frame::<FromPf>(),
            Ok(Some(FromPf::Hello {
                version: VERSION,
                ..
            }))
        ));
    }
}
