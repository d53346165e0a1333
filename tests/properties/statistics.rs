//! Bytes as a prediction, its truth and a loss: the fused pass gives the sums, the values and the gradients of plain
//! operations in f64, and refuses what they refuse.

use std::ops::RangeInclusive;

use candle_core::{DType, Device, Result, Tensor, Var};
use dice_losses::{
    FocalCrossEntropy, Loss, LossSpec, MAX_GAMMA, Modulation, Prediction, Reduction, Region,
    RegionStats, Target, zoo::ZOO,
};
use half::{bf16, f16};

use super::{assert_sentence, bytes::Choices};

pub(crate) fn holds(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let question = choices.byte();
    let case = Case::draw(&mut choices);
    match question % 3 {
        0 => the_sums_agree(&case, &mut choices),
        1 => the_pixel_sums_agree(&case, &mut choices),
        _ => value_and_gradient_agree(&case, &mut choices),
    }
}

/// What is asked of both forms.
struct Case {
    /// The prediction as the fused pass is given it: of any dtype, a view of any strides.
    logits: View,
    multi_label: bool,
    target: Target,
    logits_are: Numbers,
    truth_is: Numbers,
    weights_are: Numbers,
}

/// What may be expected of sums of such numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Numbers {
    /// Both forms agree to rounding.
    Ordinary,
    /// Among ordinary ones some NaN: both forms show it.
    SomeNan,
    /// So large that a sum in f32 may leave its range: nothing panics.
    Any,
}

impl Numbers {
    /// Of numbers that are expected to be 0, or of a size that is expected.
    fn of(numbers: &[f64], sizes: RangeInclusive<f64>) -> Self {
        numbers.iter().fold(Self::Ordinary, |worst, x| {
            worst.max(if x.is_nan() {
                Self::SomeNan
            } else if *x == 0.0 || sizes.contains(&x.abs()) {
                Self::Ordinary
            } else {
                Self::Any
            })
        })
    }
}

impl Case {
    fn draw(choices: &mut Choices) -> Self {
        let shape = shape(choices);
        let dtype = choices.of(&[DType::F32, DType::F64, DType::F16, DType::BF16]);
        let multi_label = choices.rarely(3);
        let given = choices.byte();
        let logits_kind = choices.byte();
        let logits = View::draw(choices, &shape, |choices, count| {
            reals(choices, count, dtype, logits_kind)
        });
        let (target, truth_is) = target(choices, &shape, given);
        let (target, weights_are) = counted(choices, &shape, target);
        let logits_are = Numbers::of(&flat(&logits.seen()), LOGITS);
        Self {
            logits,
            multi_label,
            target,
            logits_are,
            truth_is,
            weights_are,
        }
    }

    fn prediction(&self, logits: &Tensor) -> Prediction {
        if self.multi_label {
            Prediction::multi_label(logits)
        } else {
            Prediction::logits(logits)
        }
    }

    fn fused(&self) -> Prediction {
        self.prediction(&self.logits.seen())
    }

    /// The same logits in f64.
    fn exact(&self) -> Prediction {
        let logits = self.logits.seen();
        let logits = if logits.elem_count() == 0 {
            Tensor::zeros(logits.dims(), DType::F64, &Device::Cpu)
        } else {
            logits.to_dtype(DType::F64)
        };
        self.prediction(&logits.expect("f64 is a dtype"))
    }

    fn dtype(&self) -> DType {
        self.logits.base.dtype()
    }

    /// What may be expected of sums over these numbers.
    fn expects(&self) -> Numbers {
        self.logits_are.max(self.truth_is).max(self.weights_are)
    }

    fn tolerance(&self) -> f64 {
        if self.dtype() == DType::F64 {
            1e-12
        } else {
            1e-6
        }
    }

    fn describe(&self) -> String {
        format!(
            "{:?} {:?} of strides {:?}, {}, {:?}",
            self.dtype(),
            self.logits.seen().dims(),
            self.logits.seen().stride(),
            if self.multi_label {
                "multi-label"
            } else {
                "logits"
            },
            self.expects()
        )
    }
}

