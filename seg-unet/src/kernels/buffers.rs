//! Room for feature maps, used again from step to step: mapping and clearing fresh memory takes as long as using it.

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, PoisonError},
};

use super::lanes::{Block, Real};

/// Buffers that nobody uses at present.
#[derive(Debug, Default)]
pub(crate) struct Buffers<R> {
    free: Mutex<Vec<Vec<Block<R>>>>,
}

impl<R: Real> Buffers<R> {
    /// Room for `len` blocks, which hold anything.
    pub(crate) fn take(self: &Arc<Self>, len: usize) -> Maps<R> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = free.iter().position(|buffer| buffer.len() == len);
        let blocks = match fitting {
            Some(i) => free.swap_remove(i),
            None => vec![Block::default(); len],
        };
        Maps {
            blocks,
            home: Arc::clone(self),
        }
    }

    /// Frees what lies unused.
    pub(crate) fn clear(&self) {
        self.free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

/// Feature maps; their room goes back when they are dropped.
#[derive(Debug)]
pub(crate) struct Maps<R: Real> {
    blocks: Vec<Block<R>>,
    home: Arc<Buffers<R>>,
}

impl<R: Real> Deref for Maps<R> {
    type Target = [Block<R>];

    fn deref(&self) -> &[Block<R>] {
        &self.blocks
    }
}

impl<R: Real> DerefMut for Maps<R> {
    fn deref_mut(&mut self) -> &mut [Block<R>] {
        &mut self.blocks
    }
}

impl<R: Real> Drop for Maps<R> {
    fn drop(&mut self) {
        let blocks = std::mem::take(&mut self.blocks);
        let mut free = self
            .home
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        free.push(blocks);
    }
}
