//! The launches of a loss: what they read, what they write, how many blocks they have.

use candle_core::{
    CudaDevice, Result, bail,
    cuda_backend::{
        WrapErr as _,
        cudarc::driver::{
            CudaSlice, CudaStream, DevicePtr as _, LaunchConfig, PushKernelArg as _, SyncOnDrop,
        },
    },
};

use super::source::{Form, Kernels, TruthKind, WeightKind};
use crate::{
    fused::{PassTerms, ROWS_OF_SUMS as ROWS},
    prediction::Activation,
};

/// Threads of a block, as in `prelude.cu`.
const THREADS: usize = 256;
/// Pixels of a thread where classes come one after the other, as in `statistics.cu`.
const HERE: usize = 8;
/// Blocks that a pass is cut into if there are as many pixels: four for each of the 132 multiprocessors of an H100. Fixed,
/// so that the order of all sums depends on the shape alone.
const BLOCKS: usize = 4 * 132;
/// A gradient of more bytes would drive all else out of a second-level cache of 50 MB.
pub(super) const LARGE: usize = 32 << 20;

/// The sizes of a pass, and how pixels are shared among blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub(super) items: usize,
    pub(super) channels: usize,
    /// Pixels of an item.
    pub(super) pixels: usize,
    /// What a block sees of one: items, or the planes of sigmoids.
    groups: usize,
    /// Pixels of a block.
    part: usize,
    /// Blocks of a group.
    parts: usize,
}

impl Geometry {
    pub(super) fn new((items, channels, pixels): (usize, usize, usize), form: &Form) -> Self {
        let groups = match form.activation {
            Activation::Softmax => items,
            Activation::Sigmoid => items * channels,
        };
        let tile = THREADS * if form.is_held() { form.vector() } else { HERE };
        let parts = BLOCKS
            .div_ceil(groups)
            .clamp(1, pixels.div_ceil(tile).max(1));
        let part = pixels.div_ceil(parts).next_multiple_of(tile).max(tile);
        Self {
            items,
            channels,
            pixels,
            groups,
            part,
            parts: pixels.div_ceil(part).max(1),
        }
    }

    /// Numbers of a row of sums.
    pub(super) fn cells(&self) -> usize {
        self.items * self.channels
    }

    /// Numbers of all rows of sums.
    pub(super) fn sums(&self) -> usize {
        ROWS * self.cells()
    }

    fn launch(&self) -> Result<LaunchConfig> {
        let blocks = self.groups * self.parts;
        let Ok(blocks @ ..=0x7fff_ffff) = u32::try_from(blocks) else {
            bail!(
                "a grid has at most 2147483647 blocks, found {blocks} for so many items and channels"
            );
        };
        Ok(LaunchConfig {
            grid_dim: (blocks, 1, 1),
            block_dim: (THREADS as u32, 1, 1),
            shared_mem_bytes: 0,
        })
    }
}

/// Addresses on the device of what both passes read; 0 where there is nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Inputs {
    pub(super) logits: u64,
    pub(super) truth: u64,
    pub(super) weights: u64,
    /// Weights of the items, f64.
    pub(super) samples: u64,
}

impl Inputs {
    /// Whether all begin where loads of sixteen bytes may.
    pub(super) fn are_aligned(&self, form: &Form) -> bool {
        self.logits.is_multiple_of(16)
            && self.truth.is_multiple_of(form.truth_alignment())
            && self.weights.is_multiple_of(form.weight_alignment())
    }
}

/// Where the algebra's results go; 0 where they are not wanted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Values {
    pub(super) f64: u64,
    pub(super) f32: u64,
}

/// What the derivatives are multiplied by, a number for all items or one for each.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scale {
    pub(super) at: u64,
    pub(super) an_item: bool,
}

/// One pass of each kind: a modulation and a pixel loss.
struct Pass {
    kernels: Kernels,
    gamma: f32,
    log_power: f32,
    /// Of the focal exponents, in bytes from the constants' beginning.
    focus: Option<u64>,
}

/// Everything that is fixed before the first number is read, and the room for what comes between the launches.
pub(super) struct Plan {
    device: CudaDevice,
    pub(super) form: Form,
    pub(super) geometry: Geometry,
    ignore: i64,
    smoothed: (f32, f32),
    passes: Vec<Pass>,
    /// The counter of finished blocks, then the algebra, then focal exponents.
    constants: CudaSlice<f64>,
    has_program: bool,
    /// Sums of the parts, sums, derivatives, room of the algebra.
    work: CudaSlice<f64>,
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan")
            .field("form", &self.form)
            .field("geometry", &self.geometry)
            .finish_non_exhaustive()
    }
}