/// Logits of this size have ordinary powers and logarithms in f32.
const LOGITS: RangeInclusive<f64> = 0.0..=1e4;
/// Weights of this size have ordinary sums in f32, whatever dtype they are of.
const WEIGHTS: RangeInclusive<f64> = 1e-4..=1e4;
/// Truths of this size are above 0 in f32 too, and make no region an empty one.
const TRUTHS: RangeInclusive<f64> = 1e-30..=2.0;
/// Numbers of a prediction: few enough for many cases a second.
const FEW: usize = 1 << 9;
/// Numbers of a prediction that has several blocks.
const SEVERAL: usize = 1 << 12;
/// Numbers of a prediction whose pixels are shared among threads.
const MANY: usize = 1 << 16;

/// `[N, C, …]` with none to three dimensions of space; each may be 0.
fn shape(choices: &mut Choices) -> Vec<usize> {
    let mut room = match choices.byte() {
        u8::MAX => MANY,
        240.. => SEVERAL,
        _ => FEW,
    };
    let mut side = |choices: &mut Choices, sides: &[usize]| {
        let side = choices.of(sides).min(room);
        room /= side.max(1);
        side
    };
    let items = side(choices, &[1, 2, 3, 1, 2, 1, 1, 0]);
    let channels = side(choices, &[2, 1, 3, 4, 5, 2, 1, 3, 2, 7, 18, 0]);
    let mut shape = vec![items, channels];
    let sides: &[usize] = match choices.below(4) {
        0 => &[
            1, 2, 3, 5, 8, 15, 16, 17, 31, 64, 65, 100, 1023, 1024, 1025, 2049, 20_000, 0,
        ],
        _ => &[1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33, 64, 0],
    };
    for _ in 0..choices.below(4) {
        shape.push(side(choices, sides));
    }
    shape
}

/// A tensor and the view of it that is handed on.
struct View {
    base: Tensor,
    steps: Vec<Step>,
}

/// A step from a tensor to a view of it.
#[derive(Clone, Copy, Debug)]
enum Step {
    Transpose(usize, usize),
    Narrow {
        dim: usize,
        start: usize,
        len: usize,
    },
    Expand {
        dim: usize,
        len: usize,
    },
}

impl Step {
    fn of(self, tensor: &Tensor) -> Result<Tensor> {
        match self {
            Self::Transpose(a, b) => tensor.transpose(a, b),
            Self::Narrow { dim, start, len } => tensor.narrow(dim, start, len),
            Self::Expand { dim, len } => {
                let mut shape = tensor.dims().to_vec();
                shape[dim] = len;
                tensor.expand(shape)
            }
        }
    }

    /// The shape that becomes `shape` by this step.
    fn before(self, shape: &mut [usize], behind: usize) {
        match self {
            Self::Transpose(a, b) => shape.swap(a, b),
            Self::Narrow { dim, start, len } => shape[dim] = start + len + behind,
            Self::Expand { dim, .. } => shape[dim] = 1,
        }
    }
}

impl View {
    /// A view of a shape, of numbers that `tensor` makes for the shape of its base.
    fn draw(
        choices: &mut Choices,
        shape: &[usize],
        tensor: impl FnOnce(&mut Choices, &[usize]) -> Tensor,
    ) -> Self {
        let mut base = shape.to_vec();
        let mut steps = Vec::new();
        for _ in 0..choices.of(&[0, 0, 1, 2]) {
            let dim = choices.below(shape.len());
            let step = match choices.below(3) {
                0 => Step::Transpose(dim, choices.below(shape.len())),
                1 => Step::Narrow {
                    dim,
                    start: choices.below(3),
                    len: base[dim],
                },
                _ => Step::Expand {
                    dim,
                    len: base[dim],
                },
            };
            step.before(&mut base, choices.below(3));
            steps.push(step);
        }
        steps.reverse();
        Self {
            base: tensor(choices, &base),
            steps,
        }
    }

    fn seen(&self) -> Tensor {
        self.of(&self.base)
    }

