//! Reading one image file: limits, channels, and two repairs.
//!
//! The format is told by the file's first bytes, not by its name. Alpha is dropped, palettes are looked up, 16-bit
//! values are scaled to 0..=255 (65535 becomes 255, the steps between stay), and the orientation that a camera may
//! have noted is not applied: masks are drawn on the pixels as stored.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Cursor, ErrorKind, Read, Seek, SeekFrom},
    path::Path,
};

use anyhow::{Context, Result, bail};
use image::{DynamicImage, ImageDecoder, ImageReader, Limits, Rgb, RgbImage};

use super::{
    outline::{Format, Images},
    tiff,
};
use crate::{open, raster::Image};

/// A file's first bytes, enough for the header of nearly every file.
const HEAD_BYTES: u64 = 64 * 1024;

/// The same where a large profile stands before the header.
const LONG_HEAD_BYTES: u64 = 16 << 20;

/// What a file and its decoder may take besides the pixels, such as profiles and tables.
const BESIDES_PIXELS: u64 = 64 << 20;

/// What a file and its decoder may take a pixel: twice four channels of 32 bits.
const BYTES_A_PIXEL: u64 = 32;

/// The largest value of a float image: far above any use, and finite in all that is computed from it.
const LARGEST: f32 = 1e30;

/// What a file's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) height: usize,
    pub(crate) width: usize,
    /// 1 if the file holds grey values, 3 if it holds colours; alpha not counted.
    pub(crate) channels: usize,
}

impl Header {
    fn pixels(self) -> u64 {
        self.height as u64 * self.width as u64
    }
}

/// Reads an image file of at most `max_pixels` pixels as `channels` (1 or 3) planes of values in 0..=255.
///
/// A grey file asked for three channels repeats its values; a colour file asked for one gives its luma (Rec. 709).
///
/// # Errors
/// The file cannot be opened or decoded, holds several images, values that are no numbers, or more pixels than are read;
/// the sentence names the file.
pub fn read_image(path: &Path, channels: usize, max_pixels: u64) -> Result<Image> {
    image_of(decode(path, max_pixels)?.pixels, channels)
}

/// The planes of a decoded image.
pub(crate) fn image_of(decoded: DynamicImage, channels: usize) -> Result<Image> {
    let (height, width) = (decoded.height() as usize, decoded.width() as usize);
    let data = match (channels, wide_samples(&decoded)) {
        (1, None) => planes(&decoded.into_luma8(), 1, f32::from),
        (1, Some(Wide::U16)) => planes(&decoded.into_luma16(), 1, from_u16),
        (1, Some(Wide::F32)) => planes(&decoded.to_luma32f(), 1, |v| 255.0 * v),
        (3, None) => planes(&decoded.into_rgb8(), 3, f32::from),
        (3, Some(Wide::U16)) => planes(&decoded.into_rgb16(), 3, from_u16),
        (3, Some(Wide::F32)) => planes(&decoded.into_rgb32f(), 3, |v| 255.0 * v),
        _ => bail!("images are read with 1 or 3 channels, not {channels}"),
    };
    Ok(Image {
        channels,
        height,
        width,
        data,
    })
}

/// Interleaved samples as planes, without a second copy of them all as floats.
fn planes<T: Copy>(interleaved: &[T], channels: usize, value: impl Fn(T) -> f32) -> Vec<f32> {
    let mut data = Vec::with_capacity(interleaved.len());
    for channel in 0..channels {
        let plane = interleaved.iter().skip(channel).step_by(channels);
        data.extend(plane.map(|&sample| value(sample)));
    }
    data
}

/// Refuses a limit that no image could have, or no memory hold.
pub(crate) fn check_max_pixels(max_pixels: u64) -> Result<()> {
    if !(1..=1 << 32).contains(&max_pixels) {
        bail!("data.max_pixels is {max_pixels}; expected a whole number from 1 to 4294967296");
    }
    Ok(())
}

/// Reads size and channels without decoding the pixels.
pub(crate) fn read_header(path: &Path, max_pixels: u64) -> Result<Header> {
    header_in(path, &mut open_image(path)?, max_pixels)
}

/// A decoded file.
pub(crate) struct Decoded {
    pub(crate) pixels: DynamicImage,
    /// Whether it was a JPEG, whose values are near those that were saved but not equal to them.
    pub(crate) is_jpeg: bool,
}

/// Decodes a file whose header is within the limits.
pub(crate) fn decode(path: &Path, max_pixels: u64) -> Result<Decoded> {
    let mut file = open_image(path)?;
    header_in(path, &mut file, max_pixels)?;
    let bytes = first_bytes(path, &mut file, u64::MAX)?;
    decode_bytes(path, bytes, max_pixels)
}

/// Decodes the bytes of a file.
pub(crate) fn decode_bytes(path: &Path, mut bytes: Vec<u8>, max_pixels: u64) -> Result<Decoded> {
    let mut cursor = Cursor::new(&bytes);
    let header = header_in(path, &mut cursor, max_pixels)?;
    // The JPEG decoder fills what is missing with grey; a mask or an image cut short would pass unseen.
    if is_cut_jpeg(&bytes) {
        bail!(
            "{} is cut short: the JPEG has no end-of-image marker",
            path.display()
        );
    }
    let palette = mend(&mut bytes);
    let mut pixels = reader(&bytes, header.pixels())
        .and_then(ImageReader::decode)
        .map_err(|e| undecodable(path, &e))?;
    if let (Some(palette), DynamicImage::ImageLuma8(numbers)) = (palette, &pixels) {
        let colour = |x, y| Rgb(palette[usize::from(numbers.get_pixel(x, y).0[0])]);
        pixels = RgbImage::from_fn(numbers.width(), numbers.height(), colour).into();
    }
    refuse_unbounded(path, &pixels)?;
    Ok(Decoded {
        pixels,
        is_jpeg: is_jpeg(&bytes),
    })
}

