//! Decisions made by bytes: what turns what a fuzzer varies into a tree, a package, or layers.

/// Bytes from which decisions are taken, one after the other. At the end all of them are zero.
#[derive(Debug, Clone)]
pub struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    /// Decisions by `data`.
    #[must_use]
    pub fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// Whether all was used.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is left.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// A byte.
    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    /// Two bytes.
    pub fn half(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// Four bytes.
    pub fn word(&mut self) -> u32 {
        u32::from(self.half()) | u32::from(self.half()) << 16
    }

    /// Up to `count` bytes.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Bytes of a length that comes first.
    pub fn bytes(&mut self) -> &'a [u8] {
        let length = usize::from(self.half());
        self.take(length)
    }

    /// A text of up to 255 bytes, or for one length in 256 of as many as there are.
    pub fn text(&mut self) -> String {
        let length = match self.byte() {
            255 => usize::from(self.half()),
            length => usize::from(length),
        };
        String::from_utf8_lossy(self.take(length)).into_owned()
    }
}
