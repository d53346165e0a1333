//! Numbers with as many digits as are known.

/// A mean and, in brackets, its interval, with the digits that the interval supports: half its width keeps two
/// significant digits when it begins with 1 or 2 and one otherwise, which is between 1 and 6 decimals. Without an
/// interval three significant digits. NaN is "–".
///
/// ```
/// use seg_train::report::document::rounded;
/// assert_eq!(rounded(0.20412, Some([0.1769, 0.2314])), "0.204 (0.177 to 0.231)");
/// assert_eq!(rounded(0.20412, Some([0.1541, 0.2541])), "0.20 (0.15 to 0.25)");
/// assert_eq!(rounded(-0.20412, None), "−0.204");
/// ```
pub fn rounded(mean: f64, interval: Option<[f64; 2]>) -> String {
    if mean.is_nan() {
        return "–".into();
    }
    let Some([low, high]) = interval.filter(|ends| ends.iter().all(|end| !end.is_nan())) else {
        return alone(mean);
    };
    let half = (high - low).abs() / 2.0;
    let decimals = if half > 0.0 && half.is_finite() {
        let (first, exponent) = leading(half);
        let digits = if first <= 2 { 2 } else { 1 };
        digits - 1 - exponent
    } else {
        // No width says nothing about digits, and neither does a width without end.
        2 - leading(mean).1
    };
    let decimals = decimals.clamp(1, 6) as usize;
    format!(
        "{} ({} to {})",
        fixed(mean, decimals),
        fixed(low, decimals),
        fixed(high, decimals)
    )
}

/// Three significant digits.
fn alone(x: f64) -> String {
    let (_, exponent) = leading(x);
    if x != 0.0 && x.is_finite() && exponent < -4 {
        return scientific(x, 2);
    }
    if x == 0.0 {
        return "0".into();
    }
    fixed(x, (2 - exponent).max(0) as usize)
}

/// A probability under the null hypothesis: two significant digits, and one where it is below 0.001. It is never shown as
/// 0, nor on the other side of 0.05, 0.01 or 0.001 than it lies. "–" for what is no probability.
///
/// ```
/// use seg_train::report::document::p_value;
/// assert_eq!(p_value(0.0321), "0.032");
/// assert_eq!(p_value(0.04998), "0.04998");
/// assert_eq!(p_value(3.2e-5), "3·10⁻⁵");
/// assert_eq!(p_value(0.0), "<10⁻³⁰⁰");
/// ```
pub fn p_value(p: f64) -> String {
    if !(0.0..=1.0).contains(&p) {
        return "–".into();
    }
    if p < 1e-300 {
        return format!("<10{}", superscript(-300));
    }
    if p < 1e-3 {
        let least = format!("10{}", superscript(-3));
        let mut shown = (0..=9).map(|decimals| scientific(p, decimals));
        return shown
            .find(|text| !text.ends_with(&least))
            .unwrap_or_else(|| scientific(p, 9));
    }
    let crosses = |text: &str| {
        let shown: f64 = text.parse().unwrap_or(p);
        [0.05, 0.01, 0.001]
            .iter()
            .any(|level| (p < *level) != (shown < *level))
    };
    let least = (1 - leading(p).1).max(2) as usize;
    let mut text = format!("{p:.least$}");
    for decimals in least + 1..=9 {
        if !crosses(&text) {
            break;
        }
        text = format!("{p:.decimals$}");
    }
    text
}

/// The first digit and the power of ten of a number rounded to three digits; what has none counts as 1.
fn leading(x: f64) -> (i32, i32) {
    if x == 0.0 || !x.is_finite() {
        return (1, 0);
    }
    let text = format!("{:.2e}", x.abs());
    let first = text.bytes().next().map_or(1, |digit| i32::from(digit) - 48);
    let exponent = text
        .split_once('e')
        .and_then(|(_, exponent)| exponent.parse().ok());
    (first, exponent.unwrap_or(0))
}

