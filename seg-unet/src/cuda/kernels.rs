//! The compiled kernels of a device, and how they are launched.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock},
};

use candle_core::{
    Error, Result,
    cuda_backend::{
        CudaDevice, WrapErr as _,
        cudarc::{
            driver::{
                CudaFunction, CudaStream, DeviceRepr, LaunchConfig, PushKernelArg as _,
                sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
            },
            nvrtc::{CompileOptions, compile_ptx_with_opts},
        },
    },
};

use super::table::Layers;
use crate::Precision;

/// The sources, each a module of its own: its name, its text, and its kernels.
const SOURCES: [(&str, &[&str], &[&str]); 4] = [
    (
        "maps",
        &[include_str!("prelude.cu"), include_str!("maps.cu")],
        &[
            "planes_to_map",
            "map_to_planes",
            "norm_moments",
            "norm_apply",
            "norm_apply_pool",
            "norm_sums",
            "norm_slopes",
            "norm_gradient",
            "map_sums",
            "column_sums",
            "head_forward",
            "head_gradient",
            "head_sums",
            "pack_weights",
        ],
    ),
    (
        "conv3",
        &[include_str!("prelude.cu"), include_str!("conv3.cu")],
        &[
            "conv3_256x64",
            "conv3_256x32",
            "conv3_128x32",
            "conv3_128x64",
            "conv3_64x32",
            "conv3_64x64",
        ],
    ),
    (
        "conv3_gradient",
        &[
            include_str!("prelude.cu"),
            include_str!("conv3_gradient.cu"),
        ],
        &["conv3_gradient", "conv3_gradient_sum"],
    ),
    (
        "up2",
        &[include_str!("prelude.cu"), include_str!("up2.cu")],
        &[
            "up2_forward_32",
            "up2_forward_64",
            "up2_input_gradient_32",
            "up2_input_gradient_64",
            "up2_weight_gradient",
            "up2_weight_gradient_sum",
        ],
    ),
];

fn options(precision: Precision) -> Vec<String> {
    let number = match precision {
        Precision::F32 => 0,
        Precision::Tf32 => 1,
        Precision::Bf16 => 2,
    };
    vec!["--std=c++17".into(), format!("-DPRECISION={number}")]
}

/// Every module in every precision: its name, text and options, to be compiled where there is no GPU.
#[doc(hidden)]
pub fn sources() -> Vec<(String, String, Vec<String>)> {
    let modules = |precision| {
        SOURCES.into_iter().map(move |(name, parts, _)| {
            (
                format!("{name} {precision}"),
                parts.concat(),
                options(precision),
            )
        })
    };
    Precision::ALL.into_iter().flat_map(modules).collect()
}

/// PTX by module, precision and compute capability: engines of one process share it.
type Compiled = Mutex<HashMap<(&'static str, Precision, (i32, i32)), String>>;

fn compiled() -> &'static Compiled {
    static COMPILED: OnceLock<Compiled> = OnceLock::new();
    COMPILED.get_or_init(Mutex::default)
}

fn ptx(
    name: &'static str,
    parts: &[&str],
    precision: Precision,
    capability: (i32, i32),
) -> Result<String> {
    let mut compiled = compiled()
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(ptx) = compiled.get(&(name, precision, capability)) {
        return Ok(ptx.clone());
    }
    let (major, minor) = capability;
    let mut options = options(precision);
    options.push(format!("--gpu-architecture=compute_{major}{minor}"));
    let options = CompileOptions {
        options,
        ..CompileOptions::default()
    };
    let ptx = compile_ptx_with_opts(parts.concat(), options).map_err(|error| {
        Error::Msg(format!(
            "U-Net: the {name} kernels were not compiled for compute capability {major}.{minor}: {error:?}; expected \
             8.0 or later and the NVRTC library of CUDA 12 or 13"
        ))
    })?;
    let ptx = ptx.to_src();
    compiled.insert((name, precision, capability), ptx.clone());
    Ok(ptx)
}

