//! What came of each step, kept on the device until it is asked for.

use std::sync::Arc;

use anyhow::Result;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream};

use super::device::wait;

/// Steps whose lines there is room for.
pub(crate) const LINES: usize = 4096;

/// What became of a step; the numbers are the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The weights were changed.
    Taken,
    /// The loss was no number.
    NoLoss,
    /// The norm of the gradient was none.
    NoNorm,
    /// An earlier step had ended the run.
    Halted,
}

/// One step's line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    pub(crate) loss: f64,
    /// The norm of the gradient, where it was asked for.
    pub(crate) norm: f64,
    pub(crate) end: End,
}

/// The ring of lines, and what a step reads and writes besides.
#[derive(Debug)]
pub(crate) struct Ledger {
    stream: Arc<CudaStream>,
    /// The learning rate η.
    pub(super) eta: CudaSlice<f64>,
    /// The loss of the step.
    pub(super) value: CudaSlice<f32>,
    /// Steps so far, and whether one of them has ended the run.
    pub(super) state: CudaSlice<u32>,
    /// What the update is to do.
    pub(super) push: CudaSlice<f32>,
    pub(super) losses: CudaSlice<f32>,
    pub(super) norms: CudaSlice<f64>,
    pub(super) ends: CudaSlice<u32>,
    /// Lines that have been read.
    read: usize,
}

impl Ledger {
    pub(crate) fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        Ok(Self {
            stream: Arc::clone(stream),
            eta: stream.alloc_zeros(1)?,
            value: stream.alloc_zeros(1)?,
            state: stream.alloc_zeros(2)?,
            push: stream.alloc_zeros(2)?,
            losses: stream.alloc_zeros(LINES)?,
            norms: stream.alloc_zeros(LINES)?,
            ends: stream.alloc_zeros(LINES)?,
            read: 0,
        })
    }

    /// Sets the learning rate of the steps that are put into the stream from now on.
    pub(crate) fn set_lr(&mut self, lr: f64) -> Result<()> {
        self.stream.memcpy_htod(&[lr], &mut self.eta)?;
        Ok(())
    }

    /// The lines of the `count` steps after those that were read before, [`LINES`] at most. Waits for them.
    pub(crate) fn read(&mut self, count: usize) -> Result<Vec<Line>> {
        let losses = self.stream.clone_dtoh(&self.losses)?;
        let norms = self.stream.clone_dtoh(&self.norms)?;
        let ends = self.stream.clone_dtoh(&self.ends)?;
        wait(&self.stream)?;
        let lines = (self.read..self.read + count).map(|step| {
            let at = step % LINES;
            Line {
                loss: f64::from(losses[at]),
                norm: norms[at],
                end: match ends[at] {
                    0 => End::Taken,
                    1 => End::NoLoss,
                    2 => End::NoNorm,
                    _ => End::Halted,
                },
            }
        });
        let lines = lines.collect();
        self.read += count;
        Ok(lines)
    }
}
