//! The kernels' text, what it is specialised by, and its compilation at run time.

use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
};

use candle_core::{
    CudaDevice, DType, Result, bail,
    cuda_backend::{
        WrapErr as _,
        cudarc::{
            driver::CudaFunction,
            nvrtc::{CompileError, CompileOptions, compile_ptx_with_opts},
        },
    },
};

use crate::{
    fused::{PassTerms, Power},
    prediction::Activation,
};

const SOURCE: &str = concat!(
    include_str!("prelude.cu"),
    include_str!("terms.cu"),
    include_str!("algebra.cu"),
    include_str!("statistics.cu"),
    include_str!("gradient.cu"),
);

/// Classes of a softmax that a thread holds in registers; more are gone through one after the other.
const MOST_HELD: usize = 8;

/// What is true, as a kernel reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum TruthKind {
    /// Class numbers of this dtype.
    Labels(LabelKind),
    /// The same, smoothed.
    Smoothed(LabelKind),
    /// An f32 a class.
    Dense,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum LabelKind {
    U8,
    U32,
    I64,
}

impl LabelKind {
    /// Bytes of a label.
    fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::U32 => 4,
            Self::I64 => 8,
        }
    }
}

/// How much pixels count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum WeightKind {
    None,
    F32,
    Mask,
}

/// All that the text is compiled for; the flags are those of the text.
#[allow(clippy::struct_excessive_bools)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Specialisation {
    element: u8,
    classes: u8,
    sigmoid: bool,
    truth: TruthKind,
    ignore: bool,
    weights: WeightKind,
    power: Option<u8>,
    squared: bool,
    pixel: u8,
    aligned: bool,
    streamed: bool,
}

/// The shape that kernels are specialised for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    /// Of the logits: f32, f16 or bf16.
    pub(super) dtype: DType,
    pub(super) activation: Activation,
    pub(super) channels: usize,
    pub(super) truth: TruthKind,
    pub(super) ignore: bool,
    pub(super) weights: WeightKind,
    /// Whether every plane begins at a multiple of sixteen bytes.
    pub(super) aligned: bool,
    /// Whether the gradient is larger than a second-level cache.
    pub(super) streamed: bool,
}

impl Form {
    /// Whether a class is held in registers.
    pub(super) fn is_held(&self) -> bool {
        self.activation == Activation::Sigmoid || self.channels <= MOST_HELD
    }

    /// Pixels of a load of sixteen bytes.
    pub(super) fn vector(&self) -> usize {
        16 / self.dtype.size_in_bytes()
    }

    /// The multiple of bytes that a truth's address must be for the loads to be aligned.
    pub(super) fn truth_alignment(&self) -> u64 {
        let bytes = match self.truth {
            TruthKind::Labels(label) | TruthKind::Smoothed(label) => label.size() * self.vector(),
            TruthKind::Dense => 16,
        };
        bytes.min(16) as u64
    }

    /// The same of weights.
    pub(super) fn weight_alignment(&self) -> u64 {
        match self.weights {
            WeightKind::None => 1,
            WeightKind::F32 => 16,
            WeightKind::Mask => self.vector() as u64,
        }
    }

    /// For what is summed in one pass.
    pub(super) fn specialised(&self, terms: &PassTerms) -> Specialisation {
        let soft = !matches!(self.truth, TruthKind::Labels(_));
        Specialisation {
            element: match self.dtype {
                DType::F16 => 1,
                DType::BF16 => 2,
                _ => 0,
            },
            classes: match self.activation {
                Activation::Sigmoid => 1,
                Activation::Softmax if self.is_held() => self.channels as u8,
                Activation::Softmax => 0,
            },
            sigmoid: self.activation == Activation::Sigmoid,
            truth: self.truth,
            ignore: self.ignore,
            weights: self.weights,
            power: terms.errors.map(|errors| match errors.power {
                Power::Half => 0,
                Power::One => 1,
                Power::ThreeHalves => 2,
                Power::Two => 3,
                Power::Three => 4,
                Power::General(_) => 5,
            }),
            squared: soft && terms.errors.is_some_and(|errors| errors.squared_difference),
            pixel: match &terms.pixel {
                None => 0,
                Some(pixel) if !pixel.focal && pixel.log_power == 1.0 => 1,
                Some(_) => 2,
            },
            aligned: self.aligned && self.is_held(),
            streamed: self.streamed && self.is_held(),
        }
    }
}

impl Specialisation {
    fn defines(&self) -> Vec<(&'static str, u8)> {
        let (truth, label) = match self.truth {
            TruthKind::Labels(label) => (0, label as u8),
            TruthKind::Smoothed(label) => (1, label as u8),
            TruthKind::Dense => (2, 0),
        };
        vec![
            ("ELEMENT", self.element),
            ("CLASSES", self.classes),
            ("SIGMOID", u8::from(self.sigmoid)),
            ("TRUTH", truth),
            ("LABEL", label),
            ("IGNORE", u8::from(self.ignore)),
            ("WEIGHTS", self.weights as u8),
            ("ERRORS", u8::from(self.power.is_some())),
            ("POWER", self.power.unwrap_or(1)),
            ("SQUARED", u8::from(self.squared)),
            ("PIXEL", self.pixel),
            ("ALIGNED", u8::from(self.aligned)),
            ("STREAMED", u8::from(self.streamed)),
        ]
    }

