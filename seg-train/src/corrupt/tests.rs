use super::*;
use crate::{phantom, preprocess};

/// A phantom, of one channel or three, at a size of its own.
fn image(channels: usize, size: [usize; 2]) -> Image {
    let config = phantom::PhantomConfig {
        classes: if channels == 1 { 2 } else { 4 },
        ..phantom::PhantomConfig::default()
    };
    phantom::sample(&config, size, 3, 1).unwrap().image
}

/// Root mean square of what the z-score leaves of the change: the distance as a network sees it.
fn seen_distance(one: &Image, other: &Image) -> f64 {
    let seen = |image: &Image| {
        let preprocess = preprocess::Preprocess {
            size: [image.height, image.width],
            ..preprocess::Preprocess::default()
        };
        preprocess::prepare_image(image, &preprocess).unwrap().data
    };
    let (one, other) = (seen(one), seen(other));
    let squares = one
        .iter()
        .zip(&other)
        .map(|(a, b)| f64::from(a - b).powi(2));
    (squares.sum::<f64>() / one.len() as f64).sqrt()
}

#[test]
fn every_strength_is_farther_from_the_clean_image_than_the_one_before_even_after_the_z_score() {
    for (channels, size) in [(1, [64, 64]), (3, [64, 64]), (1, [61, 87]), (3, [16, 16])] {
        let clean = image(channels, size);
        for corruption in Corruption::ALL {
            let distances: Vec<f64> = (1..=STRONGEST)
                .map(|strength| {
                    seen_distance(
                        &clean,
                        &corrupt(&clean, corruption, strength, 1, 0).unwrap(),
                    )
                })
                .collect();
            assert!(
                distances.is_sorted_by(|a, b| a < b) && distances[0] > 0.01,
                "{corruption} at {size:?}: {distances:?}"
            );
        }
    }
}

#[test]
fn values_and_sizes_are_kept_to() {
    for (channels, size) in [(1, [16, 16]), (3, [17, 33]), (1, [130, 257])] {
        let clean = image(channels, size);
        for damage in Damage::all() {
            let found = damage.of(&clean, 5, 9).unwrap();
            assert_eq!(
                (found.channels, [found.height, found.width]),
                (channels, size)
            );
            assert_eq!(found.data.len(), clean.data.len());
            assert!(
                found.data.iter().all(|v| (0.0..=255.0).contains(v)),
                "{damage}"
            );
        }
    }
    let one = Image {
        channels: 1,
        height: 1,
        width: 1,
        data: vec![300.0],
    };
    for damage in Damage::all() {
        assert!((0.0..=255.0).contains(&damage.of(&one, 5, 9).unwrap().data[0]));
    }
}

#[test]
fn the_same_arguments_give_the_same_bits_on_any_number_of_threads_and_others_do_not() {
    let clean = image(3, [48, 80]);
    let pool = |threads| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
    };
    for damage in Damage::all() {
        let bits = |threads| pool(threads).install(|| damage.of(&clean, 7, 3).unwrap());
        assert_eq!(bits(1), bits(3), "{damage}");
        let is_drawn = !matches!(damage.corruption, Corruption::Blur | Corruption::Jpeg);
        let found = damage.of(&clean, 7, 3).unwrap();
        for other in [damage.of(&clean, 7, 4), damage.of(&clean, 8, 3)] {
            assert_eq!(found != other.unwrap(), is_drawn, "{damage}");
        }
    }
}

#[test]
fn noise_has_the_deviation_it_says_and_grains_that_grow_with_the_image() {
    let flat = |height, width| Image {
        channels: 1,
        height,
        width,
        data: vec![128.0; height * width],
    };
    for (strength, expected) in (1..).zip(&Corruption::Noise.amounts()[..3]) {
        let found = corrupt(&flat(128, 128), Corruption::Noise, strength, 1, 0).unwrap();
        let squares = found.data.iter().map(|v| f64::from(v - 128.0).powi(2));
        let deviation = (squares.sum::<f64>() / found.data.len() as f64).sqrt();
        assert!((deviation / expected - 1.0).abs() < 0.02, "{deviation}");
    }
    let large = corrupt(&flat(256, 256), Corruption::Noise, 3, 1, 0).unwrap();
    let at = |y: usize, x: usize| large.data[y * 256 + x];
    assert_eq!([at(0, 1), at(1, 0), at(1, 1)], [at(0, 0); 3]);
    assert_ne!(at(0, 2), at(0, 0));
}

