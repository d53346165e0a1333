//! The floor under every loss: a plain copy of as many bytes as have to move.

use std::hint::black_box;

use rayon::prelude::*;

/// Two buffers whose copy moves a number of bytes: half of them read, half written.
#[derive(Debug)]
pub struct LeastTraffic {
    from: Vec<u8>,
    to: Vec<u8>,
}

impl LeastTraffic {
    /// Buffers for this many bytes. Both are written here, so that no page is mapped while a copy is timed.
    pub fn new(bytes: usize) -> Self {
        Self {
            from: vec![1; bytes / 2],
            to: vec![2; bytes / 2],
        }
    }

    /// One copy, by all threads of the pool.
    pub fn run(&mut self) {
        let share = self.from.len().div_ceil(rayon::current_num_threads());
        self.to
            .par_chunks_mut(share)
            .zip(self.from.par_chunks(share))
            .for_each(|(to, from)| to.copy_from_slice(from));
        black_box(&mut self.to);
    }
}
