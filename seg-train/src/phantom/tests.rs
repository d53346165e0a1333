use super::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const SIZE: [usize; 2] = [64, 64];

fn scene(size: [usize; 2], index: usize) -> Scene {
    Scene::new(&PhantomConfig::default(), size, 3, index).unwrap()
}

fn mean(q: &[f32]) -> f64 {
    q.iter().map(|&q| f64::from(q)).sum::<f64>() / q.len() as f64
}

/// Each pixel by itself, as no observer would.
fn salt_and_pepper(q: &[f32]) -> Vec<u8> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    q.iter()
        .map(|&q| u8::from(rng.random::<f32>() < q))
        .collect()
}

/// Number of connected patches of foreground, corners touching.
fn patches(mask: &[u8], width: usize) -> usize {
    let mut left: Vec<bool> = mask.iter().map(|&l| l == 1).collect();
    let height = mask.len() / width;
    let mut count = 0;
    while let Some(start) = left.iter().position(|&l| l) {
        count += 1;
        left[start] = false;
        let mut open = vec![start];
        while let Some(i) = open.pop() {
            let (y, x) = (i / width, i % width);
            for row in y.saturating_sub(1)..(y + 2).min(height) {
                for column in x.saturating_sub(1)..(x + 2).min(width) {
                    let j = row * width + column;
                    if left[j] {
                        left[j] = false;
                        open.push(j);
                    }
                }
            }
        }
    }
    count
}

#[test]
fn the_mean_over_observers_is_q() {
    const OBSERVERS: usize = 300;
    for index in 0..4 {
        let scene = scene([32, 32], index);
        let bin = |q: f32| ((q * 10.0) as usize).min(9);
        // An observer's pixels hang together, observers do not: so a bin's mean deviation is one number an observer.
        let deviations: Vec<[f64; 10]> = (0..OBSERVERS)
            .map(|observer| {
                let mut sums = [0.0; 10];
                for (&label, &q) in scene.mask(observer as u64).data.iter().zip(&scene.q) {
                    sums[bin(q)] += f64::from(label) - f64::from(q);
                }
                sums
            })
            .collect();
        for bin in 0..10 {
            let d = deviations.iter().map(|sums| sums[bin]);
            let n = OBSERVERS as f64;
            let mean = d.clone().sum::<f64>() / n;
            let variance = d.map(|d| (d - mean).powi(2)).sum::<f64>() / (n - 1.0);
            let error = (variance / n).sqrt();
            assert!(
                mean.abs() <= 4.0 * error,
                "image {index}, bin {bin}: {mean} ± {error}"
            );
        }
    }
}

#[test]
fn observers_disagree_where_q_is_between() {
    let scene = scene(SIZE, 3);
    let (one, other) = (scene.mask(0), scene.mask(1));
    let differ: Vec<usize> = (0..scene.q.len())
        .filter(|&i| one.data[i] != other.data[i])
        .collect();
    assert!(!differ.is_empty());
    assert!(
        differ
            .iter()
            .all(|&i| scene.q[i] > 1e-4 && scene.q[i] < 1.0 - 1e-4)
    );
}

#[test]
fn masks_are_drawn_by_a_hand_not_pixel_by_pixel() {
    let (mut drawn, mut thrown) = (0, 0);
    for index in 0..20 {
        let scene = scene(SIZE, index);
        drawn += patches(&scene.mask(0).data, SIZE[1]);
        thrown += patches(&salt_and_pepper(&scene.q), SIZE[1]);
    }
    // At most eight structures an image, of which thin vessels may break.
    assert!(drawn <= 20 * 10, "{drawn} patches in 20 masks");
    assert!(
        thrown > 2 * drawn,
        "{thrown} patches without smoothness, {drawn} with"
    );
}

#[test]
fn vessels_of_one_pixel_exist_at_any_size() {
    for size in [[64, 64], [160, 160]] {
        let with = (0..10)
            .filter(|&index| {
                let (mask, width) = (scene(size, index).mask(0).data, size[1]);
                let lone = |i: usize, step: usize| {
                    mask[i] == 1 && mask[i - step] == 0 && mask[i + step] == 0
                };
                (width..mask.len() - width)
                    .filter(|&i| lone(i, 1) || lone(i, width))
                    .count()
                    >= 5
            })
            .count();
        assert!(with >= 7, "{with} of 10 images at {size:?}");
    }
}

