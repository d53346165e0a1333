//! Memory of the device: plain runs of bytes, and maps in them.

use std::sync::Arc;

use candle_core::{
    Result,
    cuda_backend::{
        WrapErr as _,
        cudarc::driver::{CudaSlice, CudaStream, DevicePtr as _},
    },
};

use super::kernels::Arg;
use crate::kernels::maps::Size;

/// Channels of a map come in this many.
pub(super) const CHANNELS: usize = 16;

/// Channels of a map with those that are zeros.
pub(super) fn padded(channels: usize) -> usize {
    channels.next_multiple_of(CHANNELS)
}

/// Memory of the device, nothing being known of what it holds.
#[derive(Debug)]
pub(super) struct Room {
    /// Freed with it.
    _memory: Memory,
    at: u64,
}

#[derive(Debug)]
#[allow(dead_code)] // held, not read
enum Memory {
    Bytes(CudaSlice<u8>),
    Floats(CudaSlice<f32>),
}

impl Room {
    #[allow(unsafe_code)]
    pub(super) fn new(stream: &Arc<CudaStream>, bytes: usize) -> Result<Self> {
        // A launch of nothing is an error, and so is memory of no size.
        // SAFETY: bytes have no invalid values, and each kernel reads what an earlier one has written.
        let memory = unsafe { stream.alloc::<u8>(bytes.max(16)) }.w()?;
        let (at, _) = memory.device_ptr(stream);
        Ok(Self {
            at,
            _memory: Memory::Bytes(memory),
        })
    }

    /// The room of some numbers.
    pub(super) fn of(numbers: CudaSlice<f32>, stream: &Arc<CudaStream>) -> Self {
        let (at, _) = numbers.device_ptr(stream);
        Self {
            at,
            _memory: Memory::Floats(numbers),
        }
    }

    pub(super) fn floats(stream: &Arc<CudaStream>, count: usize) -> Result<Self> {
        Self::new(stream, count * size_of::<f32>())
    }

    pub(super) fn at(&self) -> u64 {
        self.at
    }

    pub(super) fn arg(&self) -> Arg<'static> {
        Arg::Pointer(self.at)
    }
}

/// Channels of a map, or of a part of one: where they begin, and how many numbers there are from pixel to pixel.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub(super) at: u64,
    pub(super) pitch: usize,
    /// Padded.
    pub(super) channels: usize,
}

impl View {
    pub(super) fn arg(self) -> Arg<'static> {
        Arg::Pointer(self.at)
    }

    pub(super) fn pitch(self) -> Arg<'static> {
        Arg::long(self.pitch)
    }
}

/// A feature map `[N, H, W, channels]`.
#[derive(Debug)]
pub(super) struct Map {
    room: Room,
    channels: usize,
    /// Bytes of a number.
    width: usize,
}

impl Map {
    /// Of so many channels, which are padded.
    pub(super) fn new(
        stream: &Arc<CudaStream>,
        size: Size,
        channels: usize,
        width: usize,
    ) -> Result<Self> {
        Ok(Self {
            room: Room::new(stream, size.pixels() * channels * width)?,
            channels,
            width,
        })
    }

    pub(super) fn view(&self) -> View {
        self.part(0, self.channels)
    }

    /// Some of the channels.
    pub(super) fn part(&self, first: usize, channels: usize) -> View {
        View {
            at: self.room.at() + (first * self.width) as u64,
            pitch: self.channels,
            channels,
        }
    }

    /// The same memory as a map of fewer or as many numbers.
    pub(super) fn as_map(&self, channels: usize) -> View {
        View {
            at: self.room.at(),
            pitch: channels,
            channels,
        }
    }
}
