//! Images on their way to the GPU: prepared on the processor's threads into page-locked memory, copied on a stream of their
//! own while the steps before are computed, and handed over on the device.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaEvent, CudaSlice, CudaStream, PinnedHostSlice, sys::CUevent_flags,
};

use super::device::wait;
use crate::{preprocess::Prepared, raster::NO_CLASS};

/// Some images and their labels in page-locked memory.
#[derive(Debug)]
pub(crate) struct HostBatch {
    /// Names of the images, for messages.
    pub(crate) ids: Vec<String>,
    /// Images, channels, height, width.
    pub(crate) shape: [usize; 4],
    /// Whether a pixel belongs to no class, which labels alone cannot tell a loss.
    pub(crate) has_no_class: bool,
    buffers: Buffers,
}

/// Page-locked memory of one batch, which is neither written to nor given up before the last copy out of it has ended.
/// Cudarc's own events do not tell: they are not recorded on a device whose tracking is off.
#[derive(Debug)]
struct Buffers {
    images: PinnedHostSlice<f32>,
    labels: PinnedHostSlice<u8>,
    copied: CudaEvent,
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // There is nobody left to tell; what failed is found by the next step.
        let _ = self.copied.synchronize();
    }
}

/// Page-locked memory that is used again and again: as much as there are batches on their way.
#[derive(Debug)]
pub(crate) struct Pool {
    context: Arc<CudaContext>,
    free: Mutex<Vec<Buffers>>,
}

impl Pool {
    pub(crate) fn new(context: &Arc<CudaContext>) -> Self {
        Self {
            context: Arc::clone(context),
            free: Mutex::default(),
        }
    }

    #[allow(unsafe_code)]
    fn take(&self, images: usize, labels: usize) -> Result<Buffers> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let fits =
            |buffers: &Buffers| (buffers.images.len(), buffers.labels.len()) == (images, labels);
        if let Some(at) = free.iter().position(fits) {
            // The oldest: its copy ends first.
            return Ok(free.remove(at));
        }
        drop(free);
        // Not write-combined: a loss without a plan reads the labels again.
        // SAFETY: every element is written before one is read (`gather`).
        Ok(unsafe {
            Buffers {
                images: self.context.alloc_pinned_with_flags(images, 0)?,
                labels: self.context.alloc_pinned_with_flags(labels, 0)?,
                copied: self.context.new_event(Some(BLOCKING))?,
            }
        })
    }

    /// Gathers images of one size.
    pub(crate) fn gather(&self, images: &[Prepared]) -> Result<HostBatch> {
        let (n, first) = (images.len(), &images[0].image);
        let shape = [n, first.channels, first.height, first.width];
        let pixels = n * first.height * first.width;
        let mut buffers = self.take(shape.iter().product(), pixels)?;
        buffers.copied.synchronize()?;
        let values = buffers.images.as_mut_slice()?;
        let labels = buffers.labels.as_mut_slice()?;
        for (i, image) in images.iter().enumerate() {
            let (size, plane) = (values.len() / n, pixels / n);
            values[i * size..(i + 1) * size].copy_from_slice(&image.image.data);
            labels[i * plane..(i + 1) * plane].copy_from_slice(&image.labels.data);
        }
        Ok(HostBatch {
            ids: images.iter().map(|image| image.id.clone()).collect(),
            shape,
            has_no_class: labels.contains(&NO_CLASS),
            buffers,
        })
    }

    /// Takes a batch's memory back, once its copy is on its way.
    pub(crate) fn give_back(&self, batch: HostBatch) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.push(batch.buffers);
    }
}

impl HostBatch {
    /// How many images it holds.
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    /// The labels, image after image.
    pub(crate) fn labels(&self) -> Result<&[u8]> {
        Ok(self.buffers.labels.as_slice()?)
    }
}

/// A place on the device that images wait in until the step before has taken its own.
#[derive(Debug)]
struct Place {
    images: CudaSlice<f32>,
    labels: CudaSlice<u8>,
    /// The copy to it has ended.
    filled: CudaEvent,
    /// The copy out of it has ended.
    emptied: CudaEvent,
}

/// The stream of copies, and two places: one is filled while the other waits for its step.
#[derive(Debug)]
pub(crate) struct Copies {
    steps: Arc<CudaStream>,
    transfers: Arc<CudaStream>,
    places: Vec<Place>,
    next: usize,
}

const PLACES: usize = 2;

/// A thread that waits for a copy leaves its core to others.
const BLOCKING: CUevent_flags = CUevent_flags::CU_EVENT_BLOCKING_SYNC;

impl Copies {
    /// For steps on this stream.
    pub(crate) fn new(steps: &Arc<CudaStream>) -> Result<Self> {
        Ok(Self {
            steps: Arc::clone(steps),
            transfers: steps.context().new_stream()?,
            places: Vec::new(),
            next: 0,
        })
    }

    /// Puts the copies of a batch into both streams: to a place as soon as that is free, and from there to where a step
    /// reads `images` and `labels`, in order with the steps.
    pub(crate) fn enqueue(
        &mut self,
        batch: &HostBatch,
        images: &mut CudaSlice<f32>,
        labels: &mut CudaSlice<u8>,
    ) -> Result<()> {
        let Buffers {
            images: from_images,
            labels: from_labels,
            copied,
        } = &batch.buffers;
        self.make_room(from_images.len(), from_labels.len())?;
        let place = &mut self.places[self.next];
        self.next = (self.next + 1) % PLACES;
        self.transfers.wait(&place.emptied)?;
        self.transfers.memcpy_htod(from_images, &mut place.images)?;
        self.transfers.memcpy_htod(from_labels, &mut place.labels)?;
        copied.record(&self.transfers)?;
        place.filled.record(&self.transfers)?;
        self.steps.wait(&place.filled)?;
        let (count, pixels) = (from_images.len(), from_labels.len());
        self.steps
            .memcpy_dtod(&place.images.slice(..count), images)?;
        self.steps
            .memcpy_dtod(&place.labels.slice(..pixels), labels)?;
        place.emptied.record(&self.steps)?;
        Ok(())
    }

    fn make_room(&mut self, images: usize, labels: usize) -> Result<()> {
        let fits = |place: &Place| place.images.len() >= images && place.labels.len() >= labels;
        if self.places.len() == PLACES && self.places.iter().all(fits) {
            return Ok(());
        }
        wait(&self.transfers)?;
        self.places.clear();
        for _ in 0..PLACES {
            let context = self.steps.context();
            self.places.push(Place {
                images: self.steps.alloc_zeros(images)?,
                labels: self.steps.alloc_zeros(labels)?,
                filled: context.new_event(None)?,
                emptied: context.new_event(None)?,
            });
        }
        // Memory of one stream, used in the other: not before it is there.
        wait(&self.steps)
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        // The places belong to the stream of steps, which does not know of copies that are still going on.
        let _ = wait(&self.transfers);
    }
}
