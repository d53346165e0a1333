//! Counter-based randomness: what is drawn depends on what it is for, never on what was drawn before.
//!
//! A stream is keyed by seed, purpose, epoch and sample. So the data order and the augmentation of epoch 7 are the
//! same whether the run came from epoch 6 or was resumed there, and whatever the number of threads.

use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

/// What a stream of random numbers is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// Drawing training, validation and test sets.
    Split = 1,
    /// The order of the samples within an epoch.
    Order = 2,
    /// The augmentation of one sample in one epoch.
    Augment = 3,
    /// The weights at the start. Reserved: `seg-unet` does not depend on this crate and keys its streams
    /// `[seed, 4, 0, index of the tensor]` itself; no other purpose may take this number.
    Weights = 4,
    /// One image of the phantom.
    Phantom = 5,
    /// Drawing values again from a sample; the sample number is that of the resample.
    Bootstrap = 6,
    /// The channels that a training step drops; the sample number is that of the step within its epoch.
    Dropout = 7,
    /// The corruption of one image; the epoch number is that of the corruption.
    Corrupt = 8,
}

/// The stream for one purpose in one epoch for one sample (zero where there is none).
///
/// ```
/// use rand::RngCore;
/// use seg_train::rng::{Purpose, stream};
/// let mut a = stream(7, Purpose::Order, 3, 0);
/// let mut b = stream(7, Purpose::Order, 3, 0);
/// assert_eq!(a.next_u64(), b.next_u64());
/// assert_ne!(a.next_u64(), stream(7, Purpose::Order, 4, 0).next_u64());
/// ```
pub fn stream(seed: u64, purpose: Purpose, epoch: u64, sample: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    for (part, value) in key
        .chunks_exact_mut(8)
        .zip([seed, purpose as u64, epoch, sample])
    {
        part.copy_from_slice(&value.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}
