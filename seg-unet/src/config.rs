//! What a U-Net is made of.

use candle_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// The shape of a [`UNet`](crate::UNet); the default is the paper's network for an RGB image and two classes.
///
/// Level `i` of `depth` has `width · 2^i` channels and the middle `width · 2^depth`: 32, 64, 128, 256 and 512 by default.
///
/// ```
/// use seg_unet::UNetConfig;
/// let config = UNetConfig { in_channels: 1, depth: 3, ..UNetConfig::default() };
/// config.validate()?;
/// assert_eq!(config.size_multiple(), 8);
/// assert_eq!(config.channels(3), 256);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UNetConfig {
    /// Channels of the image: 3 for RGB, 1 for grey.
    pub in_channels: usize,
    /// Channels of the logits. One is a sigmoid's foreground; two or more are a softmax's classes, background first.
    pub classes: usize,
    /// Channels of the first level.
    pub width: usize,
    /// How often the image is halved.
    pub depth: usize,
    /// ε of the instance norm, added to the variance.
    pub norm_eps: f64,
}

/// Weights of a network at most: a hundred times the paper's, and a slip of the keyboard fills no memory.
const WEIGHTS: u64 = 1 << 30;

impl Default for UNetConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            classes: 2,
            width: 32,
            depth: 4,
            norm_eps: 1e-3,
        }
    }
}

impl UNetConfig {
    /// Height and width of an image must be multiples of this: 2^depth.
    pub fn size_multiple(&self) -> usize {
        1 << self.depth
    }

    /// Channels at a level: 0 is the image's full size, `depth` the middle.
    pub fn channels(&self, level: usize) -> usize {
        self.width << level
    }

    /// Number of weights of such a network.
    ///
    /// ```
    /// use seg_unet::UNetConfig;
    /// assert_eq!(UNetConfig::default().weights(), 7_766_018);
    /// ```
    pub fn weights(&self) -> u64 {
        let channels = |level| self.channels(level) as u64;
        let kernel = |side: u64, inputs: u64, outputs: u64| (side * side * inputs + 1) * outputs;
        let norm = |channels: u64| 2 * channels;
        let block = |inputs, outputs| {
            kernel(3, inputs, outputs) + kernel(3, outputs, outputs) + 2 * norm(outputs)
        };
        let level = |level| {
            let (fine, coarse) = (channels(level), channels(level + 1));
            // Down to the coarser level, and back up with what was kept of this one.
            block(fine, coarse) + kernel(2, coarse, fine) + block(2 * fine, fine)
        };
        block(self.in_channels as u64, channels(0))
            + (0..self.depth).map(level).sum::<u64>()
            + kernel(1, channels(0), self.classes as u64)
    }

    /// Checks every field against its range.
    ///
    /// # Errors
    /// One sentence that names the field, what it holds and what it may hold.
    pub fn validate(&self) -> Result<()> {
        // Far beyond any use, and small enough for no product of them to overflow.
        for (name, value, least, most) in [
            ("in_channels", self.in_channels, 1, 4096),
            ("classes", self.classes, 1, 4096),
            ("width", self.width, 1, 1024),
            ("depth", self.depth, 1, 8),
        ] {
            if !(least..=most).contains(&value) {
                return Err(Error::Msg(format!(
                    "U-Net: {name} is {value}; expected a whole number from {least} to {most}"
                )));
            }
        }
        if self.weights() > WEIGHTS {
            return Err(Error::Msg(format!(
                "U-Net: width {} and depth {} make {} weights; expected at most 2^30, 4 GiB in f32: take a smaller width \
                 or depth",
                self.width,
                self.depth,
                self.weights()
            )));
        }
        // A constant channel has variance 0, and 1/√0 would fill the network with infinities.
        if !(self.norm_eps.is_finite() && self.norm_eps > 0.0) {
            return Err(Error::Msg(format!(
                "U-Net: norm_eps is {}; expected a finite number above 0, such as 0.001",
                self.norm_eps
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_is_the_papers_network() {
        let config = UNetConfig::default();
        config.validate().unwrap();
        assert_eq!(
            (0..=4).map(|i| config.channels(i)).collect::<Vec<_>>(),
            [32, 64, 128, 256, 512]
        );
        assert_eq!(config.size_multiple(), 16);
    }

    #[test]
    fn the_weights_are_counted_as_a_network_has_them() {
        for (width, depth, in_channels, classes) in [(2, 1, 1, 2), (3, 2, 3, 1), (4, 3, 1, 5)] {
            let config = UNetConfig {
                in_channels,
                classes,
                width,
                depth,
                ..UNetConfig::default()
            };
            let net = crate::UNet::new(&config, 0, &candle_core::Device::Cpu).unwrap();
            let counted: usize = net.vars().iter().map(|(_, var)| var.elem_count()).sum();
            assert_eq!(config.weights(), counted as u64);
        }
    }

    #[test]
    fn a_field_out_of_range_is_named_with_its_range() {
        let ok = UNetConfig::default();
        for (config, sentence) in [
            (
                UNetConfig {
                    in_channels: 0,
                    ..ok
                },
                "U-Net: in_channels is 0; expected a whole number from 1 to 4096",
            ),
            (
                UNetConfig { classes: 0, ..ok },
                "U-Net: classes is 0; expected a whole number from 1 to 4096",
            ),
            (
                UNetConfig { width: 0, ..ok },
                "U-Net: width is 0; expected a whole number from 1 to 1024",
            ),
            (
                UNetConfig { depth: 0, ..ok },
                "U-Net: depth is 0; expected a whole number from 1 to 8",
            ),
            (
                UNetConfig { depth: 64, ..ok },
                "U-Net: depth is 64; expected a whole number from 1 to 8",
            ),
            (
                UNetConfig {
                    width: 1024,
                    depth: 8,
                    ..ok
                },
                "U-Net: width 1024 and depth 8 make 2038661136386 weights; expected at most 2^30, 4 GiB in f32: take a \
                 smaller width or depth",
            ),
            (
                UNetConfig {
                    norm_eps: 0.0,
                    ..ok
                },
                "U-Net: norm_eps is 0; expected a finite number above 0, such as 0.001",
            ),
            (
                UNetConfig {
                    norm_eps: f64::NAN,
                    ..ok
                },
                "U-Net: norm_eps is NaN; expected a finite number above 0, such as 0.001",
            ),
        ] {
            assert_eq!(config.validate().unwrap_err().to_string(), sentence);
        }
    }
}
