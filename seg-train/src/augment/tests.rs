//! That image, labels and truth move together, as drawn, and by nothing else.

use rand::RngCore;

use super::*;
use crate::{
    raster::{Image, Labels},
    rng::{Purpose, stream},
};

const STILL: Motion = Motion {
    mirror: [Chance::Idle; 2],
    step: 1.0,
    angle: 0.0,
    elastic: None,
};

/// A bright off-centre ellipse with soft edges; labels where it is above a half, truth equal to the image.
fn ellipse(height: usize, width: usize) -> Prepared {
    let value = |i: usize| {
        let y = ((i / width) as f32 - 0.40 * height as f32) / (0.25 * height as f32);
        let x = ((i % width) as f32 - 0.55 * width as f32) / (0.15 * width as f32);
        1.0 / (1.0 + (4.0 * (y * y + x * x - 1.0)).exp())
    };
    let data: Vec<f32> = (0..height * width).map(value).collect();
    let labels = data.iter().map(|&v| u8::from(v > 0.5)).collect();
    Prepared {
        id: "ellipse".into(),
        image: Image {
            channels: 1,
            height,
            width,
            data: data.clone(),
        },
        labels: Labels {
            height,
            width,
            data: labels,
        },
        truth: Some(data),
    }
}

fn rng(sample: u64) -> ChaCha8Rng {
    stream(1, Purpose::Augment, 0, sample)
}

/// Each pixel a value of its own: 0, 1, 2, …
fn numbered(height: usize, width: usize) -> Prepared {
    let pixels = height * width;
    Prepared {
        id: "numbered".into(),
        image: Image {
            channels: 1,
            height,
            width,
            data: (0..pixels).map(|i| i as f32).collect(),
        },
        labels: Labels {
            height,
            width,
            data: (0..pixels).map(|i| i as u8).collect(),
        },
        truth: Some((0..pixels).map(|i| i as f32).collect()),
    }
}

#[test]
fn nothing_switched_on_keeps_every_bit() {
    let mut sample = ellipse(16, 24);
    sample.image.data[3] = -0.0;
    for seed in 0..50 {
        let same = augment(&sample, &Augment::NONE, &mut rng(seed));
        assert_eq!(same, sample);
        assert_eq!(same.image.data[3].to_bits(), (-0.0_f32).to_bits());
    }
}

#[test]
fn the_same_stream_gives_the_same_bits_and_another_does_not() {
    let all = Augment {
        mirror: 0.5,
        brightness: 1.0,
        scale: 1.0,
        rotation: 1.0,
        elastic: 1.0,
        ..Augment::AUTHORS
    };
    let sample = ellipse(32, 40);
    assert_eq!(
        augment(&sample, &all, &mut rng(4)),
        augment(&sample, &all, &mut rng(4))
    );
    assert_ne!(
        augment(&sample, &all, &mut rng(4)),
        augment(&sample, &all, &mut rng(5))
    );
}

#[test]
fn as_many_numbers_are_drawn_whatever_is_switched_on() {
    let after = |config: &Augment| {
        let mut rng = rng(9);
        augment(&ellipse(8, 8), config, &mut rng);
        rng.next_u64()
    };
    let all = Augment {
        mirror: 1.0,
        brightness: 1.0,
        scale: 1.0,
        rotation: 1.0,
        elastic: 1.0,
        ..Augment::PAPER
    };
    let mut skipped = rng(9);
    for _ in 0..13 {
        skipped.next_u64();
    }
    let expected = skipped.next_u64();
    for config in [Augment::NONE, Augment::PAPER, Augment::AUTHORS, all] {
        assert_eq!(after(&config), expected);
    }
}

#[test]
fn switching_one_off_leaves_the_others() {
    let drawn = |config: &Augment| Drawn::new(config, 3, &mut rng(2));
    let all = Augment {
        mirror: 1.0,
        brightness: 1.0,
        scale: 1.0,
        rotation: 1.0,
        elastic: 1.0,
        ..Augment::PAPER
    };
    let [with, without] = [
        all,
        Augment {
            scale: 0.0,
            brightness: 0.0,
            ..all
        },
    ]
    .map(|config| drawn(&config));
    assert_eq!(
        without.motion,
        Motion {
            step: 1.0,
            ..with.motion.clone()
        }
    );
    assert_ne!(with.motion.step, 1.0);
    assert_eq!(without.factors, [1.0; 3]);
    let without = drawn(&Augment {
        elastic: 0.0,
        ..all
    });
    assert_eq!(
        without.motion,
        Motion {
            elastic: None,
            ..with.motion
        }
    );
    assert_eq!(without.factors, with.factors);
}

