//! Image files byte by byte, so that they can be wrong in one place.

use std::io::Cursor;

use image::{DynamicImage, GrayImage, ImageFormat, Luma};
use serde_json::Value;

/// The side of the small images.
pub(super) const SIDE: u32 = 8;

/// A grey ramp.
pub(super) fn ramp() -> DynamicImage {
    GrayImage::from_fn(SIDE, SIDE, |x, y| Luma([(20 * x + 5 * y) as u8])).into()
}

/// A mask whose right half is foreground.
pub(super) fn half() -> DynamicImage {
    GrayImage::from_fn(SIDE, SIDE, |x, _| {
        Luma([if x < SIDE / 2 { 0 } else { 255 }])
    })
    .into()
}

pub(super) fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// The same bytes with others written over some of them.
pub(super) fn with(mut bytes: Vec<u8>, at: usize, others: &[u8]) -> Vec<u8> {
    bytes[at..at + others.len()].copy_from_slice(others);
    bytes
}

/// CRC-32, reflected.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |c, _| match c & 1 {
            1 => c >> 1 ^ 0xEDB8_8320,
            _ => c >> 1,
        })
    })
}

/// zlib without compression.
pub(super) fn stored(data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x78, 0x01];
    let mut blocks = data.chunks(65_535).peekable();
    while let Some(block) = blocks.next() {
        let length = block.len() as u16;
        bytes.push(u8::from(blocks.peek().is_none()));
        bytes.extend(length.to_le_bytes());
        bytes.extend((!length).to_le_bytes());
        bytes.extend(block);
    }
    let (a, b) = data.iter().fold((1_u32, 0_u32), |(a, b), &byte| {
        let a = (a + u32::from(byte)) % 65_521;
        (a, (b + a) % 65_521)
    });
    bytes.extend((b << 16 | a).to_be_bytes());
    bytes
}

pub(super) fn chunk(name: [u8; 4], data: &[u8]) -> Vec<u8> {
    let body = [&name[..], data].concat();
    let length = (data.len() as u32).to_be_bytes();
    [&length[..], &body, &crc(&body).to_be_bytes()].concat()
}

/// A PNG of a header, chunks and rows that each begin with their filter.
pub(super) fn png(
    (width, height): (u32, u32),
    (bits, colour): (u8, u8),
    before: &[Vec<u8>],
    rows: &[u8],
) -> Vec<u8> {
    let sides = [width.to_be_bytes(), height.to_be_bytes()].concat();
    let header = [&sides[..], &[bits, colour, 0, 0, 0]].concat();
    [
        &b"\x89PNG\r\n\x1a\n"[..],
        &chunk(*b"IHDR", &header),
        &before.concat(),
        &chunk(*b"IDAT", &stored(rows)),
        &chunk(*b"IEND", &[]),
    ]
    .concat()
}

/// Rows of zeros, and their filters, of so many bytes each.
pub(super) fn rows(bytes: usize) -> Vec<u8> {
    vec![0; (bytes + 1) * SIDE as usize]
}

/// One entry of a TIFF's directory; its value is written elsewhere where it has more than four bytes.
pub(super) type Entry = (u16, Kind, Vec<u8>);

#[derive(Clone, Copy)]
pub(super) enum Kind {
    Short = 3,
    Long = 4,
}

pub(super) fn short(tag: u16, values: &[u16]) -> Entry {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes());
    (tag, Kind::Short, bytes.collect())
}

pub(super) fn long(tag: u16, values: &[u32]) -> Entry {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes());
    (tag, Kind::Long, bytes.collect())
}

/// What every page says: its size, the bits of each sample, what they mean and their type; the pixels stand at byte 8.
pub(super) fn page(
    (width, height): (u32, u32),
    bits: &[u16],
    photometric: u16,
    format: u16,
    pixels: usize,
) -> Vec<Entry> {
    vec![
        long(256, &[width]),
        long(257, &[height]),
        short(258, bits),
        short(259, &[1]),
        short(262, &[photometric]),
        long(273, &[8]),
        short(277, &[bits.len() as u16]),
        long(278, &[height]),
        long(279, &[pixels as u32]),
        short(339, &vec![format; bits.len()]),
    ]
}

/// A little-endian TIFF: the pixels, then the pages' directories, the last of which is followed by `after`.
pub(super) fn tiff(pixels: &[u8], pages: &[Vec<Entry>], after: u32) -> Vec<u8> {
    let even = pixels.len().next_multiple_of(2);
    let mut at = 8 + even as u32;
    let mut file = [b"II*\0", &at.to_le_bytes()[..], pixels].concat();
    file.resize(8 + even, 0);
    for (n, page) in pages.iter().enumerate() {
        let mut elsewhere: Vec<u8> = Vec::new();
        let end = at + 2 + 12 * page.len() as u32 + 4;
        let mut directory = (page.len() as u16).to_le_bytes().to_vec();
        for (tag, kind, value) in page {
            let size = match kind {
                Kind::Short => 2,
                Kind::Long => 4,
            };
            directory.extend(tag.to_le_bytes());
            directory.extend((*kind as u16).to_le_bytes());
            directory.extend((value.len() as u32 / size).to_le_bytes());
            let mut place = value.clone();
            if value.len() > 4 {
                place = (end + elsewhere.len() as u32).to_le_bytes().to_vec();
                elsewhere.extend(value);
            }
            place.resize(4, 0);
            directory.extend(place);
        }
        at = end + elsewhere.len() as u32;
        let next = if n + 1 == pages.len() { after } else { at };
        directory.extend(next.to_le_bytes());
        file.extend(directory);
        file.extend(elsewhere);
    }
    file
}

