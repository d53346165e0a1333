//! What a user sees while the network trains: a bar on a terminal, a line an epoch anywhere else.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    run_folder::EpochLine,
    say::{is_terminal, say},
};

/// A learning rate as a person writes it, to four digits: a reduced one is a product of f32 (0.0009999999 where 0.001 is
/// meant).
pub fn shown(lr: f64) -> f64 {
    format!("{lr:.3e}").parse().unwrap_or(lr)
}

/// The bar of one run. On anything but a terminal it prints one line an epoch, to standard error.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    epochs: usize,
    last: String,
}

impl Progress {
    /// For a run of `epochs` epochs of `images` training images each, `done` images of which lie behind it.
    pub fn new(epochs: usize, images: usize, done: usize) -> Self {
        let bar = is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(
                Some((epochs * images) as u64),
                ProgressDrawTarget::stderr_with_hz(5),
            );
            let style = ProgressStyle::with_template(
                "{msg}\n{bar:32} {percent:>3} %  {per_sec} · at most {eta_precise} left",
            )
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .with_key(
                "per_sec",
                |state: &indicatif::ProgressState, w: &mut dyn std::fmt::Write| {
                    let _ = write!(w, "{:.1} images/s", state.per_sec());
                },
            );
            bar.set_style(style);
            bar.set_position(done as u64);
            bar.reset_eta();
            bar.enable_steady_tick(Duration::from_millis(500));
            bar
        });
        Self {
            bar,
            epochs,
            last: String::new(),
        }
    }

    /// After a step of `images` images; `loss` is the epoch's mean so far.
    pub fn step(&self, epoch: usize, images: usize, loss: f64, lr: f64) {
        if let Some(bar) = &self.bar {
            bar.inc(images as u64);
            bar.set_message(format!(
                "epoch {epoch}/{}  loss {loss:.4}  rate {}{}",
                self.epochs,
                shown(lr),
                self.last
            ));
        }
    }

    /// Whether somebody sees the steps as they are made.
    #[cfg(feature = "cuda")]
    pub(crate) fn is_shown(&self) -> bool {
        self.bar.is_some()
    }

    /// A line for the user, which stays.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => say(line),
        }
    }

    /// After an epoch.
    pub fn epoch(&mut self, line: &EpochLine) {
        let best = if line.best { "  best so far" } else { "" };
        if self.bar.is_some() {
            self.last = format!(
                "  · validation loss {:.4}, Dice {:.4}{best}",
                line.val_loss, line.val_dice
            );
        } else {
            say(&format!(
                "epoch {}/{}  loss {:.4}  validation loss {:.4}  Dice {:.4}  rate {}  {:.1} images/s{best}",
                line.epoch,
                self.epochs,
                line.loss,
                line.val_loss,
                line.val_dice,
                shown(line.lr),
                line.images_per_second
            ));
        }
    }

    /// Takes the bar away, so that what follows starts on a clean line.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reduced_rate_is_shown_as_it_was_meant() {
        let reduced = 0.1_f32 * 0.1 * 0.1;
        assert_eq!(shown(f64::from(reduced)).to_string(), "0.001");
        assert_eq!(shown(0.000_999_999_9).to_string(), "0.001");
        assert_eq!(shown(0.012_344).to_string(), "0.01234");
    }
}
