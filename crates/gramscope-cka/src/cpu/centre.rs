//! Centring a Gram matrix and packing it into a row of the panel.

use super::gram::Sums;
use crate::options::Estimator;
use crate::scale::{exponent_of, ldexp};
use crate::sums::Row;

/// What centring has left of float64 entries is nothing but their rounding where the entries were this many times larger...
const LARGEST_CANCELLATION: f64 = 1e9;
/// ... or could have been this many times larger: less than one rounding of the largest products is left.
const LARGEST_REACH: f64 = (1u64 << 53) as f64;

/// What the entries were computed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Precision {
    /// float32 products.
    Single,
    /// float64: a matrix that centring leaves nothing of but rounding is known to be zero.
    Double,
}

/// A panel row has been filled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Centred {
    pub(super) row: Row,
    /// sqrt(|K|^2 + reach^2) / |U|: the relative error of the products is magnified by |K| / |U|, and the products' own error
    /// is relative to their reach rather than to what they came to. Infinite where U is 0 and K is not.
    pub(super) kappa: f64,
}

/// Centres the n x n matrix `sums` and packs it into `row`: U-centring (Szekely and Rizzo 2014) and the strict triangle for
/// the unbiased estimator, HKH and the triangle with its diagonal divided by sqrt(2) for the biased one, so that
/// <U, V> = 2 row . row' for both.
pub(super) fn centre(sums: Sums<'_>, n: usize, estimator: Estimator, precision: Precision, row: &mut [f32]) -> Centred {
    let Sums { entries: k, exponent: unit, reach } = sums;
    let strict = estimator == Estimator::Unbiased;
    let packed = |i: usize| if strict { i } else { i + 1 };
    let means = means(k, n, strict);
    let (mut before, mut after, mut largest) = (0.0_f64, 0.0_f64, 0.0_f64);
    for i in 0..n {
        for (j, value) in k[i * n..][..packed(i)].iter_mut().enumerate() {
            let weight = if i == j { std::f64::consts::FRAC_1_SQRT_2 } else { 1.0 };
            before += (*value * weight).powi(2);
            *value = (*value - means[i] - means[j]) * weight;
            after += value.powi(2);
            largest = largest.max(value.abs());
        }
    }
    let ratio = |of: f64| if of > 0.0 { (of / after).sqrt() } else { 0.0 };
    let rounding = ratio(before) > LARGEST_CANCELLATION || ratio(reach) > LARGEST_REACH;
    let kappa = ratio(before + reach);
    if largest == 0.0 || precision == Precision::Double && rounding {
        row.fill(0.0);
        return Centred { row: Row::Zero, kappa };
    }
    let exponent = exponent_of(largest);
    let mut norm = 0.0;
    let mut places = row.iter_mut();
    for i in 0..n {
        for (value, place) in k[i * n..][..packed(i)].iter().zip(places.by_ref()) {
            let value = ldexp(*value, -exponent);
            norm += value * value;
            *place = value as f32;
        }
    }
    Centred { row: Row::Centred { exponent: exponent + unit, norm }, kappa }
}

/// m with U_ij = K_ij - m_i - m_j. Unbiased: m_i = rowsum_i / (n - 2) less half of their sum over (n - 1), the diagonal
/// taken as zero. Biased: row i's mean less half of the mean of all.
pub(super) fn means(k: &[f64], n: usize, strict: bool) -> Vec<f64> {
    let mut sums = vec![0.0; n];
    for i in 0..n {
        let mut own = if strict { 0.0 } else { k[i * n + i] };
        for (value, sum) in k[i * n..][..i].iter().zip(&mut sums) {
            own += value;
            *sum += value;
        }
        sums[i] += own;
    }
    let (divisor, count) = if strict { (n as f64 - 2.0, n as f64 - 1.0) } else { (n as f64, n as f64) };
    for sum in &mut sums {
        *sum /= divisor;
    }
    let half = sums.iter().sum::<f64>() / (2.0 * count);
    sums.iter().map(|mean| mean - half).collect()
}