#[test]
fn a_blur_has_the_deviation_it_says_in_proportion_to_the_shorter_side() {
    for (side, expected) in [(64, 2.0), (192, 6.0)] {
        let mut data = vec![0.0; side * 2 * side];
        data[side / 2 * 2 * side + side] = 255.0;
        let dot = Image {
            channels: 1,
            height: side,
            width: 2 * side,
            data,
        };
        let spread = corrupt(&dot, Corruption::Blur, 5, 1, 0).unwrap();
        let (mut sum, mut squares) = (0.0, 0.0);
        for (i, &v) in spread.data.iter().enumerate() {
            let d = (i % (2 * side)) as f64 - side as f64;
            sum += f64::from(v);
            squares += f64::from(v) * d * d;
        }
        assert!((sum - 255.0).abs() < 1e-2, "{sum}");
        let deviation = (squares / sum).sqrt();
        assert!((deviation / expected - 1.0).abs() < 0.02, "{deviation}");
    }
}

#[test]
fn light_and_veil_come_from_a_side_and_a_constant_image_has_no_contrast_to_lose() {
    let flat = Image {
        channels: 1,
        height: 20,
        width: 30,
        data: vec![100.0; 600],
    };
    let lit = corrupt(&flat, Corruption::Brightness, 2, 1, 0).unwrap();
    let (low, high) = lit
        .data
        .iter()
        .fold((f32::MAX, f32::MIN), |(l, h), &v| (l.min(v), h.max(v)));
    assert!(
        (115.0..117.0).contains(&low) && (143.0..=145.0).contains(&high),
        "{low} {high}"
    );
    assert_eq!(corrupt(&flat, Corruption::Contrast, 5, 1, 0).unwrap(), flat);
}

#[test]
fn names_parse_back_and_others_are_answered_with_the_known_ones() {
    for damage in Damage::all() {
        assert_eq!(damage.to_string().parse::<Damage>().unwrap(), damage);
        let json = serde_json::to_string(&damage).unwrap();
        assert_eq!(json, format!("\"{damage}\""));
        assert_eq!(serde_json::from_str::<Damage>(&json).unwrap(), damage);
        let name = serde_json::to_string(&damage.corruption).unwrap();
        assert_eq!(name, format!("\"{}\"", damage.corruption.name()));
    }
    let error = |text: &str| text.parse::<Damage>().unwrap_err().to_string();
    assert_eq!(
        error("fog:1"),
        "there is no corruption `fog`; known are brightness, contrast, blur, noise, jpeg"
    );
    assert_eq!(
        error("blur"),
        "`blur` is no corruption with its strength; write it like blur:3"
    );
    for strength in ["0", "6", "x", "-1", "1.5"] {
        assert_eq!(
            error(&format!("jpeg:{strength}")),
            format!("the strength of jpeg is {strength}; expected a whole number from 1 to 5")
        );
    }
}

#[test]
fn what_cannot_be_corrupted_is_refused() {
    let clean = image(1, [16, 16]);
    for strength in [0, 6] {
        assert_eq!(
            corrupt(&clean, Corruption::Noise, strength, 0, 0)
                .unwrap_err()
                .to_string(),
            format!("the strength of noise is {strength}; expected a whole number from 1 to 5")
        );
    }
    let two = Image {
        channels: 2,
        height: 1,
        width: 1,
        data: vec![0.0; 2],
    };
    assert_eq!(
        corrupt(&two, Corruption::Blur, 1, 0, 0)
            .unwrap_err()
            .to_string(),
        "an image of 2 channels and 1x1 pixels (width x height) with 2 values cannot be corrupted; \
         expected 1 or 3 channels of at least one pixel, each with a value a pixel"
    );
    let long = Image {
        channels: 1,
        height: 1,
        width: 65_536,
        data: vec![0.0; 65_536],
    };
    assert_eq!(
        corrupt(&long, Corruption::Jpeg, 1, 0, 0)
            .unwrap_err()
            .to_string(),
        "an image of 65536x1 pixels (width x height) is no JPEG; its sides are 65535 at most"
    );
}
