//! What each loss costs: the zoo, plain and `++`, at the shapes of [`SHAPES`].
//!
//! A name is `shape/loss/measure`. The measures: `loss` (forward alone), `value_and_grad` (loss and gradient) and
//! `backward` (the same by way of `Tensor::backward`). Beside the zoo stand `composed` (DSC++ as a Candle user would
//! write it, on a one-hot target made beforehand) and `copy` (the least bytes that must move, moved).
//!
//! ```text
//! cargo bench --workspace --bench losses                                   everything
//! cargo bench --workspace --bench losses -- 1x2x512x512                    a shape
//! cargo bench --workspace --bench losses -- '8x2x512x512/dice\+\+/'        a loss at a shape
//! cargo bench --workspace --bench losses -- '1x2x512x512/.*/value_and_grad' a measure of every loss
//! cargo bench --workspace --bench losses -- '512x512/(dice\+\+|composed|copy)/' DSC++ against its bounds
//! ```
//!
//! A filter is a regular expression, hence `\+\+`. Times differ from machine to machine; compare within one run, on a
//! machine with nothing else to do. `ratios` measures side by side where a few percent matter.

use std::time::Duration;

use candle_core::{Result, Var};
use criterion::{
    BenchmarkGroup, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
    measurement::WallTime,
};
use dice_losses::{LossSpec, Prediction, zoo::ZOO};
use workspace_benches::{Input, LeastTraffic, SHAPES, composed, name};

fn losses(criterion: &mut Criterion) {
    for dims in SHAPES {
        let input = Input::draw(dims).expect("a shape of the table");
        let mut group = criterion.benchmark_group(name(dims));
        group
            .sample_size(10)
            .sampling_mode(SamplingMode::Flat)
            .warm_up_time(Duration::from_millis(200))
            .measurement_time(Duration::from_millis(500))
            .throughput(Throughput::Elements(input.labels.elem_count() as u64));
        shape(&mut group, &input).expect("the inputs fit");
        group.finish();
    }
}

fn shape(group: &mut BenchmarkGroup<WallTime>, input: &Input) -> Result<()> {
    let (prediction, target) = (input.prediction(), input.target());
    let logits = Var::from_tensor(&input.logits)?;
    let tracked = Prediction::logits(&logits);

    let mut copy = LeastTraffic::new(input.least_bytes());
    group.bench_function("copy/bytes", |bencher| bencher.iter(|| copy.run()));
    group.bench_function("composed/loss", |bencher| {
        bencher.iter(|| composed(&input.logits, &input.one_hot).expect("the inputs fit"));
    });
    group.bench_function("composed/backward", |bencher| {
        bencher.iter(|| {
            let loss = composed(&logits, &input.one_hot).expect("the inputs fit");
            loss.backward().expect("the loss is a scalar")
        });
    });

    for row in ZOO {
        let plus_plus = row.plus_plus().then(|| format!("{}++", row.name));
        let names = [Some(row.name.to_string()), plus_plus];
        for name in names.into_iter().flatten() {
            let loss = name.parse::<LossSpec>().expect("a name of the zoo").build();
            group.bench_function(format!("{name}/loss"), |bencher| {
                bencher.iter(|| loss.loss(&prediction, &target).expect("the inputs fit"));
            });
            group.bench_function(format!("{name}/value_and_grad"), |bencher| {
                bencher.iter(|| {
                    loss.value_and_grad(&prediction, &target)
                        .expect("the inputs fit")
                });
            });
            group.bench_function(format!("{name}/backward"), |bencher| {
                bencher.iter(|| {
                    let loss = loss.loss(&tracked, &target).expect("the inputs fit");
                    loss.backward().expect("the loss is a scalar")
                });
            });
        }
    }
    Ok(())
}

criterion_group!(benches, losses);
criterion_main!(benches);
