//! What the paper's network costs: a training step and an inference, one image, at 128², 256² and 512².
//!
//! A name is `size/mode`, with the modes `train` (forward, DSC++ with γ = 2, backward, SGD) and `inference` (forward,
//! probabilities).
//!
//! ```text
//! cargo bench --workspace --bench unet                  everything
//! cargo bench --workspace --bench unet -- 256/train     a training step at 256²
//! ```
//!
//! Times differ from machine to machine; `compare/step.py` measures against `PyTorch`, in turn.

use std::time::Duration;

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use workspace_benches::Step;

fn unet(criterion: &mut Criterion) {
    for size in [128, 256, 512] {
        let mut step = Step::new(size, 0).expect("the size is a multiple of 16");
        let mut group = criterion.benchmark_group(size.to_string());
        group
            .sample_size(10)
            .sampling_mode(SamplingMode::Flat)
            .warm_up_time(Duration::from_millis(200))
            .measurement_time(Duration::from_secs(1))
            .throughput(Throughput::Elements((size * size) as u64));
        group.bench_function("inference", |bencher| {
            bencher.iter(|| step.infer().expect("the image fits"));
        });
        group.bench_function("train", |bencher| {
            bencher.iter(|| step.train().expect("the image fits"));
        });
        group.finish();
    }
}

criterion_group!(benches, unet);
criterion_main!(benches);
