//! What an image file says of itself: its format, its size, and how many images it holds.
//!
//! It is read from a few bytes of the file, before a decoder sees any, so that a file that claims to be vast costs
//! nothing. What is damaged here is left to the decoder and its error.

use std::{
    collections::HashSet,
    io::{BufRead, Error, ErrorKind, Result, Seek, SeekFrom},
};

/// The formats that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Bmp,
    Gif,
    Jpeg,
    Png,
    Tiff,
}

/// How many images a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Images {
    Exactly(u64),
    /// So many were counted, and there are more.
    MoreThan(u64),
}

/// Directories of a TIFF that are counted, so that a chain of millions takes no time.
const DIRECTORIES: usize = 1000;

impl Format {
    /// The format that a file's first bytes tell, whatever its name is.
    pub(crate) fn of(head: &[u8]) -> Option<Self> {
        let known: [(&[u8], Self); 7] = [
            (b"\x89PNG\r\n\x1a\n", Self::Png),
            (b"\xFF\xD8\xFF", Self::Jpeg),
            (b"GIF87a", Self::Gif),
            (b"GIF89a", Self::Gif),
            (b"II*\0", Self::Tiff),
            (b"MM\0*", Self::Tiff),
            (b"BM", Self::Bmp),
        ];
        known
            .iter()
            .find(|(magic, _)| head.starts_with(magic))
            .map(|(_, format)| *format)
    }

    /// Width and height; none for a JPEG, where their place depends on what stands before them.
    ///
    /// # Errors
    /// The file ends before it has said so.
    pub(crate) fn size(self, file: &mut (impl BufRead + Seek)) -> Result<Option<(u64, u64)>> {
        let be32 = |bytes| u64::from(u32::from_be_bytes(bytes));
        let le16 = |bytes| u64::from(u16::from_le_bytes(bytes));
        // A negative height stands for rows from top to bottom.
        let signed = |bytes| u64::from(i32::from_le_bytes(bytes).unsigned_abs());
        match self {
            Self::Jpeg => Ok(None),
            Self::Png => {
                file.seek(SeekFrom::Start(16))?;
                Ok(Some((be32(take(file)?), be32(take(file)?))))
            }
            Self::Gif => {
                file.seek(SeekFrom::Start(6))?;
                Ok(Some((le16(take(file)?), le16(take(file)?))))
            }
            Self::Bmp => {
                file.seek(SeekFrom::Start(14))?;
                Ok(Some(match u32::from_le_bytes(take(file)?) {
                    OLD_BMP => (le16(take(file)?), le16(take(file)?)),
                    _ => (signed(take(file)?), signed(take(file)?)),
                }))
            }
            Self::Tiff => {
                let (order, first) = tiff_start(file)?;
                Ok(Directory::read(file, order, first)?.size())
            }
        }
    }

    /// How many images the file holds.
    ///
    /// # Errors
    /// The file ends before it has said so, or its directories form a loop.
    pub(crate) fn images(self, file: &mut (impl BufRead + Seek)) -> Result<Images> {
        match self {
            Self::Bmp | Self::Jpeg => Ok(Images::Exactly(1)),
            Self::Gif => frames_of_gif(file),
            Self::Png => frames_of_png(file),
            Self::Tiff => pages_of_tiff(file),
        }
    }
}

/// The length of a BMP's header when sides had two bytes each.
const OLD_BMP: u32 = 12;

fn take<const N: usize>(file: &mut impl BufRead) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn byte(file: &mut impl BufRead) -> Result<u8> {
    take::<1>(file).map(|[byte]| byte)
}

/// Looks through the chunks before the pixels for that of animations.
fn frames_of_png(file: &mut (impl BufRead + Seek)) -> Result<Images> {
    file.seek(SeekFrom::Start(8))?;
    loop {
        let length = u32::from_be_bytes(take(file)?);
        match &take(file)? {
            b"acTL" => return Ok(Images::Exactly(u32::from_be_bytes(take(file)?).into())),
            b"IDAT" | b"IEND" => return Ok(Images::Exactly(1)),
            _ => file.seek_relative(i64::from(length) + 4)?,
        }
    }
}

/// Goes through the blocks up to the second image.
fn frames_of_gif(file: &mut (impl BufRead + Seek)) -> Result<Images> {
    let palette = |flags: u8| match flags {
        0x80.. => 3 << ((flags & 7) + 1),
        _ => 0,
    };
    file.seek(SeekFrom::Start(10))?;
    let flags = byte(file)?;
    file.seek_relative(2 + palette(flags))?;
    let mut frames = 0;
    loop {
        match byte(file)? {
            0x2C if frames == 1 => return Ok(Images::MoreThan(1)),
            0x2C => {
                frames = 1;
                file.seek_relative(8)?;
                let flags = byte(file)?;
                file.seek_relative(palette(flags) + 1)?;
            }
            0x21 => file.seek_relative(1)?,
            _ => return Ok(Images::Exactly(frames)),
        }
        loop {
            match byte(file)? {
                0 => break,
                length => file.seek_relative(length.into())?,
            }
        }
    }
}

/// Follows the chain of directories, one an image; reduced copies that some programs add are not counted.
fn pages_of_tiff(file: &mut (impl BufRead + Seek)) -> Result<Images> {
    let (order, first) = tiff_start(file)?;
    let mut directory = Directory::read(file, order, first)?;
    let (mut seen, mut pages) = (HashSet::from([first]), 1);
    while directory.next != 0 {
        if !seen.insert(directory.next) {
            let message = "its directories form a loop";
            return Err(Error::new(ErrorKind::InvalidData, message));
        }
        if seen.len() > DIRECTORIES {
            return Ok(Images::MoreThan(pages));
        }
        directory = Directory::read(file, order, directory.next)?;
        pages += u64::from(!directory.is_reduced);
    }
    Ok(Images::Exactly(pages))
}