/// What a plan is made for, besides its form.
pub(super) struct Task<'a> {
    /// (N, C, S)
    pub(super) sizes: (usize, usize, usize),
    pub(super) ignore: Option<i64>,
    /// `(a, b)` of `y ↦ a y + b`.
    pub(super) smoothed: (f64, f64),
    pub(super) parts: &'a [PassTerms],
    /// The algebra, if it is to be computed.
    pub(super) program: Option<&'a [f64]>,
}

impl Plan {
    /// Compiles what is needed and takes all memory there is need of.
    pub(super) fn new(device: &CudaDevice, form: Form, task: &Task) -> Result<Self> {
        let geometry = Geometry::new(task.sizes, &form);
        let mut constants = vec![0.0];
        constants.extend(task.program.unwrap_or_default());
        let mut passes = Vec::with_capacity(task.parts.len());
        for terms in task.parts {
            let focus = terms.pixel.as_ref().map(|pixel| {
                let at = constants.len() * size_of::<f64>();
                let mut exponents = pixel.focus.clone();
                exponents.resize(geometry.channels, 0.0);
                exponents.extend(&pixel.other_focus);
                exponents.resize(2 * geometry.channels, 0.0);
                // Two numbers of f32 in the room of one of f64.
                constants.extend(exponents.chunks(2).map(|pair| {
                    let bits = |x: f64| u64::from((x as f32).to_bits());
                    f64::from_bits(bits(pair[0]) | bits(pair[1]) << 32)
                }));
                at as u64
            });
            passes.push(Pass {
                kernels: form.specialised(terms).load(device)?,
                gamma: terms.errors.map_or(1.0, |errors| errors.gamma) as f32,
                log_power: terms.pixel.as_ref().map_or(1.0, |pixel| pixel.log_power) as f32,
                focus,
            });
        }
        let (a, b) = task.smoothed;
        let smoothed = match form.truth {
            TruthKind::Labels(_) | TruthKind::Smoothed(_) => (a + b, b),
            TruthKind::Dense => (a, b),
        };
        let (sums, cells) = (geometry.sums(), geometry.cells());
        let work = sums * (geometry.parts + 2 * passes.len()) + 2 * cells + 3 * geometry.items;
        Ok(Self {
            device: device.clone(),
            form,
            geometry,
            ignore: task.ignore.unwrap_or(0),
            smoothed: (smoothed.0 as f32, smoothed.1 as f32),
            passes,
            has_program: task.program.is_some(),
            constants: device.clone_htod(&constants)?,
            work: room(device, work)?,
        })
    }

    pub(super) fn device(&self) -> &CudaDevice {
        &self.device
    }

    /// Whether addresses are such as the kernels were compiled for.
    pub(super) fn serves(&self, inputs: &Inputs) -> bool {
        !self.form.aligned || inputs.are_aligned(&self.form)
    }

    /// Launches the passes for the sums, and the algebra with the last of them. Sums go to `sums` if there is one pass
    /// and they are wanted.
    pub(super) fn statistics(&self, inputs: &Inputs, sums: u64, values: Values) -> Result<()> {
        let stream = self.device.cuda_stream();
        let (constants, _constants) = self.constants.device_ptr(&stream);
        let (work, _work) = self.work.device_ptr(&stream);
        let room = self.room(work);
        for (at, pass) in self.passes.iter().enumerate() {
            let is_last = at + 1 == self.passes.len();
            let own = room.sums + self.sums_in_bytes() * at as u64;
            let sums = if sums == 0 { own } else { sums };
            let program = if self.has_program && is_last {
                constants + size_of::<f64>() as u64
            } else {
                0
            };
            let arguments = Arguments::new(self, pass, inputs, constants);
            let mut launch = stream.launch_builder(&pass.kernels.statistics);
            arguments.push(&mut launch);
            launch
                .arg(&room.partials)
                .arg(&constants)
                .arg(&sums)
                .arg(&program)
                .arg(&room.sums)
                .arg(&room.derivatives)
                .arg(&room.algebra)
                .arg(&inputs.samples)
                .arg(&values.f64)
                .arg(&values.f32);
            // SAFETY: the arguments are those of the kernel, the addresses those of memory on its device, of the sizes
            // that `room` and the callers give it, and live until the stream has gone past the launch.
            unsafe { launch.launch(self.geometry.launch()?) }.w()?;
        }
        Ok(())
    }

