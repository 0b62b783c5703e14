//! The RBF kernel from squared distances.

/// A bandwidth beyond which half of all K_ij are above exp(-1/2).
const WIDE: f64 = 1.0;

/// Replaces the squared distances d_ij^2 in the lower triangle of `d` by K_ij = exp(-d_ij^2 / (2 t^2 M)), with M the median
/// of all n^2 squared distances, the zero diagonal included (Kornblith et al. 2019), or by K_ij - 1 where most K_ij are nearly 1
/// ([`WIDE`]): centring takes the 1 away again, and beside it the rest would be lost.
///
/// False where M is 0, because half of all pairs coincide: the kernel is not defined then.
pub(super) fn rbf(d: &mut [f64], n: usize, bandwidth: f64) -> bool {
    let mut distances = Vec::with_capacity(n * (n - 1) / 2);
    for i in 0..n {
        distances.extend_from_slice(&d[i * n..][..i]);
    }
    let median = median(&mut distances, n);
    if median == 0.0 {
        return false;
    }
    let exponential = if bandwidth > WIDE { f64::exp_m1 } else { f64::exp };
    for i in 0..n {
        for value in &mut d[i * n..=i * n + i] {
            // One after the other: the square of a bandwidth can leave the range.
            *value = exponential(-0.5 * (*value / median) / bandwidth / bandwidth);
        }
    }
    true
}

/// The median of n zeros and of every one of `distances` twice: the mean of the middle two where their number is even.
fn median(distances: &mut [f64], n: usize) -> f64 {
    let mut at = |position: usize| match position.checked_sub(n) {
        None => 0.0,
        Some(position) => *distances.select_nth_unstable_by(position / 2, f64::total_cmp).1,
    };
    let all = n * n;
    (at((all - 1) / 2) + at(all / 2)) / 2.0
}
