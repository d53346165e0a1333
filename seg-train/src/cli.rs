//! The command line: what can be asked, and how the answer ends.
//!
//! Exit code 0 is success, 1 bad data or a failed run, 2 bad usage, 3 a run that another process works on, 130 a run that
//! was asked to stop. Every error is one line on standard error that begins with `error: `.

mod asked;
mod calibrate;
mod compare;
mod data;
mod eval;
mod losses;
mod predict;
mod scale;
mod study;
mod threshold;
mod train;
mod work;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use seg_unet::Precision;

use crate::{
    config::{Layers, OnNan},
    legible::legible,
    run_folder::Held,
};

/// Trains, evaluates and reports segmentation networks: the recipe of the DSC++ paper, with any loss of its zoo.
///
/// Without a subcommand it trains: `seg-train --loss focal-tversky++` works as it stands, on a built-in data set whose
/// true probabilities are known. Several `--loss` train one network each from the same seed, and compare them.
#[derive(Debug, Parser)]
#[command(name = "seg-train", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    train: TrainArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Evaluate a run's best checkpoint on the test set
    Eval(EvalArgs),
    /// Whether a run's probabilities may be believed: a page with reliability, thresholds and the worst images
    ///
    /// Evaluates the best checkpoint on the test set and writes RUN/calibration/index.html, which opens without a network,
    /// and the numbers behind it: calibration.json, images.csv, reliability.csv.
    Calibrate(calibrate::CalibrateArgs),
    /// Compare runs on the same test images, pair by pair: a page with differences, reliability, thresholds and cost
    ///
    /// Runs that differ in the seed alone are one method. Writes OUT/index.html and the numbers behind it: compare.json,
    /// differences.csv, tables.md.
    Compare(compare::CompareArgs),
    /// Segment images the network has never seen: a mask and maps of probabilities for each
    ///
    /// Writes NAME_mask.png, NAME_probability.png and NAME_heat.png for every image. With more than two classes the mask
    /// holds class numbers, and there is a NAME_probability_N.png a class. No file is written over.
    Predict(PredictArgs),
    /// Choose a run's threshold on its validation set, for a recall, a precision or an F-score; predict then uses it
    Threshold(threshold::ThresholdArgs),
    /// Scale a trained run's logits by what its validation set asks for: a new run, the old one stays as it is
    ///
    /// Temperature scaling (Guo et al. 2017) changes no pixel's most probable class; vector scaling may. What is trained with
    /// `--set inference.scaling=temperature` is scaled from the beginning.
    Scale(scale::ScaleArgs),
    /// Go on with a run that was interrupted, however it ended, from the last state it saved
    Resume(ResumeArgs),
    /// Remake the paper's tables and figures from runs of your own, with a report of what holds
    ///
    /// Trains what the tables and figures need, each run once, and writes OUT/report/index.html. Runs that are done are not
    /// run again, and what was broken off goes on: the same command once more is always right.
    Reproduce(study::ReproduceArgs),
    /// Run a grid of experiments of your own, data sets × losses × settings × seeds, and report it
    Sweep(study::SweepArgs),
    /// Make the report of a grid anew from the runs that are done
    Collect(study::CollectArgs),
    /// Bring runs of a grid to their end: what `reproduce`, `sweep` and their Slurm jobs start
    #[command(hide = true)]
    Work(work::WorkArgs),
    /// The table of losses that --loss understands
    Losses,
    /// The table of data sets that --data understands
    Data,
}

