//! The files, a row each.

#![allow(clippy::too_many_lines)] // tables are as long as they are

use std::{
    fs,
    path::{Path, PathBuf},
};

use image::{DynamicImage, ImageFormat};

use super::{
    Like, Row, TINY,
    build::{
        SIDE, bmp, chunk, cmyk_jpeg, encoded, float_tiff, floats, frame_of_jpeg, gif, half, long,
        page, palette_tiff, png, ramp, rewritten, rows as zeros, safetensors, stored, tiff, with,
        with_segment,
    },
    good_pairs, words,
};

/// What is to come of a file.
pub(crate) enum Expected {
    /// It is unusual and good.
    Works,
    /// An exit code, and the sentence or its telling part, in which `@` is the row's folder.
    Refused(i32, String),
}

use Expected::{Refused, Works};

/// The least configuration that says all that is needed.
pub(super) const CONFIGURATION: &str = "loss = 'dice'
[recipe]
epochs = 1
[preprocess]
size = [16, 16]
[unet]
width = 2
depth = 1
[data.phantom]
train = 2
val = 1
test = 1
";

const WEIGHTS: &str = "best.safetensors";
const CONFIG: &str = "run.toml";
const OTHER: &str = "give the in_channels, classes, width and depth they were trained with";

fn bad(sentence: &str) -> Expected {
    Refused(1, sentence.into())
}

fn misused(sentence: &str) -> Expected {
    Refused(2, sentence.into())
}

/// Every row; `good` is the folder of the good files.
pub(super) fn rows(good: &Path) -> Vec<Row> {
    let mut table = Table {
        good: good.into(),
        rows: Vec::new(),
    };
    table.sound_images();
    table.cut_images();
    table.absurd_sizes();
    table.broken_images();
    table.several_images();
    table.floats();
    table.masks();
    table.names();
    table.links();
    table.weights();
    table.texts();
    table.keys();
    table.rows
}

struct Table {
    good: PathBuf,
    rows: Vec<Row>,
}

impl Table {
    fn add(
        &mut self,
        name: impl Into<String>,
        like: Like,
        expected: Expected,
        make: impl Fn(&Path) -> Vec<String> + Send + Sync + 'static,
    ) {
        self.rows.push(Row {
            name: name.into(),
            make: Box::new(make),
            like,
            expected,
        });
    }

    /// A file that `predict` meets.
    fn predicts(&mut self, file: &str, bytes: Vec<u8>, expected: Expected) {
        let (file, good) = (file.to_owned(), self.good.clone());
        let name = format!("row {}, predict {file}", self.rows.len());
        self.add(name, Like::Predicted, expected, move |folder| {
            fs::write(folder.join(&file), &bytes).unwrap();
            let run = good.join("run").display().to_string();
            words(&["predict", &run, &format!("@/{file}"), "--out", "@/out"])
        });
    }

    /// A file among the images or masks of a data set, in the place of the one with its stem.
    fn trains(&mut self, file: &str, bytes: Vec<u8>, expected: Expected) {
        let file = file.to_owned();
        let name = format!("row {}, train with {file}", self.rows.len());
        self.add(name, Like::Trained, expected, move |folder| {
            good_pairs(folder);
            let path = folder.join(&file);
            fs::remove_file(path.with_extension("png")).unwrap();
            fs::write(path, &bytes).unwrap();
            train(&[])
        });
    }

    /// An image that both meet: alone, and as one of a data set.
    fn meets(&mut self, file: &str, bytes: &[u8], sentence: &str) {
        self.predicts(
            file,
            bytes.to_vec(),
            bad(&sentence.replace('#', &format!("@/{file}"))),
        );
        let ending = file.rsplit('.').next().unwrap_or_default();
        let file = format!("images/1.{ending}");
        self.trains(
            &file,
            bytes.to_vec(),
            bad(&sentence.replace('#', &format!("@/{file}"))),
        );
    }

    /// A folder that is made otherwise.
    fn folder(
        &mut self,
        name: &str,
        more: &[&str],
        expected: Expected,
        make: impl Fn(&Path) + Send + Sync + 'static,
    ) {
        let more = words(more);
        self.add(name, Like::Trained, expected, move |folder| {
            good_pairs(folder);
            make(folder);
            [train(&[]), more.clone()].concat()
        });
    }

    /// Images that are unusual and good.
    fn sound_images(&mut self) {
        let small = (SIDE, SIDE);
        let deep = |image: DynamicImage| encoded(&image, ImageFormat::Png);
        let palette: Vec<u8> = (0..16).flat_map(|n| [n * 16, n, 255 - n]).collect();
        let grey = |bits: u16, bytes: usize| {
            tiff(&vec![7; bytes], &[page(small, &[bits], 1, 1, bytes)], 0)
        };
        let colour = |samples: usize, photometric: u16, bits: u16| {
            let bytes = 64 * samples * usize::from(bits / 8);
            tiff(
                &vec![9; bytes],
                &[page(small, &vec![bits; samples], photometric, 1, bytes)],
                0,
            )
        };
        let reduced = {
            let mut thumbnail = page(small, &[8], 1, 1, 64);
            thumbnail.insert(0, long(254, &[1]));
            tiff(&[7; 64], &[page(small, &[8], 1, 1, 64), thumbnail], 0)
        };
        let jpeg = encoded(&ramp(), ImageFormat::Jpeg);
        let sound: Vec<(&str, Vec<u8>)> = vec![
            ("grey16.png", deep(ramp().into_luma16().into())),
            ("colour16.png", deep(ramp().into_rgb16().into())),
            ("alpha16.png", deep(ramp().into_rgba16().into())),
            ("grey-alpha.png", deep(ramp().into_luma_alpha8().into())),
            ("alpha.png", deep(ramp().into_rgba8().into())),
            ("one-bit.png", png(small, (1, 0), &[], &zeros(1))),
            ("two-bit.png", png(small, (2, 0), &[], &zeros(2))),
            ("four-bit.png", png(small, (4, 0), &[], &zeros(4))),
            (
                "palette1.png",
                png(small, (1, 3), &[chunk(*b"PLTE", &palette[..6])], &zeros(1)),
            ),
            (
                "palette4.png",
                png(small, (4, 3), &[chunk(*b"PLTE", &palette)], &zeros(4)),
            ),
            (
                "palette8.png",
                png(small, (8, 3), &[chunk(*b"PLTE", &palette)], &zeros(8)),
            ),
            (
                "animation-of-one.png",
                png(
                    small,
                    (8, 0),
                    &[chunk(*b"acTL", &[0, 0, 0, 1, 0, 0, 0, 0])],
                    &zeros(8),
                ),
            ),
            ("after-the-end.png", [deep(ramp()), vec![7; 1000]].concat()),
            ("constant.png", png(small, (8, 0), &[], &zeros(8))),
            ("grey.jpg", jpeg.clone()),
            (
                "colour.jpeg",
                encoded(&ramp().into_rgb8().into(), ImageFormat::Jpeg),
            ),
            ("four-inks.jpg", cmyk_jpeg()),
            (
                "exif.jpg",
                with_segment(
                    &jpeg,
                    0xE1,
                    &[b"Exif\0\0MM\0*".as_slice(), &[0xFF; 60_000]].concat(),
                ),
            ),
            (
                "comment.jpg",
                with_segment(&jpeg, 0xFE, b"<script>alert(1)</script>"),
            ),
            ("grey8.tif", grey(8, 64)),
            ("grey16.tif", grey(16, 128)),
            ("grey1.tif", grey(1, 8)),
            ("colour8.tif", colour(3, 2, 8)),
            ("colour16.tif", colour(3, 2, 16)),
            ("four-inks.tif", colour(4, 5, 8)),
            ("four-inks16.tif", colour(4, 5, 16)),
            ("called-grey.tif", colour(3, 1, 8)),
            ("palette.tif", palette_tiff(&[7; 64])),
            ("floats.tif", float_tiff(&floats(0, 0.5))),
            ("negative-floats.tif", float_tiff(&floats(9, -3.0))),
            ("thumbnail.tiff", reduced),
            ("plain.gif", gif((8, 8), &[[0, 0, 8, 8]])),
            (
                "frame-beyond-the-screen.gif",
                gif((8, 8), &[[0, 0, 20, 20]]),
            ),
            ("frame-within-the-screen.gif", gif((8, 8), &[[2, 2, 3, 3]])),
            ("plain.bmp", bmp(8, 8)),
            ("downwards.bmp", bmp(8, -8)),
            ("another-ending.tif", deep(ramp())),
            ("CAPITALS.PNG", deep(ramp())),
            ("one-pixel.png", png((1, 1), (8, 0), &[], &[0, 200])),
            ("one-row.png", png((8, 1), (8, 0), &[], &[0; 9])),
        ];
        for (file, bytes) in sound {
            self.predicts(file, bytes, Works);
        }
        for (file, bytes) in [
            ("images/1.jpg", cmyk_jpeg()),
            ("images/1.TIFF", float_tiff(&floats(0, 0.5))),
            ("images/1.bmp", bmp(8, -8)),
            ("masks/1.gif", gif((8, 8), &[[4, 0, 4, 8]])),
        ] {
            self.trains(file, bytes, Works);
        }
    }

