//! From data set to tensors: images prepared once, kept while memory allows, gathered into batches.

use std::{
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::Scope,
};

use anyhow::Result;
use candle_core::{Device, Tensor};
use dice_losses::Target;

use crate::{
    data::{Dataset, Sample},
    preprocess::{Prepared, Preprocess, prepare},
    raster::{IGNORE, NO_CLASS},
};

/// Prepared images are kept until they take this much memory; the rest is read again each time. No number depends on it.
const CACHE_BYTES: usize = 1 << 30;

/// The images of a data set as the network sees them, before augmentation.
#[derive(Debug)]
pub struct Images<'a> {
    data: &'a Dataset,
    preprocess: &'a Preprocess,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    images: std::collections::HashMap<usize, Prepared>,
    bytes: usize,
}

impl<'a> Images<'a> {
    /// Nothing is read yet.
    pub fn new(data: &'a Dataset, preprocess: &'a Preprocess) -> Self {
        Self {
            data,
            preprocess,
            kept: Mutex::default(),
        }
    }

    /// Image `index` of the data set at network size.
    ///
    /// # Errors
    ///
    /// When its files cannot be read; the message names the file.
    pub fn get(&self, index: usize) -> Result<Prepared> {
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(image) = kept().images.get(&index) {
            return Ok(image.clone());
        }
        // The lock is not held while reading: other threads may want other images.
        let image = prepare(&self.data.load(index)?, self.preprocess)?;
        let bytes = 4 * image.image.data.len() + image.labels.data.len();
        let mut kept = kept();
        if kept.bytes + bytes <= CACHE_BYTES && kept.images.insert(index, image.clone()).is_none() {
            kept.bytes += bytes;
        }
        Ok(image)
    }

    /// Image `index` both as the network sees it and as it is.
    ///
    /// # Errors
    ///
    /// When its files cannot be read; the message names the file.
    pub fn both(&self, index: usize) -> Result<(Sample, Prepared)> {
        let sample = self.data.load(index)?;
        let prepared = prepare(&sample, self.preprocess)?;
        Ok((sample, prepared))
    }
}

/// Some images and their truth on the device.
#[derive(Debug)]
pub struct Batch {
    /// Names of the images, for messages.
    pub ids: Vec<String>,
    /// `[N, C, H, W]`, f32.
    pub images: Tensor,
    /// What the loss compares with.
    pub target: Target,
    /// The labels, image after image.
    pub labels: Vec<u8>,
}

impl Batch {
    /// Gathers images of one size; `classes` is the number of the network's output channels.
    ///
    /// # Errors
    ///
    /// When the device has no room.
    pub fn gather(images: &[Prepared], classes: usize, device: &Device) -> Result<Self> {
        let (n, first) = (images.len(), &images[0].image);
        let pixels: Vec<&[f32]> = images.iter().map(|image| &image.image.data[..]).collect();
        let labels: Vec<&[u8]> = images.iter().map(|image| &image.labels.data[..]).collect();
        let (pixels, labels) = (pixels.concat(), labels.concat());
        let (height, width) = (first.height, first.width);
        Ok(Self {
            ids: images.iter().map(|image| image.id.clone()).collect(),
            images: Tensor::from_vec::<_, f32>(pixels, (n, first.channels, height, width), device)?,
            target: target(&labels, (n, height, width), classes, device)?,
            labels,
        })
    }

    /// How many images it holds.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// Class numbers with an ignore label; where a pixel belongs to no class, which no number can say, a one-hot map that is
/// zero there in every channel.
pub(crate) fn target(
    labels: &[u8],
    shape: (usize, usize, usize),
    classes: usize,
    device: &Device,
) -> Result<Target> {
    if !labels.contains(&NO_CLASS) {
        let labels = Tensor::from_slice(labels, shape, device)?;
        return Ok(Target::labels(&labels).ignore_label(i64::from(IGNORE)));
    }
    one_hot(labels, shape, classes, [0.0, 1.0], device)
}

/// A map for each class that has the second value where a pixel is of that class and the first elsewhere; zeros in every
/// map where it is of none.
pub(crate) fn one_hot(
    labels: &[u8],
    shape: (usize, usize, usize),
    classes: usize,
    [off, on]: [f32; 2],
    device: &Device,
) -> Result<Target> {
    let (n, height, width) = shape;
    let value = |label: u8, class: usize| match label {
        IGNORE | NO_CLASS => 0.0,
        label if usize::from(label) == class => on,
        _ => off,
    };
    let one_hot: Vec<f32> = labels
        .chunks_exact(height * width)
        .flat_map(|image| {
            (0..classes).flat_map(move |class| image.iter().map(move |&label| value(label, class)))
        })
        .collect();
    let one_hot = Tensor::from_vec(one_hot, (n, classes, height, width), device)?;
    let counts: Vec<u8> = labels
        .iter()
        .map(|&label| u8::from(label != IGNORE))
        .collect();
    Ok(Target::dense(&one_hot).mask(&Tensor::from_vec(counts, shape, device)?))
}

/// Items that are prepared before the reader asks for them: an image that takes some times as long as the others to read
/// keeps nobody waiting.
const AHEAD: usize = 4;

/// Prepares one item after the other on a thread of its own, ahead of the reader. The order is that of the items.
pub fn ahead<'scope, I, T>(
    scope: &'scope Scope<'scope, '_>,
    items: I,
    prepare: impl Fn(I::Item) -> T + Send + Sync + 'scope,
) -> impl Iterator<Item = T> + Send
where
    I: Iterator + Send + 'scope,
    I::Item: Send,
    T: Send + 'scope,
{
    ahead_on(1, scope, items, prepare)
}

