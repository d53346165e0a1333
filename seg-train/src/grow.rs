//! From the network's size back to the image's.

/// Brings a label map `[height, width]` to another size: each pixel takes the value at its own centre.
///
/// ```
/// use seg_train::grow::nearest;
/// assert_eq!(nearest(&[0, 1], [1, 2], [2, 4]), [0, 0, 1, 1, 0, 0, 1, 1]);
/// ```
pub fn nearest(values: &[u8], from: [usize; 2], to: [usize; 2]) -> Vec<u8> {
    let source = |i: usize, axis: usize| ((2 * i + 1) * from[axis] / (2 * to[axis])).min(from[axis] - 1);
    (0..to[0]).flat_map(|y| (0..to[1]).map(move |x| values[source(y, 0) * from[1] + source(x, 1)])).collect()
}

/// Brings a map of probabilities `[height, width]` to another size, bilinearly between pixel centres; beyond the
/// outermost centres the border's value holds.
///
/// ```
/// use seg_train::grow::bilinear;
/// assert_eq!(bilinear(&[0.0, 1.0], [1, 2], [1, 4]), [0.0, 0.25, 0.75, 1.0]);
/// ```
pub fn bilinear(values: &[f32], from: [usize; 2], to: [usize; 2]) -> Vec<f32> {
    let weights = |axis: usize| -> Vec<(usize, usize, f32)> {
        (0..to[axis])
            .map(|i| {
                let position = (i as f64 + 0.5) * from[axis] as f64 / to[axis] as f64 - 0.5;
                let position = position.clamp(0.0, (from[axis] - 1) as f64);
                let low = position as usize;
                (low, (low + 1).min(from[axis] - 1), (position - low as f64) as f32)
            })
            .collect()
    };
    let (rows, columns) = (weights(0), weights(1));
    let mut grown = Vec::with_capacity(to[0] * to[1]);
    for &(top, bottom, down) in &rows {
        for &(left, right, across) in &columns {
            let between = |row: usize| {
                let row = &values[row * from[1]..(row + 1) * from[1]];
                row[left] * (1.0 - across) + row[right] * across
            };
            grown.push(between(top) * (1.0 - down) + between(bottom) * down);
        }
    }
    grown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_size_changes_nothing() {
        let values = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6];
        assert_eq!(bilinear(&values, [2, 3], [2, 3]), values);
        assert_eq!(nearest(&[1, 2, 3, 4, 5, 6], [3, 2], [3, 2]), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn shrinking_by_an_odd_factor_takes_the_middle() {
        assert_eq!(nearest(&[0, 1, 2, 3, 4, 5, 6, 7, 8], [3, 3], [1, 1]), [4]);
    }
}
