//! Temperature and vector scaling: probabilities mended after training, on the validation set (Guo et al. 2017).
//!
//! The logits z of a trained network are scaled a class, z′ = a ∘ z + b, and a and b are those of the lowest NLL over the
//! validation pixels. With one a for all classes and no b it is temperature scaling, T = 1/a: no pixel's most probable
//! class changes. The NLL is convex in a and b, so the fit is Newton's and has one answer.

use anyhow::{Context, Result, bail, ensure};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    metrics::scores::CLIP,
    open,
    raster::{IGNORE, NO_CLASS},
    run_folder::RunFolder,
    threshold::best_epoch,
};

/// What is fitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Scaling {
    /// Nothing: the network's own probabilities.
    #[default]
    None,
    /// One factor for all logits.
    Temperature,
    /// A factor and a shift a class.
    Vector,
}

/// z′ = a ∘ z + b, a class each.
///
/// ```
/// use seg_train::inference::Scale;
/// let cooler = Scale { a: vec![0.5, 0.5], b: vec![0.0, 0.0] };
/// // Two classes of one pixel: 4 nats apart become 2.
/// let p = cooler.softmax(&[0.0, 4.0]);
/// assert!((p[1] - 1.0 / (1.0 + (-2.0_f32).exp())).abs() < 1e-6);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// The factors.
    pub a: Vec<f64>,
    /// The shifts.
    pub b: Vec<f64>,
}

impl Scale {
    /// The softmax of the scaled logits, planar `[classes, pixels]` like the logits.
    pub fn softmax(&self, logits: &[f32]) -> Vec<f32> {
        let classes = self.a.len();
        let pixels = logits.len() / classes;
        let mut p = vec![0.0; logits.len()];
        let mut one = vec![0.0; classes];
        for pixel in 0..pixels {
            for (class, z) in one.iter_mut().enumerate() {
                *z = f64::from(logits[class * pixels + pixel]);
            }
            self.softmax_of(&mut one);
            for (class, value) in one.iter().enumerate() {
                p[class * pixels + pixel] = *value as f32;
            }
        }
        p
    }

    /// One pixel's logits become its probabilities; the scaled logit of the class that is most probable is returned less
    /// the logarithm of the sum: `z′_c − this` is log p of class c.
    fn softmax_of(&self, z: &mut [f64]) -> f64 {
        for ((z, a), b) in z.iter_mut().zip(&self.a).zip(&self.b) {
            *z = a * *z + b;
        }
        let largest = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut sum = 0.0;
        for z in z.iter_mut() {
            *z = (*z - largest).exp();
            sum += *z;
        }
        for z in z.iter_mut() {
            *z /= sum;
        }
        largest + sum.ln()
    }
}

/// The logits of one image, planar `[classes, pixels]`, beside its labels.
#[derive(Clone, Debug)]
pub struct Scored {
    /// Logits, or logarithms of probabilities.
    pub logits: Vec<f32>,
    /// A class a pixel; [`IGNORE`] and [`NO_CLASS`] do not count.
    pub labels: Vec<u8>,
}

/// A scaling and what it did to the images that it was fitted on: `scaling.toml` of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fitted {
    /// What was fitted.
    pub method: Scaling,
    /// What came out: for a temperature T all of `a` are 1/T.
    #[serde(flatten)]
    pub scale: Scale,
    /// Mean NLL a pixel over the validation images before, in nats.
    pub nll_before: f64,
    /// The same after.
    pub nll_after: f64,
    /// The validation images.
    pub images: usize,
    /// The data set whose validation set it was fitted on.
    pub fitted_on: String,
    /// The epoch whose weights it was fitted for.
    pub epoch: usize,
}

impl Fitted {
    /// The file's name.
    pub const NAME: &str = "scaling.toml";

    /// Writes it to its run, whole or not at all.
    ///
    /// # Errors
    ///
    /// When the folder cannot be written to.
    pub fn write(&self, folder: &RunFolder) -> Result<()> {
        folder.write(Self::NAME, toml::to_string(self)?.as_bytes())
    }