    /// The same view of another tensor of the base's shape.
    fn of(&self, base: &Tensor) -> Tensor {
        let view = self
            .steps
            .iter()
            .try_fold(base.clone(), |tensor, step| step.of(&tensor));
        view.expect("a view of the shape it was made for")
    }

    /// Whether some number is seen more than once.
    fn repeats(&self) -> bool {
        let repeats = |step: &Step| matches!(step, Step::Expand { len, .. } if *len != 1);
        self.steps.iter().any(repeats)
    }
}

/// The bytes that are left, over and over: a short input has large tensors.
fn cycled<'a>(choices: &Choices<'a>) -> impl Iterator<Item = u8> + use<'a> {
    let rest = choices.rest();
    let rest = if rest.is_empty() {
        &[0x35, 0xC9, 0x07]
    } else {
        rest
    };
    // Two rounds see the same bytes at different places.
    rest.iter().copied().cycle()
}

/// Numbers of a dtype: small, with extreme ones among them, or any bits.
fn reals(choices: &mut Choices, shape: &[usize], dtype: DType, kind: u8) -> Tensor {
    let mut bytes = cycled(choices);
    let mut byte = || bytes.next().unwrap_or_default();
    let extremes = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        20.0,
        -20.0,
        50.0,
        -50.0,
        88.0,
        -104.0,
        700.0,
        -746.0,
        9999.0,
        -9999.0,
        1e-3,
        5e-324,
        6e4,
        -6e4,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::MAX,
    ];
    let (tame, wild) = (&extremes[..15], &extremes[..]);
    let mut number = || {
        let first = byte();
        let small = f64::from(first as i8) / 16.0;
        match kind % 8 {
            0..=2 => small,
            3 => small * 32.0,
            4 => tame[usize::from(first) % tame.len()],
            5 if first >= 16 => small,
            5 => f64::NAN,
            6 => wild[usize::from(first) % wild.len()],
            _ => match dtype {
                DType::F64 => f64::from_le_bytes([
                    first,
                    byte(),
                    byte(),
                    byte(),
                    byte(),
                    byte(),
                    byte(),
                    byte(),
                ]),
                DType::F32 => f32::from_le_bytes([first, byte(), byte(), byte()]).into(),
                DType::F16 => f16::from_le_bytes([first, byte()]).into(),
                _ => bf16::from_le_bytes([first, byte()]).into(),
            },
        }
    };
    let numbers: Vec<f64> = (0..shape.iter().product()).map(|_| number()).collect();
    tensor(numbers, shape, dtype)
}

fn tensor(numbers: Vec<f64>, shape: &[usize], dtype: DType) -> Tensor {
    let tensor = Tensor::from_vec(numbers, shape, &Device::Cpu);
    tensor
        .and_then(|tensor| tensor.to_dtype(dtype))
        .expect("as many numbers as the shape has")
}

/// The truth: class numbers or a dense map, of the shape that fits or, rarely, of another.
fn target(choices: &mut Choices, shape: &[usize], given: u8) -> (Target, Numbers) {
    let classes = shape[1].max(2) as i64;
    if given % 4 == 3 {
        let dtype = choices.of(&[DType::F32, DType::F64, DType::F16, DType::BF16, DType::U8]);
        let kind = choices.byte();
        let mut shape = shape.to_vec();
        if choices.rarely(32) {
            shape.push(1);
        }
        let map = View::draw(choices, &shape, |choices, shape| {
            dense(choices, shape, dtype, kind)
        });
        let map = map.seen();
        let target = Target::dense(&map);
        let target = if choices.rarely(32) {
            target.ignore_label(255)
        } else {
            target
        };
        return (target, Numbers::of(&flat(&map), TRUTHS));
    }
    let dtype = choices.of(&[DType::U8, DType::U32, DType::I64, DType::I16, DType::I32]);
    let ignore = match choices.below(6) {
        0 | 1 => None,
        2 => Some(255),
        3 => Some(0),
        4 => Some(-100),
        _ => Some(i64::from_le_bytes(choices.array())),
    };
    let kind = choices.byte();
    let shape = of_pixels(choices, shape);
    let labels = View::draw(choices, &shape, |choices, shape| {
        let labels = labels(choices, shape, classes, ignore, kind);
        let labels = Tensor::from_vec(labels, shape, &Device::Cpu);
        labels
            .and_then(|labels| labels.to_dtype(dtype))
            .expect("as many labels as the shape has")
    });
    let target = Target::labels(&labels.seen());
    let target = match ignore {
        Some(ignore) => target.ignore_label(ignore),
        None => target,
    };
    (target, Numbers::Ordinary)
}

