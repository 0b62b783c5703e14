//! The two matrix products that convolutions are made of, over values that lie as the convolution finds them.
//!
//! In an NHWC image with its padding, the kw x c values under one row of the kernel are contiguous, and the next output
//! pixel's begin `stride` c values further on: a matrix whose rows overlap. So neither product needs the image's patches
//! copied out (im2col). Both keep a block of sums in registers: some pixels (or weights) by 16 output channels.

/// Output channels that are computed together.
pub(super) const LANES: usize = 16;

/// One value for each of [`LANES`] channels.
pub(super) type Lanes = [f32; LANES];

/// Pixels, in [`add_products`], and weights, in [`add_outer_products`], whose sums are held in registers together.
const TILE: usize = 4;

/// A matrix whose rows overlap: row p is `values[p * step..][..depth]`, the depth being that of what it is multiplied by.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) values: &'a [f32],
    pub(super) step: usize,
}

/// Where the results for `count` pixels lie: pixel p's are `values[p * step..][..channels]`, at most [`LANES`] channels.
pub(super) struct Pixels<'a> {
    pub(super) values: &'a mut [f32],
    pub(super) step: usize,
    pub(super) channels: usize,
    pub(super) count: usize,
}

/// pixels[p] = start + sum over the terms of rows[p] x weights; without `start`, what is there is added to.
pub(super) fn add_products<'a, T>(pixels: &mut Pixels<'_>, start: Option<&Lanes>, terms: T)
where
    T: Iterator<Item = (Rows<'a>, &'a [Lanes])> + Clone,
{
    let mut first = 0;
    while pixels.count - first >= TILE {
        product_tile::<TILE, T>(pixels, first, start, terms.clone());
        first += TILE;
    }
    while first < pixels.count {
        product_tile::<1, T>(pixels, first, start, terms.clone());
        first += 1;
    }
}

#[inline(always)]
fn product_tile<'a, const P: usize, T>(pixels: &mut Pixels<'_>, first: usize, start: Option<&Lanes>, terms: T)
where
    T: Iterator<Item = (Rows<'a>, &'a [Lanes])>,
{
    let mut sums: [Lanes; P] = match start {
        Some(start) => [*start; P],
        None => std::array::from_fn(|p| {
            let mut lanes = [0.0; LANES];
            let from = (first + p) * pixels.step;
            lanes[..pixels.channels].copy_from_slice(&pixels.values[from..from + pixels.channels]);
            lanes
        }),
    };
    for (rows, weights) in terms {
        let depth = weights.len();
        let rows: [&[f32]; P] = std::array::from_fn(|p| &rows.values[(first + p) * rows.step..][..depth]);
        for (k, weights) in weights.iter().enumerate() {
            for (sums, row) in sums.iter_mut().zip(rows) {
                let x = row[k];
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    *sum = x.mul_add(*weight, *sum);
                }
            }
        }
    }
    for (p, sums) in sums.iter().enumerate() {
        let from = (first + p) * pixels.step;
        pixels.values[from..from + pixels.channels].copy_from_slice(&sums[..pixels.channels]);
    }
}

/// sums[k] += sum over p of rows[p][k] x dy[p], over all terms.
pub(super) fn add_outer_products<'a, T>(sums: &mut [Lanes], terms: T)
where
    T: Iterator<Item = (Rows<'a>, &'a [Lanes])> + Clone,
{
    let (tiles, rest) = sums.as_chunks_mut::<TILE>();
    let tiled = tiles.len() * TILE;
    for (tile, sums) in tiles.iter_mut().enumerate() {
        outer_product_tile(sums, tile * TILE, terms.clone());
    }
    for (k, sum) in rest.iter_mut().enumerate() {
        outer_product_tile(std::array::from_mut(sum), tiled + k, terms.clone());
    }
}

#[inline(always)]
fn outer_product_tile<'a, const K: usize, T>(sums: &mut [Lanes; K], first: usize, terms: T)
where
    T: Iterator<Item = (Rows<'a>, &'a [Lanes])>,
{
    let mut tile = *sums;
    for (rows, dy) in terms {
        for (p, dy) in dy.iter().enumerate() {
            let row: &[f32; K] = rows.values[first + p * rows.step..].first_chunk().expect("a row is as long as sums");
            for (sums, x) in tile.iter_mut().zip(row) {
                for (sum, dy) in sums.iter_mut().zip(dy) {
                    *sum = x.mul_add(*dy, *sum);
                }
            }
        }
    }
    *sums = tile;
}
