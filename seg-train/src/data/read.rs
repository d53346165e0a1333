//! Reading one image file: limits, channels, and one repair.
//!
//! The format is told by the file's first bytes, not by its name. Alpha is dropped, palettes are looked up, 16-bit
//! values are scaled to 0..=255 (65535 becomes 255, the steps between stay), and the orientation that a camera may
//! have noted is not applied: masks are drawn on the pixels as stored.

use std::{
    fs::File,
    io::{Cursor, Read},
    path::Path,
};

use anyhow::{Context, Result, anyhow, bail};
use image::{DynamicImage, ImageDecoder, ImageReader, Limits};

use super::tiff;
use crate::raster::Image;

/// The longest side that is read. The largest images of the data sets known here have 6748 pixels a side.
const MAX_SIDE: u32 = 32_768;

/// The most pixels that are read: as `f32` with three channels they take 1.2 GB.
const MAX_PIXELS: u64 = 100_000_000;

/// Memory a decoder may take for itself.
const MAX_ALLOC: u64 = 2 << 30;

/// A file's first bytes, enough for the header of nearly every file.
const HEAD_BYTES: u64 = 64 * 1024;

/// What a file's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) height: usize,
    pub(crate) width: usize,
    /// 1 if the file holds grey values, 3 if it holds colours; alpha not counted.
    pub(crate) channels: usize,
}

/// Reads an image file as `channels` (1 or 3) planes of values in 0..=255.
///
/// A grey file asked for three channels repeats its values; a colour file asked for one gives its luma (Rec. 709).
///
/// # Errors
/// The file cannot be opened or decoded, or is larger than is read; the sentence names the file.
pub fn read_image(path: &Path, channels: usize) -> Result<Image> {
    let decoded = decode(path)?.pixels;
    let (height, width) = (decoded.height() as usize, decoded.width() as usize);
    let interleaved: Vec<f32> = match (channels, wide_samples(&decoded)) {
        (1, None) => decoded.into_luma8().iter().map(|&v| f32::from(v)).collect(),
        (1, Some(Wide::U16)) => decoded.into_luma16().iter().map(|&v| from_u16(v)).collect(),
        (1, Some(Wide::F32)) => decoded.to_luma32f().iter().map(|&v| 255.0 * v).collect(),
        (3, None) => decoded.into_rgb8().iter().map(|&v| f32::from(v)).collect(),
        (3, Some(Wide::U16)) => decoded.into_rgb16().iter().map(|&v| from_u16(v)).collect(),
        (3, Some(Wide::F32)) => decoded.to_rgb32f().iter().map(|&v| 255.0 * v).collect(),
        _ => bail!("images are read with 1 or 3 channels, not {channels}"),
    };
    let mut data = Vec::with_capacity(interleaved.len());
    for channel in 0..channels {
        data.extend(
            interleaved
                .chunks_exact(channels)
                .map(|pixel| pixel[channel]),
        );
    }
    Ok(Image {
        channels,
        height,
        width,
        data,
    })
}

/// Reads size and channels without decoding the pixels.
pub(crate) fn read_header(path: &Path) -> Result<Header> {
    let mut head = Vec::new();
    File::open(path)
        .and_then(|file| file.take(HEAD_BYTES).read_to_end(&mut head))
        .with_context(|| format!("{} cannot be read", path.display()))?;
    // A TIFF may keep its directory at the end, a JPEG may hide its header behind a large profile.
    match header_of(&head) {
        Ok(header) => check_size(path, header),
        Err(_) => check_size(
            path,
            header_of(&read_bytes(path)?).map_err(|e| undecodable(path, &e))?,
        ),
    }
}

/// A decoded file.
pub(crate) struct Decoded {
    pub(crate) pixels: DynamicImage,
    /// Whether it was a JPEG, whose values are near those that were saved but not equal to them.
    pub(crate) is_jpeg: bool,
}

/// Decodes a file whose size is within the limits.
pub(crate) fn decode(path: &Path) -> Result<Decoded> {
    let bytes = read_bytes(path)?;
    check_size(path, header_of(&bytes).map_err(|e| undecodable(path, &e))?)?;
    // The JPEG decoder fills what is missing with grey; a mask or an image cut short would pass unseen.
    if is_cut_jpeg(&bytes) {
        bail!(
            "{} is cut short: the JPEG has no end-of-image marker",
            path.display()
        );
    }
    let pixels = reader(&bytes)
        .and_then(ImageReader::decode)
        .map_err(|e| undecodable(path, &e))?;
    Ok(Decoded {
        pixels,
        is_jpeg: is_jpeg(&bytes),
    })
}

fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    let mut bytes =
        std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    tiff::name_colours(&mut bytes);
    Ok(bytes)
}

fn header_of(bytes: &[u8]) -> image::ImageResult<Header> {
    let decoder = reader(bytes)?.into_decoder()?;
    let (width, height) = decoder.dimensions();
    let channels = if decoder.color_type().has_color() {
        3
    } else {
        1
    };
    Ok(Header {
        height: height as usize,
        width: width as usize,
        channels,
    })
}

fn reader(bytes: &[u8]) -> image::ImageResult<ImageReader<Cursor<&[u8]>>> {
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_ALLOC);
    reader.limits(limits);
    Ok(reader)
}

fn check_size(path: &Path, header: Header) -> Result<Header> {
    let Header { height, width, .. } = header;
    let too_long = height.max(width) > MAX_SIDE as usize;
    if too_long || height as u64 * width as u64 > MAX_PIXELS {
        bail!(
            "{} says it is {width}x{height} pixels; at most {MAX_SIDE} a side and {MAX_PIXELS} in all are read",
            path.display()
        );
    }
    Ok(header)
}

fn undecodable(path: &Path, cause: &image::ImageError) -> anyhow::Error {
    anyhow!(
        "{} cannot be decoded as PNG, JPEG, TIFF, GIF or BMP: {cause}",
        path.display()
    )
}

/// Whether a JPEG lacks the end marker after its last scan. Within a scan no marker but restarts can occur.
fn is_cut_jpeg(bytes: &[u8]) -> bool {
    let last = |marker: [u8; 2]| bytes.windows(2).rposition(|pair| pair == marker);
    is_jpeg(bytes) && last([0xFF, 0xD9]) < last([0xFF, 0xDA])
}

fn is_jpeg(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0xFF, 0xD8])
}

/// Samples of more than 8 bits.
enum Wide {
    U16,
    F32,
}

fn wide_samples(decoded: &DynamicImage) -> Option<Wide> {
    use image::ColorType as C;
    match decoded.color() {
        C::L16 | C::La16 | C::Rgb16 | C::Rgba16 => Some(Wide::U16),
        C::Rgb32F | C::Rgba32F => Some(Wide::F32),
        _ => None,
    }
}

/// 65535 = 255 · 257, so full scale stays full scale and an 8-bit value stored as v · 257 comes back exactly.
fn from_u16(value: u16) -> f32 {
    f32::from(value) / 257.0
}