#[test]
fn the_foreground_is_within_its_range_at_every_size() {
    let [least, most] = PhantomConfig::default().foreground;
    for (size, images) in [
        ([16, 16], 40),
        ([16, 48], 20),
        ([64, 64], 40),
        ([96, 128], 4),
        ([256, 256], 1),
    ] {
        for index in 0..images {
            let mean = mean(&scene(size, index).q);
            assert!(
                (least..=most).contains(&mean),
                "image {index} at {size:?}: {mean}"
            );
        }
    }
}

#[test]
fn the_image_shows_q() {
    let bare = PhantomConfig {
        noise: 0.0,
        shading: 0.0,
        distractors: 0,
        ..PhantomConfig::default()
    };
    let scene = Scene::new(&bare, SIZE, 3, 1).unwrap();
    let level = f64::from(scene.image().data[0]) - bare.contrast * f64::from(scene.q[0]);
    for (v, q) in scene.image().data.iter().zip(&scene.q) {
        assert!((f64::from(*v) - level - bare.contrast * f64::from(*q)).abs() < 1e-4);
    }
}

#[test]
fn the_same_arguments_give_the_same_bits_and_others_do_not() {
    let config = PhantomConfig::default();
    let one = sample(&config, SIZE, 3, 5).unwrap();
    assert_eq!(one.id, "phantom-5");
    assert_eq!(one, sample(&config, SIZE, 3, 5).unwrap());
    assert_ne!(one.truth, sample(&config, SIZE, 3, 6).unwrap().truth);
    assert_ne!(one.truth, sample(&config, SIZE, 4, 5).unwrap().truth);
}

// Sines, logarithms and the error function are the platform's, and elsewhere a last bit may be another one.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[test]
fn the_default_phantoms_stay_what_they_were_when_runs_were_recorded() {
    // Image, mask and truth of seed 3, as they were before there were classes and scales.
    for (size, index, checksums) in [
        ([64, 64], 0, ["00f1d3c6", "02713fb0", "dc097cbb"]),
        ([64, 64], 1, ["7ba33796", "5a24445a", "6866361b"]),
        ([64, 64], 17, ["eadf4df1", "26dd4cff", "1ed77759"]),
        ([16, 16], 2, ["33091b2a", "13dc7fe6", "b6caadf4"]),
        ([96, 128], 3, ["b1150663", "728c5c50", "bf1e33c0"]),
        ([256, 256], 1, ["39ce71d1", "b969601c", "67ce6f2e"]),
    ] {
        let one = sample(&PhantomConfig::default(), size, 3, index).unwrap();
        let bits = |values: &[f32]| -> Vec<u8> {
            values
                .iter()
                .flat_map(|v| v.to_bits().to_le_bytes())
                .collect()
        };
        let found = [bits(&one.image.data), one.labels.data, bits(&one.truth)]
            .map(|bytes| format!("{:08x}", crc32fast::hash(&bytes)));
        assert_eq!(found, checksums, "image {index} at {size:?}");
    }
    let floor = noise_floor(&PhantomConfig::default(), [32, 32], 3).unwrap();
    assert_eq!(floor.excess_nll.to_bits(), 0x3f7d_8257_7d5b_2d73);
}

#[test]
fn more_noise_leaves_a_scene_and_its_mask_alone() {
    let loud = PhantomConfig {
        noise: 30.0,
        ..PhantomConfig::default()
    };
    let (quiet, loud) = (
        sample(&PhantomConfig::default(), SIZE, 3, 2).unwrap(),
        sample(&loud, SIZE, 3, 2).unwrap(),
    );
    assert_ne!(quiet.image, loud.image);
    assert_eq!((quiet.labels, quiet.truth), (loud.labels, loud.truth));
}

#[test]
fn noise_raises_the_floor_which_stays_far_below_the_entropy() {
    let size = [32, 32];
    let floor = |noise| {
        noise_floor(
            &PhantomConfig {
                noise,
                ..PhantomConfig::default()
            },
            size,
            3,
        )
        .unwrap()
        .excess_nll
    };
    let (quiet, default, loud) = (
        floor(0.0),
        floor(PhantomConfig::default().noise),
        floor(30.0),
    );
    let entropy = (0..20)
        .map(|index| entropy(&scene(size, index).q, 2))
        .sum::<f64>()
        / 20.0;
    assert!(
        0.0 < quiet && quiet < default && default < loud,
        "{quiet}, {default}, {loud}"
    );
    assert!(default < entropy / 5.0, "{default} of {entropy}");
}

