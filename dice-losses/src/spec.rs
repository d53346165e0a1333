//! A loss as text: `focal-tversky++:gamma=2,alpha=0.3`.
//!
//! ```text
//! spec = name [ "++" ] [ ":" key "=" value { "," key "=" value } ]
//! ```
//!
//! `++` alone means γ = 2. The keys are the row's parameters in [`crate::zoo::ZOO`] and, where it has regions, those of
//! [`REGION_PARAMETERS`]; `preset=paper` takes the equations as printed where the authors' code differs.

use std::{
    error::Error,
    fmt::{self, Write as _},
    ops::Bound::{self, Excluded, Included, Unbounded},
    ops::RangeBounds as _,
    str::FromStr,
};

use crate::{
    index::{RegionIndex, Tversky},
    loss::Loss,
    options::{ClassReduction, Classes, EmptyRegion, Region},
    region::RegionLoss,
    stats::MAX_GAMMA,
    zoo::{Errors, Row, ZOO, find},
};

/// γ of a `++` that does not say: the paper's choice.
pub const DEFAULT_GAMMA: f64 = 2.0;

/// A parameter of a loss: its key, default, range and meaning.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parameter {
    /// The key in a specification, and the name of the Rust argument or field.
    pub name: &'static str,
    /// What it is for.
    pub meaning: &'static str,
    /// What values it takes.
    pub kind: Kind,
}

/// What values a parameter takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A finite number in a range.
    Number {
        /// If not given.
        default: f64,
        /// Where the range begins and ends.
        range: (Bound<f64>, Bound<f64>),
    },
    /// One of these words; the first is the default.
    Choice(&'static [&'static str]),
    /// `all`, `fg`, or class numbers joined by `+`; `all` is the default.
    Classes,
}

impl Parameter {
    /// A number in a range.
    pub(crate) const fn number(
        name: &'static str,
        default: f64,
        range: (Bound<f64>, Bound<f64>),
        meaning: &'static str,
    ) -> Self {
        let kind = Kind::Number { default, range };
        Self {
            name,
            meaning,
            kind,
        }
    }

    /// One of some words, the first by default.
    pub(crate) const fn choice(
        name: &'static str,
        words: &'static [&'static str],
        meaning: &'static str,
    ) -> Self {
        Self {
            name,
            meaning,
            kind: Kind::Choice(words),
        }
    }

    /// The value if none is given.
    fn default_value(&self) -> Value {
        match self.kind {
            Kind::Number { default, .. } => Value::Number(default),
            Kind::Choice(words) => Value::Word(words[0]),
            Kind::Classes => Value::Classes(Classes::All),
        }
    }

    /// The default as a specification writes it.
    ///
    /// ```
    /// use dice_losses::spec::REGION_PARAMETERS;
    /// let smooth = REGION_PARAMETERS.iter().find(|parameter| parameter.name == "smooth").unwrap();
    /// assert_eq!((smooth.default_text().as_str(), smooth.allowed().as_str()), ("0.0000001", "0 or more"));
    /// ```
    pub fn default_text(&self) -> String {
        self.default_value().to_string()
    }

    /// The values it takes, in words: `above 0`, `from 0 to 1`, `mean or sum`.
    pub fn allowed(&self) -> String {
        match self.kind {
            Kind::Number { range, .. } => match range {
                (Excluded(min), Unbounded) => format!("above {min}"),
                (Excluded(min), Included(max)) => format!("above {min} and at most {max}"),
                (Included(min), Excluded(max)) => format!("from {min} to below {max}"),
                (Included(min), Included(max)) => format!("from {min} to {max}"),
                (Included(min), Unbounded) => format!("{min} or more"),
                (min, max) => format!("within {min:?} and {max:?}"),
            },
            Kind::Choice(words) => match words {
                [others @ .., last] if !others.is_empty() => {
                    format!("{} or {last}", others.join(", "))
                }
                words => words.concat(),
            },
            Kind::Classes => String::from("all, fg, or class numbers such as 1+3"),
        }
    }

    fn parse(&self, text: &str, loss: &str) -> Result<Value, SpecError> {
        let refused = || {
            SpecError(format!(
                "`{}` of `{loss}` must be {}, found `{text}`",
                self.name,
                self.allowed()
            ))
        };
        match self.kind {
            Kind::Number { range, .. } => match text.parse::<f64>() {
                Ok(value) if value.is_finite() && range.contains(&value) => {
                    Ok(Value::Number(value))
                }
                _ => Err(refused()),
            },
            Kind::Choice(words) => words
                .iter()
                .find(|word| **word == text)
                .map(|word| Value::Word(word))
                .ok_or_else(refused),
            Kind::Classes => match text {
                "all" => Ok(Value::Classes(Classes::All)),
                "fg" => Ok(Value::Classes(Classes::Foreground)),
                list => {
                    let classes: Result<Vec<usize>, _> = list.split('+').map(str::parse).collect();
                    classes
                        .map(|classes| Value::Classes(Classes::Listed(classes)))
                        .map_err(|_| refused())
                }
            },
        }
    }
}

