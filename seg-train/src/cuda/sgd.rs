//! The optimiser's step as one kernel over all variables ([`Sgd`](crate::optim::Sgd) holds it where they lie on a GPU).

use std::{
    collections::HashMap,
    fmt,
    ops::Range,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use anyhow::{Result, anyhow, ensure};
use candle_core::{
    DType, Storage, Var,
    cuda_backend::cudarc::{
        driver::{
            CudaFunction, CudaSlice, CudaStream, DevicePtr as _, DeviceRepr, LaunchConfig,
            PushKernelArg as _,
        },
        nvrtc::{CompileOptions, compile_ptx_with_opts},
    },
};

use super::ledger::{LINES, Ledger};

const SOURCE: &str = include_str!("sgd.cu");

/// Products are not contracted with sums: an update has the CPU's bits.
const OPTIONS: [&str; 2] = ["--std=c++17", "--fmad=false"];

pub(super) fn source() -> (String, String, Vec<String>) {
    let options = OPTIONS.map(ToString::to_string).to_vec();
    ("sgd".into(), SOURCE.into(), options)
}

const ENTRIES: usize = 120;
const THREADS: u32 = 256;
/// Elements that a block takes.
const CHUNK: usize = 4 * 4 * THREADS as usize;

/// One variable, as the kernels declare it.
#[derive(Clone, Copy)]
#[repr(C)]
struct Entry {
    w: u64,
    v: u64,
    g: u64,
    length: u32,
    first: u32,
}

/// A kernel's parameter, which may have 4 KiB.
#[derive(Clone, Copy)]
#[repr(C)]
struct Table {
    entries: [Entry; ENTRIES],
    count: u32,
    unused: u32,
}

const _: () = assert!(size_of::<Table>() < 4000);

// SAFETY: a `repr(C)` struct of pointers and numbers, as the kernels declare it.
#[allow(unsafe_code)]
unsafe impl DeviceRepr for Table {}

/// The variables, their velocities and the gradients of one engine, and the blocks that each table needs.
pub(crate) struct Tables(Vec<(Table, u32)>);

impl fmt::Debug for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts: Vec<u32> = self.0.iter().map(|(table, _)| table.count).collect();
        f.debug_tuple("Tables").field(&counts).finish()
    }
}

impl Tables {
    fn of(entries: &[Entry]) -> Self {
        let tables = entries.chunks(ENTRIES).map(|entries| {
            let none = Entry {
                w: 0,
                v: 0,
                g: 0,
                length: 0,
                first: 0,
            };
            let mut table = Table {
                entries: [none; ENTRIES],
                count: entries.len() as u32,
                unused: 0,
            };
            let mut blocks = 0;
            for (place, entry) in table.entries.iter_mut().zip(entries) {
                *place = Entry {
                    first: blocks,
                    ..*entry
                };
                blocks += (entry.length as usize).div_ceil(CHUNK) as u32;
            }
            (table, blocks)
        });
        Self(tables.collect())
    }

    fn blocks(&self) -> u32 {
        self.0.iter().map(|(_, blocks)| blocks).sum()
    }
}

/// The numbers of a step that never change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) momentum: f64,
    pub(crate) nesterov: bool,
    pub(crate) clip_norm: Option<f64>,
}

/// Velocities in one piece of memory, and the kernels.
#[derive(Debug)]
pub(crate) struct Fused {
    stream: Arc<CudaStream>,
    squares: CudaFunction,
    decide: CudaFunction,
    update: CudaFunction,
    /// Kept so that their storages stay where the tables say.
    vars: Vec<Var>,
    /// Each variable's place in `velocity`.
    places: Vec<Range<usize>>,
    velocity: CudaSlice<f32>,
    /// Sums of squares, a block each.
    parts: CudaSlice<f64>,
    settings: Settings,
}

/// Bytes that a 16-byte access must begin at a multiple of, in elements.
const ALIGNMENT: usize = 4;

