//! Images nobody has labelled: a mask and a map of probabilities for each.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use image::{GrayImage, Luma, RgbImage};

use crate::{
    config::Experiment,
    data::{Links, check_name, image_files, read_image},
    evaluate::{check_threshold, classes, foreground},
    inference::Inference,
    preprocess::{Interpolation, prepare_image},
    raster::Image,
    report::{canvas::save_png, colours::heat},
    resample::resize,
    store,
};

/// What was found in one image.
#[derive(Clone, Debug, PartialEq)]
pub struct Segmented {
    /// Height and width of the image.
    pub size: [usize; 2],
    /// Probability of the foreground a pixel of the image, row after row.
    pub probability: Vec<f32>,
    /// Share of the pixels that are not background.
    pub share: f64,
}

/// The image files that inputs name: files as they are, folders by their image files in natural order.
///
/// # Errors
///
/// A path that does not exist, a folder without images or with a link out of it that is not to be followed, a name that
/// cannot be printed, and two images whose results would have one name.
pub fn inputs(paths: &[PathBuf], links: &Links) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let found = image_files(path, links)?;
            if found.is_empty() {
                bail!("the folder {} holds no images", path.display());
            }
            files.extend(found);
        } else if path.exists() {
            check_name(path)?;
            files.push(path.clone());
        } else {
            bail!("there is no file or folder {}", path.display());
        }
    }
    let mut by_stem: BTreeMap<String, &PathBuf> = BTreeMap::new();
    for file in &files {
        if let Some(other) = by_stem.insert(stem(file), file) {
            bail!(
                "{} and {} would both be written as {}_mask.png; predict them into two folders",
                other.display(),
                file.display(),
                stem(file)
            );
        }
    }
    Ok(files)
}

/// The files that [`segment`] writes for one image: the mask, the heat map, then the probability maps.
fn outputs(file: &Path, out: &Path, classes: usize) -> Vec<PathBuf> {
    let named = |what: &str| out.join(format!("{}_{what}.png", stem(file)));
    let mut paths = vec![named("mask"), named("heat")];
    if classes > 2 {
        paths.extend((0..classes).map(|class| named(&format!("probability_{class}"))));
    } else {
        paths.push(named("probability"));
    }
    paths
}

/// Refuses to write over a file, whatever it is.
///
/// # Errors
///
/// A result of some image would have the name of a file that is there.
pub fn refuse_overwriting(files: &[PathBuf], out: &Path, classes: usize) -> Result<()> {
    let inputs: BTreeSet<PathBuf> = files.iter().flat_map(fs::canonicalize).collect();
    for path in files.iter().flat_map(|file| outputs(file, out, classes)) {
        if fs::canonicalize(&path).is_ok_and(|path| inputs.contains(&path)) {
            bail!(
                "{} is one of the images, and a result would be written over it; name another folder with --out",
                path.display()
            );
        }
        if path.exists() {
            bail!(
                "{} exists already; name another folder with --out",
                path.display()
            );
        }
    }
    Ok(())
}

/// Segments one image file and writes to `out`, all at the image's own size, `<stem>_mask.png` (0 and 255),
/// `<stem>_probability.png` (grey, 255 is p = 1) and `<stem>_heat.png` (the same in colour).
///
/// With more than two classes the mask holds the number of the most probable class as grey value, there is a
/// `<stem>_probability_<class>.png` each, and the heat is that of everything but the background.
///
/// # Errors
///
/// An image that cannot be read, a folder that cannot be written to, a threshold for more than two classes.
pub fn segment(
    net: &Inference,
    experiment: &Experiment,
    file: &Path,
    out: &Path,
    threshold: Option<f64>,
) -> Result<Segmented> {
    let count = experiment.unet.classes;
    check_threshold(threshold, count)?;
    let image = read_image(
        file,
        experiment.unet.in_channels,
        experiment.data.max_pixels,
    )?;
    let size = [image.height, image.width];
    let seen = prepare_image(&image, &experiment.preprocess)?;
    let p = Image {
        channels: count,
        data: net.predict(&seen)?,
        ..seen
    };
    let p = resize(&p, size, Interpolation::Bilinear).data;
    let probability = foreground(&p, count);
    let threshold = threshold.or((count == 2).then_some(0.5));
    let mask = classes(&p, count, threshold);

    let (width, height) = (size[1] as u32, size[0] as u32);
    let place = |x: u32, y: u32| y as usize * size[1] + x as usize;
    let (brightest, maps): (u8, Vec<&[f32]>) = if count > 2 {
        (1, p.chunks_exact(probability.len()).collect())
    } else {
        (255, vec![&probability])
    };
    let mut paths = outputs(file, out, count).into_iter();
    let mut next = || paths.next().context("a result without a name");
    let grey = GrayImage::from_fn(width, height, |x, y| Luma([brightest * mask[place(x, y)]]));
    save_png(&grey, &next()?)?;
    let colour = RgbImage::from_fn(width, height, |x, y| heat(probability[place(x, y)]));
    save_png(&colour, &next()?)?;
    for map in maps {
        let grey = GrayImage::from_fn(width, height, |x, y| {
            Luma([(map[place(x, y)].clamp(0.0, 1.0) * 255.0).round() as u8])
        });
        save_png(&grey, &next()?)?;
    }

    let found = mask.iter().filter(|&&class| class > 0).count();
    Ok(Segmented {
        size,
        share: found as f64 / mask.len() as f64,
        probability,
    })
}

