//! The two products of a linear probe, over examples that lie as the network leaves them.
//!
//! Features come in blocks of 16, and the weights of all classes for a block lie next to each other: both products walk
//! through examples and weights in the order of memory, with the features in the lanes of vectors, so that ten classes waste
//! none (a general matrix product would have the classes there), and no two rows fall on each other in a cache. Every sum
//! has a lane for each of the 16 features and takes its terms in order, whatever the width of the machine's vectors.

use std::array;

use gramscope_nn::ops::lanes::{LANES, Lanes, load, store};
use pulp::{Arch, Simd, WithSimd};

/// Some blocks of every example: those of example e begin at `values[e * step]`. With `relu` the ReLU of every value takes part in
/// the products.
#[derive(Clone, Copy)]
pub(super) struct Examples<'a> {
    pub(super) values: &'a [Lanes],
    pub(super) step: usize,
    pub(super) relu: bool,
}

impl<'a> Examples<'a> {
    /// Those from an example and a block on.
    pub(super) fn from(self, example: usize, block: usize) -> Self {
        Self { values: &self.values[example * self.step + block..], ..self }
    }

    /// The first so many blocks of E examples from `first` on.
    #[inline(always)]
    fn rows<const E: usize>(self, first: usize, blocks: usize) -> [&'a [Lanes]; E] {
        array::from_fn(|e| &self.values[(first + e) * self.step..][..blocks])
    }
}

/// sums[e, class] += examples[e, block] * weights[block, class], lane by lane, for all blocks of `weights`.
pub(super) fn add_products(sums: &mut [Lanes], examples: Examples<'_>, weights: &[Lanes], classes: usize) {
    Arch::new().dispatch(Products { sums, examples, weights, classes });
}

/// The sum of the lanes, half with half: four additions one after the other instead of sixteen.
pub(super) fn sum_of(lanes: &Lanes) -> f32 {
    let mut sums = *lanes;
    let mut half = LANES / 2;
    while half > 0 {
        let (low, high) = sums.split_at_mut(half);
        low.iter_mut().zip(high).for_each(|(low, high)| *low += *high);
        half /= 2;
    }
    sums[0]
}

/// sums[block, class] += examples[e, block] * factors[e, class], lane by lane, for all examples of `factors`.
pub(super) fn add_outer_products(sums: &mut [Lanes], examples: Examples<'_>, factors: &[f32], classes: usize) {
    Arch::new().dispatch(OuterProducts { sums, examples, factors, classes });
}

/// An example's block, or its ReLU, as V vectors.
#[inline(always)]
fn load_example<S: Simd, const V: usize, const RELU: bool>(lanes: &Lanes) -> [S::f32s; V] {
    if RELU { load::<S, V>(&lanes.map(relu)) } else { load::<S, V>(lanes) }
}

/// max(x, 0), or NaN. In this form a compiler makes one instruction of it, a comparison and a choice of vectors are two, and take two
/// registers more.
#[inline(always)]
fn relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

struct Products<'s, 'a> {
    sums: &'s mut [Lanes],
    examples: Examples<'a>,
    weights: &'a [Lanes],
    classes: usize,
}

impl WithSimd for Products<'_, '_> {
    type Output = ();

    /// The sums of a tile fill, but do not overfill, the registers: 32 of 16 values, 16 of 8, or 32 of 4 (NEON). Data sets of 10
    /// and of 100 classes, whose last is not computed, leave no rest of the classes that are computed together.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match (S::F32_LANES, self.examples.relu) {
            (16, false) => self.run::<S, 2, 9, 1, false>(simd),
            (16, true) => self.run::<S, 2, 9, 1, true>(simd),
            (8, false) => self.run::<S, 2, 3, 2, false>(simd),
            (8, true) => self.run::<S, 2, 3, 2, true>(simd),
            (4, false) => self.run::<S, 2, 3, 4, false>(simd),
            (4, true) => self.run::<S, 2, 3, 4, true>(simd),
            (_, false) => self.run::<S, 1, 3, LANES, false>(simd),
            (_, true) => self.run::<S, 1, 3, LANES, true>(simd),
        }
    }
}

impl Products<'_, '_> {
    /// Tiles of E examples, and of one for what is left of them, by C classes; a block is V vectors.
    #[inline(always)]
    fn run<S: Simd, const E: usize, const C: usize, const V: usize, const RELU: bool>(self, simd: S) {
        let Self { sums, examples, weights, classes } = self;
        let all = sums.len() / classes;
        let mut first = 0;
        while all - first >= E {
            products_of::<S, E, C, V, RELU>(
                simd,
                &mut sums[first * classes..],
                examples.rows(first, weights.len() / classes),
                weights,
                classes,
            );
            first += E;
        }
        for first in first..all {
            products_of::<S, 1, C, V, RELU>(
                simd,
                &mut sums[first * classes..],
                examples.rows(first, weights.len() / classes),
                weights,
                classes,
            );
        }
    }
}