/// A TIFF whose pixels are numbers of greys in a palette.
pub(super) fn palette_tiff(pixels: &[u8]) -> Vec<u8> {
    let mut page = page((SIDE, SIDE), &[8], 3, 1, pixels.len());
    let levels: Vec<u16> = (0..3 * 256).map(|i| i % 256 * 257).collect();
    page.insert(9, short(320, &levels));
    tiff(pixels, &[page], 0)
}

/// A TIFF of one colour image of floats.
pub(super) fn float_tiff(values: &[f32]) -> Vec<u8> {
    let pixels: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    tiff(
        &pixels,
        &[page((SIDE, SIDE), &[32; 3], 2, 3, pixels.len())],
        0,
    )
}

/// Floats of a colour image, one of which is another.
pub(super) fn floats(at: usize, value: f32) -> Vec<f32> {
    let mut values: Vec<f32> = (0..3 * SIDE * SIDE).map(|i| i as f32 / 192.0).collect();
    values[at] = value;
    values
}

/// A GIF of two colours with frames at (left, top, width, height), every pixel of them bright.
pub(super) fn gif((width, height): (u16, u16), frames: &[[u16; 4]]) -> Vec<u8> {
    let mut file = b"GIF89a".to_vec();
    file.extend([width.to_le_bytes(), height.to_le_bytes()].concat());
    file.extend([0x80, 0, 0, 0, 0, 0, 255, 255, 255]);
    for frame in frames {
        file.push(0x2C);
        file.extend(frame.iter().flat_map(|side| side.to_le_bytes()));
        file.push(0);
        // LZW without compression: 3-bit codes, a clear code before every second pixel so that codes stay 3 bits wide.
        let pixels = usize::from(frame[2]) * usize::from(frame[3]);
        let mut codes: Vec<u8> = vec![[4, 1, 1]; pixels.min(4096).div_ceil(2)].concat();
        codes.push(5);
        let mut data = vec![0_u8; (3 * codes.len()).div_ceil(8)];
        for (i, code) in codes.iter().enumerate() {
            for bit in 0..3 {
                let at = 3 * i + bit;
                data[at / 8] |= (code >> bit & 1) << (at % 8);
            }
        }
        file.push(2);
        for block in data.chunks(255) {
            file.push(block.len() as u8);
            file.extend(block);
        }
        file.push(0);
    }
    file.push(0x3B);
    file
}

/// A BMP of 24 bits a pixel; a negative height is one from top to bottom.
pub(super) fn bmp(width: i32, height: i32) -> Vec<u8> {
    let pixels: Vec<u8> = (0..SIDE * SIDE * 3).map(|i| i as u8).collect();
    [
        b"BM",
        &(54 + pixels.len() as u32).to_le_bytes()[..],
        &[0; 4],
        &54_u32.to_le_bytes(),
        &40_u32.to_le_bytes(),
        &width.to_le_bytes(),
        &height.to_le_bytes(),
        &[1, 0, 24, 0],
        &[0; 24],
        &pixels,
    ]
    .concat()
}

/// The least JPEG of four inks: tables of one code each, and every block is grey.
pub(super) fn cmyk_jpeg() -> Vec<u8> {
    let mut file = vec![0xFF, 0xD8, 0xFF, 0xDB, 0, 67, 0];
    file.extend([1; 64]);
    file.extend([0xFF, 0xC0, 0, 20, 8, 0, 8, 0, 8, 4]);
    for component in 1..=4 {
        file.extend([component, 0x11, 0]);
    }
    for class in [0x00, 0x10] {
        file.extend([0xFF, 0xC4, 0, 20, class, 1]);
        file.extend([0; 15]);
        file.push(0);
    }
    file.extend([0xFF, 0xDA, 0, 14, 4]);
    for component in 1..=4 {
        file.extend([component, 0]);
    }
    file.extend([0, 63, 0, 0x00, 0xFF, 0xD9]);
    file
}

/// The place of a JPEG's height, which its width follows.
pub(super) fn frame_of_jpeg(jpeg: &[u8]) -> usize {
    let marker = jpeg
        .windows(2)
        .position(|pair| pair == [0xFF, 0xC0])
        .unwrap();
    marker + 5
}

/// A JPEG with a segment after its first marker.
pub(super) fn with_segment(jpeg: &[u8], marker: u8, data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u16 + 2).to_be_bytes();
    [&jpeg[..2], &[0xFF, marker], &length, data, &jpeg[2..]].concat()
}

/// A safetensors file with its header and its numbers changed, and without the note that would seal them: as another
/// program would write it.
pub(super) fn rewritten(file: &[u8], change: impl Fn(&mut Value, &mut Vec<u8>)) -> Vec<u8> {
    let length = u64::from_le_bytes(*file.first_chunk().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&file[8..8 + length]).unwrap();
    header.as_object_mut().unwrap().remove("__metadata__");
    let mut data = file[8 + length..].to_vec();
    change(&mut header, &mut data);
    safetensors(header.to_string().as_bytes(), &data)
}

/// A safetensors file of any header.
pub(super) fn safetensors(header: &[u8], data: &[u8]) -> Vec<u8> {
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], header, data].concat()
}
