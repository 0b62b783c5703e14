//! All pairs.
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};

use super::Workspace;

pub(crate) struct Panels<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) y: &'a [f32],
    pub(crate) symmetric: bool,
}

impl Workspace {
    pub(crate) fn pair_products(
        &mut self,
        panels: Panels<'_>,
        [rows, columns]: [usize; 2],
        sums: &mut [f64],
        add: &(dyn Fn(usize, usize, f64, &mut f64) + Sync),
    ) {
        let _ = panels.symmetric;
        let length = panels.x.len() / rows;
        let mut product = Mat::<f64>::zeros(rows, columns);
        for start in (0..length).step_by(512) {
            let width = 512.min(length - start);
            let x = MatRef::from_row_major_slice(panels.x, rows, length).subcols(start, width);
            let y = MatRef::from_row_major_slice(panels.y, columns, length).subcols(start, width);
            let x = Mat::from_fn(rows, width, |i, k| f64::from(x[(i, k)]));
            let y = Mat::from_fn(columns, width, |i, k| f64::from(y[(i, k)]));
            matmul(&mut product, Accum::Add, &x, y.transpose(), 1.0, Par::Seq);
        }
        for i in 0..rows {
            for j in 0..columns {
                add(i, j, product[(i, j)], &mut sums[i * columns + j]);
            }
        }
    }
}
