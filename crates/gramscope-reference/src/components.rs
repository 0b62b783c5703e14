//! First principal components, in Gram space.
//!
//! K' = H X X^T H has the eigenvalues of the centred features' scatter matrix, and its first eigenvector holds the examples'
//! coordinates along the first principal component, scaled to length one (Nguyen et al. 2021, section 5).

use crate::{Matrix, gram};

/// The first principal component of a layer.
#[derive(Clone, Debug)]
pub struct First {
    /// l_1.
    pub eigenvalue: f64,
    /// l_2.
    pub second_eigenvalue: f64,
    /// v_1, of length one; its sign is arbitrary.
    pub vector: Vec<f64>,
    /// l_1 / tr K': the share of the variance it explains.
    pub fraction: f64,
}

/// K' = X X^T of the X whose columns have mean zero.
pub fn centred_gram(x: &Matrix) -> Matrix {
    let x = gram::centre(x);
    Matrix::from_fn(x.rows, x.rows, |i, j| x.row(i).iter().zip(x.row(j)).map(|(a, b)| a * b).sum())
}

/// The first principal component, from [`centred_gram`].
pub fn first(k: &Matrix) -> First {
    let (values, vectors) = eigen(k);
    let mut order: Vec<usize> = (0..k.rows).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    let trace: f64 = (0..k.rows).map(|i| k.get(i, i)).sum();
    First {
        eigenvalue: values[order[0]],
        second_eigenvalue: order.get(1).map_or(0.0, |&second| values[second]),
        vector: vectors.column(order[0]).collect(),
        fraction: values[order[0]] / trace,
    }
}

/// `weight` times what the first component of X \[n, p\] explains of its variance beyond `threshold`; 0 of an X without
/// variance.
pub fn penalty(x: &Matrix, weight: f64, threshold: f64) -> f64 {
    let excess = first(&centred_gram(x)).fraction - threshold;
    // f64::max drops the NaN of 0 / 0.
    weight * excess.max(0.0)
}

/// Its gradient by X.
pub fn penalty_gradient(x: &Matrix, weight: f64, threshold: f64) -> Matrix {
    let First { eigenvalue, vector, fraction, .. } = first(&centred_gram(x));
    let centred = gram::centre(x);
    if fraction > threshold {
        let along: Vec<f64> = (0..x.cols).map(|j| centred.column(j).zip(&vector).map(|(x, v)| x * v).sum()).collect();
        let factor = 2.0 * weight * fraction / eigenvalue;
        centred.map(|i, j, value| factor * (vector[i] * along[j] - fraction * value))
    } else {
        centred.map(|_, _, _| 0.0)
    }
}

/// <u, v>^2: how alike the first components of two layers are.
pub fn square_cosine(u: &First, v: &First) -> f64 {
    let inner: f64 = u.vector.iter().zip(&v.vector).map(|(a, b)| a * b).sum();
    inner * inner
}

/// K' - l_1 v_1 v_1^T.
pub fn without_first(k: &Matrix) -> Matrix {
    let First { eigenvalue, vector, .. } = first(k);
    k.map(|i, j, value| value - eigenvalue * vector[i] * vector[j])
}

/// Eigenvalues and, as columns, eigenvectors of a symmetric matrix, by Jacobi's method: rotations that zero one entry after
/// the other, until none is left (Golub and Van Loan, section 8.5).
pub fn eigen(k: &Matrix) -> (Vec<f64>, Matrix) {
    const SWEEPS: usize = 60;
    let n = k.rows;
    let mut a = k.clone();
    let mut v = Matrix::from_fn(n, n, |i, j| f64::from(u8::from(i == j)));
    for _ in 0..SWEEPS {
        let mut rotated = false;
        for p in 0..n {
            for q in p + 1..n {
                let (pp, qq, pq) = (a.get(p, p), a.get(q, q), a.get(p, q));
                if pq.abs() <= f64::EPSILON * (pp * qq).abs().sqrt() * 0.01 || pq == 0.0 {
                    continue;
                }
                rotated = true;
                let theta = (qq - pp) / (2.0 * pq);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let c = 1.0 / (t * t + 1.0).sqrt();
                rotate(&mut a, &mut v, p, q, c, t * c);
            }
        }
        if !rotated {
            break;
        }
    }
    ((0..n).map(|i| a.get(i, i)).collect(), v)
}

/// A := J^T A J and V := V J, with J the rotation by (c, s) in the plane of p and q.
fn rotate(a: &mut Matrix, v: &mut Matrix, p: usize, q: usize, c: f64, s: f64) {
    let n = a.rows;
    let pair = |m: &mut Matrix, x: usize, y: usize| {
        let (mx, my) = (m.data[x], m.data[y]);
        m.data[x] = c * mx - s * my;
        m.data[y] = s * mx + c * my;
    };
    for i in 0..n {
        pair(a, i * n + p, i * n + q);
        pair(v, i * n + p, i * n + q);
    }
    for j in 0..n {
        pair(a, p * n + j, q * n + j);
    }
}
