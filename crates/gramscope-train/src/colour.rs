//! Colour distortion of training images: that of SimCLR (Chen, Kornblith, Norouzi, Hinton: *A simple framework for
//! contrastive learning of visual representations*, ICML 2020, appendix A) with strength s.
//!
//! With probability 0.8 an image x in [0, 1] goes through four steps in random order (all 24 are equally likely), each
//! cut off at 0 and 1 afterwards, with factors drawn uniformly:
//!
//! - brightness: b x, with b from 1 - 0.8 s to 1 + 0.8 s;
//! - contrast: c x + (1 - c) m, with c from the same range and m the mean grey value of the image;
//! - saturation: t x + (1 - t) g, with t from the same range and g the grey value of the pixel;
//! - hue: turned by h full circles of the hue of HSV, with h from -0.2 s to 0.2 s.
//!
//! Then, with probability 0.2, every pixel is replaced by its grey value. Grey is 0.299 R + 0.587 G + 0.114 B (ITU-R
//! BT.601). These are the steps as torchvision's `ColorJitter(0.8 s, 0.8 s, 0.8 s, 0.2 s)` has them; SimCLR's own program
//! takes the mean of each channel for the contrast and stretches the saturation of HSV.
//!
//! What happens to an image is a function of (seed, epoch, index): the eight words of [`Stream::Colour`] at major = epoch,
//! minor = 2 index and 2 index + 1.

use gramscope_nn::random::{Philox, Stream};

use crate::batches::CHANNELS;
use crate::settings::TrainSettings;

/// Probability of the four steps.
const JITTER: f64 = 0.8;
/// Probability of grey.
const GREY: f64 = 0.2;
/// Range of the first three factors around 1, and of the turn of the hue around 0, at strength 1.
const FACTOR: f64 = 0.8;
const TURN: f64 = 0.2;
/// Weights of the channels in grey.
const LUMA: [f32; CHANNELS] = [0.299, 0.587, 0.114];

/// The colour distortion of one run.
#[derive(Clone, Copy, Debug)]
pub struct ColourDistortion {
    generator: Philox,
    strength: f64,
}

/// One of the four steps.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Brightness(f32),
    Contrast(f32),
    Saturation(f32),
    Hue(f32),
}

impl ColourDistortion {
    /// With the seed and strength of `settings`; none where the strength is 0.
    pub fn new(settings: &TrainSettings) -> Option<Self> {
        let strength = settings.colour_distortion;
        let generator = Philox::new(settings.seed, Stream::Colour);
        (strength > 0.0).then_some(Self { generator, strength })
    }

    /// Distorts image `index` of the training split as it is in `epoch`: `pixels` [side, side, 3] in [0, 1], already
    /// cropped and flipped.
    pub fn distort(&self, epoch: u32, index: usize, pixels: &mut [f32]) {
        let (steps, grey) = self.draw(epoch, index);
        for step in steps.into_iter().flatten() {
            step.apply(pixels);
        }
        if grey {
            Step::Saturation(0.0).apply(pixels);
        }
    }

    /// The steps in their order, if they are taken, and whether grey follows.
    fn draw(&self, epoch: u32, index: usize) -> (Option<[Step; 4]>, bool) {
        let minor = 2 * index as u64;
        let [applied, brightness, contrast, saturation] = self.generator.words(epoch, minor);
        let [hue, order, grey, _] = self.generator.words(epoch, minor + 1);
        let unit = |word: u32| f64::from(word) * (-32f64).exp2();
        let around =
            |centre: f64, reach: f64, word: u32| (centre + self.strength * reach * (2.0 * unit(word) - 1.0)) as f32;
        let mut left = vec![
            Step::Brightness(around(1.0, FACTOR, brightness)),
            Step::Contrast(around(1.0, FACTOR, contrast)),
            Step::Saturation(around(1.0, FACTOR, saturation)),
            Step::Hue(around(0.0, TURN, hue)),
        ];
        // A number below 4! is a place among four, one among the three that are left, and one among two.
        let mut number = ((u64::from(order) * 24) >> 32) as usize;
        let steps = std::array::from_fn(|_| {
            let place = number % left.len();
            number /= left.len();
            left.remove(place)
        });
        ((unit(applied) < JITTER).then_some(steps), unit(grey) < GREY)
    }
}