/// Makes the folder for results.
///
/// # Errors
///
/// When it cannot be made.
pub fn make_folder(out: &Path) -> Result<()> {
    store::create_folder(out)
}

fn stem(file: &Path) -> String {
    file.file_stem()
        .map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;
    use candle_core::Device;
    use seg_unet::{Precision, UNet, UNetConfig};

    #[test]
    fn two_images_of_one_name_are_refused_before_any_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("eye.png"), dir.path().join("eye.jpg"));
        fs::write(&a, "").unwrap();
        fs::write(&b, "").unwrap();
        let error = inputs(&[a.clone(), b.clone()], &Links::Inside)
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            format!(
                "{} and {} would both be written as eye_mask.png; predict them into two folders",
                a.display(),
                b.display()
            )
        );
    }

    #[test]
    fn no_file_is_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let files = [at("eye.png"), at("eye_mask.png")];
        fs::write(&files[0], "").unwrap();
        refuse_overwriting(&files[..1], dir.path(), 2).unwrap();
        fs::write(&files[1], "").unwrap();
        assert_eq!(
            refuse_overwriting(&files, dir.path(), 2)
                .unwrap_err()
                .to_string(),
            format!(
                "{} is one of the images, and a result would be written over it; name another folder with --out",
                files[1].display()
            )
        );
        assert_eq!(
            refuse_overwriting(&files[..1], dir.path(), 2)
                .unwrap_err()
                .to_string(),
            format!(
                "{} exists already; name another folder with --out",
                files[1].display()
            )
        );
        refuse_overwriting(&files, &at("elsewhere"), 2).unwrap();
    }

    #[test]
    fn three_classes_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("scan.png");
        GrayImage::from_fn(19, 13, |x, y| Luma([(x * 13 + y * y * 3) as u8]))
            .save(&file)
            .unwrap();
        let mut experiment = Preset::Paper.experiment("folder:/d".parse().unwrap());
        experiment.preprocess.size = [16, 16];
        experiment.unet = UNetConfig {
            in_channels: 1,
            classes: 3,
            width: 2,
            depth: 2,
            ..UNetConfig::default()
        };
        let unet = UNet::new(&experiment.unet, 1, &Device::Cpu).unwrap();
        let net = Inference::new(unet, Precision::F32, &Device::Cpu);
        let segment = |t| segment(&net, &experiment, &file, dir.path(), t).map(|found| found.share);
        assert!(segment(Some(0.5)).is_err());
        let share = segment(None).unwrap();

        let open = |what: &str| image::open(dir.path().join(what)).unwrap().to_luma8();
        let mask = open("scan_mask.png");
        let maps = [0, 1, 2].map(|class| open(&format!("scan_probability_{class}.png")));
        assert_eq!(mask.dimensions(), (19, 13));
        for (x, y, class) in mask.enumerate_pixels() {
            let p = maps.each_ref().map(|map| map.get_pixel(x, y).0[0]);
            assert_eq!(Some(&p[usize::from(class.0[0])]), p.iter().max(), "{x} {y}");
        }
        let found = mask.pixels().filter(|class| class.0[0] > 0).count();
        assert!((share - found as f64 / 247.0).abs() < 1e-12, "{share}");
        assert!(!dir.path().join("scan_probability.png").exists());
    }

    #[test]
    fn what_is_not_there_is_named() {
        let error = inputs(&["/nowhere/eye.png".into()], &Links::Inside)
            .unwrap_err()
            .to_string();
        assert_eq!(error, "there is no file or folder /nowhere/eye.png");
        let dir = tempfile::tempdir().unwrap();
        let error = inputs(&[dir.path().into()], &Links::Inside)
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            format!("the folder {} holds no images", dir.path().display())
        );
    }
}
