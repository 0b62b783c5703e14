//! A matrix of float64.

/// A matrix [rows, cols], row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// The values, row by row.
    pub data: Vec<f64>,
}

impl Matrix {
    /// The matrix with these values.
    ///
    /// # Panics
    /// If there are not rows x cols of them.
    pub fn new(rows: usize, cols: usize, data: Vec<f64>) -> Self {
        assert_eq!(data.len(), rows * cols, "a {rows} x {cols} matrix");
        Self { rows, cols, data }
    }

    /// The matrix of `value(i, j)`.
    pub fn from_fn(rows: usize, cols: usize, mut value: impl FnMut(usize, usize) -> f64) -> Self {
        let data = (0..rows * cols).map(|index| value(index / cols, index % cols)).collect();
        Self { rows, cols, data }
    }

    /// Entry (i, j).
    pub fn get(&self, i: usize, j: usize) -> f64 {
        self.data[i * self.cols + j]
    }

    /// Row i.
    pub fn row(&self, i: usize) -> &[f64] {
        &self.data[i * self.cols..][..self.cols]
    }

    /// Column j.
    pub fn column(&self, j: usize) -> impl Iterator<Item = f64> + Clone {
        self.data.iter().skip(j).step_by(self.cols).copied()
    }

    /// The matrix of `map(i, j, entry)`.
    pub fn map(&self, mut map: impl FnMut(usize, usize, f64) -> f64) -> Self {
        Self::from_fn(self.rows, self.cols, |i, j| map(i, j, self.get(i, j)))
    }

    /// Sum of all products of entries: <A, B>.
    pub fn inner(&self, other: &Self) -> f64 {
        self.data.iter().zip(&other.data).map(|(a, b)| a * b).sum()
    }
}