impl Step {
    fn apply(self, pixels: &mut [f32]) {
        match self {
            Self::Brightness(factor) => each(pixels, |pixel| pixel.map(|value| factor * value)),
            Self::Contrast(factor) => {
                let mean = mean_grey(pixels);
                each(pixels, |pixel| pixel.map(|value| mean + factor * (value - mean)));
            }
            Self::Saturation(factor) => each(pixels, |pixel| {
                let grey = grey(pixel);
                pixel.map(|value| grey + factor * (value - grey))
            }),
            Self::Hue(turn) => each(pixels, |pixel| turn_hue(pixel, turn)),
        }
    }
}

/// Replaces every pixel, cut off at 0 and 1.
fn each(pixels: &mut [f32], replace: impl Fn([f32; CHANNELS]) -> [f32; CHANNELS]) {
    for pixel in pixels.as_chunks_mut::<CHANNELS>().0 {
        *pixel = replace(*pixel).map(|value| value.clamp(0.0, 1.0));
    }
}

fn grey(pixel: [f32; CHANNELS]) -> f32 {
    pixel.iter().zip(LUMA).map(|(value, weight)| weight * value).sum()
}

fn mean_grey(pixels: &[f32]) -> f32 {
    let pixels = pixels.as_chunks::<CHANNELS>().0;
    let sum: f64 = pixels.iter().map(|&pixel| f64::from(grey(pixel))).sum();
    (sum / pixels.len() as f64) as f32
}

