//! One repair of TIFF files: three samples a pixel called "grey".
//!
//! CVC-ClinicDB's images have `SamplesPerPixel` 3 and `PhotometricInterpretation` 1 (black is zero), a pair the
//! format does not allow and decoders refuse. There is one sensible reading, RGB; so the tag is set to 2 before
//! decoding. Anything else is left to the decoder and its error.

const SHORT: u16 = 3;
const SAMPLES_PER_PIXEL: u16 = 277;
const PHOTOMETRIC: u16 = 262;
const BLACK_IS_ZERO: u16 = 1;
const RGB: u16 = 2;

/// Sets the colour tag of a TIFF file that says both "three samples" and "grey" to RGB; other bytes are left alone.
pub(crate) fn name_colours(bytes: &mut [u8]) {
    if let Some((at, rgb)) = wrong_tag(bytes) {
        bytes[at..at + 2].copy_from_slice(&rgb);
    }
}

/// Where the wrong value stands, and the right one in the file's byte order.
fn wrong_tag(bytes: &[u8]) -> Option<(usize, [u8; 2])> {
    let little = match bytes.get(..4)? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    let short = |at: usize| -> Option<u16> {
        let pair = bytes.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if little {
            u16::from_le_bytes(pair)
        } else {
            u16::from_be_bytes(pair)
        })
    };
    let offset: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
    let directory = (if little {
        u32::from_le_bytes(offset)
    } else {
        u32::from_be_bytes(offset)
    }) as usize;
    // An entry is tag (2 bytes), type (2), count (4), value (4); a SHORT value stands in the first two of its four.
    let entry = |wanted: u16| {
        let first = directory.checked_add(2)?;
        (0..usize::from(short(directory)?))
            .map(|i| first + 12 * i)
            .find(|&at| short(at) == Some(wanted) && short(at + 2) == Some(SHORT))
            .map(|at| at + 8)
    };
    let photometric = entry(PHOTOMETRIC)?;
    let is_wrong = short(entry(SAMPLES_PER_PIXEL)?)? == 3 && short(photometric)? == BLACK_IS_ZERO;
    let rgb = if little {
        RGB.to_le_bytes()
    } else {
        RGB.to_be_bytes()
    };
    is_wrong.then_some((photometric, rgb))
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
