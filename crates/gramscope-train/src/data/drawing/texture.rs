//! What an object is filled with, in the object's own coordinates.

use gramscope_nn::random::Sequence;

use super::colour::{self, Colour, mix};
use super::{coverage, uniform};

/// How an object is coloured.
pub(super) enum Paint {
    Plain(Colour),
    /// From one colour to another across the object.
    Gradient(Colour, Colour),
    /// Two colours side by side in a pattern.
    Texture(Texture, Colour, Colour),
}

impl Paint {
    /// Mostly `colour`, possibly shading off into another one.
    pub(super) fn shaded(colour: Colour, numbers: &mut Sequence) -> Self {
        if numbers.below(2) == 0 {
            return Self::Plain(colour);
        }
        let share = uniform(numbers, 0.1, 0.5);
        Self::Gradient(colour, mix(colour, colour::random(numbers), share))
    }

    /// The colour at (`u`, `v`) for pixels of width `pixel`.
    pub(super) fn at(&self, u: f32, v: f32, pixel: f32) -> Colour {
        match self {
            Self::Plain(colour) => *colour,
            Self::Gradient(from, to) => mix(*from, *to, (0.5 + 0.5 * u).clamp(0.0, 1.0)),
            Self::Texture(texture, one, other) => mix(*one, *other, coverage(texture.distance(u, v), pixel)),
        }
    }
}

/// A pattern of two regions, given by the signed distance to the border between them.
pub(super) enum Texture {
    Stripes { period: f32, phase: f32 },
    Checkerboard { period: f32, phase: (f32, f32) },
}

impl Texture {
    /// Stripes for an object of radius `size`.
    pub(super) fn stripes(size: f32, numbers: &mut Sequence) -> Self {
        Self::Stripes { period: period(size, numbers), phase: uniform(numbers, 0.0, 1.0) }
    }

    /// A checkerboard for an object of radius `size`.
    pub(super) fn checkerboard(size: f32, numbers: &mut Sequence) -> Self {
        let phase = (uniform(numbers, 0.0, 1.0), uniform(numbers, 0.0, 1.0));
        Self::Checkerboard { period: period(size, numbers), phase }
    }

    fn distance(&self, u: f32, v: f32) -> f32 {
        match *self {
            Self::Stripes { period, phase } => wave(u / period + phase) * period,
            Self::Checkerboard { period, phase } => {
                // The border is the union of two grids of lines; which side one is on is the product of the two signs.
                let (a, b) = (wave(u / period + phase.0), wave(v / period + phase.1));
                let nearest = a.abs().min(b.abs()) * period;
                if (a > 0.0) == (b > 0.0) { nearest } else { -nearest }
            }
        }
    }
}

/// A pattern's period in an object's own coordinates: in the image it is wide enough for 32 pixels to show it.
fn period(size: f32, numbers: &mut Sequence) -> f32 {
    uniform(numbers, 0.13, 0.22) / size
}

/// The triangle wave with slope 1 or -1 and period 1: signed distance to the nearest multiple of 1/2.
fn wave(t: f32) -> f32 {
    let t = t - t.floor();
    (t - 0.5).abs() - 0.25
}