/// Turns the hue of HSV by so many full circles; value and saturation stay.
fn turn_hue(pixel: [f32; CHANNELS], turn: f32) -> [f32; CHANNELS] {
    let [red, green, blue] = pixel;
    let value = red.max(green).max(blue);
    let chroma = value - red.min(green).min(blue);
    if chroma == 0.0 {
        return pixel;
    }
    // In sixths of a circle from red.
    let hue = if value == red {
        (green - blue) / chroma
    } else if value == green {
        2.0 + (blue - red) / chroma
    } else {
        4.0 + (red - green) / chroma
    };
    let hue = (hue + 6.0 * turn).rem_euclid(6.0);
    // How far each channel is below the value: nothing within a sixth of its own hue, all of the chroma beyond two.
    [0.0, 2.0, 4.0].map(|own: f32| {
        let away = (hue - own).abs();
        value - chroma * (away.min(6.0 - away) - 1.0).clamp(0.0, 1.0)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn distortion(seed: u64, strength: f64) -> ColourDistortion {
        let settings = TrainSettings { seed, colour_distortion: strength, ..TrainSettings::default() };
        ColourDistortion::new(&settings).unwrap()
    }

    /// An image with greys, full colours, ties of channels, black and white among random pixels.
    fn image(seed: u32) -> Vec<f32> {
        let special = [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.7, 0.7, 0.2];
        let mut numbers = Philox::new(4, Stream::Drawing).sequence(seed);
        special.into_iter().chain((0..57).map(|_| numbers.uniform() as f32)).collect()
    }

    /// The definition in float64, step by step and through HSV as its books have it.
    fn by_definition(pixels: &[f32], steps: Option<[Step; 4]>, to_grey: bool) -> Vec<f64> {
        let mut x: Vec<[f64; 3]> = pixels.chunks(3).map(|p| [p[0], p[1], p[2]].map(f64::from)).collect();
        let grey = |p: &[f64; 3]| 0.299 * p[0] + 0.587 * p[1] + 0.114 * p[2];
        for step in steps.into_iter().flatten() {
            let mean = x.iter().map(grey).sum::<f64>() / x.len() as f64;
            for p in &mut x {
                let g = grey(p);
                *p = match step {
                    Step::Brightness(b) => p.map(|v| f64::from(b) * v),
                    Step::Contrast(c) => p.map(|v| f64::from(c) * v + (1.0 - f64::from(c)) * mean),
                    Step::Saturation(t) => p.map(|v| f64::from(t) * v + (1.0 - f64::from(t)) * g),
                    Step::Hue(h) => {
                        let (hue, saturation, value) = to_hsv(*p);
                        from_hsv((hue + f64::from(h)).rem_euclid(1.0), saturation, value)
                    }
                }
                .map(|v| v.clamp(0.0, 1.0));
            }
        }
        x.iter().flat_map(|p| if to_grey { [grey(p); 3] } else { *p }).collect()
    }

    fn to_hsv([r, g, b]: [f64; 3]) -> (f64, f64, f64) {
        let (largest, smallest) = (r.max(g).max(b), r.min(g).min(b));
        let range = largest - smallest;
        let hue = match () {
            () if range == 0.0 => 0.0,
            () if largest == r => ((g - b) / range).rem_euclid(6.0),
            () if largest == g => (b - r) / range + 2.0,
            () => (r - g) / range + 4.0,
        };
        (hue / 6.0, if largest == 0.0 { 0.0 } else { range / largest }, largest)
    }

    fn from_hsv(h: f64, s: f64, v: f64) -> [f64; 3] {
        let sector = (6.0 * h).floor();
        let f = 6.0 * h - sector;
        let (p, q, t) = (v * (1.0 - s), v * (1.0 - f * s), v * (1.0 - (1.0 - f) * s));
        match sector as u32 % 6 {
            0 => [v, t, p],
            1 => [q, v, p],
            2 => [p, v, t],
            3 => [p, q, v],
            4 => [t, p, v],
            _ => [v, p, q],
        }
    }

    /// Each of at most five steps rounds a few times (2^-24 each, of values below 2), and multiplies the error before it by
    /// at most 1.8: 20 roundings, times 1.8^4, are 1.3e-5.
    #[test]
    fn distortion_is_what_the_definition_says() {
        for strength in [0.25, 0.5, 1.0] {
            let distortion = distortion(7, strength);
            for index in 0..300 {
                let mut pixels = image(index as u32);
                let (steps, grey) = distortion.draw(2, index);
                let expected = by_definition(&pixels, steps, grey);
                distortion.distort(2, index, &mut pixels);
                for (at, (found, expected)) in pixels.iter().zip(&expected).enumerate() {
                    let error = (f64::from(*found) - expected).abs();
                    assert!(error <= 1.3e-5, "image {index}, value {at}: {found}, expected {expected}; {steps:?}");
                }
            }
        }
    }

    /// Each count of N draws with probability p lies within five standard deviations of N p; factors fill their ranges.
    #[test]
    fn numbers_have_the_stated_distribution() {
        const N: usize = 24_000;
        let distortion = distortion(3, 0.5);
        let drawn: Vec<_> = (0..N).map(|index| distortion.draw(1, index)).collect();
        let check = |what: String, p: f64, count: usize, of: usize| {
            let (count, of) = (count as f64, of as f64);
            let deviation = (of * p * (1.0 - p)).sqrt();
            assert!((count - of * p).abs() <= 5.0 * deviation, "{what}: {count} of {of}, expected {}", of * p);
        };
        check("grey".to_owned(), GREY, drawn.iter().filter(|(_, grey)| *grey).count(), N);
        let taken: Vec<[Step; 4]> = drawn.iter().filter_map(|(steps, _)| *steps).collect();
        check("jitter".to_owned(), JITTER, taken.len(), N);
        let kinds = |steps: &[Step; 4]| steps.map(|step| std::mem::discriminant(&step));
        let mut orders: Vec<_> = Vec::new();
        for steps in &taken {
            if !orders.contains(&kinds(steps)) {
                orders.push(kinds(steps));
            }
        }
        assert_eq!(orders.len(), 24);
        for order in &orders {
            let count = taken.iter().filter(|steps| kinds(steps) == *order).count();
            check("an order".to_owned(), 1.0 / 24.0, count, taken.len());
        }
        for steps in &taken {
            for step in steps {
                let (factor, centre, reach) = match *step {
                    Step::Brightness(factor) | Step::Contrast(factor) | Step::Saturation(factor) => (factor, 1.0, 0.4),
                    Step::Hue(turn) => (turn, 0.0, 0.1),
                };
                assert!((factor - centre).abs() <= reach + 1e-6, "{step:?}");
            }
        }
        let upper = taken.iter().flatten().filter(|step| matches!(step, Step::Hue(turn) if *turn > 0.05)).count();
        check("a turn in the highest quarter".to_owned(), 0.25, upper, taken.len());
    }

    #[test]
    fn it_depends_on_seed_epoch_and_image_alone_and_strength_0_is_none() {
        let drawn = |seed, epoch| (0..16).map(|index| distortion(seed, 0.5).draw(epoch, index)).collect::<Vec<_>>();
        assert_eq!(drawn(1, 1), drawn(1, 1));
        assert_ne!(drawn(1, 1), drawn(2, 1));
        assert_ne!(drawn(1, 1), drawn(1, 2));
        assert!(ColourDistortion::new(&TrainSettings::default()).is_none());
    }
}
