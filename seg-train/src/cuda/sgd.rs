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