    /// Its name among a device's modules.
    fn name(&self) -> String {
        let mut name = String::from("dice_losses");
        for (_, value) in self.defines() {
            // Writing to a string does not fail.
            let _ = write!(name, "_{value}");
        }
        name
    }

    fn options(&self) -> Vec<String> {
        self.defines()
            .iter()
            .map(|(name, value)| format!("-D{name}={value}"))
            .collect()
    }

    /// The two kernels on a device, compiled if they are not yet.
    pub(super) fn load(&self, device: &CudaDevice) -> Result<Kernels> {
        let capability = device.cuda_stream().context().compute_capability().w()?;
        let (ptx, name) = (self.ptx(capability)?, self.name());
        let kernel = |of: &str| -> Result<CudaFunction> {
            Ok(device
                .get_or_load_custom_func(of, &name, &ptx)?
                .into_cuda_function())
        };
        Ok(Kernels {
            statistics: kernel("statistics")?,
            gradient: kernel("gradient")?,
        })
    }

    /// Compiled once a process and compute capability.
    fn ptx(&self, capability: (i32, i32)) -> Result<Arc<str>> {
        type Compiled = HashMap<(Specialisation, (i32, i32)), Arc<str>>;
        static COMPILED: Mutex<Option<Compiled>> = Mutex::new(None);
        // What is in the map is whole, whoever panicked beside it.
        let lock = || COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (*self, capability);
        if let Some(ptx) = lock().as_ref().and_then(|compiled| compiled.get(&key)) {
            return Ok(ptx.clone());
        }
        let mut options = self.options();
        let (major, minor) = capability;
        options.push(String::from("--std=c++17"));
        options.push(format!("--gpu-architecture=compute_{major}{minor}"));
        let options = CompileOptions {
            options,
            name: Some(self.name() + ".cu"),
            ..CompileOptions::default()
        };
        let ptx: Arc<str> = match compile_ptx_with_opts(SOURCE, options) {
            Ok(ptx) => ptx.to_src().into(),
            Err(CompileError::CompileError { log, .. }) => {
                bail!(
                    "NVRTC does not compile the kernels of dice-losses: {}",
                    log.to_string_lossy()
                )
            }
            Err(error) => bail!("NVRTC does not compile the kernels of dice-losses: {error}"),
        };
        lock().get_or_insert_default().insert(key, ptx.clone());
        Ok(ptx)
    }
}

/// The kernels of one specialisation, on a device.
pub(super) struct Kernels {
    pub(super) statistics: CudaFunction,
    pub(super) gradient: CudaFunction,
}

/// Specialisations of every kind, as `(name, text, options)`: what a check compiles that has NVRTC and no GPU.
pub(super) fn representative() -> Vec<(String, String, Vec<String>)> {
    use LabelKind::{I64, U8, U32};
    use TruthKind::{Dense, Labels, Smoothed};
    let base = Specialisation {
        element: 0,
        classes: 4,
        sigmoid: false,
        truth: Labels(U8),
        ignore: false,
        weights: WeightKind::None,
        power: Some(3),
        squared: false,
        pixel: 0,
        aligned: true,
        streamed: true,
    };
    let sigmoid = Specialisation {
        classes: 1,
        sigmoid: true,
        ..base
    };
    let many = Specialisation {
        classes: 0,
        aligned: false,
        streamed: false,
        ..base
    };
    let weights = [WeightKind::F32, WeightKind::Mask];
    let mut all = vec![base, sigmoid, many];
    for of in [base, sigmoid, many] {
        all.extend((0..6).map(|power| Specialisation {
            power: Some(power),
            pixel: power % 3,
            ..of
        }));
        all.push(Specialisation {
            power: None,
            pixel: 2,
            ..of
        });
        let truths = [Labels(U32), Smoothed(U8), Smoothed(I64), Dense];
        all.extend(
            truths
                .into_iter()
                .enumerate()
                .map(|(at, truth)| Specialisation {
                    truth,
                    power: Some([3, 5][at / 2]),
                    pixel: 2,
                    ignore: truth != Dense,
                    weights: weights[at % 2],
                    ..of
                }),
        );
        all.push(Specialisation {
            truth: Dense,
            squared: true,
            ..of
        });
        all.extend([1, 2].map(|element| Specialisation {
            element,
            ignore: true,
            pixel: 1,
            ..of
        }));
    }
    all.extend([2, 3, MOST_HELD as u8].map(|classes| Specialisation {
        classes,
        pixel: 1,
        ..base
    }));
    all.extend([0, 1].map(|element| Specialisation {
        element,
        truth: Labels(I64),
        aligned: false,
        streamed: false,
        ..base
    }));
    let mut seen = std::collections::HashSet::new();
    all.retain(|one| seen.insert(*one));
    all.iter()
        .map(|one| (one.name(), String::from(SOURCE), one.options()))
        .collect()
}