/// `[N, …]` or `[N, 1, …]`; rarely a shape that does not fit.
fn of_pixels(choices: &mut Choices, shape: &[usize]) -> Vec<usize> {
    let mut pixels = vec![shape[0]];
    match choices.byte() {
        0 => pixels.push(2),
        odd if odd % 2 == 1 => pixels.push(1),
        _ => {}
    }
    pixels.extend(&shape[2..]);
    pixels
}

fn labels(
    choices: &Choices,
    shape: &[usize],
    classes: i64,
    ignore: Option<i64>,
    kind: u8,
) -> Vec<i64> {
    let mut bytes = cycled(choices);
    let mut byte = || i64::from(bytes.next().unwrap_or_default());
    let mut label = || match (kind % 8, byte()) {
        (0, _) => 0,
        (1, _) => ignore.unwrap_or(1),
        (2, any) => any,
        (3, first) => i64::from_le_bytes(std::array::from_fn(|at| {
            if at == 0 { first as u8 } else { byte() as u8 }
        })),
        (_, any) if any % 16 == 15 => ignore.unwrap_or(1),
        (_, any) => any % classes,
    };
    (0..shape.iter().product()).map(|_| label()).collect()
}

/// A dense truth: 0 and 1, shares, or also what is none.
fn dense(choices: &mut Choices, shape: &[usize], dtype: DType, kind: u8) -> Tensor {
    if kind % 8 == 7 {
        let real = if dtype.is_float() { dtype } else { DType::F32 };
        return reals(choices, shape, real, 7);
    }
    let mut bytes = cycled(choices);
    let mut share = || {
        let byte = bytes.next().unwrap_or_default();
        match kind % 8 {
            0..=2 => f64::from(byte % 2),
            3..=5 => f64::from(byte) / 255.0,
            _ => [0.0, 1.0, 0.5, 1.0005, -0.0005, 1e-9, f64::NAN, 2.0][usize::from(byte) % 8],
        }
    };
    let shares = (0..shape.iter().product()).map(|_| share()).collect();
    tensor(shares, shape, dtype)
}

/// The target with a mask, weights a pixel and an item, and smoothing, each of which it may have.
fn counted(choices: &mut Choices, shape: &[usize], mut target: Target) -> (Target, Numbers) {
    let mut weights_are = Numbers::Ordinary;
    let mut weights = |choices: &mut Choices, shape: &[usize]| {
        let dtype = choices.of(&[DType::F32, DType::F64, DType::F16, DType::BF16]);
        let kind = choices.byte();
        let view = View::draw(choices, shape, |choices, shape| {
            if kind % 8 == 7 {
                return reals(choices, shape, dtype, choices.clone().byte());
            }
            let bytes = cycled(choices);
            let count = shape.iter().product();
            let weights = bytes.take(count).map(|byte| f64::from(byte / 16) / 4.0);
            tensor(weights.collect(), shape, dtype)
        });
        let view = view.seen();
        weights_are = weights_are.max(Numbers::of(&flat(&view), WEIGHTS));
        view
    };
    let flags = choices.byte();
    if flags & 1 != 0 {
        let shape = of_pixels(choices, shape);
        target = target.pixel_weights(&weights(choices, &shape));
    }
    if flags & 2 != 0 {
        let items = if choices.rarely(32) { 5 } else { shape[0] };
        target = target.sample_weights(&weights(choices, &[items]));
    }
    if flags & 4 != 0 {
        let dtype = choices.of(&[DType::U8, DType::F32, DType::I64]);
        let shape = of_pixels(choices, shape);
        let mask = View::draw(choices, &shape, |choices, shape| {
            let bytes = cycled(choices);
            let mask = bytes
                .take(shape.iter().product())
                .map(|byte| f64::from(byte % 3));
            tensor(mask.collect(), shape, dtype)
        });
        target = target.mask(&mask.seen());
    }
    if flags & 8 != 0 {
        target = target.smoothing(choices.of(&[0.1, 0.5, 0.0, 0.999, 1.0, -0.1, f64::NAN]));
    }
    (target, weights_are)
}

