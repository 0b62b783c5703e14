//! Global average pooling, and max pooling over 3 x 3 pixels with stride 2 and over 2 x 2.

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

/// The largest value in each window of 3 x 3 pixels, stride 2, with nothing outside the image: [n, h, w, c] to
/// [n, ceil(h / 2), ceil(w / 2), c].
pub fn max_forward(x: &Tensor4) -> Tensor4 {
    let mut y = Tensor4::zeros(max_shape(x));
    for index in indices(y.shape) {
        *y.at(index) = x.get(largest(x, index));
    }
    y
}

/// dL/dx from dL/dy: all of it for the first of the largest values in a window, row by row.
pub fn max_backward(x: &Tensor4, dy: &Tensor4) -> Tensor4 {
    let mut dx = Tensor4::zeros(x.shape);
    for index in indices(dy.shape) {
        *dx.at(largest(x, index)) += dy.get(index);
    }
    dx
}

/// The largest value of each square of 2 x 2 pixels, of those that there are at odd sides: [n, h, w, c] to
/// [n, ceil(h / 2), ceil(w / 2), c].
pub fn squares(x: &Tensor4) -> Tensor4 {
    let mut y = Tensor4::zeros(max_shape(x));
    let [_, h, w, _] = x.shape;
    for index in indices(y.shape) {
        let [n, i, j, c] = index;
        let pixels = (2 * i..(2 * i + 2).min(h)).flat_map(|i| (2 * j..(2 * j + 2).min(w)).map(move |j| (i, j)));
        *y.at(index) = pixels.map(|(i, j)| x.get([n, i, j, c])).fold(f64::NEG_INFINITY, f64::max);
    }
    y
}

fn max_shape(x: &Tensor4) -> [usize; 4] {
    let [n, h, w, c] = x.shape;
    [n, h.div_ceil(2), w.div_ceil(2), c]
}

fn indices([n, h, w, c]: [usize; 4]) -> impl Iterator<Item = [usize; 4]> {
    (0..n).flat_map(move |n| (0..h).flat_map(move |i| (0..w).flat_map(move |j| (0..c).map(move |c| [n, i, j, c]))))
}

/// Where the largest value of the window around pixel (2 i, 2 j) is.
fn largest(x: &Tensor4, [n, i, j, c]: [usize; 4]) -> [usize; 4] {
    let [_, h, w, _] = x.shape;
    let window = |centre: usize, length: usize| centre.saturating_sub(1)..(centre + 2).min(length);
    let pixels = window(2 * i, h).flat_map(|i| window(2 * j, w).map(move |j| [n, i, j, c]));
    pixels.fold([n, 2 * i, 2 * j, c], |best, pixel| {
        let (value, largest) = (x.get(pixel), x.get(best));
        if value > largest || (value == largest && pixel < best) { pixel } else { best }
    })
}
