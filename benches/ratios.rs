//! What γ costs, and what a large image costs: times measured in turn, so that their ratios hold on a busy machine too.
//!
//! ```text
//! cargo bench --workspace --bench ratios            both tables
//! cargo bench --workspace --bench ratios -- gamma   plain Dice against DSC++ of several γ, at 1x2x512x512
//! cargo bench --workspace --bench ratios -- size    a pixel at 4096² against one at 512²
//! ```
//!
//! What is aimed at: `++` with γ = 2 costs at most 1.10 times the plain loss, with any other γ at most 2 times, and a
//! pixel of a large image what one of a small image does. γ = 2 and 3 are whole powers, 0.5 and 1.5 have roots, 0.75
//! is the general power.

use std::{env, fmt::Write as _, time::Instant};

use candle_core::{Result, Tensor, Var};
use dice_losses::{Loss, LossSpec, Prediction};
use workspace_benches::{Input, name};

/// How often each thing is timed.
const ROUNDS: usize = 60;

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    let chosen = |table: &str| filter.is_none_or(|filter| table.contains(filter.as_str()));
    // Without `--bench` this is `cargo test --benches`: does it run at all?
    let rounds = if arguments.iter().any(|argument| argument == "--bench") {
        ROUNDS
    } else {
        1
    };
    if chosen("gamma") {
        gamma(rounds)?;
    }
    if chosen("size") {
        size(rounds)?;
    }
    Ok(())
}

fn gamma(rounds: usize) -> Result<()> {
    let specs = [
        "dice",
        "dice++:gamma=2",
        "dice++:gamma=3",
        "dice++:gamma=0.5",
        "dice++:gamma=1.5",
        "dice++:gamma=0.75",
    ];
    let input = Input::draw(&[1, 2, 512, 512])?;
    let runs = specs.map(|spec| Run::new(spec, &input));
    println!(
        "## gamma: a loss over plain Dice, {}\n",
        name(input.logits.dims())
    );
    table(&specs.map(String::from), &runs, rounds, "ms", |_| 1e3)
}

fn size(rounds: usize) -> Result<()> {
    const SIZES: [[usize; 4]; 4] = [
        [1, 2, 512, 512],
        [1, 2, 1024, 1024],
        [1, 2, 2048, 2048],
        [1, 2, 4096, 4096],
    ];
    let inputs = SIZES
        .iter()
        .map(|dims| Input::draw(dims))
        .collect::<Result<Vec<_>>>()?;
    let runs: Vec<Run> = inputs
        .iter()
        .map(|input| Run::new("dice++:gamma=2", input))
        .collect();
    println!("## size: a pixel of dice++:gamma=2 over one at 512²\n");
    table(
        &SIZES.map(|dims| name(&dims)),
        &runs,
        rounds.div_ceil(4),
        "ns a pixel",
        |run| 1e9 / run.input.labels.elem_count() as f64,
    )
}

/// A loss on an input.
struct Run<'a> {
    loss: Box<dyn Loss>,
    input: &'a Input,
    logits: Var,
}

impl<'a> Run<'a> {
    fn new(spec: &str, input: &'a Input) -> Self {
        Self {
            loss: spec.parse::<LossSpec>().expect("a name of the zoo").build(),
            input,
            logits: Var::from_tensor(&input.logits).expect("a tensor on the CPU"),
        }
    }

    fn time(&self, measure: Measure) -> Result<f64> {
        let target = self.input.target();
        let start = Instant::now();
        match measure {
            Measure::Loss => drop(self.loss.loss(&self.input.prediction(), &target)?),
            Measure::ValueAndGrad => {
                drop(
                    self.loss
                        .value_and_grad(&self.input.prediction(), &target)?,
                );
            }
            Measure::Backward => {
                let loss: Tensor = self.loss.loss(&Prediction::logits(&self.logits), &target)?;
                drop(loss.backward()?);
            }
        }
        Ok(start.elapsed().as_secs_f64())
    }
}

#[derive(Clone, Copy)]
enum Measure {
    Loss,
    ValueAndGrad,
    Backward,
}

/// Prints the median time of each run and its ratio to the first run's, round by round: a round's times lie next to
/// each other, so what else the machine does weighs on both alike.
fn table(
    names: &[String],
    runs: &[Run],
    rounds: usize,
    unit: &str,
    scale: impl Fn(&Run) -> f64,
) -> Result<()> {
    println!(
        "| | loss, {unit} | ratio | value_and_grad, {unit} | ratio | backward, {unit} | ratio |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|");
    let mut lines: Vec<String> = names.iter().map(|name| format!("| {name} |")).collect();
    for measure in [Measure::Loss, Measure::ValueAndGrad, Measure::Backward] {
        let mut times = vec![Vec::with_capacity(rounds); runs.len()];
        for round in 0..=rounds {
            for (run, times) in runs.iter().zip(&mut times) {
                let time = run.time(measure)? * scale(run);
                // The first round fills caches and pools.
                if round > 0 {
                    times.push(time);
                }
            }
        }
        for (line, own) in lines.iter_mut().zip(&times) {
            let ratios = own.iter().zip(&times[0]).map(|(own, first)| own / first);
            let (time, ratio) = (median(own.clone()), median(ratios.collect()));
            write!(line, " {time:.3} | {ratio:.2} |").expect("a String takes any text");
        }
    }
    println!("{}\n", lines.join("\n"));
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) {
        f64::midpoint(values[middle - 1], values[middle])
    } else {
        values[middle]
    }
}