/// The exponents over which both forms are expected to agree, and some that are far off or none.
const GAMMAS: &[f64] = &[
    2.0,
    0.5,
    0.75,
    1.0,
    1.5,
    3.0,
    5.0,
    0.1,
    1e-3,
    40.0,
    1e300,
    0.0,
    -1.0,
    f64::NAN,
    f64::INFINITY,
];

fn is_ordinary(gamma: f64) -> bool {
    (0.5..=5.0).contains(&gamma)
}

fn the_sums_agree(case: &Case, choices: &mut Choices) {
    let gamma = choices.of(GAMMAS);
    let modulation = match choices.below(4) {
        0 => Modulation::Plain,
        1 => Modulation::SquaredDifference,
        2 => Modulation::Power(gamma),
        _ => Modulation::from_gamma(gamma),
    };
    let region = choices.of(&[Region::Item, Region::Batch]);
    let what = format!("{modulation:?}, {}", case.describe());
    let ours = RegionStats::new(&case.fused(), &case.target, modulation, region);
    let exact = RegionStats::composed(&case.exact(), &case.target, modulation, region);
    let Some((ours, exact)) = both(ours, exact, case.weights_are, &what) else {
        return;
    };
    let gamma_is_ordinary = is_ordinary(modulation.gamma());
    for (name, ours, exact) in [
        ("tp", &ours.tp, &exact.tp),
        ("fp", &ours.fp, &exact.fp),
        ("fn", &ours.fn_, &exact.fn_),
        ("volume", &ours.volume, &exact.volume),
        ("predicted", &ours.predicted, &exact.predicted),
        ("pixels", &ours.pixels, &exact.pixels),
    ] {
        assert_eq!(ours.dims(), exact.dims(), "{name}, {what}");
        if case.expects() == Numbers::Ordinary && gamma_is_ordinary {
            assert_close(
                &flat(ours),
                &flat(exact),
                case.tolerance(),
                &format!("{name}, {what}"),
            );
        }
    }
}

fn the_pixel_sums_agree(case: &Case, choices: &mut Choices) {
    let focus = choices.of(&[0.0, 2.0, 0.5, 1.0, 0.1, 5.0, 60.0, -1.0, f64::NAN]);
    let log_power = choices.of(&[1.0, 0.3, 2.0, 0.05, 9.0, 0.0, f64::INFINITY]);
    let loss = FocalCrossEntropy::new(1.0, focus)
        .log_power(log_power)
        .reduction(choices.of(&[Reduction::None, Reduction::Sum, Reduction::Mean]));
    let what = format!("focus {focus}, k {log_power}, {}", case.describe());
    let ours = loss.evaluate(&case.fused(), &case.target);
    let exact = loss.evaluate_composed(&case.exact(), &case.target);
    let Some((ours, exact)) = both(ours, exact, case.weights_are, &what) else {
        return;
    };
    assert_eq!(ours.dims(), exact.dims(), "{what}");
    // What f32 holds no longer, −ln p of a logit above 90, is still a number to a power as low as 0.05.
    let is_ordinary = focus <= 5.0 && (0.3..=2.0).contains(&log_power);
    if is_ordinary && case.expects() == Numbers::Ordinary {
        assert_close(&flat(&ours), &flat(&exact), case.tolerance(), &what);
    }
}

