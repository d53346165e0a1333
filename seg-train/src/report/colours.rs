//! The colours of every picture, chosen so that readers with any colour vision can tell them apart.

use image::Rgb;

/// Black on white is ink on paper; everything else has a meaning.
pub const INK: Rgb<u8> = Rgb([33, 33, 33]);
/// The paper.
pub const PAPER: Rgb<u8> = Rgb([255, 255, 255]);
/// Grid lines and notes.
pub const FAINT: Rgb<u8> = Rgb([190, 190, 190]);
/// Training; also foreground that was found (TP).
pub const TRAINING: Rgb<u8> = Rgb([0, 114, 178]);
/// Validation.
pub const VALIDATION: Rgb<u8> = Rgb([213, 94, 0]);

/// Foreground found: true positive.
pub const FOUND: Rgb<u8> = Rgb([225, 225, 225]);
/// Foreground missed: false negative.
pub const MISSED: Rgb<u8> = Rgb([86, 180, 233]);
/// Background taken for foreground: false positive.
pub const FALSE_ALARM: Rgb<u8> = Rgb([213, 94, 0]);
/// Background left alone: true negative.
pub const LEFT_ALONE: Rgb<u8> = Rgb([25, 25, 25]);
/// A pixel that does not count.
pub const IGNORED: Rgb<u8> = Rgb([110, 110, 110]);

/// Background taken for foreground, where it lies on the image: the magenta of the paper's Figure 4.
pub const MAGENTA_FP: Rgb<u8> = Rgb([200, 0, 140]);
/// Foreground missed, where it lies on the image: the green of the paper's Figure 4, far lighter than the magenta, so that
/// the two differ on a grey printer and to readers who see neither red nor green.
pub const GREEN_FN: Rgb<u8> = Rgb([120, 230, 90]);

/// Series of a plot, in this order: Okabe's and Ito's colours but for their yellow, which white paper swallows.
pub const SERIES: [Rgb<u8>; 7] = [
    Rgb([0, 114, 178]),
    Rgb([213, 94, 0]),
    Rgb([0, 158, 115]),
    Rgb([204, 121, 167]),
    Rgb([33, 33, 33]),
    Rgb([230, 159, 0]),
    Rgb([86, 180, 233]),
];

/// Nine stops of matplotlib's `inferno`: brightness alone orders them, so the map survives a grey printer.
const INFERNO: [[f32; 3]; 9] = [
    [0.0, 0.0, 4.0],
    [31.0, 12.0, 72.0],
    [85.0, 15.0, 109.0],
    [136.0, 34.0, 106.0],
    [186.0, 54.0, 85.0],
    [227.0, 89.0, 51.0],
    [249.0, 140.0, 10.0],
    [249.0, 201.0, 50.0],
    [252.0, 255.0, 164.0],
];

/// The colour of a probability: black at 0, through purple and orange, pale yellow at 1.
///
/// ```
/// use seg_train::report::colours::heat;
/// assert_eq!(heat(0.0).0, [0, 0, 4]);
/// assert_eq!(heat(1.0).0, [252, 255, 164]);
/// ```
pub fn heat(p: f32) -> Rgb<u8> {
    let position = p.clamp(0.0, 1.0) * (INFERNO.len() - 1) as f32;
    let low = (position as usize).min(INFERNO.len() - 2);
    let share = position - low as f32;
    let mix = |channel: usize| {
        (INFERNO[low][channel] * (1.0 - share) + INFERNO[low + 1][channel] * share).round() as u8
    };
    Rgb([mix(0), mix(1), mix(2)])
}