impl Fused {
    /// Whether all of some variables are f32 on a GPU.
    pub(crate) fn fits(vars: &[(String, Var)]) -> bool {
        !vars.is_empty()
            && vars
                .iter()
                .all(|(_, var)| var.device().is_cuda() && var.dtype() == DType::F32)
    }

    /// Velocities start at zero.
    pub(crate) fn new(vars: &[(String, Var)], settings: Settings) -> Result<Self> {
        let device = vars[0].1.device().as_cuda_device()?.clone();
        let stream = device.cuda_stream();
        let module = stream
            .context()
            .load_module(ptx(stream.context().compute_capability()?)?.into())?;
        let mut end = 0;
        let mut places = Vec::new();
        for (name, var) in vars {
            let count = var.elem_count();
            ensure!(
                u32::try_from(count).is_ok(),
                "{name} has {count} elements; expected at most 2^32 - 1"
            );
            places.push(end..end + count);
            end += count.next_multiple_of(ALIGNMENT);
        }
        let blocks: usize = places.iter().map(|place| place.len().div_ceil(CHUNK)).sum();
        Ok(Self {
            squares: module.load_function("squares")?,
            decide: module.load_function("decide")?,
            update: module.load_function("update")?,
            vars: vars.iter().map(|(_, var)| var.clone()).collect(),
            velocity: stream.alloc_zeros(end)?,
            parts: stream.alloc_zeros(blocks)?,
            places,
            settings,
            stream,
        })
    }

    /// The velocities, one after the other in the order of the variables.
    pub(crate) fn velocity(&self) -> Result<Vec<Vec<f32>>> {
        let all = self.stream.clone_dtoh(&self.velocity)?;
        super::device::wait(&self.stream)?;
        Ok(self
            .places
            .iter()
            .map(|place| all[place.clone()].to_vec())
            .collect())
    }

    /// Takes velocities in the order of the variables.
    pub(crate) fn set_velocity(&mut self, velocities: &[Vec<f32>]) -> Result<()> {
        let mut all = vec![0.0; self.velocity.len()];
        for (place, velocity) in self.places.iter().zip(velocities) {
            all[place.clone()].copy_from_slice(velocity);
        }
        self.stream.memcpy_htod(&all, &mut self.velocity)?;
        // `all` goes away.
        super::device::wait(&self.stream)
    }