/// A loss of the zoo with some of its settings.
fn spec(choices: &mut Choices) -> (LossSpec, bool) {
    let row = &ZOO[choices.below(ZOO.len())];
    let gamma = GAMMAS[choices.below(12)].clamp(1e-3, MAX_GAMMA);
    let mut text = String::from(row.name);
    let mut joint = ':';
    let mut set = |text: &mut String, setting: &str| {
        text.push(joint);
        text.push_str(setting);
        joint = ',';
    };
    if row.plus_plus() && choices.byte().is_multiple_of(2) {
        text.push_str("++");
        set(&mut text, &format!("gamma={gamma}"));
    }
    if row.has_regions() {
        let settings = [
            "classes=all",
            "classes=fg",
            "classes=0",
            "classes=1",
            "region=batch",
            "empty=skip",
            "empty=zero",
            "empty=one",
            "empty=ratio",
            "smooth=1",
            "class_reduction=sum",
            "preset=paper",
        ];
        if choices.byte() % 2 == 1 {
            set(&mut text, choices.of(&settings));
        }
    }
    let spec = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
    (spec, is_ordinary(gamma))
}

fn value_and_gradient_agree(case: &Case, choices: &mut Choices) {
    let (spec, gamma_is_ordinary) = spec(choices);
    let loss = spec.build();
    let what = format!("{spec}, {}", case.describe());
    let ours = loss.value_and_grad(&case.fused(), &case.target);
    let exact = composed(loss.as_ref(), case);
    let Some(((value, gradient), (exact, exact_gradient))) =
        both(ours, exact, case.weights_are, &what)
    else {
        return;
    };
    assert_eq!(gradient.dims(), case.logits.seen().dims(), "{what}");
    assert_eq!(gradient.dtype(), case.dtype(), "{what}");
    the_ways_agree(case, loss.as_ref(), &value, &gradient, &what);
    if case.expects() == Numbers::Ordinary {
        let odd = flat(&value)
            .into_iter()
            .chain(flat(&gradient))
            .find(|number| !number.is_finite());
        assert_eq!(odd, None, "{what}");
    }
    // −ln of an index near 0 is as ill-conditioned as the index is small, and so is its root: the sums are what is
    // compared, above.
    if ["exponential-log", "focal-dice"].contains(&spec.row().name) || !gamma_is_ordinary {
        return;
    }
    let (value, gradient) = (flat(&value)[0], flat(&gradient));
    match case.expects() {
        Numbers::Ordinary => {
            assert!(
                (value - exact).abs() <= case.tolerance() * (1.0 + exact.abs()),
                "{what}: value {value}, exact {exact}"
            );
            assert_near(&gradient, &exact_gradient, case.dtype(), &what);
        }
        Numbers::SomeNan => {
            assert_eq!(
                value.is_nan(),
                exact.is_nan(),
                "{what}: {value}, exact {exact}"
            );
        }
        Numbers::Any => {}
    }
}

/// Value and gradient from sums of plain operations.
fn composed(loss: &dyn Loss, case: &Case) -> Result<(f64, Vec<f64>)> {
    let exact = case.exact();
    let var = Var::from_tensor(exact.values())?;
    let value = loss.evaluate_composed(&case.prediction(var.as_tensor()), &case.target)?;
    let gradients = value.sum_all()?.backward()?;
    let gradient = gradients.get(&var);
    let gradient = gradient.map_or_else(|| vec![0.0; var.elem_count()], flat);
    Ok((flat(&value)[0], gradient))
}

