//! The Hilbert-Schmidt independence criterion of two Gram matrices K, L [n, n].

use crate::Matrix;

/// U-centring (Szekely and Rizzo 2014): off the diagonal K_ij - r_i / (n - 2) - r_j / (n - 2) + s / ((n - 1)(n - 2)), with r
/// and s the row sums and the sum of K with a zero diagonal; zero on the diagonal. n >= 3.
pub fn u_centre(k: &Matrix) -> Matrix {
    let n = k.rows as f64;
    let k = without_diagonal(k);
    let means: Vec<f64> = (0..k.rows).map(|i| k.row(i).iter().sum::<f64>() / (n - 2.0)).collect();
    let half = means.iter().sum::<f64>() / (2.0 * (n - 1.0));
    k.map(|i, j, value| if i == j { 0.0 } else { value - (means[i] - half) - (means[j] - half) })
}

/// H K H with H = I - 1 1^T / n.
pub fn double_centre(k: &Matrix) -> Matrix {
    let n = k.rows as f64;
    let means: Vec<f64> = (0..k.rows).map(|i| k.row(i).iter().sum::<f64>() / n).collect();
    let half = means.iter().sum::<f64>() / (2.0 * n);
    k.map(|i, j, value| value - (means[i] - half) - (means[j] - half))
}

/// HSIC_1 = <U(K), U(L)> / (n (n - 3)): the estimator of Song et al. 2012 in the stable form. n >= 4.
pub fn unbiased(k: &Matrix, l: &Matrix) -> f64 {
    let n = k.rows as f64;
    u_centre(k).inner(&u_centre(l)) / (n * (n - 3.0))
}

/// HSIC_1 as Song et al. 2012 define it (equation 4): [tr(K' L') + 1'K'1 1'L'1 / ((n - 1)(n - 2)) - 2 / (n - 2) 1'K'L'1] /
/// (n (n - 3)), K' and L' with zero diagonals.
pub fn unbiased_by_definition(k: &Matrix, l: &Matrix) -> f64 {
    let n = k.rows as f64;
    let (k, l) = (without_diagonal(k), without_diagonal(l));
    let sums = |m: &Matrix| (0..m.rows).map(|i| m.row(i).iter().sum::<f64>()).collect::<Vec<_>>();
    let (k_sums, l_sums) = (sums(&k), sums(&l));
    let trace = k.inner(&l);
    let totals = k_sums.iter().sum::<f64>() * l_sums.iter().sum::<f64>();
    let between: f64 = k_sums.iter().zip(&l_sums).map(|(a, b)| a * b).sum();
    (trace + totals / ((n - 1.0) * (n - 2.0)) - 2.0 / (n - 2.0) * between) / (n * (n - 3.0))
}

/// HSIC_0 = <HKH, HLH> / (n - 1)^2 (Gretton et al. 2005, definition 2). n >= 2.
pub fn biased(k: &Matrix, l: &Matrix) -> f64 {
    let n = k.rows as f64;
    double_centre(k).inner(&double_centre(l)) / ((n - 1.0) * (n - 1.0))
}

fn without_diagonal(k: &Matrix) -> Matrix {
    k.map(|i, j, value| if i == j { 0.0 } else { value })
}