fn open_image(path: &Path) -> Result<BufReader<File>> {
    let file = open::regular(path).with_context(|| unreadable(path))?;
    Ok(BufReader::new(file))
}

fn unreadable(path: &Path) -> String {
    format!("{} cannot be read", path.display())
}

/// The header of a file that holds one image within the limits.
fn header_in(path: &Path, file: &mut (impl BufRead + Seek), max_pixels: u64) -> Result<Header> {
    let length = file
        .seek(SeekFrom::End(0))
        .with_context(|| unreadable(path))?;
    if length == 0 {
        bail!("{} is empty: it has no bytes", path.display());
    }
    let head = first_bytes(path, file, HEAD_BYTES)?;
    let Some(format) = Format::of(&head) else {
        return Err(undecodable(
            path,
            &"The image format could not be determined",
        ));
    };
    let claimed = format.size(file).ok().flatten();
    if let Some(size) = claimed {
        check_claim(path, size, length, max_pixels)?;
    }
    refuse_several(path, format.images(file))?;
    let pixels = claimed.map_or(0, |(width, height)| width * height);
    let header = header_of(head, pixels).or_else(|_| {
        // A TIFF may keep its directory at the end, a JPEG may hide its header behind a large profile.
        let most = match (format, claimed) {
            (Format::Tiff, Some(_)) => u64::MAX,
            _ => LONG_HEAD_BYTES,
        };
        let more = first_bytes(path, file, most)?;
        header_of(more, pixels).map_err(|e| undecodable(path, &e))
    })?;
    let size = (header.width as u64, header.height as u64);
    check_claim(path, size, length, max_pixels)?;
    Ok(header)
}

fn first_bytes(path: &Path, file: &mut (impl BufRead + Seek), most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()
        .and_then(|()| file.take(most).read_to_end(&mut bytes))
        .with_context(|| unreadable(path))?;
    Ok(bytes)
}

/// What a file with so many pixels, or its decoder, takes at most.
fn room(pixels: u64) -> u64 {
    pixels
        .saturating_mul(BYTES_A_PIXEL)
        .saturating_add(BESIDES_PIXELS)
}

/// Refuses a size that no image has, one that is not read, and a file out of all proportion to it.
fn check_claim(
    path: &Path,
    (width, height): (u64, u64),
    length: u64,
    max_pixels: u64,
) -> Result<()> {
    let path = path.display();
    let pixels = width.saturating_mul(height);
    if pixels == 0 {
        bail!("{path} says it is {width}x{height} pixels; expected at least one: save it anew");
    }
    if pixels > max_pixels {
        bail!(
            "{path} says it is {width}x{height} pixels; at most {max_pixels} are read: raise data.max_pixels if the \
             file is to be trusted"
        );
    }
    let most = room(pixels);
    if length > most {
        bail!(
            "{path} has {length} bytes for {width}x{height} pixels; at most {most} are read: save it anew, without what \
             is no part of the image"
        );
    }
    Ok(())
}

/// Taking the first of several images would be a guess.
fn refuse_several(path: &Path, images: io::Result<Images>) -> Result<()> {
    let count = match images {
        Ok(Images::Exactly(0 | 1)) => return Ok(()),
        Ok(Images::Exactly(n)) => n.to_string(),
        Ok(Images::MoreThan(n)) => format!("more than {n}"),
        Err(error) if error.kind() == ErrorKind::InvalidData => {
            return Err(undecodable(path, &error));
        }
        // A file cut short is the decoder's to judge.
        Err(_) => return Ok(()),
    };
    let images = if count == "more than 1" {
        "image"
    } else {
        "images"
    };
    bail!(
        "{} holds {count} {images}; save the one that is meant as a file of its own",
        path.display()
    )
}

/// Makes a TIFF one that can be decoded, and gives the palette that the decoder would not look up.
fn mend(bytes: &mut [u8]) -> Option<tiff::Palette> {
    tiff::name_colours(bytes);
    tiff::take_palette(bytes)
}

fn header_of(mut bytes: Vec<u8>, pixels: u64) -> image::ImageResult<Header> {
    let palette = mend(&mut bytes);
    let decoder = reader(&bytes, pixels)?.into_decoder()?;
    let (width, height) = decoder.dimensions();
    let channels = if decoder.color_type().has_color() || palette.is_some() {
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

fn reader(bytes: &[u8], pixels: u64) -> image::ImageResult<ImageReader<Cursor<&[u8]>>> {
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(room(pixels));
    reader.limits(limits);
    Ok(reader)
}

fn undecodable(path: &Path, cause: &dyn std::fmt::Display) -> anyhow::Error {
    anyhow::anyhow!(
        "{} cannot be decoded as PNG, JPEG, TIFF, GIF or BMP: {cause}",
        path.display()
    )
}

/// Refuses values that are no numbers or too large: every mean they are in would be lost.
fn refuse_unbounded(path: &Path, decoded: &DynamicImage) -> Result<()> {
    let (samples, channels): (&[f32], usize) = match decoded {
        DynamicImage::ImageRgb32F(image) => (image, 3),
        DynamicImage::ImageRgba32F(image) => (image, 4),
        _ => return Ok(()),
    };
    let is_bad = |value: &f32| value.is_nan() || value.abs() > LARGEST;
    if let Some(at) = samples.iter().position(is_bad) {
        let (pixel, width) = (at / channels, decoded.width() as usize);
        bail!(
            "{} holds {} in column {} of row {}; expected numbers of at most {LARGEST:e}, 0 for black and 1 for white",
            path.display(),
            samples[at],
            pixel % width,
            pixel / width
        );
    }
    Ok(())
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