/// The choices of every loss with regions.
pub static REGION_PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "classes",
        meaning: "classes that count",
        kind: Kind::Classes,
    },
    Parameter::choice(
        "class_reduction",
        &["mean", "sum"],
        "how the losses of the classes become one",
    ),
    Parameter::choice(
        "region",
        &["item", "batch"],
        "one ratio an item, or one over the whole batch",
    ),
    Parameter::choice(
        "empty",
        &["penalty", "skip", "zero", "one", "ratio"],
        "what a region without truth costs: mean probability, nothing, 0, 1, or what the formula gives",
    ),
    Parameter::number(
        "smooth",
        1e-7,
        (Included(0.0), Unbounded),
        "added to numerator and denominator, in pixels",
    ),
];

const GAMMA: Parameter = Parameter::number(
    "gamma",
    DEFAULT_GAMMA,
    (Excluded(0.0), Included(MAX_GAMMA)),
    "exponent on false positives and false negatives",
);

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Number(f64),
    Word(&'static str),
    Classes(Classes),
}

/// A loss of the zoo with all its parameters: parsed from text, written back in full.
///
/// ```
/// use dice_losses::LossSpec;
/// let spec: LossSpec = "focal-tversky++:alpha=0.4".parse()?;
/// assert_eq!(
///     spec.to_string(),
///     "focal-tversky++:gamma=2,alpha=0.4,beta=0.7,power=0.75,classes=all,class_reduction=mean,region=item,\
///      empty=penalty,smooth=0.0000001"
/// );
/// assert_eq!(spec.to_string().parse::<LossSpec>()?, spec);
/// let loss = spec.build();
/// # use dice_losses::{Loss, candle_core::{Device, Tensor}};
/// # let logits = Tensor::new(&[[[30f32, -30.], [-30., 30.]]], &Device::Cpu).unwrap();
/// # let labels = Tensor::new(&[[0u8, 1]], &Device::Cpu).unwrap();
/// assert!(loss.loss(&(&logits).into(), &(&labels).into()).unwrap().to_scalar::<f32>().unwrap() < 1e-6);
/// # Ok::<(), dice_losses::SpecError>(())
/// ```
#[derive(Clone)]
pub struct LossSpec {
    row: &'static Row,
    gamma: Option<f64>,
    /// In the order of [`LossSpec::parameters`].
    values: Vec<Value>,
}

