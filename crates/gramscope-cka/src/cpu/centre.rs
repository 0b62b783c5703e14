//! Centring a Gram matrix and packing it into a row of the panel.

use crate::options::Estimator;
use crate::scale::{exponent_of, ldexp};
use crate::sums::Row;

/// kappa above which even float64 sees nothing but rounding: the centred matrix is zero.
const KAPPA_OF_ZERO: f64 = 1e9;

/// Centres the n x n matrix whose lower triangle is `k` and packs it into `row`: U-centring (Szekely and Rizzo 2014) and
/// the strict triangle for the unbiased estimator, HKH and the triangle with its diagonal divided by sqrt(2) for the biased
/// one, so that <U, V> = 2 row . row' for both. `exact`: k is good to float64, so that a matrix that centring leaves nothing
/// of but rounding is known to be zero.
///
/// Also returns kappa = |K| / |U|, the factor by which centring has magnified K's relative error; infinite where U is 0.
pub(super) fn centre(k: &mut [f64], n: usize, estimator: Estimator, exact: bool, row: &mut [f32]) -> (Row, f64) {
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
    let kappa = if after > 0.0 { (before / after).sqrt() } else { f64::INFINITY };
    if largest == 0.0 || exact && !(kappa <= KAPPA_OF_ZERO) {
        row.fill(0.0);
        return (Row::Zero, if exact || before == 0.0 { 0.0 } else { f64::INFINITY });
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
    (Row::Centred { exponent, norm }, kappa)
}

/// m with U_ij = K_ij - m_i - m_j. Unbiased: m_i = rowsum_i / (n - 2) less half of their sum over (n - 1), the diagonal
/// taken as zero. Biased: row i's mean less half of the mean of all.
fn means(k: &[f64], n: usize, strict: bool) -> Vec<f64> {
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