#[test]
fn draws_keep_their_probabilities_and_ranges() {
    let draws: Vec<Drawn> = (0..4000)
        .map(|n| Drawn::new(&Augment::AUTHORS, 2, &mut rng(n)))
        .collect();
    let share =
        |of: &dyn Fn(&Drawn) -> bool| draws.iter().filter(|d| of(d)).count() as f64 / 4000.0;
    for (name, found, expected) in [
        (
            "vertical",
            share(&|d| d.motion.mirror[0] == Chance::Acts),
            0.5,
        ),
        (
            "horizontal",
            share(&|d| d.motion.mirror[1] == Chance::Acts),
            0.5,
        ),
        ("scale", share(&|d| d.motion.step != 1.0), 0.15),
        ("smaller", share(&|d| d.motion.step > 1.0), 0.075),
        ("rotation", share(&|d| d.motion.angle != 0.0), 0.15),
        ("elastic", share(&|d| d.motion.elastic.is_some()), 0.15),
        ("brightness", share(&|d| d.factors[0] != 1.0), 0.15),
    ] {
        assert!((found - expected).abs() < 0.025, "{name}: {found}");
    }
    for Drawn { motion, factors } in &draws {
        assert!((0.85..1.25).contains(&motion.step) && motion.angle.abs() <= 15_f64.to_radians());
        assert!(factors.iter().all(|f| (0.5..2.0).contains(f)));
        let elastic = motion.elastic.unwrap_or(Elastic {
            alpha: 0.0,
            sigma: 9.0,
            seed: 0,
        });
        assert!((0.0..900.0).contains(&elastic.alpha) && (9.0..13.0).contains(&elastic.sigma));
    }
    assert!(
        draws.iter().any(|d| d.factors[0] != d.factors[1]),
        "a factor a channel"
    );
}

#[test]
fn mirroring_is_exact_on_odd_and_even_sides() {
    let mirror = |mirror| {
        warp::warp(
            &numbered(3, 2),
            &Motion { mirror, ..STILL },
            Interpolation::Bilinear,
            IGNORE,
        )
    };
    for (chances, expected) in [
        ([Chance::Acts, Chance::Idle], [4, 5, 2, 3, 0, 1]),
        ([Chance::Idle, Chance::Acts], [1, 0, 3, 2, 5, 4]),
        ([Chance::Acts, Chance::Acts], [5, 4, 3, 2, 1, 0]),
    ] {
        let mirrored = mirror(chances);
        assert_eq!(mirrored.labels.data, expected);
        assert_eq!(mirrored.image.data, expected.map(f32::from));
        assert_eq!(mirrored.truth.unwrap(), expected.map(f32::from));
    }
}

#[test]
fn a_quarter_turn_permutes_a_square() {
    for interpolation in [Interpolation::Bilinear, Interpolation::Cubic] {
        let motion = Motion {
            angle: std::f64::consts::FRAC_PI_2,
            ..STILL
        };
        let turned = warp::warp(&numbered(3, 3), &motion, interpolation, IGNORE);
        // The result's (row, column) shows the source's (2 − column, row).
        let expected = [6, 3, 0, 7, 4, 1, 8, 5, 2];
        assert_eq!(turned.labels.data, expected);
        for (data, name) in [
            (&turned.image.data, "image"),
            (turned.truth.as_ref().unwrap(), "truth"),
        ] {
            for (found, expected) in data.iter().zip(expected) {
                assert!(
                    (found - f32::from(expected)).abs() < 1e-5,
                    "{name} {found} {expected}"
                );
            }
        }
    }
}

#[test]
fn a_step_of_two_shows_every_second_pixel_and_marks_what_is_outside() {
    let motion = Motion { step: 2.0, ..STILL };
    for outside in [IGNORE, NO_CLASS] {
        let small = warp::warp(&numbered(5, 5), &motion, Interpolation::Bilinear, outside);
        let o = outside;
        assert_eq!(
            small.labels.data,
            [
                o, o, o, o, o, o, 0, 2, 4, o, o, 10, 12, 14, o, o, 20, 22, 24, o, o, o, o, o, o
            ]
        );
        assert_eq!(small.image.data[10..15], [0.0, 10.0, 12.0, 14.0, 0.0]);
        assert_eq!(small.truth.unwrap()[10..15], [0.0, 10.0, 12.0, 14.0, 0.0]);
    }
}

