//! The columns of a slab: where they lie, and by how much they are shifted.

use std::array;
use std::ops::Range;

use half::{bf16, f16};

use super::Unusable;
use crate::scale::exponent_of;

/// Rows that are measured side by side.
const ROWS: usize = 4;

/// A stored value.
pub(super) trait Stored: bytemuck::Pod + Sync {
    fn to_f64(self) -> f64;

    /// The value as what it is, if that is float32.
    fn single(self) -> Option<f32> {
        None
    }
}

impl Stored for f16 {
    fn to_f64(self) -> f64 {
        self.to_f64()
    }
}

impl Stored for bf16 {
    fn to_f64(self) -> f64 {
        self.to_f64()
    }
}

impl Stored for f32 {
    fn to_f64(self) -> f64 {
        f64::from(self)
    }

    fn single(self) -> Option<f32> {
        Some(self)
    }
}

impl Stored for f64 {
    fn to_f64(self) -> f64 {
        self
    }
}

/// The columns `features` of a row-major matrix with `width` columns.
#[derive(Clone, Debug)]
pub(super) struct Slab<'a, S> {
    pub(super) values: &'a [S],
    pub(super) width: usize,
    pub(super) features: Range<usize>,
}

impl<'a, S: Stored> Slab<'a, S> {
    /// Its part of every row.
    pub(super) fn rows(&self) -> impl Iterator<Item = &'a [S]> + use<'a, S> {
        let features = self.features.clone();
        self.values.chunks_exact(self.width).map(move |row| &row[features.clone()])
    }

    /// Its part of row `index`.
    pub(super) fn row(&self, index: usize) -> &'a [S] {
        &self.values[index * self.width..][self.features.clone()]
    }
}

/// Extremes of a slab's columns and the sums of what lies between them.
#[derive(Debug, Default)]
pub(super) struct Columns {
    minima: Vec<f64>,
    maxima: Vec<f64>,
    /// Sums of all values but one minimum and one maximum. Adding up everything and taking the extremes away again would
    /// leave nothing of the others beside an outlier of 1e16 times their size.
    middles: Vec<f64>,
    shifts: Vec<f64>,
}

impl Columns {
    /// Measures the columns of a slab of at least two rows. They are not shifted yet.
    ///
    /// # Errors
    /// A value that is not finite.
    pub(super) fn measure<S: Stored>(&mut self, slab: &Slab<'_, S>) -> Result<(), Unusable> {
        let width = slab.features.len();
        for values in [&mut self.minima, &mut self.maxima, &mut self.middles, &mut self.shifts] {
            values.clear();
            values.resize(width, 0.0);
        }
        let row = |index: usize| slab.row(index);
        self.begin([row(0), row(1)]);
        let n = slab.values.len() / slab.width;
        let whole = 2 + (n - 2) / ROWS * ROWS;
        for first in (2..whole).step_by(ROWS) {
            self.take(array::from_fn::<_, ROWS, _>(|offset| row(first + offset)));
        }
        for index in whole..n {
            self.take([row(index)]);
        }
        let found = self.minima.iter().zip(&self.maxima).zip(&self.middles);
        // Neither NaN nor infinity gets lost on the way to these three; a sum of finite values may overflow, though.
        if found.into_iter().any(|((minimum, maximum), middle)| !(minimum + maximum + middle).is_finite())
            && let Some(example) = slab.rows().position(|row| row.iter().any(|value| !value.to_f64().is_finite()))
        {
            return Err(Unusable::NonFinite { example });
        }
        Ok(())
    }

    /// Takes in the first two rows.
    fn begin<S: Stored>(&mut self, rows: [&[S]; 2]) {
        let extremes = self.minima.iter_mut().zip(&mut self.maxima);
        for ((minimum, maximum), (first, second)) in extremes.zip(rows[0].iter().zip(rows[1])) {
            (*minimum, *maximum) = in_order(first.to_f64(), second.to_f64());
        }
    }

    /// Takes in further rows.
    fn take<S: Stored, const N: usize>(&mut self, rows: [&[S]; N]) {
        let rows = rows.map(|row| &row[..self.minima.len()]);
        let columns = self.minima.iter_mut().zip(&mut self.maxima).zip(&mut self.middles);
        for (column, ((minimum, maximum), middle)) in columns.enumerate() {
            let (mut lowest, mut highest, mut sum) = (*minimum, *maximum, *middle);
            for row in &rows {
                let value;
                (value, highest) = in_order(row[column].to_f64(), highest);
                let between;
                (lowest, between) = in_order(value, lowest);
                sum += between;
            }
            (*minimum, *maximum, *middle) = (lowest, highest, sum);
        }
    }

    /// Shifts every column of `n` values by their trimmed mean.
    pub(super) fn shift_to_trimmed_means(&mut self, n: usize) {
        let others = n.saturating_sub(2).max(1) as f64;
        let columns = self.minima.iter().zip(&self.maxima).zip(&self.middles);
        for (shift, ((minimum, maximum), middle)) in self.shifts.iter_mut().zip(columns) {
            // Rounding must not move the shift of a constant column off its value.
            *shift = (middle / others).clamp(*minimum, *maximum);
        }
    }

    /// What is to be subtracted from each column.
    pub(super) fn shifts(&self) -> &[f64] {
        &self.shifts
    }

    /// The e with 2^e <= max |x - s| < 2^(e + 1) over the slab; none if all of it is zero.
    pub(super) fn exponent(&self) -> Option<i32> {
        let columns = self.minima.iter().zip(&self.maxima).zip(&self.shifts);
        let largest = columns
            .fold(0.0_f64, |largest, ((minimum, maximum), shift)| largest.max(maximum - shift).max(shift - minimum));
        (largest > 0.0).then(|| exponent_of(largest))
    }
}

/// The smaller of two values and the larger. Written so that each is one machine instruction, and so that a NaN is one of
/// the two, the first of `a` and `b` to be one.
#[inline(always)]
fn in_order(a: f64, b: f64) -> (f64, f64) {
    (if b < a { b } else { a }, if b < a { a } else { b })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn measured(values: &[f64], n: usize) -> Result<Columns, Unusable> {
        let width = values.len() / n;
        let mut columns = Columns::default();
        columns.measure(&Slab { values, width, features: 0..width })?;
        columns.shift_to_trimmed_means(n);
        Ok(columns)
    }

    #[test]
    fn the_shift_is_the_mean_of_all_but_the_extremes_whatever_their_size() {
        for outlier in [5.0, -5.0, 1e8, -1e30, 1e300] {
            for place in 0..5 {
                let mut values = vec![1.0, 2.0, 3.0, 4.0];
                values.insert(place, outlier);
                let expected = if outlier > 0.0 { 3.0 } else { 2.0 };
                assert_eq!(measured(&values, 5).unwrap().shifts(), [expected], "{outlier} at {place}");
            }
        }
        assert_eq!(measured(&[0.1; 7], 7).unwrap().exponent(), None);
        assert_eq!(measured(&[3.0, 7.0], 2).unwrap().shifts(), [3.0]);
    }

    #[test]
    fn what_is_not_finite_is_placed() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            for place in 0..6 {
                let mut values: Vec<f64> = (0..12).map(f64::from).collect();
                values[2 * place + 1] = bad;
                let error = measured(&values, 6).map(drop).unwrap_err();
                assert!(matches!(error, Unusable::NonFinite { example } if example == place), "{bad}: {error:?}");
            }
        }
        measured(&[f64::MAX; 6], 3).unwrap();
    }
}
