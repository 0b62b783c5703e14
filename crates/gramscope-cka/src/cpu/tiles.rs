//! Inner products of panel rows, a tile of layers with a tile at a time.
//!
//! Every product is of [`TILE`] rows with [`TILE`] rows, and rows that are not there are zero: a pair of layers has its place
//! in its tile, and so the same bits, however many layers are in memory beside it and in whatever order tiles are taken.

use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::rounds::{Panel, Strip, TILE, Tile};

/// Entries of the panels that are widened to float64 at a time.
const CHUNK: usize = 512;
/// Tiles that are computed before they are added up.
const TILES: usize = 256;

/// Calls `add` with a tile, layers i of x and j of y, and the inner product of their rows, for all tiles and all pairs of
/// layers in them, one after the other; of a symmetric tile for j <= i alone.
pub(crate) fn add_products(panel: &Panel, tiles: &[Tile], mut add: impl FnMut(&Tile, usize, usize, f64)) {
    for tiles in tiles.chunks(TILES) {
        let products: Vec<_> = tiles.par_iter().map(|tile| products(panel, tile)).collect();
        for (tile, products) in tiles.iter().zip(products) {
            for i in tile.x.layers() {
                let end = if tile.symmetric { tile.y.layers().end.min(i + 1) } else { tile.y.layers().end };
                for j in tile.y.layers().start..end {
                    add(tile, i, j, products[i % TILE * TILE + j % TILE]);
                }
            }
        }
    }
}

/// x y^T, row-major, in float64: the panels' own rounding is then all that float32 costs here. Summed in float32, panels that
/// few entries dominate, as those of outlying rows, were off by up to 8e-7 of their lengths.
fn products(panel: &Panel, tile: &Tile) -> Vec<f64> {
    let mut products = vec![0.0; TILE * TILE];
    let (mut wide_x, mut wide_y) = (vec![0.0; TILE * CHUNK], vec![0.0; TILE * CHUNK]);
    let length = panel.length();
    for start in (0..length).step_by(CHUNK) {
        let chunk = start..length.min(start + CHUNK);
        widen(panel, &tile.x, chunk.clone(), &mut wide_x);
        widen(panel, &tile.y, chunk.clone(), &mut wide_y);
        let wide = |wide| MatRef::from_row_major_slice(wide, TILE, chunk.len());
        let result = MatMut::from_row_major_slice_mut(&mut products, TILE, TILE);
        let used = TILE * chunk.len();
        matmul(result, Accum::Add, wide(&wide_x[..used]), wide(&wide_y[..used]).transpose(), 1.0, Par::Seq);
    }
    products
}

/// The columns `chunk` of the rows of `strip`, each in its place in `wide` [TILE, chunk].
fn widen(panel: &Panel, strip: &Strip, chunk: Range<usize>, wide: &mut [f64]) {
    for (offset, layer) in strip.layers().enumerate() {
        let row = &panel.row(strip.row(offset))[chunk.clone()];
        for (wide, &value) in wide[layer % TILE * chunk.len()..].iter_mut().zip(row) {
            *wide = f64::from(value);
        }
    }
}
