//! The two matrix products that convolutions are made of, over values that lie as the convolution finds them.
//!
//! In an NHWC image with its padding, the kw x c values under one row of the kernel are contiguous, and the next output
//! pixel's begin `stride` c values further on: a matrix whose rows overlap. So neither product needs the image's
//! patches copied out (im2col), and matrices this narrow need none of the repacking of a general matrix product. Both
//! keep a tile of sums in vector registers: some pixels (or weights) by 16 output channels.

use std::array::{self, from_ref};

use pulp::{Arch, Simd, WithSimd};

use crate::ops::lanes::{LANES, Lanes, load, store};

/// Values of a row that a turn of the innermost loop takes. With one, counting and checking are a fifth of a turn's instructions, and where
/// in memory the compiler puts so short a loop makes a difference of a sixth.
const TOGETHER: usize = 4;

/// A matrix whose rows overlap: row p is `values[p * step..][..depth]`, the depth being that of what it is multiplied
/// by.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) values: &'a [f32],
    pub(super) step: usize,
}

/// Where the results for `count` pixels lie: pixel p's are `values[p * step..][..channels]`, at most [`LANES`]
/// channels.
pub(super) struct Pixels<'a> {
    pub(super) values: &'a mut [f32],
    pub(super) step: usize,
    pub(super) channels: usize,
    pub(super) count: usize,
}

/// Terms of a sum of products: the rows, and the matrix `[depth]` or `[pixels]` by 16 that they are multiplied by.
pub(super) trait Terms<'a>: Iterator<Item = (Rows<'a>, &'a [Lanes])> + Clone {}

impl<'a, T: Iterator<Item = (Rows<'a>, &'a [Lanes])> + Clone> Terms<'a> for T {}

/// What sums of products begin with.
#[derive(Clone, Copy)]
pub(super) enum Start<'a> {
    /// The same for all pixels.
    With(&'a Lanes),
    /// What is there.
    Existing,
}

/// pixels[p] = start + sum over the terms of rows[p] x weights.
pub(super) fn products<'a>(pixels: Pixels<'_>, start: Start<'_>, terms: impl Terms<'a>) {
    Arch::new().dispatch(Products { pixels, start, terms });
}

/// sums[k] += sum over the terms and over p of rows[p][k] x dy[p].
pub(super) fn add_outer_products<'a>(sums: &mut [Lanes], terms: impl Terms<'a>) {
    Arch::new().dispatch(OuterProducts { sums, terms });
}

struct Products<'v, 's, T> {
    pixels: Pixels<'v>,
    start: Start<'s>,
    terms: T,
}

impl<'a, T: Terms<'a>> WithSimd for Products<'_, '_, T> {
    type Output = ();

    /// The tiles fill, but do not overfill, the registers: 32 of 16 values, 16 of 8, or 32 of 4 (NEON).
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match S::F32_LANES {
            16 => self.run::<S, 8, 1>(simd),
            8 => self.run::<S, 4, 2>(simd),
            4 => self.run::<S, 4, 4>(simd),
            _ => self.run::<S, 1, LANES>(simd),
        }
    }
}

impl<'a, T: Terms<'a>> Products<'_, '_, T> {
    /// Tiles of P pixels by V vectors, and smaller ones for what is left of the pixels.
    #[inline(always)]
    fn run<S: Simd, const P: usize, const V: usize>(mut self, simd: S) {
        let rest = self.tiles::<S, P, V>(simd, 0);
        let rest = self.tiles::<S, 4, V>(simd, rest);
        let rest = self.tiles::<S, 2, V>(simd, rest);
        self.tiles::<S, 1, V>(simd, rest);
    }

    /// As many tiles of P pixels as there are from pixel `first` on; returns the first pixel that is left.
    #[inline(always)]
    fn tiles<S: Simd, const P: usize, const V: usize>(&mut self, simd: S, mut first: usize) -> usize {
        while self.pixels.count - first >= P {
            self.tile::<S, P, V>(simd, first);
            first += P;
        }
        first
    }

