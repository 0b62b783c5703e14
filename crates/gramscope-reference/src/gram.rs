//! Gram matrices of activations X [n examples, p features].

use crate::Matrix;

/// X with the trimmed mean (sum - max - min) / (n - 2) of every column subtracted; the mean where n < 3. Linear HSIC does not
/// depend on the shift; this one loses the least to cancellation.
pub fn shift(x: &Matrix) -> Matrix {
    let shifts: Vec<f64> = (0..x.cols)
        .map(|j| {
            let mut column: Vec<f64> = x.column(j).collect();
            column.sort_by(f64::total_cmp);
            let (min, max) = (column[0], column[x.rows - 1]);
            // What lies between is summed by itself: beside an outlier it would be lost.
            let between = if x.rows < 3 { &column[..] } else { &column[1..x.rows - 1] };
            let trimmed = between.iter().sum::<f64>() / between.len() as f64;
            // Rounding must not move a constant column's shift off its value.
            trimmed.clamp(min, max)
        })
        .collect();
    x.map(|_, j, value| value - shifts[j])
}

/// X with the mean of every column subtracted.
pub fn centre(x: &Matrix) -> Matrix {
    let means: Vec<f64> = (0..x.cols).map(|j| x.column(j).sum::<f64>() / x.rows as f64).collect();
    x.map(|_, j, value| value - means[j])
}

/// K = X X^T of the shifted X.
pub fn linear(x: &Matrix) -> Matrix {
    let x = shift(x);
    let dot = |i: usize, j: usize| x.row(i).iter().zip(x.row(j)).map(|(a, b)| a * b).sum();
    Matrix::from_fn(x.rows, x.rows, dot)
}

/// K_ij = exp(-d_ij^2 / (2 t^2 M)), M the median of all n^2 squared distances, the zero diagonal included (Kornblith et al.
/// 2019, section 3 and their code). NaN where M is 0, because half of all pairs coincide.
pub fn rbf(x: &Matrix, t: f64) -> Matrix {
    let square_distance =
        |i: usize, j: usize| x.row(i).iter().zip(x.row(j)).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
    let d = Matrix::from_fn(x.rows, x.rows, square_distance);
    let median = median(&d.data);
    d.map(|_, _, d| (-d / (2.0 * t * t * median)).exp())
}

/// The middle value, or the mean of the middle two.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (below, above) = ((sorted.len() - 1) / 2, sorted.len() / 2);
    (sorted[below] + sorted[above]) / 2.0
}