#[test]
fn settings_that_make_no_image_are_refused() {
    let config = PhantomConfig::default();
    let error = |config: &PhantomConfig, size| sample(config, size, 0, 0).unwrap_err().to_string();
    assert_eq!(
        error(&config, [8, 64]),
        "a phantom of 8×64 pixels is too small; use 16×16 or more"
    );
    assert_eq!(
        error(
            &PhantomConfig {
                foreground: [0.2, 0.1],
                ..config.clone()
            },
            SIZE
        ),
        "the phantom's foreground is [0.2, 0.1]; give two rising shares above 0 and up to 0.5"
    );
    assert_eq!(
        error(
            &PhantomConfig {
                foreground: [0.001, 0.002],
                ..config.clone()
            },
            SIZE
        ),
        "the phantom's structures reach a foreground of 0.00000 at 64×64 pixels without passing 0.002, but 0.001 is the least asked for; widen the range, or set data.phantom.scale to another size of the structures (now 1)"
    );
    assert_eq!(
        error(
            &PhantomConfig {
                blur: [0.0, 1.0],
                ..config.clone()
            },
            SIZE
        ),
        "the phantom's blur is [0, 1]; give two rising lengths above 0"
    );
    assert_eq!(
        error(
            &PhantomConfig {
                noise: f64::NAN,
                ..config.clone()
            },
            SIZE
        ),
        "the phantom's noise is NaN; it must be from 0 to 255"
    );
    for classes in [0, 1, 5] {
        assert_eq!(
            error(
                &PhantomConfig {
                    classes,
                    ..config.clone()
                },
                SIZE
            ),
            format!(
                "the phantom's classes are {classes}; it has from 2 to 4, the background included"
            )
        );
    }
    for (scale, shown) in [(0.0, "0"), (f64::NAN, "NaN"), (5.0, "5")] {
        assert_eq!(
            error(
                &PhantomConfig {
                    scale,
                    ..config.clone()
                },
                SIZE
            ),
            format!("the phantom's scale is {shown}; it must be from 0.01 to 4")
        );
    }
}

fn with_classes(classes: usize) -> PhantomConfig {
    PhantomConfig {
        classes,
        ..PhantomConfig::default()
    }
}

#[test]
fn every_class_is_as_frequent_among_observers_as_its_q() {
    const OBSERVERS: usize = 300;
    const SIDE: usize = 32;
    for (classes, index) in [(3, 0), (4, 0), (4, 1), (4, 2)] {
        let scene = Scene::new(&with_classes(classes), [SIDE; 2], 3, index).unwrap();
        let bin = |q: f32| ((q * 5.0) as usize).min(4);
        for (class, q) in (1..).zip(scene.q.chunks_exact(SIDE * SIDE)) {
            let deviations: Vec<[f64; 5]> = (0..OBSERVERS)
                .map(|observer| {
                    let mut sums = [0.0; 5];
                    for (&label, &q) in scene.mask(observer as u64).data.iter().zip(q) {
                        sums[bin(q)] += f64::from(u8::from(label == class)) - f64::from(q);
                    }
                    sums
                })
                .collect();
            for bin in 0..5 {
                let d = deviations.iter().map(|sums| sums[bin]);
                let n = OBSERVERS as f64;
                let mean = d.clone().sum::<f64>() / n;
                let variance = d.map(|d| (d - mean).powi(2)).sum::<f64>() / (n - 1.0);
                let error = (variance / n).sqrt();
                assert!(
                    mean.abs() <= 4.0 * error + 1e-3,
                    "{classes} classes, image {index}, class {class}, bin {bin}: {mean} ± {error}"
                );
            }
        }
    }
}

