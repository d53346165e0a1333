//! Two repairs of TIFF files, made before decoding; anything else is left to the decoder and its error.
//!
//! CVC-ClinicDB's images have `SamplesPerPixel` 3 and `PhotometricInterpretation` 1 (black is zero), a pair the
//! format does not allow and decoders refuse. There is one sensible reading, RGB; so the tag is set to 2. And where each
//! pixel names a colour of a palette, which the decoder does not look up, the tag is set to grey and the palette kept.

const SHORT: u16 = 3;
const BITS: u16 = 258;
const PHOTOMETRIC: u16 = 262;
const SAMPLES_PER_PIXEL: u16 = 277;
const COLOUR_MAP: u16 = 320;
const BLACK_IS_ZERO: u16 = 1;
const RGB: u16 = 2;
const PALETTE: u16 = 3;

/// The colours that the values 0 to 255 stand for.
pub(crate) type Palette = Vec<[u8; 3]>;

/// Sets the colour tag of a TIFF file that says both "three samples" and "grey" to RGB; other bytes are left alone.
pub(crate) fn name_colours(bytes: &mut [u8]) {
    set_photometric(bytes, RGB, |first| {
        let samples = first.short(first.value(SAMPLES_PER_PIXEL)?)?;
        (samples == 3 && first.photometric()? == BLACK_IS_ZERO).then_some(())
    });
}

/// The palette of a TIFF file of one byte a pixel, whose colour tag is then grey; other bytes are left alone.
pub(crate) fn take_palette(bytes: &mut [u8]) -> Option<Palette> {
    set_photometric(bytes, BLACK_IS_ZERO, |first| {
        if first.photometric()? != PALETTE || first.short(first.value(BITS)?)? != 8 {
            return None;
        }
        let at = first.long(first.value(COLOUR_MAP)?)? as usize;
        let levels: Vec<u16> = (0..3 * 256)
            .map(|i| first.short(at.checked_add(2 * i)?))
            .collect::<Option<_>>()?;
        // Levels have 16 bits; some programs write 8, and all of them would be black.
        let shift = if levels.iter().all(|&level| level < 256) {
            0
        } else {
            8
        };
        let level = |i: usize| (levels[i] >> shift) as u8;
        let colour = |i| [level(i), level(256 + i), level(512 + i)];
        Some((0..256).map(colour).collect())
    })
}

/// Sets the colour tag where something is found.
fn set_photometric<T>(
    bytes: &mut [u8],
    photometric: u16,
    find: impl Fn(&Directory) -> Option<T>,
) -> Option<T> {
    let first = Directory::first(bytes)?;
    let (found, at) = (find(&first)?, first.value(PHOTOMETRIC)?);
    let value = if first.is_little {
        photometric.to_le_bytes()
    } else {
        photometric.to_be_bytes()
    };
    bytes[at..at + 2].copy_from_slice(&value);
    Some(found)
}

/// A TIFF's first directory.
struct Directory<'a> {
    bytes: &'a [u8],
    is_little: bool,
    at: usize,
}

impl<'a> Directory<'a> {
    fn first(bytes: &'a [u8]) -> Option<Self> {
        let is_little = match bytes.get(..4)? {
            b"II*\0" => true,
            b"MM\0*" => false,
            _ => return None,
        };
        let mut first = Self {
            bytes,
            is_little,
            at: 0,
        };
        first.at = first.long(4)? as usize;
        Some(first)
    }

    fn short(&self, at: usize) -> Option<u16> {
        let bytes = self.bytes.get(at..)?.first_chunk()?;
        Some(if self.is_little {
            u16::from_le_bytes(*bytes)
        } else {
            u16::from_be_bytes(*bytes)
        })
    }

    fn long(&self, at: usize) -> Option<u32> {
        let bytes = self.bytes.get(at..)?.first_chunk()?;
        Some(if self.is_little {
            u32::from_le_bytes(*bytes)
        } else {
            u32::from_be_bytes(*bytes)
        })
    }

