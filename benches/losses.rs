//! What γ costs: each loss of the zoo, plain and with `++`, value and gradient at 1×2×256×256.
//!
//! `cargo bench -p workspace-benches`. Times differ from machine to machine; the ratio of `++` to plain does not.

use candle_core::{Device, Result, Tensor};
use criterion::{Criterion, criterion_group, criterion_main};
use dice_losses::{LossSpec, Prediction, Target, zoo::ZOO};

fn losses(criterion: &mut Criterion) {
    let (prediction, target) = inputs().expect("the inputs are fixed");
    let mut group = criterion.benchmark_group("value_and_grad, 1x2x256x256");
    group.sample_size(10);
    for row in ZOO {
        let plus_plus = row.plus_plus().then(|| format!("{}++", row.name));
        for name in [Some(row.name.to_string()), plus_plus]
            .into_iter()
            .flatten()
        {
            let spec: LossSpec = name.parse().expect("a name of the zoo");
            let loss = spec.build();
            group.bench_function(&name, |bencher| {
                bencher.iter(|| {
                    loss.value_and_grad(&prediction, &target)
                        .expect("the inputs fit")
                });
            });
        }
    }
    group.finish();
}

/// A disc that the logits see with noise, without a generator: Candle's cannot be seeded on the CPU.
fn inputs() -> Result<(Prediction, Target)> {
    const SIZE: usize = 256;
    let inside = |i: usize| {
        let (y, x) = ((i / SIZE) as f32 - 128.0, (i % SIZE) as f32 - 128.0);
        x * x + y * y < 60.0 * 60.0
    };
    let labels: Vec<u8> = (0..SIZE * SIZE).map(|i| u8::from(inside(i))).collect();
    let logit = |i: usize| {
        let noise = ((i * i) as f32 * 0.618).sin();
        if inside(i) { 2.0 + noise } else { noise - 2.0 }
    };
    let foreground = (0..SIZE * SIZE).map(logit);
    let logits: Vec<f32> = foreground.clone().map(|z| -z).chain(foreground).collect();
    let logits = Tensor::from_vec(logits, (1, 2, SIZE, SIZE), &Device::Cpu)?;
    let labels = Tensor::from_vec(labels, (1, SIZE, SIZE), &Device::Cpu)?;
    Ok((Prediction::logits(&logits), Target::labels(&labels)))
}

criterion_group!(benches, losses);
criterion_main!(benches);
