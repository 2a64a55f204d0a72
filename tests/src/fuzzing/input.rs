//! Takes a fuzz input apart. A layout of fixed fields, unlike a derived one, can be written by hand
//! as a seed.

/// What is left of an input.
pub(super) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Up to `count` bytes: fewer at the end.
    pub(super) fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        head
    }

    /// The next byte; `None` at the end, which is where a loop over operations stops.
    pub(super) fn next(&mut self) -> Option<u8> {
        self.bytes(1).first().copied()
    }

    /// Zeros stand for what is missing.
    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let bytes = self.bytes(N);
        out[..bytes.len()].copy_from_slice(bytes);
        out
    }

    pub(super) fn u8(&mut self) -> u8 {
        self.next().unwrap_or(0)
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    pub(super) fn rest(self) -> &'a [u8] {
        self.0
    }
}
