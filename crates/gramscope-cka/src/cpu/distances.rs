//! Squared Euclidean distances between rows.

use std::array;
use std::ops::{AddAssign, Mul, Sub};

/// Rows that every row is compared with side by side.
const BLOCK: usize = 4;
/// Partial sums of a distance.
const LANES: usize = 8;

/// Fills the lower triangle of `distances` [n, n] with the squared distances of the rows of `x` [n, width]. Rows that are
/// equal are at distance 0 exactly.
pub(super) fn squared_distances<T>(x: &[T], n: usize, width: usize, distances: &mut [T])
where
    T: Copy + Default + AddAssign + Mul<Output = T> + Sub<Output = T>,
{
    let row = |i: usize| &x[i * width..][..width];
    for first in (0..n).step_by(BLOCK) {
        // Of a last short block the last row is taken again.
        let block: [&[T]; BLOCK] = array::from_fn(|offset| row((first + offset).min(n - 1)));
        for i in first..n {
            let found = to_block(row(i), block);
            let columns = BLOCK.min(i + 1 - first);
            distances[i * n + first..][..columns].copy_from_slice(&found[..columns]);
        }
    }
}

/// The squared distances of one row to those of a block.
fn to_block<T>(x: &[T], block: [&[T]; BLOCK]) -> [T; BLOCK]
where
    T: Copy + Default + AddAssign + Mul<Output = T> + Sub<Output = T>,
{
    let mut sums = [[T::default(); LANES]; BLOCK];
    let whole = x.len() - x.len() % LANES;
    for start in (0..whole).step_by(LANES) {
        let x = &x[start..start + LANES];
        for (sums, y) in sums.iter_mut().zip(block) {
            add_squares(sums, x, &y[start..start + LANES]);
        }
    }
    for (sums, y) in sums.iter_mut().zip(block) {
        add_squares(sums, &x[whole..], &y[whole..]);
    }
    sums.map(|sums| {
        sums.into_iter().fold(T::default(), |mut total, sum| {
            total += sum;
            total
        })
    })
}

#[inline(always)]
fn add_squares<T>(sums: &mut [T; LANES], x: &[T], y: &[T])
where
    T: Copy + AddAssign + Mul<Output = T> + Sub<Output = T>,
{
    for ((sum, &x), &y) in sums.iter_mut().zip(x).zip(y) {
        let difference = x - y;
        *sum += difference * difference;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_rows_is_measured() {
        for n in [2, 3, 4, 5, 9] {
            for width in [1, 7, 8, 9, 19] {
                let x: Vec<f64> = (0..n * width).map(|at| ((at * 7 + 3) % 11) as f64).collect();
                let mut found = vec![0.0; n * n];
                squared_distances(&x, n, width, &mut found);
                for (i, j) in (0..n).flat_map(|i| (0..=i).map(move |j| (i, j))) {
                    let expected: f64 = (0..width).map(|f| (x[i * width + f] - x[j * width + f]).powi(2)).sum();
                    assert_eq!(found[i * n + j], expected, "n {n}, width {width}, rows {i} and {j}");
                }
            }
        }
    }
}
