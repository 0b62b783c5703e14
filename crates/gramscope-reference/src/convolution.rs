//! Convolution (cross-correlation, as everywhere in deep learning) of NHWC images.

use crate::Tensor4;

/// Gradients of [`forward`].
#[derive(Clone, Debug)]
pub struct Gradients {
    /// dL/dx.
    pub dx: Tensor4,
    /// dL/dw.
    pub dweight: Tensor4,
    /// dL/db.
    pub dbias: Vec<f64>,
}

/// y[n, i, j, o] = b\[o\] + sum over u, v, c of x[n, i s + u - p, j s + v - p, c] w[o, u, v, c], x zero outside; stride s,
/// padding p, x [n, h, w, in], w [out, kernel h, kernel w, in], y [n, (h + 2p - kh) / s + 1, (w + 2p - kw) / s + 1, out].
pub fn forward(x: &Tensor4, weight: &Tensor4, bias: &[f64], stride: usize, padding: usize) -> Tensor4 {
    let mut y = Tensor4::zeros(result_shape(x, weight, stride, padding));
    let channels = bias.len();
    for (index, y) in y.data.iter_mut().enumerate() {
        *y = bias[index % channels];
    }
    for_each_product(x, weight, stride, padding, |at_y, at_x, at_w| *y.at(at_y) += x.get(at_x) * weight.get(at_w));
    y
}

/// The gradients from dL/dy.
pub fn backward(x: &Tensor4, weight: &Tensor4, dy: &Tensor4, stride: usize, padding: usize) -> Gradients {
    let mut dx = Tensor4::zeros(x.shape);
    let mut dweight = Tensor4::zeros(weight.shape);
    for_each_product(x, weight, stride, padding, |at_y, at_x, at_w| {
        *dx.at(at_x) += dy.get(at_y) * weight.get(at_w);
        *dweight.at(at_w) += dy.get(at_y) * x.get(at_x);
    });
    let channels = dy.shape[3];
    let dbias = (0..channels).map(|o| dy.data.iter().skip(o).step_by(channels).sum()).collect();
    Gradients { dx, dweight, dbias }
}

fn result_shape(x: &Tensor4, weight: &Tensor4, stride: usize, padding: usize) -> [usize; 4] {
    let ([n, h, w, _], [o, kh, kw, _]) = (x.shape, weight.shape);
    [n, (h + 2 * padding - kh) / stride + 1, (w + 2 * padding - kw) / stride + 1, o]
}

/// Calls `term` with the places in y, x and w of every product of the definition.
fn for_each_product(
    x: &Tensor4,
    weight: &Tensor4,
    stride: usize,
    padding: usize,
    mut term: impl FnMut([usize; 4], [usize; 4], [usize; 4]),
) {
    let ([_, height, width, channels], [_, kh, kw, _]) = (x.shape, weight.shape);
    let [images, rows, columns, outputs] = result_shape(x, weight, stride, padding);
    let inside = |position: usize, tap: usize, side: usize| {
        (position * stride + tap).checked_sub(padding).filter(|&place| place < side)
    };
    for n in 0..images {
        for i in 0..rows {
            for j in 0..columns {
                for u in 0..kh {
                    for v in 0..kw {
                        let (Some(row), Some(column)) = (inside(i, u, height), inside(j, v, width)) else { continue };
                        for o in 0..outputs {
                            for c in 0..channels {
                                term([n, i, j, o], [n, row, column, c], [o, u, v, c]);
                            }
                        }
                    }
                }
            }
        }
    }
}