#[test]
fn ignored_pixels_stay_ignored() {
    let mut sample = ellipse(32, 32);
    sample.labels.data.fill(IGNORE);
    let all = Augment {
        mirror: 1.0,
        scale: 1.0,
        rotation: 1.0,
        elastic: 1.0,
        ..Augment::PAPER
    };
    assert_eq!(
        augment(&sample, &all, &mut rng(1)).labels.data,
        [IGNORE; 1024]
    );
}

/// The image at a half is the border of the labels, so after any motion it still is, but for the width of a pixel.
#[test]
fn image_labels_and_truth_move_together() {
    let sample = ellipse(96, 128);
    for (name, config) in [
        (
            "mirror",
            Augment {
                mirror: 1.0,
                ..Augment::NONE
            },
        ),
        (
            "scale",
            Augment {
                scale: 1.0,
                ..Augment::NONE
            },
        ),
        (
            "rotation",
            Augment {
                rotation: 1.0,
                ..Augment::NONE
            },
        ),
        (
            "elastic",
            Augment {
                elastic: 1.0,
                ..Augment::NONE
            },
        ),
        (
            "all",
            Augment {
                mirror: 0.5,
                scale: 1.0,
                rotation: 1.0,
                elastic: 1.0,
                ..Augment::NONE
            },
        ),
    ] {
        for interpolation in [Interpolation::Bilinear, Interpolation::Cubic] {
            let config = Augment {
                interpolation,
                ..config
            };
            for seed in 0..10 {
                let moved = augment(&sample, &config, &mut rng(seed));
                assert_ne!(moved.labels, sample.labels, "{name}");
                let truth = moved.truth.unwrap();
                for (i, &label) in moved.labels.data.iter().enumerate() {
                    for value in [moved.image.data[i], truth[i]] {
                        let clear = (value - 0.5).abs() > 0.35 && label != IGNORE;
                        assert!(
                            !clear || (label == 1) == (value > 0.5),
                            "{name} {seed}: {value}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn brightness_multiplies_each_channel_and_nothing_else() {
    let mut sample = numbered(4, 4);
    sample.image = Image {
        channels: 2,
        height: 4,
        width: 4,
        data: (0..32).map(|i| i as f32).collect(),
    };
    let bright = augment(
        &sample,
        &Augment {
            brightness: 1.0,
            ..Augment::NONE
        },
        &mut rng(0),
    );
    assert_eq!(
        (&bright.labels, &bright.truth),
        (&sample.labels, &sample.truth)
    );
    for channel in 0..2 {
        let at = 16 * channel + 1;
        let factor = bright.image.data[at] / sample.image.data[at];
        for i in 16 * channel..16 * (channel + 1) {
            assert!((bright.image.data[i] - factor * sample.image.data[i]).abs() < 1e-4);
        }
    }
}

#[test]
fn presets_check_and_odd_settings_are_refused() {
    for preset in [Augment::PAPER, Augment::AUTHORS, Augment::NONE] {
        preset.check().unwrap();
    }
    assert_eq!(Augment::default(), Augment::PAPER);
    for (config, sentence) in [
        (
            Augment {
                mirror: 1.5,
                ..Augment::PAPER
            },
            "mirror = 1.5: a probability lies within 0 and 1",
        ),
        (
            Augment {
                elastic: f64::NAN,
                ..Augment::PAPER
            },
            "elastic = NaN: a probability lies within 0 and 1",
        ),
        (
            Augment {
                scale_step: [1.25, 0.85],
                ..Augment::PAPER
            },
            "scale_step = [1.25, 0.85]: a range is [low, high] with 0.01 <= low <= high <= 100",
        ),
        (
            Augment {
                elastic_sigma: [0.0, 9.0],
                ..Augment::PAPER
            },
            "elastic_sigma = [0.0, 9.0]: a range is [low, high] with 0.1 <= low <= high <= 1000",
        ),
        (
            Augment {
                rotation_degrees: 270.0,
                ..Augment::PAPER
            },
            "rotation_degrees = 270: the largest angle lies within 0 and 180",
        ),
    ] {
        assert_eq!(config.check().unwrap_err().to_string(), sentence);
    }
}

#[test]
fn toml_comes_back_and_unknown_keys_are_refused() {
    let text = toml::to_string(&Augment::AUTHORS).unwrap();
    assert_eq!(
        toml::from_str::<Augment>(&text).unwrap(),
        Augment::AUTHORS,
        "{text}"
    );
    assert!(
        text.contains("outside = \"no-class\"") && text.contains("interpolation = \"cubic\""),
        "{text}"
    );
    let error = toml::from_str::<Augment>("miror = 0.1").unwrap_err();
    assert!(
        error
            .message()
            .starts_with("unknown field `miror`, expected one of `mirror`"),
        "{error}"
    );
}