    /// The tables of gradients that lie in one piece of memory, `ranges` of it in the order of the variables. They hold as
    /// long as that memory does.
    pub(crate) fn tables(
        &self,
        gradients: &CudaSlice<f32>,
        ranges: &[Range<usize>],
    ) -> Result<Tables> {
        ensure!(
            ranges.len() == self.vars.len(),
            "cannot update {} variables with {} gradients",
            self.vars.len(),
            ranges.len()
        );
        let at = |slice: &CudaSlice<f32>, element: usize| {
            slice.device_ptr(&self.stream).0 + 4 * element as u64
        };
        let entries = self
            .vars
            .iter()
            .zip(&self.places)
            .zip(ranges)
            .map(|((var, place), range)| {
                ensure!(
                    range.len() == place.len() && range.end <= gradients.len(),
                    "a gradient has {} elements; expected {}, as its variable",
                    range.len(),
                    place.len()
                );
                let (storage, layout) = var.storage_and_layout();
                let Storage::Cuda(storage) = &*storage else {
                    return Err(anyhow!("a variable is not on the CUDA device"));
                };
                Ok(Entry {
                    w: at(storage.as_cuda_slice::<f32>()?, layout.start_offset()),
                    v: at(&self.velocity, place.start),
                    g: at(gradients, range.start),
                    length: range.len() as u32,
                    first: 0,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Tables::of(&entries))
    }

    /// Puts a step into the stream: the norm of all gradients where it is asked for, what is to become of the step, and
    /// the update. `ledger.value` holds its loss by then. `skips`: a step of no number is left out, and those after it are
    /// made; else they are not.
    #[allow(unsafe_code)]
    pub(crate) fn enqueue(
        &mut self,
        tables: &Tables,
        ledger: &mut Ledger,
        skips: bool,
    ) -> Result<()> {
        let launch = |blocks| LaunchConfig {
            grid_dim: (blocks, 1, 1),
            block_dim: (THREADS, 1, 1),
            shared_mem_bytes: 0,
        };
        let Settings {
            momentum,
            nesterov,
            clip_norm,
        } = self.settings;
        let mut parts = 0_u32;
        if skips || clip_norm.is_some() {
            for (table, blocks) in &tables.0 {
                let mut builder = self.stream.launch_builder(&self.squares);
                builder.arg(table).arg(&mut self.parts).arg(&parts);
                // SAFETY: the arguments are the kernel's; the table's pointers are those of variables, velocities and
                // gradients of the lengths beside them, and `parts` has a number for each block.
                unsafe { builder.launch(launch(*blocks)) }?;
                parts += blocks;
            }
            debug_assert_eq!(parts, tables.blocks());
        }
        let (most, stops, lines) = (clip_norm.unwrap_or(0.0), u32::from(!skips), LINES as u32);
        let mut builder = self.stream.launch_builder(&self.decide);
        builder
            .arg(&ledger.value)
            .arg(&self.parts)
            .arg(&parts)
            .arg(&most)
            .arg(&stops)
            .arg(&ledger.eta)
            .arg(&mut ledger.state)
            .arg(&mut ledger.push)
            .arg(&mut ledger.losses)
            .arg(&mut ledger.norms)
            .arg(&mut ledger.ends)
            .arg(&lines);
        // SAFETY: the arguments are the kernel's, and the ring has that many lines.
        unsafe { builder.launch(launch(1)) }?;
        let (momentum, nesterov) = (momentum as f32, u32::from(nesterov));
        for (table, blocks) in &tables.0 {
            let mut builder = self.stream.launch_builder(&self.update);
            builder
                .arg(table)
                .arg(&momentum)
                .arg(&nesterov)
                .arg(&ledger.push);
            // SAFETY: as for `squares`.
            unsafe { builder.launch(launch(*blocks)) }?;
        }
        Ok(())
    }
}

/// PTX by compute capability: trainings side by side share it.
fn ptx((major, minor): (i32, i32)) -> Result<String> {
    static COMPILED: OnceLock<Mutex<HashMap<(i32, i32), String>>> = OnceLock::new();
    let mut compiled = COMPILED
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if let Some(ptx) = compiled.get(&(major, minor)) {
        return Ok(ptx.clone());
    }
    let mut options = source().2;
    options.push(format!("--gpu-architecture=compute_{major}{minor}"));
    let options = CompileOptions {
        options,
        ..CompileOptions::default()
    };
    let ptx = compile_ptx_with_opts(SOURCE, options).map_err(|error| {
        anyhow!(
            "the optimiser's kernels were not compiled for compute capability {major}.{minor}: {error:?}; expected the \
             NVRTC library of CUDA 12 or 13"
        )
    })?;
    let ptx = ptx.to_src();
    compiled.insert((major, minor), ptx.clone());
    Ok(ptx)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::{
        config::open_device,
        cuda::ledger::End,
        optim::{Sgd, SgdConfig},
    };

    /// A variable that one thread, one block and several blocks take, with a rest or without.
    const LENGTHS: [usize; 7] = [1, 4, 7, CHUNK, CHUNK + 4, 3 * CHUNK - 1, 1023];

    fn wave(count: usize, pace: f32) -> Vec<f32> {
        (0..count).map(|k| (k as f32 * pace).sin()).collect()
    }

    fn vars(lengths: &[usize], device: &Device) -> Vec<(String, Var)> {
        let var = |(i, &length): (usize, &usize)| {
            let w = Tensor::from_vec(wave(length, 0.37), length, device).unwrap();
            (format!("w{i}"), Var::from_tensor(&w).unwrap())
        };
        lengths.iter().enumerate().map(var).collect()
    }

    /// The optimiser on the device and on the CPU, and gradients that each step sends to both.
    struct Both {
        stream: Arc<CudaStream>,
        ledger: Ledger,
        gpu: Vec<(String, Var)>,
        cpu: Vec<(String, Var)>,
        on_gpu: Sgd,
        on_cpu: Sgd,
        gradients: CudaSlice<f32>,
        ranges: Vec<Range<usize>>,
        skips: bool,
    }

    impl Both {
        fn new(lengths: &[usize], config: &SgdConfig, skips: bool) -> Self {
            let device = open_device("cuda").unwrap();
            let stream = device.as_cuda_device().unwrap().cuda_stream();
            let (gpu, cpu) = (vars(lengths, &device), vars(lengths, &Device::Cpu));
            let mut end = 0;
            let ranges: Vec<_> = lengths
                .iter()
                .map(|length| {
                    end += length;
                    end - length..end
                })
                .collect();
            let mut ledger = Ledger::new(&stream).unwrap();
            ledger.set_lr(config.lr).unwrap();
            Self {
                ledger,
                on_gpu: Sgd::new(config, &gpu).unwrap(),
                on_cpu: Sgd::new(config, &cpu).unwrap(),
                gpu,
                cpu,
                gradients: stream.alloc_zeros(end).unwrap(),
                ranges,
                stream,
                skips,
            }
        }

        fn launch(&mut self, loss: f32, gradients: &[f32]) {
            self.stream
                .memcpy_htod(gradients, &mut self.gradients)
                .unwrap();
            self.stream
                .memcpy_htod(&[loss], &mut self.ledger.value)
                .unwrap();
            let fused = self.on_gpu.fused().unwrap();
            let tables = fused.tables(&self.gradients, &self.ranges).unwrap();
            fused
                .enqueue(&tables, &mut self.ledger, self.skips)
                .unwrap();
        }

        fn step_cpu(&mut self, gradients: &[f32]) {
            let each = |range: &Range<usize>| Tensor::new(&gradients[range.clone()], &Device::Cpu);
            let each: Vec<Tensor> = self.ranges.iter().map(|r| each(r).unwrap()).collect();
            self.on_cpu
                .step_each(&each.iter().collect::<Vec<_>>())
                .unwrap();
        }

        fn weights(vars: &[(String, Var)]) -> Vec<Vec<f32>> {
            vars.iter().map(|(_, w)| w.to_vec1().unwrap()).collect()
        }

        fn velocities(sgd: &Sgd) -> Vec<Vec<f32>> {
            let velocity = sgd.velocity().unwrap();
            velocity.iter().map(|(_, v)| v.to_vec1().unwrap()).collect()
        }

        #[track_caller]
        fn assert_same_bits(&self) {
            assert!(Self::weights(&self.gpu) == Self::weights(&self.cpu));
            assert!(Self::velocities(&self.on_gpu) == Self::velocities(&self.on_cpu));
        }
    }

    #[test]
    fn an_update_has_the_bits_of_the_cpus_for_any_lengths_and_places() {
        let many: Vec<usize> = (0..150).map(|i| 1 + i % 9).collect();
        for lengths in [&LENGTHS[..], &many] {
            for nesterov in [true, false] {
                let config = SgdConfig {
                    nesterov,
                    ..SgdConfig::default()
                };
                let mut both = Both::new(lengths, &config, false);
                let count = both.gradients.len();
                for (step, lr) in [0.1, 0.1, f64::from(0.01_f32)].into_iter().enumerate() {
                    both.on_cpu.set_lr(lr);
                    both.ledger.set_lr(lr).unwrap();
                    let gradients = wave(count, 0.11 + step as f32);
                    both.launch(0.5, &gradients);
                    both.step_cpu(&gradients);
                    both.assert_same_bits();
                }
            }
        }
    }

    #[test]
    fn velocities_are_taken_and_given_as_on_the_cpu() {
        let config = SgdConfig::default();
        let mut both = Both::new(&LENGTHS, &config, false);
        let gradients = wave(both.gradients.len(), 0.2);
        both.step_cpu(&gradients);
        let velocities = both.on_cpu.velocity().unwrap().into_iter().collect();
        both.on_gpu.set_velocity(&velocities).unwrap();
        assert!(Both::velocities(&both.on_gpu) == Both::velocities(&both.on_cpu));
    }

    #[test]
    fn a_long_gradient_is_scaled_and_a_short_one_is_left_alone() {
        let config = SgdConfig {
            clip_norm: Some(2.0),
            ..SgdConfig::default()
        };
        let mut both = Both::new(&LENGTHS, &config, false);
        let count = both.gradients.len();
        let short: Vec<f32> = wave(count, 0.2).iter().map(|g| g * 1e-3).collect();
        both.launch(0.5, &short);
        both.step_cpu(&short);
        both.assert_same_bits();
        let long = wave(count, 0.2);
        both.launch(0.5, &long);
        both.step_cpu(&long);
        for (gpu, cpu) in [
            (Both::weights(&both.gpu), Both::weights(&both.cpu)),
            (
                Both::velocities(&both.on_gpu),
                Both::velocities(&both.on_cpu),
            ),
        ] {
            for (gpu, cpu) in gpu.concat().into_iter().zip(cpu.concat()) {
                // The norms differ in the order of a sum in f64, η may in the last bit.
                assert!(
                    (gpu - cpu).abs() <= 1e-6 * cpu.abs().max(1e-3),
                    "{gpu} {cpu}"
                );
            }
        }
        let lines = both.ledger.read(2).unwrap();
        let norm = long
            .iter()
            .map(|&g| f64::from(g).powi(2))
            .sum::<f64>()
            .sqrt();
        assert!((lines[1].norm / norm - 1.0).abs() < 1e-12);
        assert!(lines.iter().all(|line| line.end == End::Taken));
    }

    #[test]
    fn a_loss_that_is_no_number_ends_all_that_follows_or_is_left_out() {
        for skips in [false, true] {
            let mut both = Both::new(&LENGTHS, &SgdConfig::default(), skips);
            let gradients = wave(both.gradients.len(), 0.2);
            for loss in [0.25, f32::NAN, 0.5, f32::INFINITY] {
                both.launch(loss, &gradients);
            }
            let lines = both.ledger.read(4).unwrap();
            let ends: Vec<End> = lines.iter().map(|line| line.end).collect();
            both.step_cpu(&gradients);
            if skips {
                both.step_cpu(&gradients);
                assert_eq!(ends, [End::Taken, End::NoLoss, End::Taken, End::NoLoss]);
            } else {
                assert_eq!(ends, [End::Taken, End::NoLoss, End::Halted, End::Halted]);
            }
            both.assert_same_bits();
            assert_eq!(lines[0].loss, 0.25);
            assert!(lines[1].loss.is_nan());
        }
    }

    #[test]
    fn a_gradient_that_is_no_number_is_found_where_its_norm_is_taken() {
        let clipped = SgdConfig {
            clip_norm: Some(1.0),
            ..SgdConfig::default()
        };
        for (config, skips, taken) in [
            (SgdConfig::default(), false, true),
            (SgdConfig::default(), true, false),
            (clipped.clone(), true, false),
            (clipped, false, false),
        ] {
            let mut both = Both::new(&[5, 9], &config, skips);
            both.launch(0.5, &[[1.0; 13].as_slice(), &[f32::INFINITY]].concat());
            let line = both.ledger.read(1).unwrap()[0];
            let end = if taken { End::Taken } else { End::NoNorm };
            assert_eq!(line.end, end, "{config:?} {skips}");
            let moved = Both::weights(&both.gpu) != Both::weights(&both.cpu);
            assert_eq!(moved, taken);
        }
    }

    #[test]
    fn the_ledger_goes_round() {
        let mut both = Both::new(&[3], &SgdConfig::default(), false);
        let mut read = 0;
        for count in [LINES, 5, LINES - 1] {
            for step in 0..count {
                both.launch((read + step) as f32, &[0.0; 3]);
            }
            let lines = both.ledger.read(count).unwrap();
            let losses = lines.iter().map(|line| line.loss as usize);
            assert!(losses.eq(read..read + count));
            read += count;
        }
    }
}
