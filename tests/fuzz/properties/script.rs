//! Bytes of a fuzzer as choices, one after the other.

pub(super) struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    /// A byte that tells how many follow, and those, as far as they are there.
    pub(super) fn some(&mut self) -> Option<&'a [u8]> {
        let count = usize::from(self.byte()?);
        let (some, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        Some(some)
    }

    pub(super) fn rest(self) -> &'a [u8] {
        self.0
    }
}