/// The same on several threads, for a reader that is faster than one. The order is still that of the items.
pub fn ahead_on<'scope, I, T>(
    threads: usize,
    scope: &'scope Scope<'scope, '_>,
    items: I,
    prepare: impl Fn(I::Item) -> T + Send + Sync + 'scope,
) -> impl Iterator<Item = T> + Send
where
    I: Iterator + Send + 'scope,
    I::Item: Send,
    T: Send + 'scope,
{
    // A place in the queue is taken with the item: the queue has the items' order, whoever is ready first.
    let (queue, promised) = mpsc::sync_channel::<mpsc::Receiver<T>>(AHEAD + threads);
    let source = Arc::new(Mutex::new((items, queue)));
    let prepare = Arc::new(prepare);
    for _ in 0..threads {
        let (source, prepare) = (Arc::clone(&source), Arc::clone(&prepare));
        scope.spawn(move || {
            loop {
                let mut next = source.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(item) = next.0.next() else { break };
                let (promise, place) = mpsc::sync_channel(1);
                // The reader has stopped early: nothing more is wanted.
                if next.1.send(place).is_err() {
                    break;
                }
                drop(next);
                let _ = promise.send(prepare(item));
            }
        });
    }
    drop(source);
    promised.into_iter().map_while(|place| place.recv().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raster::{Image, Labels};
    use dice_losses::{Classes, Loss as _, Prediction, zoo};

    fn prepared(id: &str, labels: [u8; 2]) -> Prepared {
        Prepared {
            id: id.into(),
            image: Image {
                channels: 1,
                height: 1,
                width: 2,
                data: vec![0.25, -0.5],
            },
            labels: Labels {
                height: 1,
                width: 2,
                data: labels.to_vec(),
            },
            truth: None,
        }
    }

    /// The foreground's Dice loss of a prediction that gives every pixel half to it.
    fn dice(batch: &Batch) -> f32 {
        let logits = Tensor::zeros(
            (batch.len(), 2, 1, 2),
            candle_core::DType::F32,
            &Device::Cpu,
        )
        .unwrap();
        let loss = zoo::dice()
            .classes(Classes::Foreground)
            .loss(&Prediction::logits(&logits), &batch.target)
            .unwrap();
        loss.to_scalar().unwrap()
    }

    #[test]
    fn a_batch_stacks_images_in_order() {
        let batch = Batch::gather(
            &[prepared("a", [0, 1]), prepared("b", [1, 1])],
            2,
            &Device::Cpu,
        )
        .unwrap();
        assert_eq!(batch.images.dims(), [2, 1, 1, 2]);
        assert_eq!(batch.ids, ["a", "b"]);
        assert_eq!(batch.labels, [0, 1, 1, 1]);
    }

    #[test]
    fn a_pixel_of_no_class_is_a_false_positive_and_an_ignored_one_is_nothing() {
        // The first pixel alone: TP = FN = ½, so 1 - 1 / (1 + ½). One of no class beside it adds FP = ½.
        let ignored = Batch::gather(&[prepared("a", [1, IGNORE])], 2, &Device::Cpu).unwrap();
        let no_class = Batch::gather(&[prepared("a", [1, NO_CLASS])], 2, &Device::Cpu).unwrap();
        assert!(
            (dice(&ignored) - 1.0 / 3.0).abs() < 1e-5,
            "{}",
            dice(&ignored)
        );
        assert!((dice(&no_class) - 0.5).abs() < 1e-5, "{}", dice(&no_class));
    }

    #[test]
    fn both_kinds_of_none_can_stand_in_one_batch() {
        let batch = Batch::gather(
            &[prepared("a", [1, NO_CLASS]), prepared("b", [1, IGNORE])],
            2,
            &Device::Cpu,
        )
        .unwrap();
        assert!(
            (dice(&batch) - f32::midpoint(0.5, 1.0 / 3.0)).abs() < 1e-5,
            "{}",
            dice(&batch)
        );
    }

    #[test]
    fn items_arrive_in_order_and_a_reader_may_stop() {
        std::thread::scope(|scope| {
            let squares: Vec<i32> = ahead(scope, 0..5, |i| i * i).collect();
            assert_eq!(squares, [0, 1, 4, 9, 16]);
            assert_eq!(ahead(scope, 0.., |i| i).nth(3), Some(3));
        });
    }

    #[test]
    fn items_of_several_threads_arrive_in_order_though_the_first_takes_longest() {
        let slow = |i: u64| {
            std::thread::sleep(std::time::Duration::from_millis(if i.is_multiple_of(4) {
                20
            } else {
                0
            }));
            i
        };
        std::thread::scope(|scope| {
            let items: Vec<u64> = ahead_on(4, scope, 0..40, slow).collect();
            assert_eq!(items, (0..40).collect::<Vec<_>>());
            assert_eq!(ahead_on(4, scope, 0.., slow).nth(9), Some(9));
            assert_eq!(ahead_on(4, scope, 0..0, slow).next(), None);
        });
    }

    #[test]
    fn items_are_prepared_while_the_reader_is_busy_but_not_without_end() {
        let (begun, begins) = mpsc::channel();
        std::thread::scope(|scope| {
            let mut items = ahead(scope, 0.., |i: usize| begun.send(i).map(|()| i));
            assert_eq!(items.next().unwrap().unwrap(), 0);
            // The one taken, those that lie ready, and the one that there is no room for yet.
            for i in 0..AHEAD + 2 {
                assert_eq!(begins.recv().unwrap(), i);
            }
            assert!(begins.try_recv().is_err());
            assert_eq!(items.next().unwrap().unwrap(), 1);
            assert_eq!(begins.recv().unwrap(), AHEAD + 2);
        });
    }
}