    /// Reads it from its run.
    ///
    /// # Errors
    ///
    /// When it is not there or no such file, is of other classes or another method, or the run has other weights now.
    pub fn read(folder: &RunFolder, method: Scaling, classes: usize) -> Result<Self> {
        let path = folder.file(Self::NAME);
        let shown = path.display();
        let again = format!("fit it anew: seg-train resume {}", folder.path().display());
        if !path.is_file() {
            bail!("{shown} is not there, and the run scales its logits by it; {again}");
        }
        let text = open::text(&path).with_context(|| format!("{shown} cannot be read"))?;
        let fitted: Self = toml::from_str(&text).with_context(|| format!("{shown}"))?;
        let Scale { a, b } = &fitted.scale;
        ensure!(
            a.len() == classes
                && b.len() == classes
                && a.iter().chain(b).all(|value| value.is_finite())
                && fitted.method == method,
            "{shown} holds no {method:?} scaling of {classes} classes; {again}"
        );
        let best = best_epoch(folder)?;
        ensure!(
            fitted.epoch == best,
            "{shown} was fitted for the weights of epoch {}, and the run's best are those of epoch {best} now; {again}",
            fitted.epoch
        );
        Ok(fitted)
    }
}

/// Steps at most; Newton's of a convex function needs about ten.
const STEPS: usize = 100;

/// A step that would lower the mean NLL by less is none.
const SMALLEST: f64 = 1e-16;

/// The factor stays within this and its inverse: on pixels that are all right it would grow without end.
const MOST: f64 = 1e3;

/// Fits a scaling to the images' labels: gives it with the mean NLL a pixel before and after.
///
/// # Errors
///
/// When no pixel counts, or a logit is no number.
///
/// ```
/// use seg_train::inference::scaling::{Scaling, Scored, fit};
/// // p = 0.98 said of a class that is there three times in four: the best temperature says 0.75.
/// let image = Scored { logits: vec![0.0, 0.0, 0.0, 0.0, 4.0, 4.0, 4.0, 4.0], labels: vec![1, 1, 1, 0] };
/// let (scale, before, after) = fit(Scaling::Temperature, 2, &[image])?;
/// assert!((scale.a[0] * 4.0 - 3_f64.ln()).abs() < 1e-6);
/// assert!(after < before);
/// # anyhow::Ok(())
/// ```
pub fn fit(method: Scaling, classes: usize, images: &[Scored]) -> Result<(Scale, f64, f64)> {
    let odd = images
        .iter()
        .flat_map(|image| &image.logits)
        .find(|z| !z.is_finite());
    if let Some(z) = odd {
        bail!(
            "a logit of the validation set is {z}; the training diverged, and no scaling mends that"
        );
    }
    let mut scale = Scale {
        a: vec![1.0; classes],
        b: vec![0.0; classes],
    };
    let mut here = Sums::of(method, &scale, images);
    ensure!(
        here.pixels > 0,
        "no pixel of the validation set has a label that counts; there is nothing to fit the scaling to"
    );
    let before = here.nll();
    for _ in 0..STEPS {
        let step = here.newton();
        let gain: f64 = step
            .iter()
            .zip(&here.gradient)
            .map(|(s, g)| s * g)
            .sum::<f64>()
            / here.pixels as f64;
        if gain < SMALLEST {
            break;
        }
        // Backtracking: a full step of Newton's may overshoot far from the minimum.
        let mut share = 1.0;
        let next = loop {
            let tried = moved(method, &scale, &step, share);
            let sums = Sums::of(method, &tried, images);
            if sums.nll() <= here.nll() - 1e-4 * share * gain {
                break Some((tried, sums));
            }
            share /= 2.0;
            if share < 1e-6 {
                break None;
            }
        };
        let Some((tried, sums)) = next else { break };
        (scale, here) = (tried, sums);
    }
    let after = here.nll();
    Ok((scale, before, after))
}

/// The scale after a share of a step downhill.
fn moved(method: Scaling, scale: &Scale, step: &[f64], share: f64) -> Scale {
    let bounded = |value: f64| value.clamp(1.0 / MOST, MOST);
    let mut moved = scale.clone();
    match method {
        Scaling::None => {}
        Scaling::Temperature => {
            let a = bounded(scale.a[0] - share * step[0]);
            moved.a.fill(a);
        }
        Scaling::Vector => {
            let classes = scale.a.len();
            for class in 0..classes {
                moved.a[class] = (scale.a[class] - share * step[class]).clamp(-MOST, MOST);
                // The first shift stays 0: adding one number to all changes no probability.
                if class > 0 {
                    moved.b[class] = scale.b[class] - share * step[classes + class - 1];
                }
            }
        }
    }
    moved
}

