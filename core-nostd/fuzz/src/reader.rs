//! Choices from a fuzzer's bytes.

/// Reads choices from bytes, front to back; where they end all choices are 0.
///
/// One choice is one or two bytes whatever else was chosen, so that a mutation
/// changes one thing and leaves the others.
pub struct Reader<'d> {
    bytes: &'d [u8],
}

impl<'d> Reader<'d> {
    /// Reads these bytes.
    pub fn new(bytes: &'d [u8]) -> Self {
        Reader { bytes }
    }

    /// Whether all has been read.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next byte.
    pub fn u8(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    /// The next two bytes, big endian.
    pub fn u16(&mut self) -> u16 {
        u16::from(self.u8()) << 8 | u16::from(self.u8())
    }

    /// The next four bytes, big endian.
    pub fn u32(&mut self) -> u32 {
        u32::from(self.u16()) << 16 | u32::from(self.u16())
    }

    /// An even chance.
    pub fn flag(&mut self) -> bool {
        self.u8() & 1 == 1
    }

    /// A number below `limit`, which is at most 256.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::from(self.u8()) % limit
    }

    /// Whether something rare happens: once in `odds`, and not where bytes have ended.
    pub fn rarely(&mut self, odds: usize) -> bool {
        self.below(odds) == odds - 1
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// As many bytes, or what is left.
    pub fn take(&mut self, count: usize) -> &'d [u8] {
        let (taken, rest) = self.bytes.split_at(count.min(self.bytes.len()));
        self.bytes = rest;
        taken
    }

    /// As many bytes, with zeros behind the last.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.u8())
    }
}