/// What a training run can be told. Whatever is not said here comes from `--config`, and what is not said there from the
/// preset.
#[derive(Args, Clone, Debug, Default)]
struct TrainArgs {
    /// Loss to train with, such as dice++ or tversky++:gamma=2,alpha=0.3; name several to compare them
    #[arg(long, value_name = "SPEC")]
    loss: Vec<String>,
    /// Data set: phantom (built in), or KIND:PATH; `seg-train data` lists the kinds
    #[arg(long, value_name = "KIND:PATH")]
    data: Option<String>,
    /// Where to start from: phantom, paper, authors or cpu [default: phantom for the phantom, else paper]
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// Height and width the network sees, such as 256x256
    #[arg(long, value_name = "HxW")]
    size: Option<String>,
    /// Seed of everything random
    #[arg(long, value_name = "N", value_parser = whole::<u64>, allow_negative_numbers = true)]
    seed: Option<u64>,
    /// Epochs at most
    #[arg(long, value_name = "N", value_parser = whole::<usize>, allow_negative_numbers = true)]
    epochs: Option<usize>,
    /// Images a step
    #[arg(long, value_name = "N", value_parser = whole::<usize>, allow_negative_numbers = true)]
    batch: Option<usize>,
    /// Longest gradient, all variables together; a longer one is scaled down to it [default: as long as it is]
    #[arg(long, value_name = "NORM", allow_negative_numbers = true)]
    clip_norm: Option<f64>,
    #[command(flatten)]
    going_on: GoingOnArgs,
    /// Numbers that a GPU computes the network in: f32, tf32 or bf16 [default: f32]
    #[arg(long, value_name = "PRECISION")]
    precision: Option<Precision>,
    /// Folder to write to: new or empty [default: runs/DATA-LOSS-SEED]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Experiment in TOML, whole or in part; a run's run.toml will do
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One key of the experiment, such as unet.width=16; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl TrainArgs {
    fn layers(&self) -> Layers {
        Layers {
            preset: self.preset.clone(),
            config: self.config.clone(),
            data: self.data.clone(),
            size: self.size.clone(),
            seed: self.seed,
            epochs: self.epochs,
            batch: self.batch,
            clip_norm: self.clip_norm,
            save_every: self.going_on.save_every,
            on_nan: self.going_on.on_nan,
            precision: self.precision,
            device: self.device.clone(),
            set: self.set.clone(),
        }
    }
}

#[derive(Args, Debug)]
struct EvalArgs {
    /// Folder of the run
    run: PathBuf,
    /// Foreground is where its probability is at least this [default: the more probable class]
    #[arg(long, value_name = "T", value_parser = threshold, allow_negative_numbers = true)]
    threshold: Option<f64>,
    /// Another data set, whose test set is used; of the run's own kind, it is read as the run's own was
    #[arg(long, value_name = "KIND:PATH")]
    data: Option<String>,
    /// cpu, cuda or cuda:N [default: the run's]
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
}

#[derive(Args, Debug)]
struct PredictArgs {
    /// Folder of the run
    run: PathBuf,
    /// Images, or folders of images
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<PathBuf>,
    /// Folder for the masks and maps; made when missing
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Foreground is where its probability is at least this [default: what `seg-train threshold` chose, else 0.5]; for
    /// two classes only
    #[arg(long, value_name = "T", value_parser = threshold, allow_negative_numbers = true)]
    threshold: Option<f64>,
    /// The most pixels that an image may have [default: the run's]
    #[arg(long, value_name = "N", value_parser = whole::<u64>, allow_negative_numbers = true)]
    max_pixels: Option<u64>,
    /// cpu, cuda or cuda:N [default: the run's]
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
}

#[derive(Args, Debug)]
struct ResumeArgs {
    /// Folder of the run
    run: PathBuf,
    #[command(flatten)]
    going_on: GoingOnArgs,
}

/// How a run goes on, which may be said anew when it is resumed.
#[derive(Args, Clone, Debug, Default)]
struct GoingOnArgs {
    /// Save the state after every N steps of an epoch too, not only after the epoch [default: 0, after the epoch only]
    #[arg(long, value_name = "N", value_parser = whole::<usize>, allow_negative_numbers = true)]
    save_every: Option<usize>,
    /// What to do where a loss is no number: stop the run, or skip the step [default: stop]
    #[arg(long, value_name = "WHAT")]
    on_nan: Option<OnNan>,
}

fn threshold(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|t| (0.0..=1.0).contains(t))
        .ok_or_else(|| "a threshold is a number from 0 to 1".into())
}

/// A count or a seed: what TOML, which has signed numbers only, can hold too.
fn whole<T: TryFrom<i64>>(text: &str) -> Result<T, String> {
    text.parse()
        .ok()
        .and_then(|number: i64| T::try_from(number).ok())
        .ok_or_else(|| format!("expected a whole number from 0 to {}", i64::MAX))
}

/// How a command can fail.
#[derive(Debug)]
enum Failure {
    /// What was asked makes no sense.
    Usage(String),
    /// It made sense and did not work.
    Failed(anyhow::Error),
    /// Another process works on the run.
    Locked(anyhow::Error),
    /// The user stopped it; the note says how to go on.
    Stopped(String),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        if error.is::<Held>() {
            Self::Locked(error)
        } else {
            Self::Failed(error)
        }
    }
}