/// NLL, gradient and Hessian in the parameters, sums over pixels.
#[derive(Clone, Debug)]
struct Sums {
    pixels: u64,
    nll: f64,
    gradient: Vec<f64>,
    hessian: Vec<f64>,
}

impl Sums {
    fn zero(parameters: usize) -> Self {
        Self {
            pixels: 0,
            nll: 0.0,
            gradient: vec![0.0; parameters],
            hessian: vec![0.0; parameters * parameters],
        }
    }

    /// Over all images: each image's sums by themselves, added in the order of the images, whatever thread had which.
    fn of(method: Scaling, scale: &Scale, images: &[Scored]) -> Self {
        let classes = scale.a.len();
        let parameters = match method {
            Scaling::None => 0,
            Scaling::Temperature => 1,
            Scaling::Vector => 2 * classes - 1,
        };
        let each: Vec<Self> = images
            .par_iter()
            .map(|image| Self::of_image(method, scale, image, parameters))
            .collect();
        each.iter().fold(Self::zero(parameters), |mut all, image| {
            all.pixels += image.pixels;
            all.nll += image.nll;
            let add = |all: &mut [f64], one: &[f64]| {
                all.iter_mut().zip(one).for_each(|(a, b)| *a += b);
            };
            add(&mut all.gradient, &image.gradient);
            add(&mut all.hessian, &image.hessian);
            all
        })
    }

    fn of_image(method: Scaling, scale: &Scale, image: &Scored, parameters: usize) -> Self {
        let classes = scale.a.len();
        let pixels = image.labels.len();
        let mut sums = Self::zero(parameters);
        let (mut z, mut p) = (vec![0.0; classes], vec![0.0; classes]);
        for (pixel, &label) in image.labels.iter().enumerate() {
            if matches!(label, IGNORE | NO_CLASS) {
                continue;
            }
            let y = usize::from(label);
            for (class, z) in z.iter_mut().enumerate() {
                *z = f64::from(image.logits[class * pixels + pixel]);
            }
            p.copy_from_slice(&z);
            let log_sum = scale.softmax_of(&mut p);
            sums.pixels += 1;
            sums.nll += log_sum - (scale.a[y] * z[y] + scale.b[y]);
            match method {
                Scaling::None => {}
                Scaling::Temperature => {
                    let mean: f64 = p.iter().zip(&z).map(|(p, z)| p * z).sum();
                    let square: f64 = p.iter().zip(&z).map(|(p, z)| p * (z - mean).powi(2)).sum();
                    sums.gradient[0] += mean - z[y];
                    sums.hessian[0] += square;
                }
                Scaling::Vector => sums.add_vector(&z, &p, y),
            }
        }
        sums
    }

    /// One pixel's gradient (p − y) ⊗ (z, 1) and Hessian (diag p − p pᵀ) ⊗ (z, 1)(z, 1)ᵀ, without the first class's shift.
    fn add_vector(&mut self, z: &[f64], p: &[f64], y: usize) {
        let classes = z.len();
        let n = 2 * classes - 1;
        let parameter = |k: usize| {
            if k < classes {
                (k, z[k])
            } else {
                (k - classes + 1, 1.0)
            }
        };
        for k in 0..n {
            let (c, of_k) = parameter(k);
            self.gradient[k] += (p[c] - f64::from(u8::from(c == y))) * of_k;
            for l in 0..n {
                let (d, of_l) = parameter(l);
                let covariance = p[c] * (f64::from(u8::from(c == d)) - p[d]);
                self.hessian[k * n + l] += covariance * of_k * of_l;
            }
        }
    }

    /// The mean NLL a pixel.
    fn nll(&self) -> f64 {
        self.nll / self.pixels as f64
    }