impl LossSpec {
    /// The row of the zoo.
    pub fn row(&self) -> &'static Row {
        self.row
    }

    /// γ, if the loss was asked for with `++`.
    pub fn gamma(&self) -> Option<f64> {
        self.gamma
    }

    /// The name with `++` if it has one: `focal-tversky++`.
    pub fn name(&self) -> String {
        format!(
            "{}{}",
            self.row.name,
            if self.gamma.is_some() { "++" } else { "" }
        )
    }

    /// The loss. A specification that parsed has only valid parameters, so this cannot fail; what can depend on the
    /// prediction, such as the number of classes, is reported when the loss is computed.
    pub fn build(&self) -> Box<dyn Loss> {
        (self.row.build)(self)
    }

    /// Smallest and largest value over predictions of this many classes.
    pub fn range(&self, classes: usize) -> (f64, f64) {
        (self.row.range)(self, classes)
    }

    /// The value at a perfect prediction.
    pub fn perfection(&self) -> f64 {
        (self.row.perfection)(self)
    }

    /// The row's parameters, then those of every region loss.
    pub fn parameters(row: &'static Row) -> impl Iterator<Item = &'static Parameter> {
        let region: &[Parameter] = if row.has_regions() {
            REGION_PARAMETERS
        } else {
            &[]
        };
        row.parameters.iter().chain(region)
    }

    fn value(&self, name: &str) -> Option<&Value> {
        Self::parameters(self.row)
            .position(|parameter| parameter.name == name)
            .map(|at| &self.values[at])
    }

    pub(crate) fn number(&self, name: &str) -> f64 {
        match self.value(name) {
            Some(Value::Number(number)) => *number,
            _ => unreachable!("`{}` has a number `{name}` in its row", self.row.name),
        }
    }

    pub(crate) fn word(&self, name: &str) -> &'static str {
        match self.value(name) {
            Some(Value::Word(word)) => word,
            _ => "",
        }
    }

    /// Sets the region choices of the specification and its smoothing on the region part of a loss.
    pub(crate) fn region_part(&self, loss: RegionLoss<Tversky>) -> RegionLoss<Tversky> {
        let smooth = self.number("smooth");
        let swap = self.word("delta_on") == "fp";
        let loss = loss.map_index(|Tversky { alpha, beta, .. }| {
            let (alpha, beta) = if swap { (beta, alpha) } else { (alpha, beta) };
            Tversky {
                alpha,
                beta,
                smooth,
            }
        });
        self.region_choices(loss)
    }

    /// Sets the region choices of the specification on a loss of any index.
    pub(crate) fn region_choices<I: RegionIndex>(&self, loss: RegionLoss<I>) -> RegionLoss<I> {
        let classes = match self.value("classes") {
            Some(Value::Classes(classes)) => classes.clone(),
            _ => Classes::All,
        };
        let loss = match self.gamma {
            Some(gamma) => loss.plus_plus(gamma),
            None => loss,
        };
        loss.classes(classes)
            .class_reduction(if self.word("class_reduction") == "sum" {
                ClassReduction::Sum
            } else {
                ClassReduction::Mean
            })
            .region(if self.word("region") == "batch" {
                Region::Batch
            } else {
                Region::Item
            })
            .empty(match self.word("empty") {
                "skip" => EmptyRegion::Skip,
                "zero" => EmptyRegion::Zero,
                "one" => EmptyRegion::One,
                "ratio" => EmptyRegion::Ratio,
                _ => EmptyRegion::Penalty,
            })
    }

    fn set(&mut self, key: &str, text: &str) -> Result<(), SpecError> {
        let Some(at) = Self::parameters(self.row).position(|parameter| parameter.name == key)
        else {
            let mut known: Vec<&str> = Self::parameters(self.row)
                .map(|parameter| parameter.name)
                .collect();
            if self.gamma.is_some() {
                known.insert(0, GAMMA.name);
            }
            let known = match known.as_slice() {
                [] => String::from("it has none"),
                known => format!("it has {}", known.join(", ")),
            };
            let hint = if key == "gamma" && self.row.plus_plus() {
                format!("; γ belongs to `{}++`", self.row.name)
            } else {
                String::new()
            };
            return Err(SpecError(format!(
                "`{}` has no parameter `{key}`; {known}{hint}",
                self.name()
            )));
        };
        let parameter = Self::parameters(self.row)
            .nth(at)
            .expect("the position was found in the same list");
        self.values[at] = parameter.parse(text, &self.name())?;
        Ok(())
    }
}

