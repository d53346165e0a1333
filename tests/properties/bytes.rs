//! Bytes as choices: what a fuzzer changes at random, read as the settings of a test.

/// Bytes that are read one after the other; behind the last one they are zeros.
#[derive(Clone, Debug)]
pub(crate) struct Choices<'a> {
    bytes: &'a [u8],
}

impl<'a> Choices<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(crate) fn byte(&mut self) -> u8 {
        match self.bytes.split_first() {
            Some((first, rest)) => {
                self.bytes = rest;
                *first
            }
            None => 0,
        }
    }

    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    /// A number below `most`, which is above 0.
    pub(crate) fn below(&mut self, most: usize) -> usize {
        let number = if most > 256 {
            usize::from(u16::from_le_bytes(self.array()))
        } else {
            usize::from(self.byte())
        };
        number % most
    }

    pub(crate) fn of<T: Copy>(&mut self, table: &[T]) -> T {
        table[self.below(table.len())]
    }

    /// True once in so many times.
    pub(crate) fn rarely(&mut self, times: u8) -> bool {
        self.byte() % times == times - 1
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes
    }
}
