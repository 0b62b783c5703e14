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
pub(super) struct Texture {
    pattern: Pattern,
    period: f32,
    /// Where the pattern starts, in periods.
    phase: (f32, f32),
}

enum Pattern {
    Stripes,
    Checkerboard,
}

impl Texture {
    /// Stripes for an object of radius `size`.
    pub(super) fn stripes(size: f32, numbers: &mut Sequence) -> Self {
        Self::random(Pattern::Stripes, size, numbers)
    }

    /// A checkerboard for an object of radius `size`.
    pub(super) fn checkerboard(size: f32, numbers: &mut Sequence) -> Self {
        Self::random(Pattern::Checkerboard, size, numbers)
    }

    fn random(pattern: Pattern, size: f32, numbers: &mut Sequence) -> Self {
        // In the image a period is wide enough for 32 pixels to show it.
        let period = uniform(numbers, 0.14, 0.23) / size;
        let phase = (uniform(numbers, 0.0, 1.0), uniform(numbers, 0.0, 1.0));
        Self { pattern, period, phase }
    }

    fn distance(&self, u: f32, v: f32) -> f32 {
        let a = wave(u / self.period + self.phase.0) * self.period;
        match self.pattern {
            Pattern::Stripes => a,
            Pattern::Checkerboard => {
                // The border is the union of two grids of lines; which side one is on is the product of the two signs.
                let b = wave(v / self.period + self.phase.1) * self.period;
                let nearest = a.abs().min(b.abs());
                if (a > 0.0) == (b > 0.0) { nearest } else { -nearest }
            }
        }
    }
}

/// The triangle wave of period 1: signed distance to the nearest border, which lie half a period apart.
fn wave(t: f32) -> f32 {
    (t - t.floor() - 0.5).abs() - 0.25
}
