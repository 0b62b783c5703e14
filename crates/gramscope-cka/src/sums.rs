//! Sums over batches of numbers whose scales may lie hundreds of orders of magnitude apart.
//!
//! Each batch's panel row carries its own power of two. A layer's *unit* is the largest of them so far; sums are held in
//! units, and multiplied by a power of two, exactly, when a batch raises a unit. So nothing overflows, and what is lost to
//! underflow is far below the last bit of the sum it would have been added to.

use crate::scale::{ldexp, power_of_two};

/// What one layer's Gram matrix came to in one batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Row {
    /// The panel row times 2^`exponent` is the centred, packed Gram matrix; `norm` is the row's squared length, computed
    /// in float64 before it was rounded to float32.
    Centred { exponent: i32, norm: f64 },
    /// The centred Gram matrix is 0, and so is the panel row.
    Zero,
    /// The kernel is not defined on this batch; the panel row is 0.
    Undefined,
}

/// One layer's sums over the batches so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerSum {
    /// The layer's sums, with itself and with others, are held in 2^unit; none before its first Gram matrix other than 0.
    pub unit: Option<i32>,
    /// HSIC with itself, in the square of the unit.
    pub own: f64,
    /// Whether the kernel was not defined on some batch.
    pub undefined: bool,
}

/// By which powers of two a layer's old and new terms are to be multiplied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weight {
    old: i32,
    new: i32,
}

impl Weight {
    /// Of a layer that adds nothing.
    pub(crate) const NONE: Self = Self { old: 0, new: 0 };
}

impl LayerSum {
    /// Adds the layer's HSIC with itself, `row.norm` times `factor`, and says what that does to its sums with others.
    pub(crate) fn add(&mut self, row: Row, factor: f64) -> Weight {
        match row {
            Row::Centred { exponent, norm } => {
                let unit = self.unit.map_or(exponent, |unit| unit.max(exponent));
                let weight = Weight { old: self.unit.unwrap_or(unit) - unit, new: exponent - unit };
                self.own = self.own * power_of_two(2 * weight.old) + norm * factor * power_of_two(2 * weight.new);
                self.unit = Some(unit);
                weight
            }
            Row::Zero => Weight::NONE,
            Row::Undefined => {
                self.undefined = true;
                Weight::NONE
            }
        }
    }

    /// Whether the layer has no similarity with anything.
    #[expect(clippy::neg_cmp_op_on_partial_ord, reason = "NaN must not pass for defined")]
    pub(crate) fn is_undefined(&self) -> bool {
        self.undefined || !(self.own > 0.0)
    }

    /// The layer's HSIC with itself, summed over batches, in the square of its unit.
    pub(crate) fn own_in_units(&self) -> f64 {
        self.own
    }

    /// The layer's HSIC with itself, averaged over `batches`.
    pub(crate) fn own(&self, batches: usize) -> f64 {
        if self.undefined { f64::NAN } else { ldexp(self.own / batches as f64, 2 * self.unit.unwrap_or(0)) }
    }
}

/// A pair's sum after a batch: `sum` over the batches before, `product` of the two panel rows.
pub(crate) fn add_product(sum: f64, product: f64, x: Weight, y: Weight) -> f64 {
    sum * power_of_two(x.old + y.old) + product * power_of_two(x.new + y.new)
}

/// (CKA, HSIC) of a pair of layers, given `sum` over `batches`.
pub(crate) fn similarity(sum: f64, x: &LayerSum, y: &LayerSum, batches: usize) -> (f64, f64) {
    let cka = if x.is_undefined() || y.is_undefined() { f64::NAN } else { sum / (x.own * y.own).sqrt() };
    let units = x.unit.unwrap_or(0) + y.unit.unwrap_or(0);
    let hsic = if x.undefined || y.undefined { f64::NAN } else { ldexp(sum / batches as f64, units) };
    (cka, hsic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_of_any_scale_add_up() {
        // Rows of squared length 3 times 2^(2 e): the sum is exact while it fits in the significand.
        let exponents = [0, 7, -9, 8];
        let mut sum = LayerSum::default();
        for exponent in exponents {
            sum.add(Row::Centred { exponent, norm: 3.0 }, 0.5);
        }
        let expected: f64 = exponents.iter().map(|&e| 1.5 * 2f64.powi(2 * e)).sum::<f64>() / 4.0;
        assert_eq!(sum.own(4), expected);
    }

    #[test]
    fn a_batch_that_dwarfs_the_others_neither_overflows_nor_loses_the_rest() {
        let mut sum = LayerSum::default();
        for exponent in [-900, 900, -900] {
            sum.add(Row::Centred { exponent, norm: 1.0 }, 1.0);
        }
        assert!(!sum.is_undefined());
        assert_eq!(sum.own, 1.0);
        assert_eq!(sum.own(1), f64::INFINITY);
    }

    #[test]
    fn zero_everywhere_and_undefined_anywhere_are_undefined() {
        let mut zero = LayerSum::default();
        zero.add(Row::Zero, 1.0);
        assert!(zero.is_undefined());
        assert_eq!(zero.own(1), 0.0);
        zero.add(Row::Centred { exponent: 0, norm: 1.0 }, 1.0);
        assert!(!zero.is_undefined());
        zero.add(Row::Undefined, 1.0);
        assert!(zero.is_undefined() && zero.own(3).is_nan());
    }
}
