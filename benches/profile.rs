//! Where the time of a training step goes: the tables of `docs/performance.md`.
//!
//! ```text
//! cargo build --release --workspace --bins
//! ./target/release/profile-step              at 256²
//! ./target/release/profile-step 128 all      at 128², every operation
//! ./target/release/profile-step 128 candle   beside what Candle's own operations take
//! ```

use std::{collections::BTreeMap, time::Instant};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor, Var};
use rayon::prelude::*;
use seg_unet::{
    ops::{
        conv2d_same_reference, instance_norm_reference, max_pool2_reference, relu_reference,
        up2_reference,
    },
    profile::{self, Operation},
};
use workspace_benches::Step;

enum Table {
    Kinds,
    All,
    Candle,
}

const STEPS: usize = 9;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let size = arguments.next().unwrap_or_else(|| "256".into());
    let size = size
        .parse()
        .with_context(|| format!("the size is {size}; expected a number"))?;
    let table = match arguments.next().as_deref() {
        None => Table::Kinds,
        Some("all") => Table::All,
        Some("candle") => Table::Candle,
        Some(other) => bail!("found {other}; expected `all`, `candle` or nothing"),
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
    if matches!(table, Table::Candle) {
        return beside_candle(size, &operations);
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
    if matches!(table, Table::All) {
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

/// The same operations of Candle's own, each by itself: forward, and backward through Candle's graph.
fn beside_candle(size: usize, operations: &[Operation]) -> Result<()> {
    /// Rows of the table.
    const CONVOLUTION: usize = 0;
    const NORM: usize = 1;
    const POOL: usize = 2;
    const UP: usize = 3;
    let rows = [
        "3 × 3 convolution, head",
        "ReLU and instance norm",
        "max-pool",
        "transposed convolution",
    ];
    let mut candle = [[0.0; 2]; 4];
    let mut here = [[0.0; 2]; 4];
    for Operation {
        of, what, seconds, ..
    } in operations
    {
        let row = match of.split_once('.') {
            Some((_, layer)) if layer.starts_with("norm") => NORM,
            Some((_, "pool")) => POOL,
            None if of.starts_with("up") => UP,
            _ => CONVOLUTION,
        };
        here[row][usize::from(*what != "forward")] += seconds;
    }
    let mut add =
        |row: usize, inputs: &[&[usize]], f: &dyn Fn(&[Var]) -> candle_core::Result<Tensor>| {
            let inputs = inputs
                .iter()
                .map(|dims| Var::zeros(*dims, DType::F32, &Device::Cpu))
                .collect::<candle_core::Result<Vec<_>>>()?;
            let start = Instant::now();
            let y = f(&inputs)?;
            candle[row][0] += start.elapsed().as_secs_f64();
            let y = y.sum_all()?;
            let start = Instant::now();
            y.backward()?;
            candle[row][1] += start.elapsed().as_secs_f64();
            anyhow::Ok(())
        };
    let mut conv = |inputs: usize, outputs: usize, k: usize, size: usize| -> Result<()> {
        let shapes: [&[usize]; 3] = [
            &[1, inputs, size, size],
            &[outputs, inputs, k, k],
            &[outputs],
        ];
        add(CONVOLUTION, &shapes, &|t| {
            conv2d_same_reference(&t[0], &t[1], &t[2])
        })?;
        if k == 3 {
            let shapes: [&[usize]; 3] = [&[1, outputs, size, size], &[outputs], &[outputs]];
            add(NORM, &shapes, &|t| {
                instance_norm_reference(&relu_reference(&t[0])?, &t[1], &t[2], 1e-3)
            })?;
        }
        Ok(())
    };
    let channels = |level: usize| 32 << level;
    for level in 0..5 {
        conv(
            if level == 0 { 1 } else { channels(level - 1) },
            channels(level),
            3,
            size >> level,
        )?;
        conv(channels(level), channels(level), 3, size >> level)?;
    }
    for level in 0..4 {
        conv(2 * channels(level), channels(level), 3, size >> level)?;
        conv(channels(level), channels(level), 3, size >> level)?;
    }
    conv(channels(0), 2, 1, size)?;
    for level in 0..4 {
        let (fine, coarse) = (size >> level, size >> (level + 1));
        add(POOL, &[&[1, channels(level), fine, fine]], &|t| {
            max_pool2_reference(&t[0])
        })?;
        let shapes: [&[usize]; 3] = [
            &[1, channels(level + 1), coarse, coarse],
            &[channels(level + 1), channels(level), 2, 2],
            &[channels(level)],
        ];
        add(UP, &shapes, &|t| up2_reference(&t[0], &t[1], &t[2]))?;
    }
    println!("{size}², ms: Candle's own operations once each, and the pass\n");
    println!("| operation | Candle, forward | backward | here, forward | backward | ratio |");
    println!("|---|---:|---:|---:|---:|---:|");
    for (name, (candle, here)) in rows.iter().zip(candle.iter().zip(&here)) {
        println!(
            "| {name} | {:.0} | {:.0} | {:.1} | {:.1} | {:.1} |",
            candle[0] * 1e3,
            candle[1] * 1e3,
            here[0] * 1e3,
            here[1] * 1e3,
            (candle[0] + candle[1]) / (here[0] + here[1])
        );
    }
    Ok(())
}
