//! Where the time of a training step goes: the tables of `docs/performance.md`.
//!
//! ```text
//! cargo run --release --workspace --bin profile-step            at 256²
//! cargo run --release --workspace --bin profile-step -- 128 all at 128², every operation
//! ```

use std::{collections::BTreeMap, time::Instant};

use anyhow::{Context, Result, ensure};
use rayon::prelude::*;
use seg_unet::profile::{self, Operation};
use workspace_benches::Step;

const STEPS: usize = 9;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let size = arguments.next().unwrap_or_else(|| "256".into());
    let size = size
        .parse()
        .with_context(|| format!("the size is {size}; expected a number"))?;
    let all = match arguments.next().as_deref() {
        None => false,
        Some("all") => true,
        Some(other) => anyhow::bail!("found {other}; expected `all` or nothing"),
    };
    ensure!(
        size > 0 && size % 16 == 0,
        "the size is {size}; expected a multiple of 16"
    );
    let mut step = Step::new(size, 0)?;
    for _ in 0..2 {
        step.train()?;
    }
    let (peak, copy) = (profile::peak()?, copy());
    let mut whole = Vec::new();
    let mut steps: Vec<Vec<Operation>> = Vec::new();
    for _ in 0..STEPS {
        let start = Instant::now();
        let (trained, operations) = profile::of(|| step.train());
        trained?;
        whole.push(start.elapsed().as_secs_f64());
        steps.push(operations);
    }
    // The median of each operation's times.
    let mut operations = steps.swap_remove(0);
    for (i, operation) in operations.iter_mut().enumerate() {
        let times = steps.iter().map(|step| step[i].seconds);
        operation.seconds = median(times.chain([operation.seconds]).collect());
    }
    println!(
        "{size}², {} threads, {}; multiplications and additions alone reach {:.0} GFLOP/s, a copy {:.1} GB/s\n",
        rayon::current_num_threads(),
        seg_unet::InstructionSet::get()?,
        peak / 1e9,
        copy / 1e9
    );
    println!(
        "| operation | times | ms | share | GFLOP | GFLOP/s | of peak | MB | GB/s | of a copy |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    let total = median(whole);
    let row = |name: &str, of: &[&Operation]| {
        let sum = |f: fn(&Operation) -> f64| of.iter().map(|operation| f(operation)).sum::<f64>();
        let (seconds, flops, bytes) = (sum(|o| o.seconds), sum(|o| o.flops), sum(|o| o.bytes));
        println!(
            "| {name} | {} | {:.2} | {:.1} % | {:.2} | {:.0} | {:.2} | {:.1} | {:.1} | {:.2} |",
            of.len(),
            seconds * 1e3,
            100.0 * seconds / total,
            flops / 1e9,
            flops / seconds / 1e9,
            flops / seconds / peak,
            bytes / 1e6,
            bytes / seconds / 1e9,
            bytes / seconds / copy
        );
    };
    if all {
        for operation in &operations {
            row(
                &format!("{} {}", operation.of, operation.what),
                &[operation],
            );
        }
    } else {
        let mut kinds: BTreeMap<String, Vec<&Operation>> = BTreeMap::new();
        for operation in &operations {
            kinds.entry(kind(operation)).or_default().push(operation);
        }
        for (kind, operations) in &kinds {
            row(kind, operations);
        }
    }
    let within: f64 = operations.iter().map(|operation| operation.seconds).sum();
    println!(
        "| loss, SGD, moments | | {:.2} | {:.1} % | | | | | | |",
        (total - within) * 1e3,
        100.0 * (1.0 - within / total)
    );
    println!("| **step** | | {:.2} | 100 % | | | | | | |", total * 1e3);
    Ok(())
}

/// A row of the short table: convolutions by level, all else by what it is.
fn kind(operation: &Operation) -> String {
    let Operation { of, what, .. } = operation;
    let (block, layer) = of.split_once('.').unwrap_or((of, ""));
    let level = block.trim_start_matches(char::is_alphabetic);
    match layer {
        _ if of == "enc0.conv1" => format!("convolution of the image, {what}"),
        _ if layer.starts_with("conv") && block == "mid" => format!("convolution, middle, {what}"),
        _ if layer.starts_with("conv") => format!("convolution, level {level}, {what}"),
        _ if layer.starts_with("norm") => "ReLU and norm, backward".into(),
        "pool" => "pool, forward and again".into(),
        _ if block.starts_with("up") && *what == "forward" => "way up, forward and again".into(),
        _ if block.starts_with("up") => format!("way up, {what}"),
        _ => format!("{block}, {what}"),
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Bytes a second, read and written.
fn copy() -> f64 {
    const NUMBERS: usize = 16 << 20;
    let from = vec![1_f32; NUMBERS];
    let mut to = vec![0_f32; NUMBERS];
    let chunk = NUMBERS.div_ceil(rayon::current_num_threads());
    let best = (0..8).map(|_| {
        let start = Instant::now();
        to.par_chunks_mut(chunk)
            .zip(from.par_chunks(chunk))
            .for_each(|(to, from)| to.copy_from_slice(from));
        start.elapsed().as_secs_f64()
    });
    (8 * NUMBERS) as f64 / best.fold(f64::INFINITY, f64::min)
}
