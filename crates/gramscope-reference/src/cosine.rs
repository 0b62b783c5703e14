//! Cosine similarity of two layers, coordinate by coordinate.

use crate::matrix::Matrix;

/// The mean of <x_i, y_i> / (|x_i| |y_i|) over the examples i, rows of `x` and `y`, for which it is defined, and how many
/// those are: where a row is all zero it is not. NaN where there is none.
///
/// # Panics
/// If the matrices are not of one shape.
pub fn mean_cosine(x: &Matrix, y: &Matrix) -> (f64, usize) {
    assert_eq!((x.rows, x.cols), (y.rows, y.cols), "layers of one shape");
    let inner = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let norm = |row: &[f64]| inner(row, row).sqrt();
    let of_row = |i: usize| inner(x.row(i), y.row(i)) / (norm(x.row(i)) * norm(y.row(i)));
    let cosines: Vec<f64> = (0..x.rows).map(of_row).filter(|cosine| !cosine.is_nan()).collect();
    (cosines.iter().sum::<f64>() / cosines.len() as f64, cosines.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let x = Matrix::new(3, 2, vec![1.0, 0.0, 0.0, 0.0, 3.0, 4.0]);
        let y = Matrix::new(3, 2, vec![0.0, 2.0, 1.0, 1.0, 4.0, 3.0]);
        // 0, undefined, 24 / 25.
        let (mean, count) = mean_cosine(&x, &y);
        assert!((mean - 0.48).abs() <= 1e-15 && count == 2, "{mean}, {count}");
        let zero = x.map(|_, _, _| 0.0);
        let (mean, count) = mean_cosine(&zero, &y);
        assert!(mean.is_nan() && count == 0);
    }
}
