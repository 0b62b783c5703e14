//! Centring.
use crate::options::Estimator;
use crate::scale::{exponent_of, ldexp};
use crate::sums::Row;

pub(crate) fn centre(gram: &mut [f64], n: usize, estimator: Estimator, row: &mut [f32]) -> Row {
    let unbiased = estimator == Estimator::Unbiased;
    let get = |i: usize, j: usize| {
        if i == j && unbiased { 0.0 } else { gram[i.max(j) * n + i.min(j)] }
    };
    let mut means: Vec<f64> = (0..n).map(|i| (0..n).map(|j| get(i, j)).sum::<f64>()).collect();
    let total: f64 = means.iter().sum();
    let nf = n as f64;
    for mean in &mut means {
        *mean = if unbiased {
            (*mean - total / (2.0 * (nf - 1.0))) / (nf - 2.0)
        } else {
            (*mean - total / (2.0 * nf)) / nf
        };
    }
    let centred = |i: usize, j: usize| get(i, j) - means[i] - means[j];
    let (mut before, mut after, mut largest) = (0.0, 0.0, 0.0f64);
    let mut visit = |i: usize, j: usize, weight: f64| {
        let (k, u) = (get(i, j), centred(i, j));
        before += weight * k * k;
        after += weight * u * u;
        largest = largest.max(u.abs());
    };
    for i in 0..n {
        (0..i).for_each(|j| visit(i, j, 1.0));
        if !unbiased {
            visit(i, i, 0.5);
        }
    }
    if !(after * 1e18 > before) {
        row.fill(0.0);
        return Row::Zero;
    }
    let exponent = exponent_of(largest);
    let mut next = row.iter_mut();
    let mut put = |value: f64| {
        if let Some(place) = next.next() {
            *place = ldexp(value, -exponent) as f32;
        }
    };
    for i in 0..n {
        (0..i).for_each(|j| put(centred(i, j)));
        if !unbiased {
            put(centred(i, i) / 2f64.sqrt());
        }
    }
    Row::Centred { exponent, norm: ldexp(after, -2 * exponent) }
}
