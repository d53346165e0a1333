//! How a phantom shows its classes: one channel of grey, or three in which each class has a colour.

/// What a class adds to the two channels that are not its own, as a share of what it adds to its own.
const CROSSTALK: f64 = 0.2;

/// Channels of the images: grey for two classes, else the three of a colour image.
pub(crate) fn channels(classes: usize) -> usize {
    if classes == 2 { 1 } else { 3 }
}

/// The colour of a class from 1: the share of the contrast that it adds to each channel. Background adds nothing.
///
/// The three colours are independent of each other, so that every class's q can be read from the image ([`unmix`]).
pub(super) fn colour(classes: usize, class: usize) -> [f64; 3] {
    if classes == 2 {
        return [1.0; 3];
    }
    let mut shares = [CROSSTALK; 3];
    shares[class - 1] = 1.0;
    shares
}

/// Three channels as the three amounts of colour that they are made of; other numbers of channels stay as they are.
///
/// With the colours a·I + b·J (a = 1 − b, J all ones) the inverse is (I − b/(a + 3b) J) / a.
pub(super) fn unmix(planes: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let [red, green, blue] = planes else {
        return planes.to_vec();
    };
    let (a, b) = (1.0 - CROSSTALK, CROSSTALK);
    let common: Vec<f64> = (red.iter().zip(green).zip(blue))
        .map(|((r, g), b)| r + g + b)
        .collect();
    planes
        .iter()
        .map(|plane| {
            plane
                .iter()
                .zip(&common)
                .map(|(v, sum)| (v - b / (a + 3.0 * b) * sum) / a)
                .collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_that_were_mixed_come_back() {
        let amounts = [0.7, 0.2, 0.05];
        let planes: Vec<Vec<f64>> = (0..3)
            .map(|channel| {
                let mixed = (1..)
                    .zip(amounts)
                    .map(|(class, q)| colour(4, class)[channel] * q);
                vec![mixed.sum()]
            })
            .collect();
        for (found, expected) in unmix(&planes).iter().zip(amounts) {
            assert!((found[0] - expected).abs() < 1e-15, "{found:?}");
        }
        assert_eq!(unmix(&[vec![3.0]]), [[3.0]]);
    }
}
