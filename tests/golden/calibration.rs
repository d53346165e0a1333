//! Calibration and surfaces, against torchmetrics, netcal, MONAI, SciPy and scikit-learn.
//!
//! `benches/compare/calibration.py` drew the inputs and asked the libraries; how their definitions differ is written
//! there. A record names the figure, who computed it and how near ours has to be; a name that is unknown here is a
//! failure, so nothing is left out unseen.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use candle_core::{DType, Device, Tensor};
use seg_train::{
    metrics::{
        Bins, Calibration, CalibrationSummary, EmptyMask, MetricsConfig, Pixels, Surfaces, Top,
        calibration::Errors,
    },
    raster::Labels,
};
use serde_json::Value;

/// Figures by name; `None` where they are 0/0.
type Figures = HashMap<String, Option<f64>>;

#[test]
fn golden_calibration_and_surfaces() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/golden");
    let text = fs::read_to_string(folder.join("calibration.json")).unwrap();
    let file: Value = serde_json::from_str(&text).unwrap();
    let inputs =
        candle_core::safetensors::load(folder.join("calibration.safetensors"), &Device::Cpu)
            .unwrap();
    let inputs = Inputs(inputs);
    let mut compared = BTreeMap::new();
    let mut wrong = Vec::new();
    for case in file["cases"].as_array().unwrap() {
        let found = match case["kind"].as_str().unwrap() {
            "calibration" => calibration(&inputs, case),
            "data set" => data_set(&inputs, case),
            "surfaces" => surfaces(&inputs, case),
            kind => panic!("no such kind of case here: {kind}"),
        };
        let name = text_of(case, "name");
        for record in case["figures"].as_array().unwrap() {
            let (what, by) = (text_of(record, "what"), text_of(record, "by"));
            let found = found
                .get(what)
                .unwrap_or_else(|| panic!("{name}: no figure here is called `{what}`"));
            let (expected, bound) = (record["value"].as_f64(), number(record, "bound"));
            let near = match (*found, expected) {
                (Some(a), Some(b)) => (a - b).abs() <= bound * f64::max(1.0, b.abs()),
                (a, b) => a == b,
            };
            if !near {
                wrong.push(format!("{name}, {what}: {found:?}, by {by} {expected:?}"));
            }
            *compared.entry(by.to_owned()).or_insert(0) += 1;
        }
    }
    println!("golden: calibration and surfaces, figures by {compared:?}");
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    for by in [
        "torchmetrics",
        "netcal",
        "MONAI",
        "SciPy",
        "scikit-learn",
        "NumPy",
    ] {
        assert!(
            compared.get(by).is_some_and(|&n| n >= 10),
            "{by}: {compared:?}"
        );
    }
}

struct Inputs(HashMap<String, Tensor>);

impl Inputs {
    fn of(&self, case: &str, what: &str) -> Tensor {
        self.0[&format!("{case}/{what}")].flatten_all().unwrap()
    }

    fn singles(&self, case: &str, what: &str) -> Vec<f32> {
        self.of(case, what).to_vec1().unwrap()
    }

    fn labels(&self, case: &str, what: &str) -> Vec<u8> {
        let labels = self.of(case, what).to_dtype(DType::U8).unwrap();
        labels.to_vec1().unwrap()
    }
}

fn text_of<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap()
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap()
}

fn pair(value: &Value, key: &str) -> [f64; 2] {
    [0, 1].map(|i| value[key][i].as_f64().unwrap())
}

fn config(case: &Value) -> MetricsConfig {
    MetricsConfig {
        bins: number(case, "bins") as usize,
        boundary: number(case, "boundary") as usize,
        ..MetricsConfig::default()
    }
}

fn errors(figures: &mut Figures, of: &str, errors: Errors) {
    for (what, value) in [
        ("ece", errors.ece),
        ("ace", errors.ace),
        ("mce", errors.mce),
    ] {
        figures.insert(format!("{of} {what}"), value);
    }
}

