//! The bytes of a test transfer: a seeded stream that both ends can hash.

use sha2::{Digest as _, Sha256};

/// TCP port of the sink: it reads a length and as many bytes, and answers with their SHA-256.
pub const SINK_PORT: u16 = 9;
/// TCP port of the echo service.
pub const ECHO_PORT: u16 = 7;
/// The sink's header: the number of bytes that follow, little-endian.
pub const HEADER: usize = 8;
/// Bytes of the sink's answer.
pub const DIGEST: usize = 32;

/// An endless stream of bytes that depends on its seed alone (xorshift64*).
#[derive(Debug, Clone)]
pub struct Stream {
    state: u64,
}

impl Stream {
    /// The stream of that seed.
    pub fn new(seed: u64) -> Self {
        // The state must not be zero.
        Self {
            state: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
        }
    }

    /// The next bytes. Fill in whole words of 8 but for the end of the stream.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            self.state ^= self.state >> 12;
            self.state ^= self.state << 25;
            self.state ^= self.state >> 27;
            let word = self.state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// A SHA-256 as it is computed along a stream.
#[derive(Debug, Default, Clone)]
pub struct Hash(Sha256);

impl Hash {
    /// More bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes so far.
    pub fn digest(&self) -> [u8; DIGEST] {
        self.0.clone().finalize().into()
    }
}

/// Bytes as lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Hex, with or without colons, as bytes; `None` if it is none.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits
        .chunks(2)
        .map(|pair| {
            let pair = std::str::from_utf8(pair).ok()?;
            u8::from_str_radix(pair, 16)
                .ok()
                .filter(|_| !pair.starts_with('+'))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_depends_on_its_seed_alone() {
        let take = |seed| {
            let mut bytes = vec![0; 4096];
            Stream::new(seed).fill(&mut bytes);
            bytes
        };
        assert_eq!(take(1), take(1));
        assert_ne!(take(1), take(2));
        assert!(take(0).iter().any(|byte| *byte != 0));
    }

    #[test]
    fn hex_round_trip_and_refusals() {
        assert_eq!(unhex(&hex(&[0, 0x5a, 255])), Some(vec![0, 0x5a, 255]));
        assert_eq!(unhex("02:82"), Some(vec![2, 0x82]));
        for bad in ["0", "zz", "+1", "é"] {
            assert_eq!(unhex(bad), None, "{bad}");
        }
    }
}