    #[inline(always)]
    fn tile<S: Simd, const P: usize, const V: usize>(&mut self, simd: S, first: usize) {
        let mut sums: [[S::f32s; V]; P] = match self.start {
            Start::With(start) => [load::<S, V>(start); P],
            Start::Existing => array::from_fn(|p| load::<S, V>(&self.pixels.get(first + p))),
        };
        for (rows, weights) in self.terms.clone() {
            let depth = weights.len();
            let rows: [&[f32]; P] = array::from_fn(|p| &rows.values[(first + p) * rows.step..][..depth]);
            let (together, rest) = weights.as_chunks();
            let rows_together = rows.map(|row| row.as_chunks().0);
            for (k, weights) in together.iter().enumerate() {
                add::<S, P, V, TOGETHER>(simd, &mut sums, array::from_fn(|p| &rows_together[p][k]), weights);
            }
            for (k, weights) in (depth - rest.len()..).zip(rest) {
                add::<S, P, V, 1>(simd, &mut sums, array::from_fn(|p| from_ref(&rows[p][k])), from_ref(weights));
            }
        }
        for (p, sums) in sums.iter().enumerate() {
            self.pixels.set(first + p, &store::<S, V>(sums));
        }
    }
}

/// sums[p] += rows[p] x weights, of K values and rows of weights.
#[inline(always)]
fn add<S: Simd, const P: usize, const V: usize, const K: usize>(
    simd: S,
    sums: &mut [[S::f32s; V]; P],
    rows: [&[f32; K]; P],
    weights: &[Lanes; K],
) {
    for k in 0..K {
        let weights = load::<S, V>(&weights[k]);
        for p in 0..P {
            let x = simd.splat_f32s(rows[p][k]);
            sums[p] = array::from_fn(|v| simd.mul_add_e_f32s(x, weights[v], sums[p][v]));
        }
    }
}

impl Pixels<'_> {
    #[inline(always)]
    fn get(&self, pixel: usize) -> Lanes {
        let mut lanes = [0.0; LANES];
        lanes[..self.channels].copy_from_slice(&self.values[pixel * self.step..][..self.channels]);
        lanes
    }

    #[inline(always)]
    fn set(&mut self, pixel: usize, lanes: &Lanes) {
        let values = &mut self.values[pixel * self.step..][..self.channels];
        match values.as_mut_array::<LANES>() {
            Some(values) => *values = *lanes,
            None => values.copy_from_slice(&lanes[..self.channels]),
        }
    }
}

struct OuterProducts<'s, T> {
    sums: &'s mut [Lanes],
    terms: T,
}

impl<'a, T: Terms<'a>> WithSimd for OuterProducts<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match S::F32_LANES {
            16 => self.run::<S, 8, 1>(simd),
            8 => self.run::<S, 6, 2>(simd),
            4 => self.run::<S, 4, 4>(simd),
            _ => self.run::<S, 1, LANES>(simd),
        }
    }
}

impl<'a, T: Terms<'a>> OuterProducts<'_, T> {
    /// Tiles of K weights by V vectors, and smaller ones for what is left of the weights.
    #[inline(always)]
    fn run<S: Simd, const K: usize, const V: usize>(mut self, simd: S) {
        let rest = self.tiles::<S, K, V>(simd, 0);
        let rest = self.tiles::<S, 4, V>(simd, rest);
        let rest = self.tiles::<S, 2, V>(simd, rest);
        self.tiles::<S, 1, V>(simd, rest);
    }

    /// As many tiles of K weights as there are from weight `first` on; returns the first weight that is left.
    #[inline(always)]
    fn tiles<S: Simd, const K: usize, const V: usize>(&mut self, simd: S, mut first: usize) -> usize {
        for sums in self.sums[first..].as_chunks_mut::<K>().0 {
            outer_tile::<S, K, V>(simd, sums, first, self.terms.clone());
            first += K;
        }
        first
    }
}

#[inline(always)]
fn outer_tile<'a, S: Simd, const K: usize, const V: usize>(
    simd: S,
    sums: &mut [Lanes; K],
    first: usize,
    terms: impl Terms<'a>,
) {
    let mut tile: [[S::f32s; V]; K] = array::from_fn(|k| load::<S, V>(&sums[k]));
    for (rows, dy) in terms {
        for (p, dy) in dy.iter().enumerate() {
            let row: &[f32; K] =
                rows.values[first + p * rows.step..].first_chunk().expect("a row reaches every weight");
            let dy = load::<S, V>(dy);
            for k in 0..K {
                let x = simd.splat_f32s(row[k]);
                tile[k] = array::from_fn(|v| simd.mul_add_e_f32s(x, dy[v], tile[k][v]));
            }
        }
    }
    *sums = array::from_fn(|k| store::<S, V>(&tile[k]));
}