#[test]
fn classes_divide_the_same_foreground() {
    for index in 0..4 {
        let [two, three, four] =
            [2, 3, 4].map(|classes| Scene::new(&with_classes(classes), SIZE, 3, index).unwrap());
        let pixels = SIZE[0] * SIZE[1];
        assert_eq!([three.q.len(), four.q.len()], [2 * pixels, 3 * pixels]);
        for (scene, classes) in [(&three, 3), (&four, 4)] {
            for (sum, q) in foreground(&scene.q, classes).iter().zip(&two.q) {
                assert!((sum - q).abs() < 1e-6, "{sum} of {q}");
            }
            let is_foreground: Vec<u8> = scene.mask(0).data.iter().map(|&l| l.min(1)).collect();
            assert_eq!(is_foreground, two.mask(0).data);
            assert!(scene.mask(0).data.iter().all(|&l| usize::from(l) < classes));
        }
        // Vessels last: what they are with three classes they are with four.
        assert_eq!(three.q[pixels..], four.q[2 * pixels..]);
    }
}

#[test]
fn every_class_is_somewhere() {
    let config = with_classes(4);
    let mut seen = [0_usize; 4];
    for index in 0..20 {
        for label in sample(&config, SIZE, 3, index).unwrap().labels.data {
            seen[usize::from(label)] += 1;
        }
    }
    // At least half a percent each: none is so rare that its metrics would hang on a few pixels.
    let all: usize = seen.iter().sum();
    assert!(seen.iter().all(|&n| n * 200 > all), "{seen:?}");
}

#[test]
fn the_image_shows_the_q_of_every_class() {
    for classes in [3, 4] {
        let bare = PhantomConfig {
            noise: 0.0,
            shading: 0.0,
            distractors: 0,
            ..with_classes(classes)
        };
        let scene = Scene::new(&bare, SIZE, 3, 1).unwrap();
        let image = scene.image();
        assert_eq!(image.channels, 3);
        let pixels = SIZE[0] * SIZE[1];
        let planes: Vec<Vec<f64>> = image
            .data
            .chunks_exact(pixels)
            .map(|plane| plane.iter().map(|&v| f64::from(v)).collect())
            .collect();
        for (amount, q) in colour::unmix(&planes)
            .iter()
            .zip(scene.q.chunks_exact(pixels))
        {
            let level = amount[0] - bare.contrast * f64::from(q[0]);
            for (v, &q) in amount.iter().zip(q) {
                assert!((v - level - bare.contrast * f64::from(q)).abs() < 1e-3);
            }
        }
    }
}

#[test]
fn the_floor_of_four_classes_is_far_below_the_entropy_too() {
    let (config, size) = (with_classes(4), [32, 32]);
    let floor = noise_floor(&config, size, 3).unwrap().excess_nll;
    let entropy = (0..20)
        .map(|index| entropy(&Scene::new(&config, size, 3, index).unwrap().q, 4))
        .sum::<f64>()
        / 20.0;
    assert!(0.0 < floor && floor < entropy / 2.0, "{floor} of {entropy}");
}

/// Foreground of 1 %, 0.1 % and 0.01 %, and what reaches it: the structures' number and size, and the image's size.
fn rare() -> [(PhantomConfig, [usize; 2]); 3] {
    [
        ([0.005, 0.015], 4, 0.25, [64, 64]),
        ([0.0005, 0.0015], 3, 0.1, [128, 128]),
        ([0.00005, 0.00015], 1, 0.05, [256, 256]),
    ]
    .map(|(foreground, structures, scale, size)| {
        let config = PhantomConfig {
            structures,
            scale,
            foreground,
            ..PhantomConfig::default()
        };
        (config, size)
    })
}

#[test]
fn smaller_structures_make_a_rare_foreground_that_can_still_be_seen() {
    for (config, size) in rare() {
        let [least, most] = config.foreground;
        for index in 0..8 {
            let scene = Scene::new(&config, size, 3, index).unwrap();
            let mean = mean(&scene.q);
            assert!((least..=most).contains(&mean), "{mean} at {size:?}");
            let highest = scene.q.iter().fold(0.0_f32, |high, &q| high.max(q));
            assert!(highest > 0.8, "{highest} at {size:?}, image {index}");
        }
    }
}

#[test]
fn a_scale_of_one_and_two_classes_are_left_out_of_the_text() {
    let text = toml::to_string(&PhantomConfig::default()).unwrap();
    assert!(
        !text.contains("scale") && !text.contains("classes"),
        "{text}"
    );
    let other = PhantomConfig {
        scale: 0.5,
        ..with_classes(4)
    };
    let text = toml::to_string(&other).unwrap();
    assert!(text.contains("scale = 0.5") && text.contains("classes = 4"));
    assert_eq!(toml::from_str::<PhantomConfig>(&text).unwrap(), other);
}