    /// Files that end too soon.
    fn cut_images(&mut self) {
        let png = encoded(&ramp(), ImageFormat::Png);
        for keep in [1, 7, 8, 20, 33, 40, png.len() - 13] {
            self.predicts("cut.png", png[..keep].to_vec(), undecodable("cut.png"));
        }
        let jpeg = encoded(&ramp(), ImageFormat::Jpeg);
        for keep in [3, 20, 150] {
            self.predicts("cut.jpg", jpeg[..keep].to_vec(), undecodable("cut.jpg"));
        }
        let cut = "# is cut short: the JPEG has no end-of-image marker";
        self.meets("cut.jpg", &jpeg[..jpeg.len() - 2], cut);
        let tif = encoded(&ramp(), ImageFormat::Tiff);
        for keep in [4, 8, 60, tif.len() - 40] {
            self.predicts("cut.tif", tif[..keep].to_vec(), undecodable("cut.tif"));
        }
        let gif = gif((8, 8), &[[0, 0, 8, 8]]);
        for keep in [6, 9, 15, 25, 32] {
            self.predicts("cut.gif", gif[..keep].to_vec(), undecodable("cut.gif"));
        }
        let bmp = bmp(8, 8);
        for keep in [2, 14, 20, 53, 100] {
            self.predicts("cut.bmp", bmp[..keep].to_vec(), undecodable("cut.bmp"));
        }
        for ending in ["png", "jpg", "tif", "gif", "bmp"] {
            self.meets(
                &format!("empty.{ending}"),
                &[],
                "# is empty: it has no bytes",
            );
        }
    }

    /// Sizes that no image has, or that no memory holds.
    fn absurd_sizes(&mut self) {
        let png = |w, h| png((w, h), (8, 2), &[], &zeros(24));
        let tif = |w, h| tiff(&[0; 64], &[page((w, h), &[8], 1, 1, 64)], 0);
        let jpeg = encoded(&ramp(), ImageFormat::Jpeg);
        let jpeg = |w: u16, h: u16| {
            let sides = [h.to_be_bytes(), w.to_be_bytes()].concat();
            with(jpeg.clone(), frame_of_jpeg(&jpeg), &sides)
        };
        let files: Vec<(&str, Vec<u8>, &str)> = vec![
            ("bomb.png", png(100_000, 100_000), "100000x100000"),
            (
                "bomb.png",
                png(2_147_483_647, 2_147_483_647),
                "2147483647x2147483647",
            ),
            ("bomb.png", png(1, 40_000_000), "1x40000000"),
            (
                "bomb.gif",
                gif((65_535, 65_535), &[[0, 0, 8, 8]]),
                "65535x65535",
            ),
            ("bomb.bmp", bmp(1_000_000, -1_000_000), "1000000x1000000"),
            ("bomb.bmp", bmp(i32::MIN, i32::MIN), "2147483648x2147483648"),
            ("bomb.tif", tif(u32::MAX, u32::MAX), "4294967295x4294967295"),
            ("bomb.tif", tif(6_000, 6_000), "6000x6000"),
            ("bomb.jpg", jpeg(65_000, 65_000), "65000x65000"),
        ];
        for (file, bytes, size) in files {
            self.meets(
                file,
                &bytes,
                &format!(
                    "# says it is {size} pixels; at most 33554432 are read: raise data.max_pixels if the file is to be \
                     trusted"
                ),
            );
        }
        for (file, bytes, size) in [
            ("zero.png", png(0, 8), "0x8"),
            ("zero.png", png(8, 0), "8x0"),
            ("zero.png", png(0, 0), "0x0"),
            ("zero.gif", gif((0, 8), &[[0, 0, 8, 8]]), "0x8"),
            ("zero.bmp", bmp(0, 8), "0x8"),
            ("zero.bmp", bmp(8, 0), "8x0"),
            ("zero.tif", tif(0, 8), "0x8"),
            ("zero.tif", tif(8, 0), "8x0"),
        ] {
            self.meets(
                file,
                &bytes,
                &format!("# says it is {size} pixels; expected at least one: save it anew"),
            );
        }
        for (w, h) in [(0, 8), (8, 0)] {
            self.predicts("zero.jpg", jpeg(w, h), undecodable("zero.jpg"));
        }
        // As large as is read, with nothing behind it.
        self.predicts("hollow.png", png(5_792, 5_792), undecodable("hollow.png"));
        self.predicts("hollow.tif", tif(5_792, 5_792), undecodable("hollow.tif"));
        self.predicts("hollow.bmp", bmp(5_792, 5_792), undecodable("hollow.bmp"));
        let flags = |folder: &Path, good: &Path, most: &str| {
            fs::write(folder.join("a.png"), encoded(&ramp(), ImageFormat::Png)).unwrap();
            let run = good.join("run").display().to_string();
            words(&[
                "predict",
                &run,
                "@/a.png",
                "--out",
                "@/out",
                "--max-pixels",
                most,
            ])
        };
        for (most, expected) in [
            ("64", Works),
            (
                "63",
                bad(
                    "@/a.png says it is 8x8 pixels; at most 63 are read: raise data.max_pixels if the file is to be trusted",
                ),
            ),
            (
                "0",
                misused("data.max_pixels is 0; expected a whole number from 1 to 4294967296"),
            ),
            (
                "5000000000",
                misused(
                    "data.max_pixels is 5000000000; expected a whole number from 1 to 4294967296",
                ),
            ),
        ] {
            let good = self.good.clone();
            let name = format!("predict --max-pixels {most}");
            self.add(name, Like::Predicted, expected, move |folder| {
                flags(folder, &good, most)
            });
        }
        self.folder(
            "train with data.max_pixels=63",
            &["--set", "data.max_pixels=63"],
            bad("@/images/0.png says it is 8x8 pixels; at most 63 are read"),
            |_| {},
        );
        // A file of holes, which takes no disk.
        let good = self.good.clone();
        self.add(
            "a gigabyte behind a small image",
            Like::Predicted,
            bad("@/a.png has 1073741824 bytes for 8x8 pixels; at most 67110912 are read: save it anew, without what is no part of the image"),
            move |folder| {
                let path = folder.join("a.png");
                fs::write(&path, encoded(&ramp(), ImageFormat::Png)).unwrap();
                let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
                file.set_len(1 << 30).unwrap();
                let run = good.join("run").display().to_string();
                words(&["predict", &run, "@/a.png", "--out", "@/out"])
            },
        );
    }

