//! Statistics of groups of numbers, in float64: moments, Welch's t test, Holm's correction, effect sizes.
//!
//! Every sum is one of differences from the first value, so that values that are equal have a variance of exactly 0,
//! whatever the rounding of their mean.

use statrs::distribution::{ContinuousCDF, StudentsT};
use statrs::function::gamma::ln_gamma;

/// How sure a confidence interval is to hold the truth.
pub const CONFIDENCE: f64 = 0.95;

/// Size, mean and spread of a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moments {
    /// How many values there are, n.
    pub n: usize,
    /// Their mean; NaN of none.
    pub mean: f64,
    /// Their unbiased variance, sum (x - mean)^2 / (n - 1); NaN of fewer than two.
    pub variance: f64,
}

impl Moments {
    /// Of `values`.
    pub fn of(values: &[f64]) -> Self {
        let n = values.len();
        let first = values.first().copied().unwrap_or(f64::NAN);
        let shift = values.iter().map(|value| value - first).sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|value| (value - first - shift).powi(2)).sum();
        Self { n, mean: first + shift, variance: if n < 2 { f64::NAN } else { squares / (n - 1) as f64 } }
    }

    /// The standard deviation.
    pub fn standard_deviation(&self) -> f64 {
        self.variance.sqrt()
    }

    /// The standard error of the mean, sd / sqrt n.
    pub fn standard_error(&self) -> f64 {
        (self.variance / self.n as f64).sqrt()
    }
}

/// Welch's t test of whether two groups have the same mean (Welch 1947), without the assumption of equal variances.
///
/// ```text
/// t = (mean_a - mean_b) / sqrt(e_a + e_b)        e = variance / n
/// df = (e_a + e_b)^2 / (e_a^2 / (n_a - 1) + e_b^2 / (n_b - 1))        (Satterthwaite)
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Welch {
    /// The statistic.
    pub t: f64,
    /// Its degrees of freedom.
    pub df: f64,
    /// The two-sided p value.
    pub p: f64,
    /// Lower and upper end of the [`CONFIDENCE`] interval of mean_a - mean_b.
    pub interval: [f64; 2],
}

impl Welch {
    /// What cannot be computed: all NaN.
    const UNDEFINED: Self = Self { t: f64::NAN, df: f64::NAN, p: f64::NAN, interval: [f64::NAN; 2] };
}

/// The mean of the finite among `values`, if there are any.
pub(crate) fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.filter(|value| value.is_finite()).fold((0.0, 0), |(sum, n), value| (sum + value, n + 1));
    (count > 0).then(|| sum / f64::from(count))
}

/// Tests whether `a` and `b` have the same mean. Undefined (all NaN) where one of them has fewer than two values, and
/// where neither varies: then nothing tells how much the means would vary. (SciPy calls the latter p = 0 unless the means
/// are equal; with the few seeds that groups of networks have, that would be a certainty bought with a coincidence.)
pub fn welch(a: &Moments, b: &Moments) -> Welch {
    let [error_a, error_b] = [a, b].map(|group| group.variance / group.n as f64);
    let error = error_a + error_b;
    // NaN of a group without a variance, too.
    if !(error > 0.0) {
        return Welch::UNDEFINED;
    }
    let difference = a.mean - b.mean;
    // As shares of their sum, so that the square of no small variance underflows.
    let (share_a, share_b) = (error_a / error, error_b / error);
    let df = 1.0 / (share_a * share_a / (a.n - 1) as f64 + share_b * share_b / (b.n - 1) as f64);
    let t = difference / error.sqrt();
    let Ok(distribution) = StudentsT::new(0.0, 1.0, df) else { return Welch::UNDEFINED };
    let half = distribution.inverse_cdf(0.5 + CONFIDENCE / 2.0) * error.sqrt();
    Welch { t, df, p: 2.0 * distribution.sf(t.abs()), interval: [difference - half, difference + half] }
}

/// p values corrected for their number by Holm (1979): the k-th smallest of m, k from 1, times m - k + 1, at most 1, and at
/// least what the one before it has become. Whoever calls those below alpha significant is wrong even once with a
/// probability of at most alpha, *however the tests depend on each other*. NaN stays NaN and does not count.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).filter(|&test| !p[test].is_nan()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut adjusted = vec![f64::NAN; p.len()];
    let mut least: f64 = 0.0;
    for (rank, &test) in order.iter().enumerate() {
        least = least.max(p[test] * (order.len() - rank) as f64).min(1.0);
        adjusted[test] = least;
    }
    adjusted
}

/// Cohen's d: the difference of the means in units of the pooled standard deviation,
/// s^2 = ((n_a - 1) v_a + (n_b - 1) v_b) / (n_a + n_b - 2). NaN of a group of fewer than two values, or where neither varies.
pub fn cohens_d(a: &Moments, b: &Moments) -> f64 {
    if a.n < 2 || b.n < 2 {
        return f64::NAN;
    }
    let [free_a, free_b] = [a, b].map(|group| (group.n - 1) as f64);
    let pooled = (free_a * a.variance + free_b * b.variance) / (free_a + free_b);
    if pooled > 0.0 { (a.mean - b.mean) / pooled.sqrt() } else { f64::NAN }
}

/// Hedges' g: [`cohens_d`] without the bias it has in small groups, which makes differences look too large (Hedges 1981):
/// g = d J(m), m = n_a + n_b - 2, J(m) = Gamma(m/2) / (sqrt(m/2) Gamma((m-1)/2)).
pub fn hedges_g(a: &Moments, b: &Moments) -> f64 {
    let half = (a.n + b.n) as f64 / 2.0 - 1.0;
    let d = cohens_d(a, b);
    if d.is_nan() { d } else { d * (ln_gamma(half) - ln_gamma(half - 0.5)).exp() / half.sqrt() }
}