    /// Where the value of a tag of SHORTs stands: its place, where it has more than four bytes.
    ///
    /// An entry is tag (2 bytes), type (2), count (4), value (4); a SHORT value stands in the first two of its four.
    fn value(&self, tag: u16) -> Option<usize> {
        let first = self.at.checked_add(2)?;
        (0..usize::from(self.short(self.at)?))
            .map(|i| first + 12 * i)
            .find(|&at| self.short(at) == Some(tag) && self.short(at + 2) == Some(SHORT))
            .map(|at| at + 8)
            .filter(|&at| at + 4 <= self.bytes.len())
    }

    fn photometric(&self) -> Option<u16> {
        self.short(self.value(PHOTOMETRIC)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::{self, ByteOrder};

    #[test]
    fn three_samples_called_grey_are_read_as_rgb_in_both_byte_orders() {
        let folder = tempfile::tempdir().unwrap();
        for (name, order) in [("le.tif", ByteOrder::Little), ("be.tif", ByteOrder::Big)] {
            let path = folder.path().join(name);
            std::fs::write(
                &path,
                testing::grey_rgb_tiff(order, 2, 1, &[1, 2, 3, 40, 50, 60]),
            )
            .unwrap();
            let image = crate::data::read_image(&path, 3, 100).unwrap();
            assert_eq!((image.height, image.width), (1, 2));
            assert_eq!(image.data, [1.0, 40.0, 2.0, 50.0, 3.0, 60.0], "{name}");
        }
    }

    #[test]
    fn a_palette_is_looked_up_whatever_its_levels_are_written_in() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tif");
        for scale in [1, 257] {
            // The grey image of three samples, as one of one sample with a palette at the end.
            let mut file = testing::grey_rgb_tiff(ByteOrder::Little, 3, 1, &[0, 2, 255]);
            let end = file.len() as u32;
            let mut set = |tag: u16, count: u32, value: u32| {
                let at = file
                    .windows(4)
                    .position(|window| window == [tag.to_le_bytes(), [3, 0]].concat())
                    .unwrap();
                file[at + 4..at + 8].copy_from_slice(&count.to_le_bytes());
                file[at + 8..at + 12].copy_from_slice(&value.to_le_bytes());
            };
            set(BITS, 1, 8);
            set(PHOTOMETRIC, 1, u32::from(PALETTE));
            set(SAMPLES_PER_PIXEL, 1, 1);
            // What compression is, none, need not be said.
            set(259, 3 * 256, end);
            let at = file.windows(4).position(|w| w == [3, 1, 3, 0]).unwrap();
            file[at..at + 2].copy_from_slice(&COLOUR_MAP.to_le_bytes());
            for channel in [1, 2, 3] {
                for i in 0..256_u16 {
                    let level = (i / channel).min(255) * scale;
                    file.extend(level.to_le_bytes());
                }
            }
            std::fs::write(&path, &file).unwrap();
            let image = crate::data::read_image(&path, 3, 100).unwrap();
            let expected = [0.0, 2.0, 255.0, 0.0, 1.0, 127.0, 0.0, 0.0, 85.0];
            assert_eq!(image.data, expected, "levels times {scale}");
        }
    }

    #[test]
    fn other_bytes_are_left_alone() {
        let good = testing::grey_rgb_tiff(ByteOrder::Little, 1, 1, &[1, 2, 3]);
        let mut once = good.clone();
        name_colours(&mut once);
        assert_eq!(
            good.iter().zip(&once).filter(|(a, b)| a != b).count(),
            1,
            "one byte is mended"
        );
        for cut in 0..good.len() {
            let mut short = good[..cut].to_vec();
            name_colours(&mut short);
            assert_eq!(short.len(), cut);
        }
        let mut twice = once.clone();
        name_colours(&mut twice);
        assert_eq!(once, twice);
        let mut png = b"\x89PNG\r\n\x1a\n and more bytes than a header".to_vec();
        let before = png.clone();
        name_colours(&mut png);
        assert_eq!(png, before);
    }
}