impl FromStr for LossSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let text = text.trim();
        let (head, pairs) = text
            .split_once(':')
            .map_or((text, None), |(head, pairs)| (head, Some(pairs)));
        let (name, plus_plus) = head
            .strip_suffix("++")
            .map_or((head, false), |name| (name, true));
        let Some(row) = find(name) else {
            let known: Vec<&str> = ZOO.iter().map(|row| row.name).collect();
            return Err(SpecError(format!(
                "unknown loss `{name}`; known losses: {}",
                known.join(", ")
            )));
        };
        match (plus_plus, row.errors) {
            (true, Errors::None) => {
                return Err(SpecError(format!(
                    "`{0}` has no false-positive or false-negative terms, so `++` does not apply to it; use `{0}`, or a \
                     loss with a region part such as `combo++`",
                    row.name
                )));
            }
            (true, Errors::Squared) => {
                return Err(SpecError(format!(
                    "`{0}` has squared errors by definition, so `++` does not apply to it; use `{0}`, or `dice++` for \
                     another exponent",
                    row.name
                )));
            }
            _ => {}
        }
        let mut spec = Self {
            row,
            gamma: plus_plus.then_some(DEFAULT_GAMMA),
            values: Self::parameters(row)
                .map(Parameter::default_value)
                .collect(),
        };
        let mut given: Vec<(&str, &str)> = Vec::new();
        for pair in pairs.into_iter().flat_map(|pairs| pairs.split(',')) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(SpecError(format!(
                    "expected `key=value` after `:` in `{text}`, found `{pair}`"
                )));
            };
            if given.iter().any(|(other, _)| *other == key) {
                return Err(SpecError(format!("`{key}` is given twice in `{text}`")));
            }
            given.push((key, value));
        }
        // The preset first, wherever it stands: what is given by name overrides it.
        for (_, preset) in given.iter().filter(|(key, _)| *key == "preset") {
            match *preset {
                "authors" => {}
                "paper" => row
                    .paper
                    .iter()
                    .try_for_each(|(key, value)| spec.set(key, value))?,
                other => {
                    return Err(SpecError(format!(
                        "unknown preset `{other}`; known presets: authors, paper"
                    )));
                }
            }
        }
        for (key, value) in given.into_iter().filter(|(key, _)| *key != "preset") {
            match (key, spec.gamma) {
                ("gamma", Some(_)) => {
                    let Value::Number(gamma) = GAMMA.parse(value, &spec.name())? else {
                        unreachable!("γ is a number")
                    };
                    spec.gamma = Some(gamma);
                }
                _ => spec.set(key, value)?,
            }
        }
        Ok(spec)
    }
}

impl fmt::Display for LossSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())?;
        let gamma = self.gamma.map(|gamma| (GAMMA.name, Value::Number(gamma)));
        let values = Self::parameters(self.row)
            .map(|parameter| parameter.name)
            .zip(self.values.iter().cloned());
        for (at, (name, value)) in gamma.into_iter().chain(values).enumerate() {
            write!(f, "{}{name}={value}", if at == 0 { ":" } else { "," })?;
        }
        Ok(())
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Word(word) => f.write_str(word),
            Self::Classes(Classes::All) => f.write_str("all"),
            Self::Classes(Classes::Foreground) => f.write_str("fg"),
            Self::Classes(Classes::Listed(classes)) => {
                let classes: Vec<String> = classes.iter().map(ToString::to_string).collect();
                f.write_str(&classes.join("+"))
            }
        }
    }
}

impl fmt::Debug for LossSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LossSpec({self})")
    }
}

impl PartialEq for LossSpec {
    fn eq(&self, other: &Self) -> bool {
        self.row.name == other.row.name && self.gamma == other.gamma && self.values == other.values
    }
}

/// Why a text is no loss, in one sentence that says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecError(String);

impl fmt::Display for SpecError {
    /// On one line: of what was found, line breaks and other control characters are written as escapes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| {
            if c.is_control() {
                c.escape_default().fmt(f)
            } else {
                f.write_char(c)
            }
        })
    }
}

