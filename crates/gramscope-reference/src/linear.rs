//! The linear layer, y = x W^T + b.

use crate::Matrix;

/// Gradients of [`forward`].
#[derive(Clone, Debug)]
pub struct Gradients {
    /// dL/dx [n, in].
    pub dx: Matrix,
    /// dL/dW [out, in].
    pub dweight: Matrix,
    /// dL/db \[out\].
    pub dbias: Vec<f64>,
}

/// y [n, out] from x [n, in], W [out, in], b \[out\].
pub fn forward(x: &Matrix, weight: &Matrix, bias: &[f64]) -> Matrix {
    let dot = |n: usize, o: usize| x.row(n).iter().zip(weight.row(o)).map(|(x, w)| x * w).sum::<f64>();
    Matrix::from_fn(x.rows, weight.rows, |n, o| dot(n, o) + bias[o])
}

/// The gradients from dL/dy [n, out].
pub fn backward(x: &Matrix, weight: &Matrix, dy: &Matrix) -> Gradients {
    let sum = |count: usize, term: &dyn Fn(usize) -> f64| (0..count).map(term).sum::<f64>();
    Gradients {
        dx: Matrix::from_fn(x.rows, x.cols, |n, i| sum(weight.rows, &|o| dy.get(n, o) * weight.get(o, i))),
        dweight: Matrix::from_fn(weight.rows, weight.cols, |o, i| sum(x.rows, &|n| dy.get(n, o) * x.get(n, i))),
        dbias: (0..weight.rows).map(|o| dy.column(o).sum()).collect(),
    }
}
