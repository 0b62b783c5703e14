//! What lies behind everything: a gradient, two tones, or clouds of noise.

use gramscope_nn::random::Sequence;

use super::colour::{self, Colour, mix};
use super::{coverage, uniform};

/// A field of colour over the image.
pub(super) struct Background {
    from: Colour,
    to: Colour,
    pattern: Pattern,
}

enum Pattern {
    /// Along a direction.
    Gradient { slope: (f32, f32), offset: f32 },
    /// Two half-planes.
    Halves { normal: (f32, f32), offset: f32 },
    /// Noise at two scales.
    Clouds { coarse: Noise, fine: Noise },
}

impl Background {
    pub(super) fn random(numbers: &mut Sequence) -> Self {
        let from = colour::muted(numbers);
        let to = colour::muted(numbers);
        let pattern = match numbers.below(5) {
            0 => {
                let (cos, sin) = direction(numbers);
                Pattern::Gradient { slope: (cos, sin), offset: 0.5 - (cos + sin) / 2.0 }
            }
            1 => {
                let (cos, sin) = direction(numbers);
                Pattern::Halves { normal: (cos, sin), offset: (cos + sin) / 2.0 + uniform(numbers, -0.3, 0.3) }
            }
            _ => Pattern::Clouds { coarse: Noise::random(4, numbers), fine: Noise::random(11, numbers) },
        };
        Self { from, to, pattern }
    }

    /// The colour at (`x`, `y`) for pixels of width `pixel`.
    pub(super) fn at(&self, x: f32, y: f32, pixel: f32) -> Colour {
        let share = match &self.pattern {
            Pattern::Gradient { slope, offset } => slope.0 * x + slope.1 * y + offset,
            Pattern::Halves { normal, offset } => coverage(normal.0 * x + normal.1 * y - offset, pixel),
            Pattern::Clouds { coarse, fine } => 0.65 * coarse.at(x, y) + 0.35 * fine.at(x, y),
        };
        mix(self.from, self.to, share.clamp(0.0, 1.0))
    }

    /// About the colour an object stands out against.
    pub(super) fn mean(&self) -> Colour {
        mix(self.from, self.to, 0.5)
    }
}

fn direction(numbers: &mut Sequence) -> (f32, f32) {
    let angle = uniform(numbers, 0.0, std::f32::consts::TAU);
    (angle.cos(), angle.sin())
}

/// Value noise: random values on a square lattice over the image, smoothly interpolated.
struct Noise {
    cells: usize,
    values: Vec<f32>,
}

impl Noise {
    fn random(cells: usize, numbers: &mut Sequence) -> Self {
        let values = (0..(cells + 1) * (cells + 1)).map(|_| uniform(numbers, 0.0, 1.0)).collect();
        Self { cells, values }
    }

    fn at(&self, x: f32, y: f32) -> f32 {
        let (column, across) = self.cell(x);
        let (row, down) = self.cell(y);
        let corner = row * (self.cells + 1) + column;
        let [top, bottom] = [corner, corner + self.cells + 1]
            .map(|left| self.values[left] + (self.values[left + 1] - self.values[left]) * across);
        top + (bottom - top) * down
    }

    /// The lattice cell of a coordinate in 0..1 and the smoothed place inside it.
    fn cell(&self, coordinate: f32) -> (usize, f32) {
        let scaled = coordinate * self.cells as f32;
        let cell = (scaled as usize).min(self.cells - 1);
        let inside = scaled - cell as f32;
        (cell, inside * inside * (3.0 - 2.0 * inside))
    }
}
