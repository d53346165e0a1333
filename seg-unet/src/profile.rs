//! Where the time of a pass goes, operation by operation.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use candle_core::Result;

use crate::kernels::{
    lanes::{Block, LANES, Lanes, Real},
    simd::{Dispatch, InstructionSet, Kernel},
};

/// One operation of a pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    /// Of what: the name of its weights, such as `enc0.conv1`, or of the level of a pool, such as `enc0.pool`.
    pub of: String,
    /// What: `forward`, `norm backward`, `weight gradient`, `input gradient` or `backward`.
    pub what: &'static str,
    /// Wall time.
    pub seconds: f64,
    /// Additions and multiplications of the textbook's formula, whatever the operation saves of them.
    pub flops: f64,
    /// Bytes that have to be read or written at least, if all else stays in caches.
    pub bytes: f64,
}

static RECORDING: AtomicBool = AtomicBool::new(false);
static OPERATIONS: Mutex<Vec<Operation>> = Mutex::new(Vec::new());

/// Ends, also with a panic.
struct Recording;

impl Recording {
    fn begin() -> Self {
        RECORDING.store(true, Ordering::Relaxed);
        Self
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        RECORDING.store(false, Ordering::Relaxed);
    }
}

/// Calls `f`, and lists the operations of all passes on the CPU meanwhile, in their order. One profile at a time.
///
/// ```
/// use candle_core::{DType, Device::Cpu, Tensor};
/// use seg_unet::{UNet, UNetConfig, profile};
/// let config = UNetConfig { in_channels: 1, width: 4, depth: 1, ..UNetConfig::default() };
/// let net = UNet::new(&config, 7, &Cpu)?;
/// let image = Tensor::zeros((1, 1, 16, 16), DType::F32, &Cpu)?;
/// let (logits, operations) = profile::of(|| net.infer(&image));
/// assert_eq!(logits?.dims(), [1, 2, 16, 16]);
/// let first = &operations[0];
/// assert_eq!((first.of.as_str(), first.what), ("enc0.conv1", "forward"));
/// assert_eq!(first.flops, 2.0 * 9.0 * 4.0 * 256.0);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn of<T>(f: impl FnOnce() -> T) -> (T, Vec<Operation>) {
    let list = || std::mem::take(&mut *OPERATIONS.lock().unwrap_or_else(PoisonError::into_inner));
    list();
    let recording = Recording::begin();
    let result = f();
    drop(recording);
    (result, list())
}

/// Additions and multiplications a second that the threads reach together if they do nothing else.
///
/// # Errors
/// As [`InstructionSet::get`].
pub fn peak() -> Result<f64> {
    const ROUNDS: usize = 4_000_000;
    let isa = InstructionSet::get()?;
    let threads = rayon::current_num_threads();
    let best = (0..5).map(|_| {
        let start = Instant::now();
        let sums = rayon::broadcast(|_| f32::dispatch(isa, Fma { rounds: ROUNDS }));
        std::hint::black_box(sums);
        start.elapsed().as_secs_f64()
    });
    let flops = 2 * LANES * CHAINS * ROUNDS * threads;
    Ok(flops as f64 / best.fold(f64::INFINITY, f64::min))
}

/// Chains of additions, none of which waits for another: more than the cycles an addition takes times the units for it.
const CHAINS: usize = 12;

struct Fma {
    rounds: usize,
}

impl<R: Real> Kernel<R> for Fma {
    type Output = Block<R>;

    #[inline(always)]
    fn run<L: Lanes<Real = R>>(self) -> Block<R> {
        let factor = L::splat(R::from_f64(std::hint::black_box(0.999)));
        let mut chains = [L::zero(); CHAINS];
        for _ in 0..self.rounds {
            for chain in &mut chains {
                *chain = chain.fma(factor, factor);
            }
        }
        let mut sum = L::zero();
        for chain in chains {
            sum = sum + chain;
        }
        sum.to_block()
    }
}

/// Runs one operation; describes it only if somebody asks.
pub(crate) fn operation<T>(
    what: &'static str,
    describe: impl FnOnce() -> (String, f64, f64),
    run: impl FnOnce() -> T,
) -> T {
    if !RECORDING.load(Ordering::Relaxed) {
        return run();
    }
    let start = Instant::now();
    let result = run();
    let seconds = start.elapsed().as_secs_f64();
    let (of, flops, bytes) = describe();
    let mut operations = OPERATIONS.lock().unwrap_or_else(PoisonError::into_inner);
    operations.push(Operation {
        of,
        what,
        seconds,
        flops,
        bytes,
    });
    result
}