/// An argument of a kernel; its type is that of the kernel's parameter.
#[derive(Clone, Copy, Debug)]
pub(super) enum Arg<'a> {
    /// Memory of the device, or null.
    Pointer(u64),
    Long(i64),
    Int(i32),
    Float(f32),
    Layers(&'a Layers),
}

impl Arg<'_> {
    pub(super) const NULL: Self = Self::Pointer(0);

    /// A count, as the kernels take those that no image can make large.
    pub(super) fn int(count: usize) -> Self {
        Self::Int(count as i32)
    }

    /// A count, an offset or a pitch.
    pub(super) fn long(count: usize) -> Self {
        Self::Long(count as i64)
    }
}

// SAFETY: a `repr(C)` struct of pointers and numbers, as the kernel declares it.
#[allow(unsafe_code)]
unsafe impl DeviceRepr for Layers {}

/// Blocks, threads and shared memory of a launch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Launch {
    pub(super) grid: [usize; 3],
    pub(super) threads: [usize; 2],
    /// Bytes of dynamic shared memory.
    pub(super) shared: usize,
}

impl Launch {
    pub(super) fn new(grid: [usize; 3], threads: usize) -> Self {
        Self {
            grid,
            threads: [threads, 1],
            shared: 0,
        }
    }
}

/// What a multiprocessor lends a block without being asked.
const SHARED_BY_DEFAULT: usize = 48 << 10;

#[derive(Debug)]
pub(super) struct Kernels {
    precision: Precision,
    stream: Arc<CudaStream>,
    functions: HashMap<&'static str, CudaFunction>,
}

impl Kernels {
    /// Compiles and loads all kernels; nothing is loaded later, when a graph may be recorded.
    pub(super) fn new(device: &CudaDevice, precision: Precision) -> Result<Self> {
        let stream = device.cuda_stream();
        let capability = stream.context().compute_capability().w()?;
        let mut functions = HashMap::new();
        for (name, parts, kernels) in SOURCES {
            let ptx = ptx(name, parts, precision, capability)?;
            // The device keeps what it has loaded: the driver compiles it once for all engines.
            let module = format!("seg-unet {name} {precision}");
            for &kernel in kernels {
                let function = device.get_or_load_custom_func(kernel, &module, &ptx)?;
                functions.insert(kernel, function.into_cuda_function());
            }
        }
        Ok(Self {
            precision,
            stream,
            functions,
        })
    }

    pub(super) fn precision(&self) -> Precision {
        self.precision
    }

    /// Allows a kernel so much dynamic shared memory.
    pub(super) fn allow_shared(&self, kernel: &str, bytes: usize) -> Result<()> {
        if bytes > SHARED_BY_DEFAULT {
            self.functions[kernel]
                .set_attribute(
                    CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                    bytes as i32,
                )
                .w()?;
        }
        Ok(())
    }

    /// Puts a kernel into the stream, and does not wait for it.
    #[allow(unsafe_code)]
    pub(super) fn launch(&self, kernel: &str, launch: Launch, args: &[Arg]) -> Result<()> {
        let mut builder = self.stream.launch_builder(&self.functions[kernel]);
        for arg in args {
            match arg {
                Arg::Pointer(at) => builder.arg(at),
                Arg::Long(number) => builder.arg(number),
                Arg::Int(number) => builder.arg(number),
                Arg::Float(number) => builder.arg(number),
                Arg::Layers(layers) => builder.arg(*layers),
            };
        }
        let [x, y, z] = launch.grid.map(|blocks| blocks as u32);
        let config = LaunchConfig {
            grid_dim: (x, y, z),
            block_dim: (launch.threads[0] as u32, launch.threads[1] as u32, 1),
            shared_mem_bytes: launch.shared as u32,
        };
        // SAFETY: the callers give each kernel its arguments in order and type, with memory of the sizes that it reads and
        // writes; the engine holds that memory as long as it can launch.
        unsafe { builder.launch(config) }.w()?;
        Ok(())
    }
}
