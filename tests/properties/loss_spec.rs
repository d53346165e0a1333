//! Text as the specification of a loss: refused in a sentence, or written back as it was read and computed.

use std::ops::RangeBounds as _;

use candle_core::{Device, Tensor};
use dice_losses::{
    Loss as _, LossSpec, Prediction, Target,
    spec::{Kind, Parameter},
};

use super::assert_sentence;

pub(crate) fn holds(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match text.parse::<LossSpec>() {
        Err(error) => assert_sentence(&error.to_string()),
        Ok(spec) => {
            is_written_back(&spec);
            its_parameters_are_in_range(&spec);
            is_computed(&spec);
        }
    }
}

/// The text of a specification is the same specification, and the same text.
fn is_written_back(spec: &LossSpec) {
    let text = spec.to_string();
    assert_sentence(&text);
    let again: LossSpec = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
    assert_eq!(&again, spec, "{text}");
    assert_eq!(again.to_string(), text);
    let name = spec.name();
    assert!(
        text.strip_prefix(&name)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(':')),
        "{name}, {text}"
    );
    assert_eq!(name.ends_with("++"), spec.gamma().is_some(), "{text}");
    assert_eq!(name.trim_end_matches("++"), spec.row().name, "{text}");
    let bare: LossSpec = name.parse().unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(bare.row().name, spec.row().name);
}

/// `key=value` of every parameter, γ first.
fn settings(spec: &LossSpec) -> Vec<(String, String)> {
    let text = spec.to_string();
    let pairs = text.split_once(':').map_or("", |(_, pairs)| pairs);
    pairs
        .split(',')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn its_parameters_are_in_range(spec: &LossSpec) {
    let settings = settings(spec);
    let parameters: Vec<&Parameter> = LossSpec::parameters(spec.row()).collect();
    assert_eq!(
        settings.len(),
        parameters.len() + usize::from(spec.gamma().is_some()),
        "{spec}"
    );
    let given = |name: &str| {
        let found = settings.iter().find(|(key, _)| key == name);
        &found.unwrap_or_else(|| panic!("{spec} has no {name}")).1
    };
    for Parameter { name, kind, .. } in parameters {
        let value = given(name);
        match kind {
            Kind::Number { range, .. } => {
                let number: f64 = value.parse().unwrap_or_else(|e| panic!("{spec}: {e}"));
                assert!(number.is_finite() && range.contains(&number), "{spec}");
            }
            Kind::Choice(words) => assert!(words.contains(&value.as_str()), "{spec}"),
            Kind::Classes => {}
        }
    }
    if let Some(gamma) = spec.gamma() {
        assert!(gamma > 0.0 && gamma.is_finite(), "{spec}");
        assert_eq!(given("gamma").parse(), Ok(gamma));
    }
}

/// Numbers up to this size leave every sum and power of them a number: a weight of 10^300 is taken at its word.
const ORDINARY: f64 = 1e6;

fn is_ordinary(spec: &LossSpec) -> bool {
    settings(spec)
        .iter()
        .filter_map(|(_, value)| value.parse::<f64>().ok())
        .all(|number| number <= ORDINARY)
}

/// The loss of a small prediction is a number within the range that the specification states, and has a gradient.
fn is_computed(spec: &LossSpec) {
    let logits = Tensor::new(&[[[0.5f64, -1.0, 3.0], [0.0, 2.0, -30.0]]], &Device::Cpu);
    let labels = Tensor::new(&[[0u8, 1, 1]], &Device::Cpu);
    let (prediction, target) = (
        Prediction::logits(&logits.expect("six logits")),
        Target::labels(&labels.expect("three labels")),
    );
    match spec.build().value_and_grad(&prediction, &target) {
        Err(error) => {
            // What only a prediction can tell: that it has no such class.
            let error = error.to_string();
            let sentence = error.lines().next().unwrap_or_default();
            assert_sentence(sentence);
            assert!(sentence.contains("class"), "{spec}: {sentence}");
        }
        Ok((value, gradient)) if is_ordinary(spec) => {
            let value = value.to_scalar::<f64>().expect("a loss is a number");
            let (least, most) = spec.range(2);
            let room = 1e-9 * (1.0 + value.abs());
            assert!(
                value.is_finite() && (least - room..=most + room).contains(&value),
                "{spec}: {value}, expected {least} to {most}"
            );
            let gradient = gradient.flatten_all().and_then(|g| g.to_vec1::<f64>());
            let gradient = gradient.expect("a gradient of f64");
            assert!(
                gradient.iter().all(|g| g.is_finite()),
                "{spec}: {gradient:?}"
            );
        }
        Ok(_) => {}
    }
}
