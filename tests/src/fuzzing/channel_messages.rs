//! Frames of the PF socket and contents of config blocks, as anybody may send them.
//!
//! Input: a byte that says how the stream is cut, then the stream.

use std::fmt::Debug;

use mediator_protocol::block::{self, Accept, Config, Control, Stats, VfRequest};
use mediator_protocol::{
    BlockData, Decoder, Frame, FromPf, Invalid, MAX_BLOCK, MAX_FRAME, MAX_PAYLOAD, ToPf,
};

use super::court::Court;
use super::input::Input;

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let cut = usize::from(input.u8());
    let stream = input.rest();
    frames::<ToPf>(stream, cut);
    arbiter(stream);
    frames::<FromPf>(stream, cut);
    blocks(stream);
}

fn decode<T: Frame>(stream: &[u8], chunk: usize) -> (Vec<T>, Option<Invalid>) {
    let mut decoder = Decoder::new();
    let mut messages = Vec::new();
    for bytes in stream.chunks(chunk.max(1)) {
        decoder.push(bytes);
        loop {
            match decoder.next_frame() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
        assert!(
            decoder.pending() < MAX_FRAME,
            "more than one frame is held back"
        );
    }
    (messages, None)
}

/// However a stream is cut, it says the same; and what it says can be said again.
fn frames<T: Frame + PartialEq + Debug>(stream: &[u8], cut: usize) {
    let whole = decode::<T>(stream, stream.len());
    assert_eq!(whole, decode::<T>(stream, cut));
    for message in &whole.0 {
        let bytes = message.to_bytes();
        assert!(bytes.len() <= MAX_FRAME);
        let again = decode::<T>(&bytes, bytes.len());
        assert_eq!(again.0.as_slice(), std::slice::from_ref(message));
        assert_eq!(again.1, None);
    }
    if let Some((kind, payload)) = stream.split_at_checked(2) {
        let kind = u16::from_le_bytes([kind[0], kind[1]]);
        let payload = &payload[..payload.len().min(MAX_PAYLOAD)];
        if let Ok(message) = T::parse(kind, payload) {
            assert_eq!(message.kind(), kind);
        }
    }
}

/// What a PF driver makes of the requests among them.
fn arbiter(stream: &[u8]) {
    let mut court = Court::new();
    court.begin();
    for message in decode::<ToPf>(stream, stream.len()).0 {
        if let ToPf::Request(request) = message {
            court.hear(&request);
        }
    }
    let data = &stream[..stream.len().min(MAX_BLOCK)];
    for vf in [0, 1, 2, 3, 9] {
        for id in [block::CONTROL, block::CONFIG, block::REQUEST] {
            let _ = court.write_block(vf, id, data);
        }
    }
}

fn blocks(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(MAX_BLOCK)];
    round_trip(bytes, Control::parse, Control::encode);
    round_trip(bytes, Accept::parse, Accept::encode);
    round_trip(bytes, Config::parse, Config::encode);
    round_trip(bytes, Stats::parse, Stats::encode);
    round_trip(bytes, VfRequest::parse, VfRequest::encode);
}

fn round_trip<T: PartialEq + Debug>(
    bytes: &[u8],
    parse: impl Fn(&[u8]) -> Result<T, Invalid>,
    encode: impl Fn(&T) -> BlockData,
) {
    if let Ok(message) = parse(bytes) {
        let encoded = encode(&message);
        assert_eq!(parse(&encoded), Ok(message));
    }
}