    /// Bytes that are something else, or wrong in one place.
    fn broken_images(&mut self) {
        let small = (SIDE, SIDE);
        let sound = encoded(&ramp(), ImageFormat::Png);
        let end = sound.len();
        let other = |file: &str| {
            bad(&format!(
                "@/{file} cannot be decoded as PNG, JPEG, TIFF, GIF or BMP: The image format could not be determined"
            ))
        };
        for (file, bytes) in [
            ("text.png", &b"no image at all"[..]),
            ("page.jpg", b"<!DOCTYPE html><script>alert(1)</script>"),
            ("archive.tif", b"PK\x03\x04 and more"),
            ("drawing.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
            ("zeros.bmp", &[0; 4096]),
            ("web.png", b"RIFF\0\0\0\0WEBPVP8 "),
            ("big.tif", b"II+\0\x08\0\0\0\0\0\0\0"),
            ("document.gif", b"%PDF-1.7"),
            ("program.png", b"\x7FELF\x02\x01\x01"),
        ] {
            self.predicts(file, bytes.to_vec(), other(file));
        }
        self.trains("images/1.jpg", b"GIF8".to_vec(), bad("@/images/1.jpg cannot be decoded as PNG, JPEG, TIFF, GIF or BMP: The image format could not be determined"));
        let bomb = stored(&vec![0; 1 << 20]);
        let grey = page(small, &[8], 1, 1, 64);
        let entry = |tag: u16, value: u32| {
            let mut page = grey.clone();
            page.retain(|(known, ..)| *known != tag);
            page.push(long(tag, &[value]));
            page.sort_by_key(|(tag, ..)| *tag);
            tiff(&[7; 64], &[page], 0)
        };
        let without = |tag: u16| {
            let mut page = grey.clone();
            page.retain(|(known, ..)| *known != tag);
            tiff(&[7; 64], &[page], 0)
        };
        let plain = tiff(&[7; 64], std::slice::from_ref(&grey), 0);
        let broken: Vec<(&str, Vec<u8>)> = vec![
            ("checksum.png", with(sound.clone(), 29, &[1, 2, 3, 4])),
            (
                "checksum-of-pixels.png",
                with(sound.clone(), end - 16, &[1, 2, 3, 4]),
            ),
            ("depth.png", png(small, (3, 0), &[], &zeros(8))),
            ("depth-of-colour.png", png(small, (4, 2), &[], &zeros(8))),
            ("kind-of-colour.png", png(small, (8, 7), &[], &zeros(8))),
            ("no-palette.png", png(small, (8, 3), &[], &zeros(8))),
            ("filter.png", png(small, (8, 0), &[], &[9; 72])),
            ("too-few-rows.png", png(small, (8, 0), &[], &[0; 20])),
            (
                "no-pixels.png",
                [&sound[..33], &chunk(*b"IEND", &[])].concat(),
            ),
            (
                "chunk-without-end.png",
                [&sound[..33], &[0xFF, 0xFF, 0xFF, 0xFF], b"IDAT"].concat(),
            ),
            (
                "no-stream.png",
                [
                    &sound[..33],
                    &chunk(*b"IDAT", b"junk"),
                    &chunk(*b"IEND", &[]),
                ]
                .concat(),
            ),
            ("two-headers.png", [&sound[..33], &sound[8..]].concat()),
            ("no-tables.jpg", vec![0xFF, 0xD8, 0xFF, 0xD9]),
            (
                "junk.jpg",
                [&[0xFF, 0xD8, 0xFF][..], &[0xE0; 500], &[0xFF, 0xD9]].concat(),
            ),
            ("table.jpg", with_segment(&cmyk_jpeg(), 0xDB, &[0xFF; 10])),
            ("codes.jpg", with_segment(&cmyk_jpeg(), 0xC4, &[0xFF; 40])),
            (
                "lossless.jpg",
                cmyk_jpeg()
                    .iter()
                    .map(|&b| if b == 0xC0 { 0xC3 } else { b })
                    .collect(),
            ),
            ("compression.tif", entry(259, 65_000)),
            ("photometric.tif", entry(262, 3)),
            ("pixels-beyond.tif", entry(273, 0xFFFF_FFF0)),
            ("no-pixels.tif", without(273)),
            ("no-width.tif", without(256)),
            ("no-height.tif", without(257)),
            ("directory-beyond.tif", with(plain.clone(), 4, &[0xFF; 4])),
            ("directory-of-none.tif", with(plain.clone(), 4, &[0; 4])),
            ("many-entries.tif", with(plain.clone(), 72, &[0xFF, 0xFF])),
            (
                "many-bits.tif",
                tiff(&[0; 64], &[page(small, &[64], 1, 3, 64)], 0),
            ),
            (
                "many-samples.tif",
                tiff(&[0; 6400], &[page(small, &[8; 100], 2, 1, 6400)], 0),
            ),
            (
                "grey-floats.tif",
                tiff(&[0; 256], &[page(small, &[32], 1, 3, 256)], 0),
            ),
            ("no-frame.gif", gif((8, 8), &[])),
            ("vast-frame.gif", gif((8, 8), &[[0, 0, 65_535, 65_535]])),
            ("block.gif", with(gif((8, 8), &[[0, 0, 8, 8]]), 30, &[99])),
            (
                "code-size.gif",
                with(gif((8, 8), &[[0, 0, 8, 8]]), 29, &[200]),
            ),
            ("header.bmp", with(bmp(8, 8), 14, &[3, 0, 0, 0])),
            ("bits.bmp", with(bmp(8, 8), 28, &[77, 0])),
            ("compression.bmp", with(bmp(8, 8), 30, &[99, 0, 0, 0])),
        ];
        for (file, bytes) in broken {
            self.predicts(file, bytes, undecodable(file));
        }
        // What stands beside the pixels may be broken: they are what is read.
        for (file, bytes) in [
            (
                "profile.png",
                png(
                    small,
                    (8, 0),
                    &[chunk(*b"iCCP", &[b"p\0\0".as_slice(), &bomb].concat())],
                    &zeros(8),
                ),
            ),
            (
                "texts.png",
                png(
                    small,
                    (8, 0),
                    &vec![chunk(*b"zTXt", &[b"t\0\0".as_slice(), b"junk"].concat()); 1000],
                    &zeros(8),
                ),
            ),
            (
                "chunk.png",
                png(
                    small,
                    (8, 0),
                    &[chunk(*b"abCd", &vec![7; 100_000])],
                    &zeros(8),
                ),
            ),
        ] {
            self.predicts(file, bytes, Works);
        }
        self.predicts(
            "loop.tif",
            tiff(&[7; 64], &[grey], 72),
            bad("@/loop.tif cannot be decoded as PNG, JPEG, TIFF, GIF or BMP: its directories form a loop"),
        );
    }

    /// Files of more than one image.
    fn several_images(&mut self) {
        let small = (SIDE, SIDE);
        let several = |count: &str| {
            format!("# holds {count}; save the one that is meant as a file of its own")
        };
        let one = page(small, &[8], 1, 1, 64);
        let pages = |n| tiff(&[7; 64], &vec![one.clone(); n], 0);
        let actl = |n: u8| {
            png(
                small,
                (8, 0),
                &[chunk(*b"acTL", &[0, 0, 0, n, 0, 0, 0, 0])],
                &zeros(8),
            )
        };
        let frame = [0, 0, 8, 8];
        self.meets("pages.tif", &pages(2), &several("2 images"));
        self.meets("pages.tif", &pages(40), &several("40 images"));
        self.meets("pages.tif", &pages(5000), &several("more than 1000 images"));
        self.meets("frames.png", &actl(3), &several("3 images"));
        self.meets("frames.png", &actl(255), &several("255 images"));
        self.meets(
            "frames.gif",
            &gif((8, 8), &[frame; 2]),
            &several("more than 1 image"),
        );
        self.meets(
            "frames.gif",
            &gif((8, 8), &[frame; 50]),
            &several("more than 1 image"),
        );
    }

    /// Floats that are no numbers, or too large.
    fn floats(&mut self) {
        for (at, value, said) in [
            (0, f32::NAN, "NaN in column 0 of row 0"),
            (100, f32::INFINITY, "inf in column 1 of row 4"),
            (191, f32::NEG_INFINITY, "-inf in column 7 of row 7"),
            (
                30,
                f32::MAX,
                "340282350000000000000000000000000000000 in column 2 of row 1",
            ),
            (
                5,
                -1e35,
                "-100000000000000000000000000000000000 in column 1 of row 0",
            ),
        ] {
            self.meets(
                "floats.tif",
                &float_tiff(&floats(at, value)),
                &format!(
                    "# holds {said}; expected numbers of at most 1e30, 0 for black and 1 for white"
                ),
            );
        }
    }

    /// Masks.
    fn masks(&mut self) {
        let small = (SIDE, SIDE);
        let mask = |image: DynamicImage| encoded(&image, ImageFormat::Png);
        let rgba = |pixel: [u8; 4]| {
            mask(image::RgbaImage::from_pixel(SIDE, SIDE, image::Rgba(pixel)).into())
        };
        for (file, bytes) in [
            ("masks/1.tif", palette_tiff(&[255; 64])),
            ("masks/1.png", mask(half().into_luma16().into())),
            ("masks/1.png", mask(half().into_rgba8().into())),
            ("masks/1.png", png(small, (1, 0), &[], &zeros(1))),
            ("masks/1.png", rgba([255, 0, 0, 255])),
            ("masks/1.png", rgba([255; 4])),
            ("masks/1.png", rgba([0, 0, 0, 255])),
            ("masks/1.jpg", encoded(&half(), ImageFormat::Jpeg)),
            ("masks/1.tif", encoded(&half(), ImageFormat::Tiff)),
            ("masks/1.bmp", encoded(&half(), ImageFormat::Bmp)),
        ] {
            self.trains(file, bytes, Works);
        }
        let dark = |n: u8| {
            bad(&format!(
                "the mask @/masks/1.png holds no value above {n}, and foreground is what is above 127; scale it to 0 and \
                 255, or read class numbers with data.mask = \"classes\""
            ))
        };
        self.trains("masks/1.png", rgba([1, 1, 1, 255]), dark(1));
        self.trains("masks/1.png", rgba([0, 100, 0, 0]), dark(100));
        self.trains(
            "masks/1.png",
            png((9, 8), (8, 0), &[], &zeros(9)),
            bad("the mask @/masks/1.png has 9x8 pixels, but its image @/images/1.png has 8x8 (width x height)"),
        );
        self.trains(
            "images/1.png",
            png((8, 1), (8, 0), &[], &[0; 9]),
            bad("the mask @/masks/1.png has 8x8 pixels, but its image @/images/1.png has 8x1 (width x height)"),
        );
        let one = encoded(&half(), ImageFormat::Png);
        let both = [&one[..], &one].concat();
        self.trains("masks/1.png", both, Works);
        self.trains(
            "masks/1.png",
            b"no mask".to_vec(),
            undecodable("masks/1.png"),
        );
        self.trains(
            "masks/1.png",
            Vec::new(),
            bad("@/masks/1.png is empty: it has no bytes"),
        );
        self.trains(
            "masks/1.gif",
            gif((8, 8), &[[0, 0, 8, 8]; 2]),
            bad("@/masks/1.gif holds more than 1 image; save the one that is meant as a file of its own"),
        );
        self.trains(
            "masks/1.tif",
            float_tiff(&floats(7, f32::NAN)),
            bad("@/masks/1.tif holds NaN in column 2 of row 0; expected numbers of at most 1e30, 0 for black and 1 for white"),
        );
        let classes = ["--set", "data.mask=classes", "--set", "data.classes=3"];
        let write = |bytes: Vec<u8>| {
            move |folder: &Path| fs::write(folder.join("masks/1.png"), &bytes).unwrap()
        };
        let numbers = |n: u8| image::GrayImage::from_pixel(SIDE, SIDE, image::Luma([n]));
        let others = move |folder: &Path| {
            for n in 0..5 {
                numbers(n % 3)
                    .save(folder.join(format!("masks/{n}.png")))
                    .unwrap();
            }
        };
        self.folder("class numbers", &classes, Works, others);
        for (name, bytes, sentence) in [
            (
                "a class too many",
                mask(numbers(3).into()),
                "the mask @/masks/1.png holds the value 3, but 3 classes are numbered 0 to 2 (255 is ignored)",
            ),
            (
                "a class of 16 bits",
                mask(DynamicImage::from(numbers(1)).into_luma16().into()),
                "the mask @/masks/1.png holds the value 257, but 3 classes are numbered 0 to 2 (255 is ignored)",
            ),
            (
                "a class of colour",
                rgba([0, 1, 0, 255]),
                "the mask @/masks/1.png has colours (here 0, 1, 0); class numbers are read from grey values",
            ),
        ] {
            let write = write(bytes);
            self.folder(name, &classes, bad(sentence), move |folder| {
                others(folder);
                write(folder);
            });
        }
        for n in ["masks", "images"] {
            self.folder(
                &format!("two {n} of one stem"),
                &[],
                bad(&format!(
                    "@/{n}/1.bmp and @/{n}/1.png have the same stem; one of them must go"
                )),
                move |folder| fs::write(folder.join(format!("{n}/1.bmp")), bmp(8, 8)).unwrap(),
            );
        }
        self.folder(
            "no mask",
            &[],
            bad("the image @/images/2.png has no mask @/masks/2.*"),
            |folder| {
                fs::remove_file(folder.join("masks/2.png")).unwrap();
            },
        );
        self.folder(
            "no image",
            &[],
            bad("the mask @/masks/2.png has no image 2.* in @/images"),
            |folder| {
                fs::remove_file(folder.join("images/2.png")).unwrap();
            },
        );
        self.folder(
            "no masks",
            &[],
            bad("there is no folder @/masks; folder is read from images/NAME.* with masks/NAME.*"),
            |folder| {
                fs::remove_dir_all(folder.join("masks")).unwrap();
            },
        );
        self.folder(
            "no files",
            &[],
            bad("@ holds no images; folder is read from images/NAME.* with masks/NAME.*"),
            |folder| {
                for name in ["images", "masks"] {
                    fs::remove_dir_all(folder.join(name)).unwrap();
                    fs::create_dir(folder.join(name)).unwrap();
                }
            },
        );
        self.folder(
            "a file for a folder",
            &[],
            bad("there is no folder @/images; folder is read from images/NAME.* with masks/NAME.*"),
            |folder| {
                fs::remove_dir_all(folder.join("images")).unwrap();
                fs::write(folder.join("images"), "").unwrap();
            },
        );
        self.folder(
            "a folder for a mask",
            &[],
            bad("the image @/images/2.png has no mask @/masks/2.*"),
            |folder| {
                fs::remove_file(folder.join("masks/2.png")).unwrap();
                fs::create_dir(folder.join("masks/2.png")).unwrap();
            },
        );
    }

    /// Names that are only odd, and names that cannot be printed.
    fn names(&mut self) {
        let long = "n".repeat(200);
        for name in [
            "with spaces  and more",
            "<img src=x onerror=alert(1)>",
            "\"quoted\" 'twice' & more",
            "ümläut 漢字 🦀",
            "-rf",
            "$(touch x);`y`",
            "..",
            "100%",
            "comma,semicolon;tab",
            &long,
        ] {
            let name = name.to_owned();
            self.folder(&format!("named {name}"), &[], Works, move |folder| {
                for kind in ["images", "masks"] {
                    let kind = folder.join(kind);
                    fs::rename(kind.join("1.png"), kind.join(format!("a{name}.png"))).unwrap();
                }
            });
        }
        let rename = |name: &'static [u8]| {
            move |folder: &Path| {
                use std::os::unix::ffi::OsStrExt as _;
                let name = std::ffi::OsStr::from_bytes(name);
                fs::rename(
                    folder.join("images/1.png"),
                    folder.join("images").join(name),
                )
                .unwrap();
            }
        };
        for (name, shown) in [
            (&b"a\nb.png"[..], r#""a\nb.png""#),
            (b"a\tb.png", r#""a\tb.png""#),
            (b"a\x1b[31mb.png", r#""a\u{1b}[31mb.png""#),
            (b"a\x7f.png", r#""a\u{7f}.png""#),
            ("a\u{85}.png".as_bytes(), r#""a\u{85}.png""#),
        ] {
            let sentence =
                format!("the name {shown} in @/images holds a control character; rename the file");
            self.folder(shown, &[], bad(&sentence), rename(name));
        }
        for (name, shown) in [
            (&b"a\xff.png"[..], r#""a\xFF.png""#),
            (b"\xc3\x28.PNG", r#""\xC3(.PNG""#),
        ] {
            let sentence = format!("the name {shown} in @/images is no UTF-8; rename the file");
            self.folder(shown, &[], bad(&sentence), rename(name));
        }
        self.folder("files that are no images", &[], Works, |folder| {
            use std::os::unix::ffi::OsStrExt as _;
            for name in [&b"notes\n.txt"[..], b".hidden.png", b"\xff", b"Thumbs.db"] {
                fs::write(
                    folder
                        .join("images")
                        .join(std::ffi::OsStr::from_bytes(name)),
                    "",
                )
                .unwrap();
            }
            fs::create_dir(folder.join("images/folder.png")).unwrap();
        });
        let good = self.good.clone();
        self.add(
            "predict a name of two lines",
            Like::Predicted,
            bad(r#"the name "a\nb.png" in @ holds a control character; rename the file"#),
            move |folder| {
                fs::write(folder.join("a\nb.png"), encoded(&ramp(), ImageFormat::Png)).unwrap();
                let run = good.join("run").display().to_string();
                words(&["predict", &run, "@/a\nb.png", "--out", "@/out"])
            },
        );
        let good = self.good.clone();
        self.add(
            "predict a folder named like an image",
            Like::Predicted,
            bad("the folder @/a.png holds no images"),
            move |folder| {
                fs::create_dir(folder.join("a.png")).unwrap();
                let run = good.join("run").display().to_string();
                words(&["predict", &run, "@/a.png", "--out", "@/out"])
            },
        );
    }

    /// Links, pipes and devices.
    fn links(&mut self) {
        use std::os::unix::fs::symlink;
        let outside = |folder: &Path| {
            let elsewhere = folder.with_extension("elsewhere");
            fs::create_dir_all(&elsewhere).unwrap();
            let target = elsewhere.join("1.png");
            fs::rename(folder.join("images/1.png"), &target).unwrap();
            symlink(target, folder.join("images/1.png")).unwrap();
        };
        self.folder(
            "a link out of the data set",
            &[],
            bad("@/images/1.png is a link to @.elsewhere/1.png, which is outside of @; copy the file into the folder, or set data.follow_links = true if it is to be trusted"),
            outside,
        );
        self.folder(
            "a link that is trusted",
            &["--set", "data.follow_links=true"],
            Works,
            outside,
        );
        self.folder("a link to another image of the set", &[], Works, |folder| {
            fs::remove_file(folder.join("images/1.png")).unwrap();
            symlink("../images/2.png", folder.join("images/1.png")).unwrap();
        });
        self.folder("a folder that is a link", &[], Works, |folder| {
            let elsewhere = folder.with_extension("folder");
            fs::rename(folder.join("images"), &elsewhere).unwrap();
            symlink(elsewhere, folder.join("images")).unwrap();
        });
        self.folder("a link within a linked folder", &[], Works, |folder| {
            let elsewhere = folder.with_extension("linked");
            fs::rename(folder.join("images"), &elsewhere).unwrap();
            fs::rename(elsewhere.join("1.png"), elsewhere.join("one")).unwrap();
            symlink("one", elsewhere.join("1.png")).unwrap();
            symlink(elsewhere, folder.join("images")).unwrap();
        });
        self.folder(
            "a link to nothing",
            &[],
            bad("@/images/1.png is a link to nowhere.png, which cannot be followed (No such file or directory (os error 2)); put a file there, or remove the link"),
            |folder| {
                fs::remove_file(folder.join("images/1.png")).unwrap();
                symlink("nowhere.png", folder.join("images/1.png")).unwrap();
            },
        );
        self.folder(
            "a link to itself",
            &[],
            bad("@/masks/1.png is a link to 1.png, which cannot be followed (Too many levels of symbolic links (os error 40)); put a file there, or remove the link"),
            |folder| {
                fs::remove_file(folder.join("masks/1.png")).unwrap();
                symlink("1.png", folder.join("masks/1.png")).unwrap();
            },
        );
        self.folder(
            "a link to a device",
            &["--set", "data.follow_links=true"],
            bad("@/images/1.png cannot be read: it is no regular file"),
            |folder| {
                fs::remove_file(folder.join("images/1.png")).unwrap();
                symlink("/dev/zero", folder.join("images/1.png")).unwrap();
            },
        );
        self.folder(
            "a link to a device that is not trusted",
            &[],
            bad("@/images/1.png is a link to /dev/zero, which is outside of @; copy the file into the folder, or set data.follow_links = true if it is to be trusted"),
            |folder| {
                fs::remove_file(folder.join("images/1.png")).unwrap();
                symlink("/dev/zero", folder.join("images/1.png")).unwrap();
            },
        );
        // The administrator may read every file.
        let forbid = |path: &Path| {
            use std::os::unix::fs::PermissionsExt as _;
            fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap();
        };
        let probe = tempfile::NamedTempFile::new().unwrap();
        forbid(probe.path());
        let expected = match fs::File::open(probe.path()) {
            Ok(_) => Works,
            Err(_) => bad("@/images/1.png cannot be read: Permission denied (os error 13)"),
        };
        self.folder(
            "a file that may not be read",
            &[],
            expected,
            move |folder| {
                forbid(&folder.join("images/1.png"));
            },
        );
        self.folder(
            "a link to a folder, named like an image",
            &[],
            Works,
            |folder| {
                symlink("..", folder.join("images/folder.png")).unwrap();
            },
        );
        for (path, kind) in [
            ("/dev/zero", "it is no regular file"),
            ("/dev/null", "it is no regular file"),
        ] {
            let good = self.good.clone();
            self.add(
                format!("predict {path}"),
                Like::Predicted,
                bad(&format!("{path} cannot be read: {kind}")),
                move |_| {
                    let run = good.join("run").display().to_string();
                    words(&["predict", &run, path, "--out", "@/out"])
                },
            );
        }
    }

    /// A run whose weights are made of good ones, or whose `run.toml` is.
    fn run(
        &mut self,
        name: &str,
        file: &'static str,
        expected: Expected,
        change: impl Fn(Vec<u8>) -> Vec<u8> + Send + Sync + 'static,
    ) {
        let good = self.good.clone();
        self.add(
            format!("{file}: {name}"),
            Like::Predicted,
            expected,
            move |folder| {
                fs::create_dir(folder.join("run")).unwrap();
                for name in ["run.toml", "best.safetensors"] {
                    let mut bytes = fs::read(good.join("run").join(name)).unwrap();
                    if name == file {
                        bytes = change(bytes);
                    }
                    fs::write(folder.join("run").join(name), bytes).unwrap();
                }
                let image = good.join("data/images/1.png").display().to_string();
                words(&["predict", "@/run", &image, "--out", "@/out"])
            },
        );
    }

    /// Weights.
    fn weights(&mut self) {
        let damaged =
            |reason: &str| bad(&format!("@/run/best.safetensors: it is damaged ({reason})"));
        let fault = |sentence: &str| bad(&format!("@/run/best.safetensors: {sentence}"));

        for (keep, reason) in [
            (0, "it ends within its first 8 bytes"),
            (4, "it ends within its first 8 bytes"),
            (8, "invalid header length"),
            (100, "invalid header length"),
        ] {
            self.run(
                &format!("{keep} bytes"),
                WEIGHTS,
                damaged(reason),
                move |file| file[..keep].to_vec(),
            );
        }
        let uncovered = "incomplete metadata, file not fully covered";
        self.run(
            "a byte is missing",
            WEIGHTS,
            damaged(uncovered),
            |mut file| {
                file.pop();
                file
            },
        );
        self.run(
            "a byte too many",
            WEIGHTS,
            damaged(uncovered),
            |mut file| {
                file.push(0);
                file
            },
        );
        for length in [u64::MAX, 1 << 40, 100_000_001, (1 << 20) + 1, 1 << 20] {
            let reason = match length {
                0..=1_048_576 => "invalid header length".into(),
                _ => format!("its header says it has {length} bytes"),
            };
            self.run(
                &format!("a header of {length}"),
                WEIGHTS,
                damaged(&reason),
                move |file| with(file, 0, &length.to_le_bytes()),
            );
        }
        let whole = "@/run/best.safetensors: it is damaged (";
        for (name, header) in [
            ("no header", String::new()),
            ("no JSON", "{".into()),
            ("a list", "[]".into()),
            ("nested", format!("{{\"a\":{}", "[".repeat(100_000))),
            ("nested objects", "{\"a\":".repeat(100_000)),
            ("no offsets", r#"{"a":{"dtype":"F32","shape":[1]}}"#.into()),
            ("a type of none", r#"{"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}"#.into()),
            ("a negative side", r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#.into()),
            ("sides whose product is none", r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,4]}}"#.into()),
            ("offsets backwards", r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#.into()),
            ("offsets far away", r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[18446744073709551611,18446744073709551615]}}"#.into()),
            ("offsets with a gap", r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#.into()),
            ("offsets that overlap", r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}"#.into()),
            ("offsets of another length", r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#.into()),
        ] {
            self.run(name, WEIGHTS, bad(whole), move |_| safetensors(header.as_bytes(), &[0; 4]));
        }
        self.run(
            "no text",
            WEIGHTS,
            damaged("invalid UTF-8 in header: invalid utf-8 sequence of 1 bytes from index 0"),
            |_| safetensors(&[0xFF; 50], &[]),
        );
        self.run(
            "an archive",
            WEIGHTS,
            damaged("its header says it has 8390045714599856976 bytes"),
            |_| b"PK\x03\x04 not safetensors".to_vec(),
        );
        self.run(
            "a flipped bit",
            WEIGHTS,
            bad("@/run/best.safetensors: it is damaged (its checksum is "),
            |mut file| {
                let last = file.len() - 1;
                file[last] ^= 1;
                file
            },
        );
        self.run(
            "no tensors",
            WEIGHTS,
            fault(&format!(
                "tensor enc0.conv1.weight is missing among 0; expected F32 [2, 1, 3, 3]: {OTHER}"
            )),
            |_| safetensors(b"{}", &[]),
        );
        self.run(
            "a tensor is missing",
            WEIGHTS,
            fault(&format!(
                "tensor head.bias is missing among 28; expected F32 [2]: {OTHER}"
            )),
            |file| {
                rewritten(&file, |header, _| {
                    let bias = header.as_object_mut().unwrap().remove("head.bias").unwrap();
                    header["another"] = bias;
                })
            },
        );
        self.run("a tensor too many", WEIGHTS, fault(&format!("tensor another [1] is unknown; expected the 28 tensors of this network alone: {OTHER}")), |file| {
            rewritten(&file, |header, data| {
                let end = data.len();
                header["another"] = serde_json::json!({"dtype": "F32", "shape": [1], "data_offsets": [end, end + 4]});
                data.extend([0; 4]);
            })
        });
        self.run("a tensor of two lines too many", WEIGHTS, fault(&format!(r"tensor a\nb\u{{1b}} [1] is unknown; expected the 28 tensors of this network alone: {OTHER}")), |file| {
            rewritten(&file, |header, data| {
                let end = data.len();
                header["a\nb\u{1b}"] = serde_json::json!({"dtype": "F32", "shape": [1], "data_offsets": [end, end + 4]});
                data.extend([0; 4]);
            })
        });
        for (shape, shown) in [
            ("[1,2]", "[1, 2]"),
            ("[2,1]", "[2, 1]"),
            ("[2,1,1]", "[2, 1, 1]"),
        ] {
            self.run(
                &format!("a shape of {shape}"),
                WEIGHTS,
                fault(&format!(
                    "tensor head.bias has shape {shown}; expected [2]: {OTHER}"
                )),
                move |file| {
                    rewritten(&file, |header, _| {
                        header["head.bias"]["shape"] = serde_json::from_str(shape).unwrap();
                    })
                },
            );
        }
        for dtype in ["I32", "U32"] {
            self.run(
                dtype,
                WEIGHTS,
                fault(&format!(
                    "tensor head.bias is {dtype}; expected F32: convert all of the weights to F32"
                )),
                move |file| {
                    rewritten(&file, |header, _| {
                        header["head.bias"]["dtype"] = dtype.into();
                    })
                },
            );
        }
        for (dtype, sides) in [
            ("F64", 1),
            ("I64", 1),
            ("F16", 4),
            ("BF16", 4),
            ("U8", 8),
            ("BOOL", 8),
            ("F8_E4M3", 8),
            ("F4", 16),
            ("C64", 1),
        ] {
            self.run(
                &format!("{dtype} of as many bytes"),
                WEIGHTS,
                fault(&format!(
                    "tensor head.bias has shape [{sides}]; expected [2]: {OTHER}"
                )),
                move |file| {
                    rewritten(&file, |header, _| {
                        header["head.bias"]["dtype"] = dtype.into();
                        header["head.bias"]["shape"] = serde_json::json!([sides]);
                    })
                },
            );
        }
        for (value, shown) in [
            (f32::NAN, "NaN"),
            (f32::INFINITY, "inf"),
            (f32::NEG_INFINITY, "-inf"),
        ] {
            self.run(shown, WEIGHTS, fault(&format!("tensor head.bias holds {shown}; expected finite numbers: the training had diverged, so take an earlier file")), move |file| {
                rewritten(&file, |header, data| {
                    let at = header["head.bias"]["data_offsets"][0].as_u64().unwrap() as usize;
                    data[at..at + 4].copy_from_slice(&value.to_le_bytes());
                })
            });
        }
        self.run("a header with notes", WEIGHTS, Works, |file| {
            rewritten(&file, |header, _| {
                header["__metadata__"] = serde_json::json!({"by": "<script>"});
            })
        });
        let good = self.good.clone();
        self.add(
            "a terabyte of weights",
            Like::Predicted,
            bad(
                "@/run/best.safetensors has 1099511627776 bytes, and those of this network at most",
            ),
            move |folder| {
                fs::create_dir(folder.join("run")).unwrap();
                fs::copy(good.join("run/run.toml"), folder.join("run/run.toml")).unwrap();
                let file = fs::File::create(folder.join("run/best.safetensors")).unwrap();
                file.set_len(1 << 40).unwrap();
                let image = good.join("data/images/1.png").display().to_string();
                words(&["predict", "@/run", &image, "--out", "@/out"])
            },
        );
    }

    /// Configurations.
    fn texts(&mut self) {
        let small = CONFIGURATION;
        let mut config = |name: &str, text: Vec<u8>, expected: Expected| {
            self.add(
                format!("config: {name}"),
                Like::Configured,
                expected,
                move |folder| {
                    fs::write(folder.join("c.toml"), &text).unwrap();
                    words(&["--config", "@/c.toml", "--out", "@/run"])
                },
            );
        };
        for (name, text) in [
            ("as it is", small.to_owned()),
            ("with comments", format!("# <script>\n{small}# \u{1F980}\n")),
            ("with returns", small.replace('\n', "\r\n")),
            ("with a byte order mark", format!("\u{FEFF}{small}")),
            (
                "of nearly a mebibyte",
                format!("{small}#{}", "x".repeat(1_000_000)),
            ),
        ] {
            config(name, text.into(), Works);
        }
        for (name, text, sentence) in [
            ("an unknown key", "wobble = 1", "unknown key `wobble`"),
            (
                "a misspelt key",
                "unet.widht = 1",
                "unknown key `unet.widht`; did you mean `unet.width`?",
            ),
            (
                "an unknown table",
                "[nonsense]\na = 1",
                "unknown key `nonsense.a`",
            ),
            (
                "a key twice",
                "seed = 1\nseed = 2",
                "@/c.toml: line 2: duplicate key",
            ),
            ("no value", "seed =", "@/c.toml: line 1: "),
            ("no key", "= 1", "@/c.toml: line 1: "),
            ("no end of a string", "loss = \"dice", "@/c.toml: line 1: "),
            ("no end of a table", "[unet", "@/c.toml: line 1: "),
            ("markup", "<html>", "@/c.toml: line 1: "),
            ("JSON", "{\"seed\": 1}", "@/c.toml: line 1: "),
            (
                "a text for a number",
                "seed = 'one'",
                "invalid type: string \"one\", expected u64 in `seed`",
            ),
            (
                "a number for a text",
                "loss = 1",
                "invalid type: integer `1`, expected a string in `loss`",
            ),
            (
                "a float for a whole number",
                "recipe.epochs = 1.5",
                "invalid type: floating point `1.5`, expected usize in `recipe.epochs`",
            ),
            (
                "a list for a number",
                "seed = [1]",
                "invalid type: sequence, expected u64 in `seed`",
            ),
            (
                "a number for a table",
                "unet = 1",
                "invalid type: integer `1`, expected struct UNetConfig in `unet`",
            ),
            (
                "a table for a number",
                "[seed]\nx = 1",
                "unknown key `seed.loss`",
            ),
            (
                "a date for a number",
                "seed = 1979-05-27",
                "expected u64 in `seed`",
            ),
            (
                "a negative seed",
                "seed = -1",
                "invalid value: integer `-1`, expected u64 in `seed`",
            ),
            (
                "a seed beyond",
                "seed = 99999999999999999999",
                "@/c.toml: line 1: ",
            ),
            (
                "a huge number",
                "unet.width = 9223372036854775807",
                "U-Net: width is 9223372036854775807; expected a whole number from 1 to 1024",
            ),
            (
                "a huge depth",
                "unet.depth = 9000000000",
                "U-Net: depth is 9000000000; expected a whole number from 1 to 8",
            ),
            (
                "terabytes of weights",
                "unet.width = 1024\nunet.depth = 8\npreprocess.size = [256, 256]",
                "weights; expected at most 2^30, 4 GiB in f32: take a smaller width or depth",
            ),
            (
                "a huge size",
                "preprocess.size = [4611686018427387904, 8]",
                "is too large; expected at most 2^26 pixels, such as 8192x8192",
            ),
            (
                "terabytes of maps",
                "preprocess.size = [8192, 8192]\nunet.width = 128",
                "size 8192x8192 makes 8589934592 values of unet.width = 128; expected at most 2^32, 16 GiB in f32: take a \
                 smaller size or width",
            ),
            ("no size", "preprocess.size = []", "invalid length 0"),
            (
                "three sides",
                "preprocess.size = [16, 16, 16]",
                "in `preprocess.size`",
            ),
            (
                "a size of zero",
                "preprocess.size = [0, 16]",
                "size 0x16 does not fit the network",
            ),
            (
                "huge epochs",
                "recipe.epochs = 9223372036854775807",
                "recipe.epochs is 9223372036854775807; expected a whole number from 1 to 1000000",
            ),
            (
                "no epochs",
                "recipe.epochs = 0",
                "recipe.epochs is 0; expected a whole number from 1 to 1000000",
            ),
            (
                "a huge batch",
                "recipe.batch = 9223372036854775807",
                "recipe.batch is 9223372036854775807; expected a whole number from 1 to 65536",
            ),
            (
                "a rate of no number",
                "recipe.sgd.lr = nan",
                "recipe.sgd: the learning rate is NaN; it must be positive",
            ),
            (
                "an endless rate",
                "recipe.sgd.lr = inf",
                "recipe.sgd: the learning rate is inf",
            ),
            (
                "a rate of 1e999",
                "recipe.sgd.lr = 1e999",
                "@/c.toml: line 2: floating-point number overflowed",
            ),
            (
                "huge counts of images",
                "data.phantom.train = 9000000000000",
                "data.phantom.train is 9000000000000; expected a whole number from 1 to 1000000",
            ),
            (
                "no pixels",
                "data.max_pixels = 0",
                "data.max_pixels is 0; expected a whole number from 1 to 4294967296",
            ),
            (
                "negative pixels",
                "data.max_pixels = -1",
                "[data]: invalid value: integer `-1`, expected u64 in `max_pixels`",
            ),
            (
                "a link to follow by number",
                "data.follow_links = 1",
                "[data]: invalid type: integer `1`, expected a boolean in `follow_links`",
            ),
            (
                "an unknown data set",
                "data.kind = 'drvie'",
                "there is no data set `drvie`; known are phantom",
            ),
            ("an unknown loss", "loss = 'dyce'", "dyce"),
            (
                "an unknown device",
                "device = 'tpu'",
                "unknown device `tpu`; expected cpu, cuda or cuda:N",
            ),
        ] {
            let mut whole = small.to_owned();
            if let Some((key, _)) = text.split_once(" = ") {
                // What the least experiment says of the same table comes after it.
                whole = match key.split_once('.') {
                    Some(_) => String::new(),
                    None if key == "loss" => whole.replace("loss = 'dice'\n", ""),
                    None if key == "unet" => String::new(),
                    None => whole,
                };
            }
            let loss = if whole.contains("loss") || text.contains("loss") {
                ""
            } else {
                "loss = 'dice'\n"
            };
            config(
                name,
                format!("{loss}{text}\n{whole}").into(),
                misused(sentence),
            );
        }
        for (name, text, sentence) in [
            (
                "lists in lists",
                format!("x = {}", "[".repeat(100_000)),
                "@/c.toml: line 1: cannot recurse further",
            ),
            (
                "tables in tables",
                format!("x = {}", "{a=".repeat(100_000)),
                "@/c.toml: line 1: cannot recurse further",
            ),
            (
                "a key of many parts",
                format!("x{} = 1", ".x".repeat(100_000)),
                "@/c.toml: line 1: recursion limit",
            ),
            (
                "a header of many parts",
                format!("[x{}]", ".x".repeat(100_000)),
                "@/c.toml: line 1: recursion limit",
            ),
            (
                "a long key",
                format!("{} = 1", "x".repeat(100_000)),
                "unknown key `xxx",
            ),
            (
                "many keys",
                (0..40_000)
                    .map(|n| format!("k{n} = 1"))
                    .collect::<Vec<_>>()
                    .join("\n"),
                "unknown key `k0`",
            ),
            (
                "more than a mebibyte",
                "#".repeat((1 << 20) + 1),
                "the file @/c.toml of --config cannot be read: it has more than 1048576 bytes",
            ),
        ] {
            config(name, text.into(), misused(sentence));
        }
        for (name, text, sentence) in [
            (
                "no text",
                &b"\xff\xfe"[..],
                "the file @/c.toml of --config cannot be read: it is no UTF-8 text: byte 0 fits none",
            ),
            (
                "no text later",
                b"seed = 1 # \x80",
                "the file @/c.toml of --config cannot be read: it is no UTF-8 text: byte 11 fits none",
            ),
            ("zeros", &[0; 1000], "@/c.toml: line 1: "),
        ] {
            config(name, text.into(), misused(sentence));
        }
        for (path, reason) in [
            ("/dev/zero", "it is no regular file"),
            ("/", "it is a folder"),
            ("@/gone", "No such file or directory (os error 2)"),
            ("@/pipe", "it is no regular file"),
        ] {
            let sentence = format!("the file {path} of --config cannot be read: {reason}");
            self.add(
                format!("config: {path}"),
                Like::Configured,
                misused(&sentence),
                move |folder| {
                    if path == "@/pipe" {
                        let made = std::process::Command::new("mkfifo")
                            .arg(folder.join("pipe"))
                            .status();
                        assert!(made.unwrap().success());
                    }
                    words(&["--loss", "dice", "--config", path, "--out", "@/run"])
                },
            );
        }
        for (name, from, to, sentence) in [
            (
                "an unknown key",
                "seed = 0",
                "seed = 0\nwobble = 1",
                "@/run/run.toml: unknown field `wobble`",
            ),
            (
                "a missing key",
                "seed = 0\n",
                "",
                "@/run/run.toml: missing field `seed`",
            ),
            (
                "another type",
                "seed = 0",
                "seed = 'x'",
                "@/run/run.toml: invalid type: string \"x\", expected u64 in `seed`",
            ),
            (
                "a vast network",
                "width = 2",
                "width = 4096",
                "@/run/run.toml: U-Net: width is 4096; expected a whole number from 1 to 1024",
            ),
            (
                "another network",
                "width = 2",
                "width = 4",
                "@/run/best.safetensors: tensor enc0.conv1.weight has shape [2, 1, 3, 3]; expected [4, 1, 3, 3]",
            ),
            ("no syntax", "seed = 0", "seed", "@/run/run.toml: line "),
        ] {
            self.run(name, CONFIG, bad(sentence), move |text| {
                let text = String::from_utf8(text).unwrap();
                assert!(text.contains(from), "{text}");
                text.replacen(from, to, 1).into()
            });
        }
        for (name, text, sentence) in [
            ("empty", Vec::new(), "@/run/run.toml: missing field `loss`"),
            (
                "no text",
                vec![0xFF; 9],
                "@/run/run.toml cannot be read: it is no UTF-8 text: byte 0 fits none",
            ),
            (
                "too much",
                vec![b'#'; 2 << 20],
                "@/run/run.toml cannot be read: it has more than 1048576 bytes",
            ),
        ] {
            self.run(name, CONFIG, bad(sentence), move |_| text.clone());
        }
        self.run(
            "of a version without the newer keys",
            CONFIG,
            Works,
            |text| {
                let text = String::from_utf8(text).unwrap();
                let lines = text.lines().filter(|line| {
                    !line.starts_with("max_pixels") && !line.starts_with("follow_links")
                });
                lines.collect::<Vec<_>>().join("\n").into()
            },
        );
    }

    /// Keys of `--set`.
    fn keys(&mut self) {
        let many = format!("x{}=1", ".x".repeat(30_000));
        for (set, sentence) in [
            ("wobble=1", "unknown key `wobble`"),
            (
                "unet.width",
                "--set unet.width: expected KEY=VALUE, such as unet.width=16",
            ),
            ("=", "unknown key ``"),
            ("..=1", "unknown key `..`"),
            ("unet..width=1", "unknown key `unet..width`"),
            (
                "unet.width=many",
                "invalid type: string \"many\", expected usize in `unet.width`",
            ),
            (
                "unet.width=2\nunet.depth=3",
                "expected usize in `unet.width`",
            ),
            (
                "unet.width=99999999999999999999",
                "expected usize in `unet.width`",
            ),
            (
                "unet.width=-1",
                "invalid value: integer `-1`, expected usize in `unet.width`",
            ),
            (
                "unet=1",
                "invalid type: integer `1`, expected struct UNetConfig in `unet`",
            ),
            ("data.max_pixels=1e9", "expected u64 in `data.max_pixels`"),
            (
                &many,
                "--set: found a key of 30001 parts; expected at most 8, such as recipe.sgd.lr",
            ),
        ] {
            let set = set.to_owned();
            let shown: String = set.chars().take(30).collect();
            self.add(
                format!("--set {shown}"),
                Like::Configured,
                misused(sentence),
                move |_| words(&["--loss", "dice", "--out", "@/run", "--set", &set]),
            );
        }
        for (size, sentence) in [
            (
                "99999999999999999999x16",
                "--size is `99999999999999999999x16`; expected height and width in pixels, such as 256x384",
            ),
            (
                "0x16",
                "--size is `0x16`; expected height and width in pixels, such as 256x384",
            ),
            (
                "16",
                "--size is `16`; expected height and width in pixels, such as 256x384",
            ),
            (
                "1000000x1000000",
                "size 1000000x1000000 is too large; expected at most 2^26 pixels, such as 8192x8192",
            ),
        ] {
            self.add(
                format!("--size {size}"),
                Like::Configured,
                misused(sentence),
                move |_| {
                    words(&[
                        "--loss",
                        "dice",
                        "--out",
                        "@/run",
                        "--size",
                        size,
                        "--set",
                        "unet.depth=1",
                    ])
                },
            );
        }
    }
}

/// Trains on the pairs of the row's folder.
fn train(more: &[&str]) -> Vec<String> {
    [
        words(TINY),
        words(&["--data", "folder:@", "--out", "@/run"]),
        words(more),
    ]
    .concat()
}

fn undecodable(file: &str) -> Expected {
    bad(&format!(
        "@/{file} cannot be decoded as PNG, JPEG, TIFF, GIF or BMP: "
    ))
}