    /// H⁻¹ g, with a little on H's diagonal: two classes whose logits mirror each other leave it singular.
    fn newton(&self) -> Vec<f64> {
        let n = self.gradient.len();
        let trace: f64 = (0..n).map(|k| self.hessian[k * n + k]).sum();
        let ridge = 1e-9 * trace / n.max(1) as f64 + f64::MIN_POSITIVE.sqrt();
        let mut rows: Vec<Vec<f64>> = (0..n)
            .map(|k| {
                let mut row = self.hessian[k * n..(k + 1) * n].to_vec();
                row[k] += ridge;
                row.push(self.gradient[k]);
                row
            })
            .collect();
        // Gauss–Jordan; the matrix is positive definite, so no pivot is 0.
        for k in 0..n {
            let pivot = rows[k].clone();
            for (l, row) in rows.iter_mut().enumerate() {
                if l != k {
                    let share = row[k] / pivot[k];
                    row.iter_mut()
                        .zip(&pivot)
                        .for_each(|(a, b)| *a -= share * b);
                }
            }
        }
        (0..n).map(|k| rows[k][n] / rows[k][k]).collect()
    }
}

/// Logarithms of probabilities, for a scaling of what has no logits, such as a mean of several networks' probabilities.
pub(super) fn logarithms(p: &[f32]) -> Vec<f32> {
    // As small as the metrics have it: a probability of 0 says no more than one of CLIP.
    p.iter()
        .map(|&p| f64::from(p).max(CLIP).ln() as f32)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};
    use rand::Rng as _;

    /// Images whose labels are drawn from the softmax of `scale` upon random logits.
    fn drawn(scale: &Scale, images: usize, pixels: usize) -> Vec<Scored> {
        let classes = scale.a.len();
        (0..images)
            .map(|image| {
                let mut rng = stream(3, Purpose::Order, 0, image as u64);
                let logits: Vec<f32> = (0..classes * pixels)
                    .map(|_| rng.random_range(-3.0..3.0))
                    .collect();
                let p = scale.softmax(&logits);
                let labels = (0..pixels)
                    .map(|pixel| {
                        let mut left = rng.random::<f32>();
                        (0..classes - 1)
                            .find(|class| {
                                left -= p[class * pixels + pixel];
                                left < 0.0
                            })
                            .unwrap_or(classes - 1) as u8
                    })
                    .collect();
                Scored { logits, labels }
            })
            .collect()
    }

    #[test]
    fn the_scale_that_labels_were_drawn_with_is_found_again() {
        let truth = Scale {
            a: vec![0.4; 3],
            b: vec![0.0; 3],
        };
        let images = drawn(&truth, 8, 20_000);
        let (scale, before, after) = fit(Scaling::Temperature, 3, &images).unwrap();
        assert!((scale.a[0] - 0.4).abs() < 0.01, "{scale:?}");
        assert!(before > after + 0.1, "{before} {after}");
        assert_eq!(scale.b, [0.0; 3]);

        let truth = Scale {
            a: vec![0.5, 1.5, 0.9],
            b: vec![0.0, -1.0, 0.7],
        };
        let images = drawn(&truth, 8, 20_000);
        let (scale, ..) = fit(Scaling::Vector, 3, &images).unwrap();
        for (found, truth) in [(&scale.a, &truth.a), (&scale.b, &truth.b)] {
            for (found, truth) in found.iter().zip(truth) {
                assert!((found - truth).abs() < 0.03, "{scale:?}");
            }
        }
    }

    #[test]
    fn derivatives_are_those_of_differences() {
        let truth = Scale {
            a: vec![0.7, 1.2, 1.0],
            b: vec![0.0, 0.3, -0.5],
        };
        let images = drawn(&truth, 2, 50);
        for method in [Scaling::Temperature, Scaling::Vector] {
            let at = Scale {
                a: vec![0.8; 3],
                b: vec![0.0, 0.1, 0.2],
            };
            let sums = Sums::of(method, &at, &images);
            let n = sums.gradient.len();
            let h = 1e-5;
            for k in 0..n {
                let mut step = vec![0.0; n];
                step[k] = h;
                let ahead = Sums::of(method, &moved(method, &at, &step, -1.0), &images);
                let behind = Sums::of(method, &moved(method, &at, &step, 1.0), &images);
                let slope = (ahead.nll - behind.nll) / (2.0 * h);
                assert!((slope - sums.gradient[k]).abs() < 1e-5, "{method:?} {k}");
                for l in 0..n {
                    let curvature = (ahead.gradient[l] - behind.gradient[l]) / (2.0 * h);
                    let found = sums.hessian[k * n + l];
                    assert!((curvature - found).abs() < 1e-5, "{method:?} {k} {l}");
                }
            }
        }
    }

    #[test]
    fn mirrored_logits_and_pixels_that_are_all_right_have_an_answer_too() {
        // Two classes whose logits are each other's negative: vector scaling has more parameters than it can tell apart.
        let mut images = drawn(
            &Scale {
                a: vec![0.5; 2],
                b: vec![0.0; 2],
            },
            4,
            5000,
        );
        for image in &mut images {
            let pixels = image.labels.len();
            for pixel in 0..pixels {
                image.logits[pixels + pixel] = -image.logits[pixel];
            }
        }
        let (vector, _, after) = fit(Scaling::Vector, 2, &images).unwrap();
        let (_, _, by_temperature) = fit(Scaling::Temperature, 2, &images).unwrap();
        assert!(after <= by_temperature + 1e-9 && vector.a[0].is_finite());

        let right = Scored {
            logits: vec![1.0, -1.0, -1.0, 1.0],
            labels: vec![0, 1],
        };
        let (scale, _, after) = fit(Scaling::Temperature, 2, &[right]).unwrap();
        assert!(scale.a[0] > 5.0 && scale.a[0] <= MOST, "{scale:?}");
        assert!(after < 1e-4);
    }

    #[test]
    fn an_ignored_pixel_counts_for_nothing_and_nothing_else_is_refused() {
        let image = |labels: [u8; 3]| Scored {
            logits: vec![0.0, 0.0, 0.0, 2.0, -1.0, 3.0],
            labels: labels.to_vec(),
        };
        let (with, ..) = fit(
            Scaling::Temperature,
            2,
            &[image([1, 0, IGNORE]), image([0, 0, 1])],
        )
        .unwrap();
        let mut without = image([1, 0, 0]);
        without.logits = vec![0.0, 0.0, 2.0, -1.0];
        without.labels.truncate(2);
        let (two, ..) = fit(Scaling::Temperature, 2, &[without, image([0, 0, 1])]).unwrap();
        assert_eq!(with, two);
        assert_eq!(
            fit(Scaling::Temperature, 2, &[image([IGNORE; 3])])
                .unwrap_err()
                .to_string(),
            "no pixel of the validation set has a label that counts; there is nothing to fit the scaling to"
        );
        let mut odd = image([0, 1, 0]);
        odd.logits[2] = f32::NAN;
        assert_eq!(
            fit(Scaling::Temperature, 2, &[odd])
                .unwrap_err()
                .to_string(),
            "a logit of the validation set is NaN; the training diverged, and no scaling mends that"
        );
    }

    #[test]
    fn a_file_comes_back_and_one_for_other_weights_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let folder = crate::run_folder::testing::folder(dir.path());
        let shown = folder.file(Fitted::NAME).display().to_string();
        let again = format!("fit it anew: seg-train resume {}", dir.path().display());
        let read =
            |method, classes| Fitted::read(&folder, method, classes).map_err(|e| e.to_string());
        assert_eq!(
            read(Scaling::Vector, 2),
            Err(format!(
                "{shown} is not there, and the run scales its logits by it; {again}"
            ))
        );
        let mut fitted = Fitted {
            method: Scaling::Vector,
            scale: Scale {
                a: vec![0.1 + 0.2, 1.0],
                b: vec![0.0, -0.5],
            },
            nll_before: 0.5,
            nll_after: 0.25,
            images: 3,
            fitted_on: "phantom".into(),
            epoch: 0,
        };
        fitted.write(&folder).unwrap();
        assert_eq!(read(Scaling::Vector, 2), Ok(fitted.clone()));
        assert_eq!(
            read(Scaling::Temperature, 2),
            Err(format!(
                "{shown} holds no Temperature scaling of 2 classes; {again}"
            ))
        );
        fitted.epoch = 4;
        fitted.write(&folder).unwrap();
        assert_eq!(
            read(Scaling::Vector, 2),
            Err(format!(
                "{shown} was fitted for the weights of epoch 4, and the run's best are those of epoch 0 now; {again}"
            ))
        );
    }
}
