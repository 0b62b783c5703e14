//! Colours that carry meaning, with one owner: the map from a similarity to a colour, the colour of an undefined value,
//! and the colours of lines. The pictures and the report both take them from here.
//!
//! The map is *magma* (Nathaniel Smith and Stéfan van der Walt, 2015, public domain, as in matplotlib): perceptually
//! uniform, its lightness grows steadily with the value, so that it also reads in grey and to colour-blind eyes. It is
//! kept as 33 control points at equal distances with straight lines in sRGB between them, which is within 2 of 255
//! levels of the original table everywhere, and is exactly how a plotly colour scale interpolates.

/// An sRGB colour, 8 bits a channel.
pub(crate) type Rgb = [u8; 3];

/// Magma at 0, 1/32, ..., 1.
const MAGMA: [Rgb; 33] = [
    [0, 0, 4],
    [3, 3, 18],
    [10, 8, 34],
    [19, 13, 52],
    [29, 17, 71],
    [41, 17, 90],
    [54, 16, 107],
    [68, 15, 118],
    [80, 18, 124],
    [93, 23, 127],
    [105, 28, 129],
    [118, 33, 129],
    [130, 38, 129],
    [143, 42, 129],
    [156, 46, 127],
    [169, 51, 125],
    [182, 54, 122],
    [195, 59, 117],
    [207, 64, 112],
    [219, 71, 106],
    [230, 81, 100],
    [238, 92, 94],
    [244, 106, 92],
    [249, 120, 93],
    [251, 136, 97],
    [253, 150, 104],
    [254, 165, 113],
    [254, 180, 123],
    [254, 194, 135],
    [254, 209, 148],
    [253, 224, 161],
    [252, 238, 176],
    [252, 253, 191],
];

/// The colour of a value that is undefined (NaN): a grey, which magma does not contain.
pub(crate) const UNDEFINED: Rgb = [150, 155, 160];

/// The colour of the lines between stages: a light blue, which magma does not contain and which is seen on its dark
/// and on its bright end.
pub(crate) const BOUNDARY: Rgb = [86, 180, 233];

/// The colour of the line around a block: a green, which magma does not contain either.
pub(crate) const BLOCK: Rgb = [0, 158, 96];

/// Line colours for up to eight things that have no order, told apart by colour-blind eyes and dark enough for a white
/// ground (after Okabe and Ito, 2008, with their yellow replaced).
pub(crate) const QUALITATIVE: [Rgb; 8] = [
    [0, 114, 178],
    [213, 94, 0],
    [0, 140, 105],
    [190, 95, 150],
    [200, 140, 0],
    [60, 160, 215],
    [110, 110, 110],
    [90, 60, 150],
];

/// The colour of a similarity: 0 is black, 1 pale yellow; values outside 0..1 take the colour of the nearer end, NaN
/// that of [`UNDEFINED`].
pub(crate) fn similarity(value: f64) -> Rgb {
    if value.is_nan() {
        return UNDEFINED;
    }
    let position = value.clamp(0.0, 1.0) * (MAGMA.len() - 1) as f64;
    let below = (position as usize).min(MAGMA.len() - 2);
    let share = position - below as f64;
    std::array::from_fn(|channel| {
        let from = f64::from(MAGMA[below][channel]);
        let to = f64::from(MAGMA[below + 1][channel]);
        (from + share * (to - from)).round() as u8
    })
}

/// The control points of the similarity map as (position in 0..1, colour), for other renderers.
pub(crate) fn control_points() -> impl Iterator<Item = (f64, Rgb)> {
    MAGMA.iter().enumerate().map(|(index, &colour)| (index as f64 / (MAGMA.len() - 1) as f64, colour))
}

/// One colour for each of `count` lines: [`QUALITATIVE`] while it lasts, beyond it a ramp in the order of the lines.
pub(crate) fn line_colours(count: usize) -> Vec<Rgb> {
    if count <= QUALITATIVE.len() {
        return QUALITATIVE[..count].to_vec();
    }
    // The brightest third of the map is left out: it would vanish on white.
    (0..count).map(|line| similarity(0.1 + 0.65 * line as f64 / (count - 1) as f64)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CIE 1976 lightness of an sRGB colour, D65 white.
    fn lightness(colour: Rgb) -> f64 {
        let linear = |channel: u8| {
            let value = f64::from(channel) / 255.0;
            if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        let [r, g, b] = colour.map(linear);
        let y = 0.2126 * r + 0.7152 * g + 0.0722 * b;
        if y > 216.0 / 24389.0 { 116.0 * y.cbrt() - 16.0 } else { y * 24389.0 / 27.0 }
    }

    #[test]
    fn ends_are_the_ends_of_magma_and_outside_is_clipped() {
        assert_eq!(similarity(0.0), [0, 0, 4]);
        assert_eq!(similarity(1.0), [252, 253, 191]);
        assert_eq!(similarity(-3.0), similarity(0.0));
        assert_eq!(similarity(1.7), similarity(1.0));
        assert_eq!(similarity(f64::INFINITY), similarity(1.0));
        assert_eq!(similarity(f64::NEG_INFINITY), similarity(0.0));
    }

    #[test]
    fn the_middle_agrees_with_the_published_table() {
        // matplotlib's magma at 64/255 and 191/255 is (81, 18, 124) and (251, 135, 97); ours may be 2 off, and 1 more for rounding.
        for (value, published) in [(64.0 / 255.0, [81, 18, 124]), (191.0 / 255.0, [251, 135, 97])] {
            for (ours, theirs) in similarity(value).into_iter().zip(published) {
                assert!(i32::from(ours).abs_diff(theirs) <= 3, "{value}: {ours} for {theirs}");
            }
        }
    }

    #[test]
    fn lightness_grows_steadily_with_the_value() {
        // Rounding to 8 bits moves lightness by at most about 0.3; over 1/64 of the range it must grow by more.
        let steps: Vec<f64> = (0..=64).map(|step| lightness(similarity(f64::from(step) / 64.0))).collect();
        for (step, pair) in steps.windows(2).enumerate() {
            assert!(pair[1] > pair[0], "lightness falls at {step}/64: {pair:?}");
        }
        assert!(steps[0] < 1.0 && steps[64] > 95.0);
    }

    #[test]
    fn undefined_is_no_colour_of_the_map() {
        assert_eq!(similarity(f64::NAN), UNDEFINED);
        for step in 0..=1000 {
            let colour = similarity(f64::from(step) / 1000.0);
            let distance: u32 = colour.iter().zip(UNDEFINED).map(|(&a, b)| u32::from(a.abs_diff(b))).sum();
            assert!(distance > 60, "{colour:?} at {step}/1000 looks undefined");
        }
    }

    #[test]
    fn line_colours_are_distinct() {
        for count in [0, 1, 8, 9, 36] {
            let colours = line_colours(count);
            let distinct: std::collections::HashSet<_> = colours.iter().collect();
            assert_eq!(colours.len(), count);
            assert_eq!(distinct.len(), count);
        }
    }
}
