//! Images and label maps as the trainer holds them: plain planar arrays.

/// A label that no loss and no metric counts: a pixel from outside the image, or one the annotator left open.
pub const IGNORE: u8 = 255;

/// A label of a pixel that counts and belongs to no class at all: its one-hot target is zero in every channel.
///
/// It exists for one setting only, the authors' treatment of pixels from outside the image (`outside = "no-class"`).
pub const NO_CLASS: u8 = 254;

/// An image, planar `[channels, height, width]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// Number of channels.
    pub channels: usize,
    /// Height in pixels.
    pub height: usize,
    /// Width in pixels.
    pub width: usize,
    /// Values, channel after channel, row after row.
    pub data: Vec<f32>,
}

/// A class number a pixel, `[height, width]`; [`IGNORE`] and [`NO_CLASS`] stand for the two kinds of none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels {
    /// Height in pixels.
    pub height: usize,
    /// Width in pixels.
    pub width: usize,
    /// Class numbers, row after row; 0 is the background.
    pub data: Vec<u8>,
}