fn calibration(inputs: &Inputs, case: &Value) -> Figures {
    let (name, config) = (text_of(case, "name"), config(case));
    let (p, y) = (inputs.singles(name, "p"), inputs.labels(name, "y"));
    let q = inputs.singles(name, "q");
    let classes = number(case, "classes") as usize;
    let size = pair(case, "size").map(|side| side as usize);
    let pixels = Pixels::new(&p, classes, &y).unwrap();
    let mut calibration = Calibration::new(classes, &config);
    let image = calibration.add(&pixels, size, Some(&q)).unwrap();
    let summary = calibration.summary();

    let mut figures = of_summary(&summary);
    // One image as a data set has the figures of the image.
    figures.insert("boundary ece".into(), image.ece_boundary);
    figures.insert("volume bias".into(), image.volume_bias);
    let boundary = summary.view("boundary").unwrap();
    assert_close(image.ece_boundary, boundary.equal_width.ece);
    assert_close(image.volume_bias, summary.volume.bias);
    assert_close(image.ece_truth, figures["truth ece"]);
    assert_close(image.truth_distance, figures["truth absolute"]);

    let own = Bins::class_wise(&pixels, config.bins, Top::OwnBin).split_off(1);
    let top = Bins::top_label(&pixels, config.bins, Top::OwnBin);
    let own = own
        .iter()
        .enumerate()
        .map(|(k, bins)| (format!("class {}", k + 1), bins));
    for (of, bins) in own.chain([("top label".into(), &top)]) {
        for (norm, value) in [
            ("l1", bins.ece()),
            ("l2", bins.ece_l2()),
            ("max", bins.mce()),
        ] {
            figures.insert(format!("{of} own bin {norm}"), value);
        }
    }
    let mut aces = Vec::new();
    for class in 1..classes {
        let pairs = pixels
            .counted()
            .map(|(i, y)| (pixels.p(class, i), y == class));
        let mass = Errors::equal_mass(pairs.collect(), config.bins);
        errors(&mut figures, &format!("class {class} equal mass"), mass);
        aces.extend(mass.ace);
        if name.contains("ties") {
            // A sixteenth has a cell of its own, so the cells of the data set are exact too.
            let cells = summary.view(&format!("class {class}")).unwrap().equal_mass;
            assert_close(cells.ece, mass.ece);
            assert_close(cells.ace, mass.ace);
            assert_close(cells.mce, mass.mce);
        }
    }
    assert_close(
        image.ace,
        Some(aces.iter().sum::<f64>() / aces.len() as f64),
    );
    figures
}

fn assert_close(a: Option<f64>, b: Option<f64>) {
    let (a, b) = (a.unwrap_or(-1.0), b.unwrap_or(-1.0));
    assert!((a - b).abs() < 1e-13, "{a} and {b}");
}

/// What the summary of one image or of many calls by name.
fn of_summary(summary: &CalibrationSummary) -> Figures {
    let mut figures = Figures::new();
    for view in &summary.views {
        errors(&mut figures, &view.name, view.equal_width);
        for (k, bin) in view.reliability.iter().enumerate() {
            for (end, place) in [("low", 0), ("high", 1)] {
                let value = bin.interval.map(|interval| interval[place]);
                figures.insert(format!("{} bin {k} {end}", view.name), value);
            }
        }
    }
    let brier = summary.brier.unwrap();
    let (volume, truth) = (summary.volume, summary.truth);
    for (what, value) in [
        ("nll", summary.nll),
        ("brier", Some(brier.score)),
        ("brier reliability", Some(brier.reliability)),
        ("brier resolution", Some(brier.resolution)),
        ("brier uncertainty", Some(brier.uncertainty)),
        ("brier within_variance", Some(brier.within_variance)),
        ("brier within_covariance", Some(brier.within_covariance)),
        ("volume mean", volume.mean),
        ("volume mean absolute", volume.mean_absolute),
        ("truth ece", truth.map(|truth| truth.ece)),
        ("truth absolute", truth.map(|truth| truth.absolute)),
        ("truth kl", truth.map(|truth| truth.kl)),
    ] {
        figures.insert(what.into(), value);
    }
    figures
}

/// Several images, added one by one and, in another order, in parts that are merged: to the same bits.
fn data_set(inputs: &Inputs, case: &Value) -> Figures {
    let (config, classes) = (config(case), number(case, "classes") as usize);
    let new = || Calibration::new(classes, &config);
    let (mut whole, mut parts) = (new(), [new(), new()]);
    let images: Vec<&str> = case["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    let add = |to: &mut Calibration, name: &str| {
        let (p, y) = (inputs.singles(name, "p"), inputs.labels(name, "y"));
        let pixels = Pixels::new(&p, classes, &y).unwrap();
        let q = inputs.singles(name, "q");
        to.add(&pixels, [1, y.len()], Some(&q)).unwrap();
    };
    for name in &images {
        add(&mut whole, name);
    }
    for (k, name) in images.iter().rev().enumerate() {
        add(&mut parts[k % 2], name);
    }
    let [mut merged, other] = parts;
    merged.merge(&other).unwrap();
    assert_eq!(merged, whole);
    let summary = whole.summary();
    let text = serde_json::to_string(&summary).unwrap();
    let read: CalibrationSummary = serde_json::from_str(&text).unwrap();
    assert_eq!(read, summary);
    of_summary(&summary)
}

fn surfaces(inputs: &Inputs, case: &Value) -> Figures {
    let (name, spacing) = (text_of(case, "name"), pair(case, "spacing"));
    let [height, width] = pair(case, "size").map(|side| side as usize);
    let labels = |what: &str| Labels {
        height,
        width,
        data: inputs.labels(name, what),
    };
    let (predicted, truth) = (labels("predicted"), labels("truth"));
    let mut figures = Figures::new();
    for class in 1..number(case, "classes") as u8 {
        let found = Surfaces::between(&predicted, &truth, class, spacing).unwrap();
        let skip = EmptyMask::Skip;
        for (what, value) in [
            ("hd95", found.hausdorff(95.0, skip)),
            ("hd", found.hausdorff(100.0, skip)),
            ("assd", found.average_distance(skip)),
            ("nsd", found.dice(number(case, "tolerance"), skip)),
        ] {
            figures.insert(format!("class {class} {what}"), value);
        }
    }
    figures
}