/// A fixed number of decimals, with a minus sign that is one, and none before a zero.
pub(in crate::report) fn fixed(x: f64, decimals: usize) -> String {
    if x.is_infinite() {
        return if x > 0.0 { "∞" } else { "−∞" }.into();
    }
    let text = format!("{:.decimals$}", x.abs());
    if x < 0.0 && text.bytes().any(|digit| (b'1'..=b'9').contains(&digit)) {
        format!("−{text}")
    } else {
        text
    }
}

fn scientific(x: f64, decimals: usize) -> String {
    let text = format!("{:.decimals$e}", x.abs());
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let sign = if x < 0.0 { "−" } else { "" };
    let exponent = superscript(exponent.parse().unwrap_or(0));
    format!("{sign}{mantissa}·10{exponent}")
}

/// A number in raised digits.
pub(in crate::report) fn superscript(n: i32) -> String {
    const DIGITS: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    let raise = |c: char| c.to_digit(10).map_or('⁻', |digit| DIGITS[digit as usize]);
    n.to_string().chars().map(raise).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_decides_the_digits() {
        let cases = [
            (0.5, [0.4, 0.6], "0.50 (0.40 to 0.60)"),
            (0.5, [0.2, 0.8], "0.5 (0.2 to 0.8)"),
            (0.204_12, [0.176_9, 0.231_4], "0.204 (0.177 to 0.231)"),
            (
                0.812_346,
                [0.812_246, 0.812_446],
                "0.81235 (0.81225 to 0.81245)",
            ),
            (
                0.812_345,
                [0.812_344_9, 0.812_345_1],
                "0.812345 (0.812345 to 0.812345)",
            ),
            // Half the width is 0.03 but for its last bit.
            (0.2, [0.17, 0.23], "0.20 (0.17 to 0.23)"),
            (123.4, [100.0, 146.8], "123.4 (100.0 to 146.8)"),
            (-0.012_3, [-0.03, 0.005_4], "−0.012 (−0.030 to 0.005)"),
            (-0.000_1, [-0.3, 0.3], "0.0 (−0.3 to 0.3)"),
        ];
        for (mean, interval, expected) in cases {
            assert_eq!(rounded(mean, Some(interval)), expected);
        }
    }

    #[test]
    fn an_interval_without_width_or_end_leaves_three_digits() {
        assert_eq!(rounded(1.0, Some([1.0, 1.0])), "1.00 (1.00 to 1.00)");
        assert_eq!(rounded(0.0, Some([0.0, 0.0])), "0.00 (0.00 to 0.00)");
        assert_eq!(
            rounded(0.25, Some([f64::NEG_INFINITY, f64::INFINITY])),
            "0.250 (−∞ to ∞)"
        );
    }

    #[test]
    fn without_an_interval_three_digits_are_shown() {
        let cases = [
            (0.204_12, "0.204"),
            (0.999_6, "1.00"),
            (12.345, "12.3"),
            (1234.5, "1234"),
            (0.000_123_4, "0.000123"),
            (0.000_012_34, "1.23·10⁻⁵"),
            (-0.000_012_34, "−1.23·10⁻⁵"),
            (0.0, "0"),
            (f64::INFINITY, "∞"),
            (f64::NAN, "–"),
        ];
        for (mean, expected) in cases {
            assert_eq!(rounded(mean, None), expected);
        }
        assert_eq!(rounded(f64::NAN, Some([0.0, 1.0])), "–");
        assert_eq!(rounded(0.204_12, Some([f64::NAN, 1.0])), "0.204");
    }

    #[test]
    fn a_p_value_is_neither_zero_nor_across_a_level() {
        let cases = [
            (1.0, "1.00"),
            (0.351, "0.35"),
            (0.032, "0.032"),
            (0.0501, "0.050"),
            (0.049_96, "0.04996"),
            (0.001_234, "0.0012"),
            (0.000_999_9, "9.999·10⁻⁴"),
            (0.000_96, "9.6·10⁻⁴"),
            (0.000_5, "5·10⁻⁴"),
            (3.4e-17, "3·10⁻¹⁷"),
            (0.0, "<10⁻³⁰⁰"),
            (f64::NAN, "–"),
            (1.5, "–"),
        ];
        for (p, expected) in cases {
            assert_eq!(p_value(p), expected);
        }
    }
}
