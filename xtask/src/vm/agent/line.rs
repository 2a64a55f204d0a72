//! Lines from a socket.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use guest_agent::protocol::MAX_LINE;

/// Reads one line, bounded in length and, if a bound is given, in time.
pub(in crate::vm) fn read_line(
    stream: &mut BufReader<UnixStream>,
    bound: Option<Duration>,
) -> Result<Vec<u8>> {
    let deadline = bound.map(|bound| Instant::now() + bound);
    let mut line = Vec::new();
    loop {
        let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            bail!("no answer within {} s", bound.unwrap_or_default().as_secs());
        }
        stream
            .get_ref()
            .set_read_timeout(left)
            .context("set a timeout")?;
        let room = (MAX_LINE - line.len()) as u64;
        match stream.by_ref().take(room).read_until(b'\n', &mut line) {
            Ok(0) => bail!("the other end is gone"),
            Ok(_) if line.ends_with(b"\n") => return Ok(line),
            Ok(_) => ensure!(
                line.len() < MAX_LINE,
                "a line of more than {MAX_LINE} bytes"
            ),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            // It went without reading what it was sent.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                bail!("the other end is gone")
            }
            Err(error) => return Err(error).context("read"),
        }
    }
}