/// The products of E examples with all classes.
#[inline(always)]
fn products_of<S: Simd, const E: usize, const C: usize, const V: usize, const RELU: bool>(
    simd: S,
    sums: &mut [Lanes],
    rows: [&[Lanes]; E],
    weights: &[Lanes],
    classes: usize,
) {
    let mut class = 0;
    while classes - class >= C {
        product_tile::<S, E, C, V, RELU>(simd, sums, rows, weights, (class, classes));
        class += C;
    }
    for class in class..classes {
        product_tile::<S, E, 1, V, RELU>(simd, sums, rows, weights, (class, classes));
    }
}

/// The products of E examples with C classes from `class` on, of so many.
#[inline(always)]
fn product_tile<S: Simd, const E: usize, const C: usize, const V: usize, const RELU: bool>(
    simd: S,
    sums: &mut [Lanes],
    rows: [&[Lanes]; E],
    weights: &[Lanes],
    (class, classes): (usize, usize),
) {
    let mut tile: [[[S::f32s; V]; C]; E] =
        array::from_fn(|e| array::from_fn(|c| load::<S, V>(&sums[e * classes + class + c])));
    for (block, weights) in weights.chunks_exact(classes).enumerate() {
        let weights: &[Lanes; C] = weights[class..].first_chunk().expect("a block has every class");
        let weights: [[S::f32s; V]; C] = array::from_fn(|c| load::<S, V>(&weights[c]));
        for e in 0..E {
            let x = load_example::<S, V, RELU>(&rows[e][block]);
            for c in 0..C {
                tile[e][c] = array::from_fn(|v| simd.mul_add_e_f32s(x[v], weights[c][v], tile[e][c][v]));
            }
        }
    }
    for e in 0..E {
        for c in 0..C {
            sums[e * classes + class + c] = store::<S, V>(&tile[e][c]);
        }
    }
}

struct OuterProducts<'s, 'a> {
    sums: &'s mut [Lanes],
    examples: Examples<'a>,
    factors: &'a [f32],
    classes: usize,
}

impl WithSimd for OuterProducts<'_, '_> {
    type Output = ();

    /// A block of every example of a tile is in registers.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match (S::F32_LANES, self.examples.relu) {
            (16, false) => self.run::<S, 8, 1, false>(simd),
            (16, true) => self.run::<S, 8, 1, true>(simd),
            (8, false) => self.run::<S, 4, 2, false>(simd),
            (8, true) => self.run::<S, 4, 2, true>(simd),
            (4, false) => self.run::<S, 4, 4, false>(simd),
            (4, true) => self.run::<S, 4, 4, true>(simd),
            (_, false) => self.run::<S, 1, LANES, false>(simd),
            (_, true) => self.run::<S, 1, LANES, true>(simd),
        }
    }
}

impl OuterProducts<'_, '_> {
    /// Tiles of E examples, and of one for what is left of them; a block is V vectors.
    #[inline(always)]
    fn run<S: Simd, const E: usize, const V: usize, const RELU: bool>(self, simd: S) {
        let Self { sums, examples, factors, classes } = self;
        let blocks = sums.len() / classes;
        let all = factors.len() / classes;
        let mut first = 0;
        while all - first >= E {
            outer_tile::<S, E, V, RELU>(simd, sums, examples.rows(first, blocks), &factors[first * classes..], classes);
            first += E;
        }
        for first in first..all {
            outer_tile::<S, 1, V, RELU>(simd, sums, examples.rows(first, blocks), &factors[first * classes..], classes);
        }
    }
}

/// What E examples add to all sums.
#[inline(always)]
fn outer_tile<S: Simd, const E: usize, const V: usize, const RELU: bool>(
    simd: S,
    sums: &mut [Lanes],
    rows: [&[Lanes]; E],
    factors: &[f32],
    classes: usize,
) {
    let factors: [&[f32]; E] = array::from_fn(|e| &factors[e * classes..][..classes]);
    for (block, sums) in sums.chunks_exact_mut(classes).enumerate() {
        let x: [[S::f32s; V]; E] = array::from_fn(|e| load_example::<S, V, RELU>(&rows[e][block]));
        for (class, sum) in sums.iter_mut().enumerate() {
            let mut lanes = load::<S, V>(sum);
            for e in 0..E {
                let factor = simd.splat_f32s(factors[e][class]);
                lanes = array::from_fn(|v| simd.mul_add_e_f32s(x[e][v], factor, lanes[v]));
            }
            *sum = store::<S, V>(&lanes);
        }
    }
}
