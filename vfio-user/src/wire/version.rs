//! The capability text of a VERSION message.

use serde::{Deserialize, Serialize};

use super::{MAX_FDS, MAX_TRANSFER, MAX_VERSION_DATA, PAGE_SIZE, WireError};

/// Major version of the protocol.
pub const MAJOR: u16 = 0;
/// Highest minor version that is spoken.
pub const MINOR: u16 = 0;

/// Smallest `max_data_xfer_size` that is accepted from a peer: below it, one DMA request would
/// become an unreasonable number of messages.
const MIN_TRANSFER: u64 = 4096;

/// What a peer can do, as agreed by VERSION.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// Most file descriptors that it takes in one message.
    pub max_msg_fds: u64,
    /// Most data bytes that it takes in one message.
    pub max_data_xfer_size: u64,
    /// Most DMA windows at a time.
    pub max_dma_maps: u64,
    /// Bit mask of page sizes of DMA windows.
    pub pgsizes: u64,
}

impl Default for Capabilities {
    /// What the specification presumes of a peer that says nothing.
    fn default() -> Self {
        Self {
            max_msg_fds: 1,
            max_data_xfer_size: MAX_TRANSFER as u64,
            max_dma_maps: 65535,
            pgsizes: PAGE_SIZE,
        }
    }
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Text {
    capabilities: Capabilities,
}

impl Capabilities {
    /// What this crate announces.
    pub fn own(max_dma_maps: u16) -> Self {
        Self {
            max_msg_fds: MAX_FDS as u64,
            max_data_xfer_size: MAX_TRANSFER as u64,
            max_dma_maps: max_dma_maps.into(),
            pgsizes: PAGE_SIZE,
        }
    }

    /// The text for the wire, with its NUL.
    pub fn encode(&self) -> Vec<u8> {
        let mut text = format!(
            "{{\"capabilities\":{{\"max_msg_fds\":{},\"max_data_xfer_size\":{},\
             \"max_dma_maps\":{},\"pgsizes\":{}}}}}",
            self.max_msg_fds, self.max_data_xfer_size, self.max_dma_maps, self.pgsizes
        )
        .into_bytes();
        text.push(0);
        text
    }

    /// Read a peer's text. Members that are not known here are passed over, those that are missing
    /// take their defaults, and no text at all means all defaults. The result is within our own
    /// limits: at most [`MAX_FDS`] and [`MAX_TRANSFER`].
    pub fn parse(text: &[u8]) -> Result<Self, WireError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        if text.len() > MAX_VERSION_DATA {
            return Err(WireError::VersionText);
        }
        let Some(nul) = text.iter().position(|&byte| byte == 0) else {
            return Err(WireError::VersionText);
        };
        let text: Text =
            serde_json::from_slice(&text[..nul]).map_err(|_| WireError::VersionJson)?;
        let mut caps = text.capabilities;
        if caps.max_data_xfer_size < MIN_TRANSFER {
            return Err(WireError::VersionJson);
        }
        caps.max_data_xfer_size = caps.max_data_xfer_size.min(MAX_TRANSFER as u64);
        caps.max_msg_fds = caps.max_msg_fds.min(MAX_FDS as u64);
        Ok(caps)
    }
}