impl Error for SpecError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refuses(text: &str, sentence: &str) {
        assert_eq!(text.parse::<LossSpec>().unwrap_err().to_string(), sentence);
    }

    #[test]
    fn errors_name_the_remedy() {
        refuses(
            "dise",
            "unknown loss `dise`; known losses: dice, squared-dice, generalised-dice, log-cosh-dice, focal-dice, jaccard, \
             tversky, f-beta, focal-tversky, asymmetric-focal-tversky, cross-entropy, focal, asymmetric-focal, combo, \
             unified-focal, exponential-log, dice+ce, dice+focal",
        );
        refuses(
            "ce++",
            "`cross-entropy` has no false-positive or false-negative terms, so `++` does not apply to it; \
             use `cross-entropy`, or a loss with a region part such as `combo++`",
        );
        refuses(
            "squared-dice++",
            "`squared-dice` has squared errors by definition, so `++` does not apply to it; use `squared-dice`, or \
             `dice++` for another exponent",
        );
        refuses(
            "squared-dice:gamma=3",
            "`squared-dice` has no parameter `gamma`; it has classes, class_reduction, region, empty, smooth",
        );
        refuses(
            "dice++:gamma=-1",
            "`gamma` of `dice++` must be above 0 and at most 1000000, found `-1`",
        );
        refuses(
            "dice++:gamma=nan",
            "`gamma` of `dice++` must be above 0 and at most 1000000, found `nan`",
        );
        refuses(
            "dice++:gamma=inf",
            "`gamma` of `dice++` must be above 0 and at most 1000000, found `inf`",
        );
        refuses(
            "dice:gamma=2",
            "`dice` has no parameter `gamma`; it has classes, class_reduction, region, empty, smooth; \
             γ belongs to `dice++`",
        );
        refuses(
            "ce:alpha=1",
            "`cross-entropy` has no parameter `alpha`; it has none",
        );
        refuses(
            "tversky++:delta=1",
            "`tversky++` has no parameter `delta`; it has gamma, alpha, beta, classes, class_reduction, \
             region, empty, smooth",
        );
        refuses(
            "unified-focal:lambda=1.5",
            "`lambda` of `unified-focal` must be from 0 to 1, found `1.5`",
        );
        refuses(
            "unified-focal:focus=1",
            "`focus` of `unified-focal` must be from 0 to below 1, found `1`",
        );
        refuses(
            "dice:empty=maybe",
            "`empty` of `dice` must be penalty, skip, zero, one or ratio, found `maybe`",
        );
        refuses(
            "dice:classes=foreground",
            "`classes` of `dice` must be all, fg, or class numbers such as 1+3, found `foreground`",
        );
        refuses(
            "dice:smooth",
            "expected `key=value` after `:` in `dice:smooth`, found `smooth`",
        );
        refuses(
            "dice:",
            "expected `key=value` after `:` in `dice:`, found ``",
        );
        refuses(
            "dice:smooth=1,smooth=2",
            "`smooth` is given twice in `dice:smooth=1,smooth=2`",
        );
        refuses(
            "dice:preset=mine",
            "unknown preset `mine`; known presets: authors, paper",
        );
    }

    #[test]
    fn an_error_stays_on_one_line_whatever_was_found() {
        refuses(
            "dice:smooth=\n1\u{1b}[2J",
            "`smooth` of `dice` must be 0 or more, found `\\n1\\u{1b}[2J`",
        );
    }

    #[test]
    fn a_name_may_hold_a_plus_before_the_two() {
        let spec = |text: &str| text.parse::<LossSpec>().unwrap();
        assert_eq!(
            (spec("dice+ce").gamma(), spec("dice+ce++").gamma()),
            (None, Some(2.0))
        );
        assert_eq!(
            spec("dice+cross-entropy++:gamma=3,ce_weight=0.5").name(),
            "dice+ce++"
        );
        assert!("dice++ce".parse::<LossSpec>().is_err());
    }

    #[test]
    fn what_is_given_by_name_overrides_the_preset_wherever_it_stands() {
        let spec = |text: &str| text.parse::<LossSpec>().unwrap().to_string();
        let expected =
            "dice++:gamma=2,classes=all,class_reduction=mean,region=item,empty=penalty,smooth=0";
        assert_eq!(spec("dsc++:preset=paper,classes=all"), expected);
        assert_eq!(spec("dice++:classes=all,preset=paper"), expected);
        assert_eq!(spec("dice++:preset=authors"), spec("dice++"));
    }
}
