//! All pairs of layers at once: one panel times another, transposed.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

/// Products that are summed in float32 before their sum is added to a float64 one.
const CHAIN: usize = 512;
/// Blocks of rows that the result is computed in, side by side.
const BLOCKS: usize = 8;

/// Two models' panels of one batch, [layers, packed length] each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panels<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) y: &'a [f32],
    /// They are one panel: only pairs (i, j) with j <= i are needed.
    pub(crate) symmetric: bool,
}

/// Calls `add` with i, j, the inner product of row i of x and row j of y, and the pair's place in `sums`
/// [layers of x, layers of y].
pub(crate) fn pair_products(
    panels: Panels<'_>,
    [layers_x, layers_y]: [usize; 2],
    sums: &mut [f64],
    add: &(impl Fn(usize, usize, f64, &mut f64) + Sync),
) {
    let length = panels.x.len() / layers_x;
    let block = layers_x.div_ceil(BLOCKS);
    sums.par_chunks_mut(block * layers_y).enumerate().for_each(|(index, sums)| {
        let (first, rows) = (index * block, sums.len() / layers_y);
        let columns = if panels.symmetric { first + rows } else { layers_y };
        let x = MatRef::from_row_major_slice(&panels.x[first * length..][..rows * length], rows, length);
        let y = MatRef::from_row_major_slice(&panels.y[..columns * length], columns, length);
        let products = products(x, y);
        for (i, (sums, products)) in sums.chunks_exact_mut(layers_y).zip(products.chunks_exact(columns)).enumerate() {
            for (j, (sum, product)) in sums.iter_mut().zip(products).enumerate() {
                add(first + i, j, *product, sum);
            }
        }
    });
}

/// x y^T, row-major.
fn products(x: MatRef<'_, f32>, y: MatRef<'_, f32>) -> Vec<f64> {
    let (rows, columns) = (x.nrows(), y.nrows());
    let mut sums = vec![0.0; rows * columns];
    let mut products = vec![0.0_f32; rows * columns];
    for start in (0..x.ncols()).step_by(CHAIN) {
        let length = CHAIN.min(x.ncols() - start);
        let result = MatMut::from_row_major_slice_mut(&mut products, rows, columns);
        let (x, y) = (x.subcols(start, length), y.subcols(start, length));
        matmul(result, Accum::Replace, x, y.transpose(), 1.0, Par::Seq);
        for (sum, product) in sums.iter_mut().zip(&products) {
            *sum += f64::from(*product);
        }
    }
    sums
}