    /// Launches the passes for the gradient, from the derivatives that the algebra left.
    pub(super) fn gradient(&self, inputs: &Inputs, scale: Scale, out: u64) -> Result<()> {
        let stream = self.device.cuda_stream();
        let (work, _work) = self.work.device_ptr(&stream);
        for at in 0..self.passes.len() {
            let derivatives = self.room(work).derivatives + self.sums_in_bytes() * at as u64;
            self.gradient_of(at, inputs, derivatives, scale, out, at > 0)?;
        }
        Ok(())
    }

    /// Launches one pass for the gradient, which is written or added.
    pub(super) fn gradient_of(
        &self,
        pass: usize,
        inputs: &Inputs,
        derivatives: u64,
        scale: Scale,
        out: u64,
        add: bool,
    ) -> Result<()> {
        if self.geometry.pixels == 0 {
            return Ok(());
        }
        let stream = self.device.cuda_stream();
        let (constants, _constants) = self.constants.device_ptr(&stream);
        let pass = &self.passes[pass];
        let arguments = Arguments::new(self, pass, inputs, constants);
        let (an_item, add) = (i32::from(scale.an_item), i32::from(add));
        let mut launch = stream.launch_builder(&pass.kernels.gradient);
        arguments.push(&mut launch);
        launch
            .arg(&derivatives)
            .arg(&scale.at)
            .arg(&an_item)
            .arg(&add)
            .arg(&out);
        // SAFETY: as in `statistics`.
        unsafe { launch.launch(self.geometry.launch()?) }.w()?;
        Ok(())
    }

    fn sums_in_bytes(&self) -> u64 {
        (self.geometry.sums() * size_of::<f64>()) as u64
    }

    fn room(&self, work: u64) -> Room {
        let sums = self.sums_in_bytes();
        let passes = self.passes.len() as u64;
        let partials = sums * self.geometry.parts as u64;
        Room {
            partials: work,
            sums: work + partials,
            derivatives: work + partials + passes * sums,
            algebra: work + partials + 2 * passes * sums,
        }
    }
}

/// Addresses within a plan's work.
struct Room {
    partials: u64,
    sums: u64,
    derivatives: u64,
    algebra: u64,
}

/// The arguments that both kernels begin with.
struct Arguments {
    logits: u64,
    truth: u64,
    weights: u64,
    focus: u64,
    sizes: [i64; 6],
    powers: [f32; 4],
}

impl Arguments {
    fn new(plan: &Plan, pass: &Pass, inputs: &Inputs, constants: u64) -> Self {
        let g = &plan.geometry;
        Self {
            logits: inputs.logits,
            truth: inputs.truth,
            weights: inputs.weights,
            focus: pass.focus.map_or(0, |at| constants + at),
            sizes: [
                g.items as i64,
                g.channels as i64,
                g.pixels as i64,
                g.part as i64,
                g.parts as i64,
                plan.ignore,
            ],
            powers: [pass.gamma, pass.log_power, plan.smoothed.0, plan.smoothed.1],
        }
    }

    fn push<'a>(&'a self, launch: &mut candle_core::cuda_backend::cudarc::driver::LaunchArgs<'a>) {
        for address in [&self.logits, &self.truth, &self.weights, &self.focus] {
            launch.arg(address);
        }
        for size in &self.sizes {
            launch.arg(size);
        }
        for power in &self.powers {
            launch.arg(power);
        }
    }
}

/// Room for numbers that are written before they are read.
pub(super) fn room<T: candle_core::cuda_backend::cudarc::driver::DeviceRepr>(
    device: &CudaDevice,
    len: usize,
) -> Result<CudaSlice<T>> {
    // SAFETY: every kernel writes all of it that anything reads, before it is read.
    unsafe { device.alloc::<T>(len) }
}

/// The address of a slice's numbers, valid in the stream's order while the guard lives.
pub(super) fn address<'a, T>(
    slice: &'a CudaSlice<T>,
    stream: &'a CudaStream,
) -> (u64, SyncOnDrop<'a>) {
    slice.device_ptr(stream)
}

/// The kind of weights that a tensor's dtype is read as.
pub(super) fn weight_kind(present: bool) -> WeightKind {
    if present {
        WeightKind::F32
    } else {
        WeightKind::None
    }
}