/// The fused pass as an operation of a graph, over a view or over a copy of it, is the fused pass.
fn the_ways_agree(case: &Case, loss: &dyn Loss, value: &Tensor, gradient: &Tensor, what: &str) {
    let var = Var::from_tensor(&case.logits.base).expect("a variable");
    let seen = case.logits.of(var.as_tensor());
    let prediction = case.prediction(&seen);
    assert_eq!(prediction.activation(), case.fused().activation());
    let in_graph = loss
        .loss(&prediction, &case.target)
        .expect("what was computed before");
    assert_eq!(bits(&in_graph), bits(value), "the value of a graph, {what}");
    let copy = seen.force_contiguous().expect("a copy").detach();
    let of_copy = loss.value_and_grad(&case.prediction(&copy), &case.target);
    let (value_of_copy, gradient_of_copy) = of_copy.expect("what was computed before");
    assert_eq!(
        bits(&value_of_copy),
        bits(value),
        "the value of a copy, {what}"
    );
    assert_eq!(
        bits(&gradient_of_copy),
        bits(gradient),
        "the gradient of a copy, {what}"
    );
    // Where a number is seen twice its gradient is a sum; and NaN is not equal to itself.
    if case.logits.repeats() || case.expects() != Numbers::Ordinary {
        return;
    }
    let gradients = in_graph.backward().expect("a gradient");
    let in_graph = gradients.get(&var).map(|gradient| case.logits.of(gradient));
    let in_graph = in_graph.map_or_else(|| vec![0.0; seen.elem_count()], |g| flat(&g));
    // Candle's additions on the way may lose what lies below the smallest normal number.
    for (in_graph, alone) in in_graph.iter().zip(flat(gradient)) {
        assert!(
            (in_graph - alone).abs() <= f64::from(f32::MIN_POSITIVE),
            "the gradient of a graph, {what}: {in_graph}, alone {alone}"
        );
    }
}

/// What both forms gave, or nothing where both refused. Of several faults either may be the one that is named.
///
/// A weight that is 0 or infinite in f32 may be neither in f64, and what counts differs.
fn both<A, B>(
    ours: Result<A>,
    exact: Result<B>,
    weights_are: Numbers,
    what: &str,
) -> Option<(A, B)> {
    let sentence = |error: candle_core::Error| {
        let error = error.to_string();
        let sentence = error.lines().next().unwrap_or_default().to_owned();
        assert_sentence(&sentence);
        sentence
    };
    match (ours, exact) {
        (Ok(ours), Ok(exact)) => Some((ours, exact)),
        (Err(ours), Err(exact)) => {
            sentence(ours);
            sentence(exact);
            None
        }
        _ if weights_are == Numbers::Any => None,
        (Err(ours), Ok(_)) => panic!(
            "refused by the fused pass alone: {}; {what}",
            sentence(ours)
        ),
        (Ok(_), Err(exact)) => panic!("taken by the fused pass alone: {}; {what}", sentence(exact)),
    }
}

/// All numbers of a tensor.
fn flat(tensor: &Tensor) -> Vec<f64> {
    if tensor.elem_count() == 0 {
        return Vec::new();
    }
    tensor
        .to_dtype(DType::F64)
        .and_then(|tensor| tensor.flatten_all()?.to_vec1())
        .expect("a tensor of numbers")
}

/// All numbers of a tensor by their bits, every NaN alike.
fn bits(tensor: &Tensor) -> Vec<u64> {
    let bits = |x: f64| if x.is_nan() { f64::NAN } else { x }.to_bits();
    flat(tensor).into_iter().map(bits).collect()
}

#[track_caller]
fn assert_close(ours: &[f64], exact: &[f64], tolerance: f64, what: &str) {
    assert_eq!(ours.len(), exact.len(), "{what}");
    for (at, (ours, exact)) in ours.iter().zip(exact).enumerate() {
        assert!(
            (ours - exact).abs() <= tolerance * (1.0 + exact.abs()),
            "{what}, number {at}: {ours}, exact {exact}"
        );
    }
}

/// A gradient against the exact one, with the relative tolerances of `fused`. The room for what is left of terms that
/// cancel, as in a softmax of equal logits, is wider: a fuzzer finds the worst of it.
#[track_caller]
fn assert_near(ours: &[f64], exact: &[f64], dtype: DType, what: &str) {
    let (relative, absolute) = match dtype {
        DType::F64 => (1e-12, 1e-13),
        DType::F32 => (2e-6, 1e-6),
        DType::F16 => (1e-3, 2e-7 * (exact.len() as f64).sqrt()),
        _ => (8e-3, 1e-6),
    };
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut ours.iter().zip(exact).map(|(ours, exact)| ours - exact));
    let size = norm(&mut exact.iter().copied());
    let room = relative * size + absolute;
    assert!(
        difference <= room,
        "{what}: gradient off by {difference:e} of {size:e}"
    );
}
