//! Bytes of a frame in one local piece.

use igb::FunctionId;
use igb::frame::MIN_LENGTH;

use super::frame::Segment;
use super::tx::FRAME_BYTES;
use crate::host::{DataHost, DmaFault};

/// The memory of a frame's sender failed: where, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SenderFault {
    pub(super) iova: u64,
    pub(super) len: u64,
    pub(super) fault: DmaFault,
}

/// Local bytes of a frame, read from its sender's memory. Room for the longest is there from the
/// first frame on, and is not cleared for each.
#[derive(Debug, Default)]
pub(super) struct Whole {
    bytes: Vec<u8>,
    len: usize,
}

impl Whole {
    pub(super) fn clear(&mut self) {
        self.bytes.resize(FRAME_BYTES + MIN_LENGTH, 0);
        self.len = 0;
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }

    /// `len` more bytes, of no particular value.
    pub(super) fn extend(&mut self, len: usize) -> &mut [u8] {
        let at = self.len;
        self.len += len;
        &mut self.bytes[at..self.len]
    }

    /// Read these pieces and append them.
    pub(super) fn read(
        &mut self,
        function: FunctionId,
        pieces: impl Iterator<Item = Segment>,
        host: &mut dyn DataHost,
    ) -> Result<(), SenderFault> {
        for piece in pieces {
            let fault = |fault| SenderFault {
                iova: piece.iova,
                len: piece.len as u64,
                fault,
            };
            host.dma_read(function, piece.iova, self.extend(piece.len))
                .map_err(fault)?;
        }
        Ok(())
    }
}
