//! The search through all ranges of the core.

use rayon::prelude::*;

use super::map::Square;
use super::{ALL_EQUAL, LEAST_CONTRAST, LEAST_LAYERS, LEAST_MARGIN, LEAST_SHARE, NEARLY_EQUAL};

/// A range of the core and what it was judged by, on its worse side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    /// Index of its first layer in the core.
    pub(super) first: usize,
    /// Index of its last layer in the core.
    pub(super) last: usize,
    /// Weighted mean CKA of pairs inside.
    pub(super) inside: f64,
    /// The same of pairs across its edge.
    pub(super) outside: f64,
    /// Its share of the network's layers.
    share: f64,
}

impl Range {
    pub(super) fn margin(&self) -> f64 {
        self.inside - self.outside
    }

    pub(super) fn contrast(&self) -> f64 {
        (self.inside - self.outside) / (1.0 - self.outside)
    }

    fn rank(&self) -> f64 {
        self.share * self.contrast()
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// The blocks of `square`, the map of the core, whose layers are the `places` of the network's `layers`; the one of the
/// highest rank first.
pub(super) fn ranges(square: &Square, places: &[usize], layers: usize) -> Vec<Range> {
    let sums = Sums::of(square);
    let spans = |first: usize, last: usize| places[last] + 1 - places[first];
    let least = LEAST_SHARE * layers as f64;
    let of_first = |first: usize| {
        (first + LEAST_LAYERS - 1..square.side())
            .filter(|&last| spans(first, last) as f64 >= least)
            .filter_map(|last| sums.judge(first, last, spans(first, last) as f64 / layers as f64))
            .collect::<Vec<_>>()
    };
    let mut found: Vec<Range> = (0..square.side()).into_par_iter().flat_map_iter(of_first).collect();
    // A stable sort of an order that does not depend on the threads: of equals, the one that begins first.
    found.sort_by(|a, b| b.rank().total_cmp(&a.rank()));
    let mut blocks: Vec<Range> = Vec::new();
    for range in found {
        if !blocks.iter().any(|block| block.overlaps(&range)) {
            blocks.push(range);
        }
    }
    blocks
}

/// Sums of a map over rectangles and along diagonals.
struct Sums {
    side: usize,
    /// Over the rows and columns before (i, j), at i * (side + 1) + j.
    integral: Vec<f64>,
    /// `diagonals[d][i]`: of the pairs (0, d) to (i - 1, i - 1 + d).
    diagonals: Vec<Vec<f64>>,
}

impl Sums {
    fn of(square: &Square) -> Self {
        let side = square.side();
        let pitch = side + 1;
        let mut integral = vec![0.0; pitch * pitch];
        for row in 0..side {
            let mut sum = 0.0;
            for column in 0..side {
                sum += square.at(row, column);
                integral[(row + 1) * pitch + column + 1] = integral[row * pitch + column + 1] + sum;
            }
        }
        let diagonal = |distance: usize| {
            let mut sum = 0.0;
            let values = (0..side - distance).map(|row| square.at(row, row + distance));
            let sums = values.map(|value| {
                sum += value;
                sum
            });
            std::iter::once(0.0).chain(sums).collect()
        };
        Self { side, integral, diagonals: (0..side).map(diagonal).collect() }
    }

    /// Of the pairs at `distance` whose first layers are `from..to`.
    fn along(&self, distance: usize, from: usize, to: usize) -> f64 {
        self.diagonals[distance][to] - self.diagonals[distance][from]
    }

    /// Mean over the pairs of different layers of a range.
    fn mean(&self, first: usize, last: usize) -> f64 {
        let pitch = self.side + 1;
        let corner = |row: usize, column: usize| self.integral[row * pitch + column];
        let (end, count) = (last + 1, (last + 1 - first) as f64);
        let all = corner(end, end) - corner(first, end) - corner(end, first) + corner(first, first);
        (all - self.along(0, first, end)) / (count * (count - 1.0))
    }

    /// Mean over the pairs of a range that are at least half its length apart.
    fn mean_of_far(&self, first: usize, last: usize) -> f64 {
        let count = last + 1 - first;
        let far = count.div_ceil(2)..count;
        let sum: f64 = far.clone().map(|distance| self.along(distance, first, last + 1 - distance)).sum();
        let pairs: usize = far.map(|distance| count - distance).sum();
        sum / pairs as f64
    }

    /// The range, if it is nearly equal and stands out.
    fn judge(&self, first: usize, last: usize, share: f64) -> Option<Range> {
        let mean = self.mean(first, last);
        if !(mean >= NEARLY_EQUAL) {
            return None;
        }
        let far = self.mean_of_far(first, last);
        if !(far >= NEARLY_EQUAL) {
            return None;
        }
        let whole = first == 0 && last + 1 == self.side;
        if whole {
            return (far >= ALL_EQUAL).then_some(Range { first, last, inside: mean, outside: 0.0, share });
        }
        let sides = [self.left(first, last), self.right(first, last)];
        let judged = sides.into_iter().flatten().map(|(inside, outside)| Range { first, last, inside, outside, share });
        let worse = judged.min_by(|a, b| a.contrast().total_cmp(&b.contrast()))?;
        (worse.contrast() >= LEAST_CONTRAST && worse.margin() >= LEAST_MARGIN).then_some(worse)
    }

    /// Inside and outside, with the pairs across the left edge.
    fn left(&self, first: usize, last: usize) -> Option<(f64, f64)> {
        self.weigh(first, last, |distance| first.saturating_sub(distance)..first)
    }

    /// Inside and outside, with the pairs across the right edge.
    fn right(&self, first: usize, last: usize) -> Option<(f64, f64)> {
        self.weigh(first, last, |distance| {
            let begin = last + 1 - distance;
            begin..(last + 1).min(self.side - distance).max(begin)
        })
    }

    /// Inside and outside, where `across` has the first layers of the pairs across the edge, for a distance. `None`
    /// where there is no such pair.
    fn weigh(&self, first: usize, last: usize, across: impl Fn(usize) -> std::ops::Range<usize>) -> Option<(f64, f64)> {
        let (mut inside, mut outside, mut weights) = (0.0, 0.0, 0.0);
        for distance in 1..=last - first {
            let across = across(distance);
            let (pairs, beside) = ((last + 1 - first - distance) as f64, across.len() as f64);
            // The weight pairs * beside / (pairs + beside) of the two means, written for their sums.
            let share = 1.0 / (pairs + beside);
            inside += share * beside * self.along(distance, first, last + 1 - distance);
            outside += share * pairs * self.along(distance, across.start, across.end);
            weights += share * pairs * beside;
        }
        (weights > 0.0).then(|| (inside / weights, outside / weights))
    }
}
