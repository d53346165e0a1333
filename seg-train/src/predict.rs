//! Images nobody has labelled: a mask and a map of probabilities for each.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use candle_core::Device;
use image::{GrayImage, Luma, RgbImage};
use seg_unet::UNet;

use crate::{
    config::Experiment,
    data::{image_files, read_image},
    evaluate::{foreground, predict},
    preprocess::{Interpolation, prepare_image},
    raster::Image,
    report::{canvas::save_png, colours::heat},
    resample::resize,
};

/// What was found in one image.
#[derive(Clone, Debug, PartialEq)]
pub struct Segmented {
    /// Height and width of the image.
    pub size: [usize; 2],
    /// Probability of the foreground a pixel of the image, row after row.
    pub probability: Vec<f32>,
    /// Share of the pixels at or above the threshold.
    pub share: f64,
}

/// The image files that inputs name: files as they are, folders by their image files in natural order.
///
/// # Errors
///
/// A path that does not exist, a folder without images, and two images whose results would have one name.
pub fn inputs(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let found = image_files(path)?;
            if found.is_empty() {
                bail!("the folder {} holds no images", path.display());
            }
            files.extend(found);
        } else if path.exists() {
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

/// Segments one image file and writes `<stem>_mask.png` (0 and 255), `<stem>_probability.png` (grey, 255 is p = 1) and
/// `<stem>_heat.png` (the same in colour) to `out`, all at the image's own size.
///
/// # Errors
///
/// An image that cannot be read, a folder that cannot be written to.
pub fn segment(
    unet: &UNet,
    experiment: &Experiment,
    device: &Device,
    file: &Path,
    out: &Path,
    threshold: f64,
) -> Result<Segmented> {
    let image = read_image(file, experiment.unet.in_channels)?;
    let size = [image.height, image.width];
    let seen = prepare_image(&image, &experiment.preprocess)?;
    let p = predict(unet, &seen, device)?;
    let p = Image {
        channels: 1,
        data: foreground(&p, experiment.unet.classes),
        ..seen
    };
    let probability = resize(&p, size, Interpolation::Bilinear).data;

    let (width, height) = (size[1] as u32, size[0] as u32);
    let at = |x: u32, y: u32| probability[y as usize * size[1] + x as usize];
    let inside = |p: f32| f64::from(p) >= threshold;
    let named = |what: &str| out.join(format!("{}_{what}.png", stem(file)));
    let mask = GrayImage::from_fn(width, height, |x, y| {
        Luma([if inside(at(x, y)) { 255 } else { 0 }])
    });
    save_png(&mask, &named("mask"))?;
    let grey = GrayImage::from_fn(width, height, |x, y| {
        Luma([(at(x, y).clamp(0.0, 1.0) * 255.0).round() as u8])
    });
    save_png(&grey, &named("probability"))?;
    save_png(
        &RgbImage::from_fn(width, height, |x, y| heat(at(x, y))),
        &named("heat"),
    )?;

    let found = probability.iter().filter(|&&p| inside(p)).count();
    Ok(Segmented {
        size,
        share: found as f64 / probability.len() as f64,
        probability,
    })
}

/// Makes the folder for results.
///
/// # Errors
///
/// When it cannot be made.
pub fn make_folder(out: &Path) -> Result<()> {
    fs::create_dir_all(out)
        .with_context(|| format!("the folder {} of --out cannot be made", out.display()))
}

fn stem(file: &Path) -> String {
    file.file_stem()
        .map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_images_of_one_name_are_refused_before_any_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("eye.png"), dir.path().join("eye.jpg"));
        fs::write(&a, "").unwrap();
        fs::write(&b, "").unwrap();
        let error = inputs(&[a.clone(), b.clone()]).unwrap_err().to_string();
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
    fn what_is_not_there_is_named() {
        let error = inputs(&["/nowhere/eye.png".into()])
            .unwrap_err()
            .to_string();
        assert_eq!(error, "there is no file or folder /nowhere/eye.png");
        let dir = tempfile::tempdir().unwrap();
        let error = inputs(&[dir.path().into()]).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("the folder {} holds no images", dir.path().display())
        );
    }
}