/// Byte order of a TIFF.
#[derive(Clone, Copy)]
enum Order {
    Little,
    Big,
}

impl Order {
    fn short(self, bytes: [u8; 2]) -> u16 {
        match self {
            Self::Little => u16::from_le_bytes(bytes),
            Self::Big => u16::from_be_bytes(bytes),
        }
    }

    fn long(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        }
    }
}

/// A TIFF's byte order and the place of its first directory.
fn tiff_start(file: &mut (impl BufRead + Seek)) -> Result<(Order, u32)> {
    file.seek(SeekFrom::Start(0))?;
    let order = match &take(file)? {
        b"II*\0" => Order::Little,
        _ => Order::Big,
    };
    Ok((order, order.long(take(file)?)))
}

/// What is to be known of one of a TIFF's directories.
struct Directory {
    width: Option<u32>,
    height: Option<u32>,
    is_reduced: bool,
    /// Where the next one stands; 0 after the last.
    next: u32,
}

const SHORT: u16 = 3;
const SUBFILE_TYPE: u16 = 254;
const WIDTH: u16 = 256;
const HEIGHT: u16 = 257;

impl Directory {
    fn read(file: &mut (impl BufRead + Seek), order: Order, at: u32) -> Result<Self> {
        file.seek(SeekFrom::Start(at.into()))?;
        let (mut width, mut height, mut is_reduced) = (None, None, false);
        for _ in 0..order.short(take(file)?) {
            let (tag, kind) = (order.short(take(file)?), order.short(take(file)?));
            file.seek_relative(4)?;
            let bytes: [u8; 4] = take(file)?;
            let value = match kind {
                // A SHORT stands in the first two of the four bytes.
                SHORT => order.short([bytes[0], bytes[1]]).into(),
                _ => order.long(bytes),
            };
            match tag {
                SUBFILE_TYPE => is_reduced = value & 1 == 1,
                WIDTH => width = Some(value),
                HEIGHT => height = Some(value),
                _ => {}
            }
        }
        Ok(Self {
            width,
            height,
            is_reduced,
            next: order.long(take(file)?),
        })
    }

    fn size(&self) -> Option<(u64, u64)> {
        Some((self.width?.into(), self.height?.into()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::data::testing::{ByteOrder, grey_rgb_tiff, palette_gif};

    fn size(bytes: &[u8]) -> Option<(u64, u64)> {
        let format = Format::of(bytes).unwrap();
        format.size(&mut Cursor::new(bytes)).unwrap()
    }

    fn images(bytes: &[u8]) -> Result<Images> {
        Format::of(bytes).unwrap().images(&mut Cursor::new(bytes))
    }

    /// A TIFF of directories at these places, each of no entries and followed by the place beside it.
    fn directories(places: &[(u32, u32)]) -> Vec<u8> {
        let mut file = b"II*\0".to_vec();
        file.extend(places[0].0.to_le_bytes());
        for &(at, next) in places {
            file.resize(at as usize, 0);
            file.extend([0, 0]);
            file.extend(next.to_le_bytes());
        }
        file
    }

    #[test]
    fn the_size_is_read_where_each_format_has_it() {
        for order in [ByteOrder::Little, ByteOrder::Big] {
            let tiff = grey_rgb_tiff(order, 2, 1, &[0; 6]);
            assert_eq!(size(&tiff), Some((2, 1)));
            assert_eq!(images(&tiff).unwrap(), Images::Exactly(1));
        }
        let gif = palette_gif(3, 2, [[0; 3]; 2], &[0; 6]);
        assert_eq!(size(&gif), Some((3, 2)));
        assert_eq!(images(&gif).unwrap(), Images::Exactly(1));
        let old = [b"BM", &[0; 12][..], &[12, 0, 0, 0, 5, 0, 6, 0]].concat();
        assert_eq!(size(&old), Some((5, 6)));
        let upside_down = [
            b"BM",
            &[0; 12][..],
            &40_u32.to_le_bytes(),
            &7_i32.to_le_bytes(),
            &(-9_i32).to_le_bytes(),
        ]
        .concat();
        assert_eq!(size(&upside_down), Some((7, 9)));
        assert_eq!(size(&[0xFF, 0xD8, 0xFF, 0xE0]), None);
    }

    #[test]
    fn directories_are_counted_unless_they_form_a_loop() {
        let chain = directories(&[(8, 20), (20, 40), (40, 0)]);
        assert_eq!(images(&chain).unwrap(), Images::Exactly(3));
        let backwards = directories(&[(8, 30), (20, 0), (30, 20)]);
        assert_eq!(images(&backwards).unwrap(), Images::Exactly(3));
        for last in [8, 20, 40] {
            let chain = directories(&[(8, 20), (20, 40), (40, last)]);
            assert_eq!(
                images(&chain).unwrap_err().to_string(),
                "its directories form a loop"
            );
        }
        let many: Vec<(u32, u32)> = (0..1200).map(|n| (8 + 6 * n, 14 + 6 * n)).collect();
        assert_eq!(images(&directories(&many)).unwrap(), Images::MoreThan(1000));
        let beyond = directories(&[(8, 1 << 30)]);
        assert_eq!(
            images(&beyond).unwrap_err().kind(),
            ErrorKind::UnexpectedEof
        );
    }

    #[test]
    fn what_is_cut_short_is_told_from_what_is_whole() {
        let gif = palette_gif(3, 2, [[0; 3]; 2], &[0; 6]);
        for keep in 6..gif.len() - 1 {
            assert!(images(&gif[..keep]).is_err(), "{keep} bytes");
        }
    }
}
