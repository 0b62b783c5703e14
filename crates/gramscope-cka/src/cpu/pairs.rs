//! All pairs of layers at once: one panel times another, transposed.

use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

/// Entries of the panels that are widened to float64 at a time.
const CHUNK: usize = 512;
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
        let (x, y) = (&panels.x[first * length..][..rows * length], &panels.y[..columns * length]);
        let products = products(x, y, length);
        for (i, (sums, products)) in sums.chunks_exact_mut(layers_y).zip(products.chunks_exact(columns)).enumerate() {
            for (j, (sum, product)) in sums.iter_mut().zip(products).enumerate() {
                add(first + i, j, *product, sum);
            }
        }
    });
}

/// x y^T, row-major, in float64: the panels' own rounding is then all that float32 costs here. Summed in float32, panels that
/// few entries dominate, as those of outlying rows, were off by up to 8e-7 of their lengths.
fn products(x: &[f32], y: &[f32], length: usize) -> Vec<f64> {
    let (rows, columns) = (x.len() / length, y.len() / length);
    let mut products = vec![0.0; rows * columns];
    let (mut wide_x, mut wide_y) = (Vec::new(), Vec::new());
    for start in (0..length).step_by(CHUNK) {
        let chunk = start..length.min(start + CHUNK);
        widen(x, length, chunk.clone(), &mut wide_x);
        widen(y, length, chunk.clone(), &mut wide_y);
        let x = MatRef::from_row_major_slice(&wide_x, rows, chunk.len());
        let y = MatRef::from_row_major_slice(&wide_y, columns, chunk.len());
        let result = MatMut::from_row_major_slice_mut(&mut products, rows, columns);
        matmul(result, Accum::Add, x, y.transpose(), 1.0, Par::Seq);
    }
    products
}

/// The columns `chunk` of `panel`.
fn widen(panel: &[f32], length: usize, chunk: Range<usize>, wide: &mut Vec<f64>) {
    wide.resize(panel.len() / length * chunk.len(), 0.0);
    for (wide, row) in wide.chunks_exact_mut(chunk.len()).zip(panel.chunks_exact(length)) {
        for (wide, &value) in wide.iter_mut().zip(&row[chunk.clone()]) {
            *wide = f64::from(value);
        }
    }
}
