//! Files for the tests, written as each data set would have them.

use std::path::Path;

use image::{GrayImage, ImageBuffer, Luma, Rgb, RgbImage, Rgba, RgbaImage};

/// A colour image whose values follow from place and `n`, so that no two are alike.
pub(crate) fn colours(width: u32, height: u32, n: u8) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([x as u8, y as u8, n]))
}

/// A mask of one bright pixel.
pub(crate) fn dot(width: u32, height: u32, at: (u32, u32)) -> GrayImage {
    GrayImage::from_fn(width, height, |x, y| {
        Luma([if (x, y) == at { 255 } else { 0 }])
    })
}

/// Saves an image, and makes its folder.
#[track_caller]
pub(crate) fn save<P, C>(image: &ImageBuffer<P, C>, path: &Path)
where
    P: image::PixelWithColorType,
    [P::Subpixel]: image::EncodableLayout,
    C: std::ops::Deref<Target = [P::Subpixel]>,
{
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    image.save(path).unwrap();
}

/// The same image with a full alpha channel, as DSB2018 has it.
pub(crate) fn with_alpha(image: &RgbImage) -> RgbaImage {
    RgbaImage::from_fn(image.width(), image.height(), |x, y| {
        let [r, g, b] = image.get_pixel(x, y).0;
        Rgba([r, g, b, 255])
    })
}

/// Byte order of a TIFF file.
#[derive(Clone, Copy)]
pub(crate) enum ByteOrder {
    Little,
    Big,
}

/// An uncompressed TIFF that says "three samples a pixel" and "grey", as CVC-ClinicDB's images do.
pub(crate) fn grey_rgb_tiff(order: ByteOrder, width: u16, height: u16, pixels: &[u8]) -> Vec<u8> {
    let u16_bytes = |v: u16| match order {
        ByteOrder::Little => v.to_le_bytes(),
        ByteOrder::Big => v.to_be_bytes(),
    };
    let u32_bytes = |v: u32| match order {
        ByteOrder::Little => v.to_le_bytes(),
        ByteOrder::Big => v.to_be_bytes(),
    };
    // Header, then the pixels from byte 8, then the three bit depths, then the directory.
    let depths_at = 8 + pixels.len() as u32 + pixels.len() as u32 % 2;
    let mut file = match order {
        ByteOrder::Little => b"II*\0".to_vec(),
        ByteOrder::Big => b"MM\0*".to_vec(),
    };
    file.extend(u32_bytes(depths_at + 6));
    file.extend(pixels);
    file.resize(depths_at as usize, 0);
    for _ in 0..3 {
        file.extend(u16_bytes(8));
    }
    let (short, long) = (3, 4);
    let short_value = |v: u16| [u16_bytes(v), [0, 0]].concat();
    let entries: [(u16, u16, u32, Vec<u8>); 9] = [
        (256, short, 1, short_value(width)),
        (257, short, 1, short_value(height)),
        (258, short, 3, u32_bytes(depths_at).to_vec()),
        (259, short, 1, short_value(1)),
        (262, short, 1, short_value(1)),
        (273, long, 1, u32_bytes(8).to_vec()),
        (277, short, 1, short_value(3)),
        (278, short, 1, short_value(height)),
        (279, long, 1, u32_bytes(pixels.len() as u32).to_vec()),
    ];
    file.extend(u16_bytes(entries.len() as u16));
    for (tag, kind, count, value) in entries {
        file.extend(u16_bytes(tag));
        file.extend(u16_bytes(kind));
        file.extend(u32_bytes(count));
        file.extend(value);
    }
    file.extend(u32_bytes(0));
    file
}

/// A GIF of two colours, pixels given as palette indices: DRIVE's second observer has (4, 2, 4) and (252, 254, 252).
pub(crate) fn palette_gif(width: u8, height: u8, palette: [[u8; 3]; 2], indices: &[u8]) -> Vec<u8> {
    let mut file = b"GIF89a".to_vec();
    file.extend([width, 0, height, 0, 0x80, 0, 0]); // a global palette of two colours
    file.extend(palette.concat());
    file.extend([0x2C, 0, 0, 0, 0, width, 0, height, 0, 0]);
    // LZW without compression: 3-bit codes, a clear code before every second pixel so that codes stay 3 bits wide.
    let mut codes = Vec::new();
    for pair in indices.chunks(2) {
        codes.push(4);
        codes.extend(pair);
    }
    codes.push(5);
    let mut data = vec![0_u8; (3 * codes.len()).div_ceil(8)];
    for (i, code) in codes.iter().enumerate() {
        for bit in 0..3 {
            let at = 3 * i + bit;
            data[at / 8] |= (code >> bit & 1) << (at % 8);
        }
    }
    assert!(data.len() < 256, "one block");
    file.extend([2, data.len() as u8]);
    file.extend(data);
    file.extend([0, 0x3B]);
    file
}
