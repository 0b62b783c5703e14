//! Activations of length one.

use half::{bf16, f16};
use rayon::prelude::*;

use crate::activation::Values;
use crate::scale::{exponent_of, ldexp};

/// Fills `normalised` with the rows of `values`, of so many features, each divided by its Euclidean norm; a row of zeros stays zero, and one
/// that is not finite becomes NaN somewhere.
pub(crate) fn examples(values: Values<'_>, features: usize, normalised: &mut Vec<f64>) {
    normalised.clear();
    normalised.resize(values.len(), 0.0);
    match values {
        Values::F16(x) => rows(x, features, normalised, f16::to_f64),
        Values::Bf16(x) => rows(x, features, normalised, bf16::to_f64),
        Values::F32(x) => rows(x, features, normalised, f64::from),
        Values::F64(x) => rows(x, features, normalised, |value| value),
    }
}

fn rows<S: Copy + Sync>(x: &[S], features: usize, normalised: &mut [f64], to_f64: impl Fn(S) -> f64 + Sync) {
    normalised.par_chunks_exact_mut(features).zip(x.par_chunks_exact(features)).for_each(|(row, x)| {
        row.iter_mut().zip(x).for_each(|(value, &x)| *value = to_f64(x));
        let largest = row.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
        if largest > 0.0 && largest.is_finite() {
            // By a power of two first, so that no square leaves the range.
            let exponent = exponent_of(largest);
            row.iter_mut().for_each(|value| *value = ldexp(*value, -exponent));
        }
        let norm = row.iter().map(|value| value * value).sum::<f64>().sqrt();
        if norm != 0.0 {
            row.iter_mut().for_each(|value| *value /= norm);
        }
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn normalised(x: &[f64], examples_of: usize) -> Vec<f64> {
        let mut found = vec![7.0];
        examples(Values::F64(x), x.len() / examples_of, &mut found);
        found
    }

    #[test]
    fn rows_have_length_one_whatever_their_scale() {
        for scale in [1.0, 1e-300, 1e300, -5e-324] {
            let found = normalised(&[3.0 * scale, 4.0 * scale, 0.0, 0.0, 0.0, 0.0], 2);
            let sign = scale.signum();
            // Of two roundings, but for subnormal numbers, which 3 and 4 times the least are exactly.
            for (found, expected) in found.iter().zip([0.6 * sign, 0.8 * sign, 0.0, 0.0, 0.0, 0.0]) {
                assert!((found - expected).abs() <= 2.0 * f64::EPSILON, "{scale:e}: {found}, expected {expected}");
            }
        }
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let found = normalised(&[1.0, 1.0, 1.0, bad], 2);
            assert!(found[..2].iter().all(|value| value.is_finite()) && found[2..].iter().any(|value| value.is_nan()));
        }
    }
}