/// For `map_err`: the error is one of usage.
fn usage(error: impl std::fmt::Display) -> Failure {
    Failure::Usage(format!("{error:#}"))
}

/// Runs the program on the process's own arguments.
pub fn main() -> ExitCode {
    crate::threads::settle();
    run(std::env::args_os())
}

/// Runs the program on given arguments, the first of which is its name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => return fail(2, &first_lines(&error.to_string())),
        // --help and --version arrive as errors too; there is nobody left to tell when they cannot be printed.
        Err(error) => {
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
    };
    let result = match cli.command {
        None => train::run(&cli.train),
        Some(Command::Eval(args)) => eval::run(&args),
        Some(Command::Calibrate(args)) => calibrate::run(&args),
        Some(Command::Compare(args)) => compare::run(&args),
        Some(Command::Predict(args)) => predict::run(&args),
        Some(Command::Threshold(args)) => threshold::run(&args),
        Some(Command::Scale(args)) => scale::run(&args),
        Some(Command::Resume(args)) => train::resume(&args),
        Some(Command::Reproduce(args)) => study::reproduce(&args),
        Some(Command::Sweep(args)) => study::sweep(&args),
        Some(Command::Collect(args)) => study::collect(&args),
        Some(Command::Work(args)) => work::work(&args),
        Some(Command::Losses) => {
            losses::run();
            Ok(())
        }
        Some(Command::Data) => {
            data::run();
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(message)) => fail(2, &message),
        Err(Failure::Failed(error)) => fail(1, &format!("{error:#}")),
        Err(Failure::Locked(error)) => fail(crate::study::queue::LOCKED, &format!("{error:#}")),
        Err(Failure::Stopped(note)) => {
            eprintln!("{note}");
            ExitCode::from(130)
        }
    }
}

fn fail(code: u8, message: &str) -> ExitCode {
    eprintln!("error: {}", one_line(message));
    ExitCode::from(code)
}

/// A message on one line: causes from elsewhere may bring their own line breaks, and Candle's its backtrace, which
/// begins with frame 0 and helps nobody who uses the program.
fn one_line(message: &str) -> String {
    let line = message
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("0: "))
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join("; ")
        .replace(":; ", ": ");
    // Names come from files of others.
    legible(&line)
}

/// Clap's message and its tips, without the usage lines that follow.
fn first_lines(message: &str) -> String {
    let message = message.strip_prefix("error: ").unwrap_or(message);
    message
        .split("\n\nUsage:")
        .next()
        .unwrap_or(message)
        .split("\n\nFor more")
        .next()
        .unwrap_or(message)
        .into()
}

/// Prints to standard output; a reader that has gone away is no error of ours.
fn print(text: &str) {
    use std::io::Write as _;
    let _ = std::io::stdout().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn a_clap_error_becomes_one_line_without_the_usage() {
        let error = Cli::try_parse_from(["seg-train", "--epoch", "3"]).unwrap_err();
        assert_eq!(
            one_line(&first_lines(&error.to_string())),
            "unexpected argument '--epoch' found; tip: a similar argument exists: '--epochs'"
        );
    }

    #[test]
    fn a_backtrace_is_no_part_of_a_message() {
        assert_eq!(
            one_line(
                "images: shape mismatch\n   0: candle_core::error::Error::bt\n        at /x.rs:3\n"
            ),
            "images: shape mismatch"
        );
    }

    #[test]
    fn a_negative_or_vast_number_is_told_what_was_expected() {
        for (flag, value) in [
            ("--seed", "-1"),
            ("--epochs", "-1"),
            ("--batch", "2.5"),
            ("--epochs", "18446744073709551615"),
        ] {
            let error = Cli::try_parse_from(["seg-train", flag, value]).unwrap_err();
            assert_eq!(
                one_line(&first_lines(&error.to_string())),
                format!(
                    "invalid value '{value}' for '{flag} <N>': expected a whole number from 0 to 9223372036854775807"
                )
            );
        }
    }

    #[test]
    fn a_threshold_outside_zero_to_one_is_bad_usage() {
        let error =
            Cli::try_parse_from(["seg-train", "eval", "runs/a", "--threshold", "1.5"]).unwrap_err();
        assert_eq!(
            one_line(&first_lines(&error.to_string())),
            "invalid value '1.5' for '--threshold <T>': a threshold is a number from 0 to 1"
        );
    }
}
