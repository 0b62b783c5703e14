//! Global average pooling.

use crate::{Matrix, Tensor4};

/// The mean over all pixels: [n, h, w, c] to [n, c].
pub fn forward(x: &Tensor4) -> Matrix {
    let [n, h, w, c] = x.shape;
    Matrix::from_fn(n, c, |n, c| {
        let pixels = (0..h).flat_map(|i| (0..w).map(move |j| (i, j)));
        pixels.map(|(i, j)| x.get([n, i, j, c])).sum::<f64>() / (h * w) as f64
    })
}

/// dL/dx [n, h, w, c] from dL/dy [n, c].
pub fn backward(dy: &Matrix, h: usize, w: usize) -> Tensor4 {
    let mut dx = Tensor4::zeros([dy.rows, h, w, dy.cols]);
    for n in 0..dy.rows {
        for i in 0..h {
            for j in 0..w {
                for c in 0..dy.cols {
                    *dx.at([n, i, j, c]) = dy.get(n, c) / (h * w) as f64;
                }
            }
        }
    }
    dx
}
