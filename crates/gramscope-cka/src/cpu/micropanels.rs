//! What every two rows of a slab come to: one triangle of the products, or of the squared distances, of all pairs.
//!
//! The rows lie in *micropanels* of [`VECTORS`] vectors' worth of them (van Zee and van de Geijn, *BLIS*, ACM TOMS 2015), a value
//! of each row for every feature: a load gives the same feature of several rows, and the sums of some rows with all of a micropanel
//! stay in registers. Here the second operand is the first, so that one copy serves both. Every sum takes its terms in the order of the
//! features, in chains of [`CHAIN`], whatever the width of the machine's vectors.

use std::array;

use pulp::Simd;
use rayon::prelude::*;

use super::columns::{Slab, Stored};
use super::vectors::{Element, OnMicropanels, VECTORS, WIDEST, on_micropanels};

/// Features whose terms are added one after the other; a slab is the sum of such chains. Where columns are copies of each other
/// every addition of a chain rounds the same way, by 7.6e-6 of the sum at 512.
const CHAIN: usize = 64;
/// Micropanels whose rows are gone through together, at most, so that what they meet is read from far away once for all of them.
const TOGETHER: usize = 4;
/// Features of a row that are shifted at a time.
const FEATURES: usize = 8;

/// A type that slabs are rounded to and computed in.
pub(super) trait Computed: Element {
    fn round(value: f64) -> Self;
    fn to_f64(self) -> f64;

    /// `single` as what it is, if this is float32.
    fn of_single(_single: f32) -> Option<Self> {
        None
    }
}

impl Computed for f32 {
    fn round(value: f64) -> Self {
        value as f32
    }

    fn to_f64(self) -> f64 {
        f64::from(self)
    }

    fn of_single(single: f32) -> Option<Self> {
        Some(single)
    }
}

impl Computed for f64 {
    fn round(value: f64) -> Self {
        value
    }

    fn to_f64(self) -> f64 {
        self
    }
}

/// What two rows come to, feature by feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Terms {
    /// x y.
    Products,
    /// (x - y)^2: 0 for rows that are equal.
    SquaredDifferences,
}

/// How a slab is shifted, scaled and rounded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shift<'a> {
    /// Of each feature.
    pub(super) shifts: &'a [f64],
    /// The same, rounded: any shift will do, as long as all rows have the same.
    pub(super) single_shifts: &'a [f32],
    /// The power of two that everything is multiplied by.
    pub(super) scale: f64,
}

impl Shift<'_> {
    /// Whether differences of float32 and their scale cannot leave float32's range.
    fn is_moderate(self) -> bool {
        (1e-30..1e30).contains(&self.scale)
    }

    /// A value of this feature. Where both types and `SINGLE` say so, it is computed in float32: rounded once, like the float64
    /// difference, and at twice its rate.
    #[inline(always)]
    fn of<S: Stored, T: Computed, const SINGLE: bool>(self, value: S, feature: usize) -> T {
        let single = || T::of_single((value.single()? - self.single_shifts[feature]) * self.scale as f32);
        let double = || T::round((value.to_f64() - self.shifts[feature]) * self.scale);
        if SINGLE { single().unwrap_or_else(double) } else { double() }
    }

    /// The same of several features from `first` on.
    #[inline(always)]
    fn of_all<S: Stored, T: Computed, const SINGLE: bool>(self, values: &[S; FEATURES], first: usize) -> [T; FEATURES] {
        let here = first..first + FEATURES;
        let here = Shift { shifts: &self.shifts[here.clone()], single_shifts: &self.single_shifts[here], ..self };
        let mut shifted = [T::default(); FEATURES];
        for f in 0..FEATURES {
            shifted[f] = here.of::<S, T, SINGLE>(values[f], f);
        }
        shifted
    }
}

/// The rows of a slab.
#[derive(Debug, Default)]
pub(super) struct Micropanels<T> {
    /// `[micropanel, feature, row of it]`; the last has rows without meaning.
    values: Vec<T>,
    n: usize,
    features: usize,
    /// Rows of a micropanel.
    width: usize,
}

impl<T: Computed> Micropanels<T> {
    /// Bytes that `n` rows take, at most.
    pub(super) fn bytes(n: u64, features: u64) -> u64 {
        n.saturating_add(WIDEST).saturating_mul(features * size_of::<T>() as u64)
    }

    /// Takes the place of what was there: the `n` rows of `slab`, shifted.
    pub(super) fn fill<S: Stored>(&mut self, slab: &Slab<'_, S>, n: usize, shift: Shift<'_>) {
        (self.n, self.features) = (n, slab.features.len());
        self.width = on_micropanels::<T, _>(Filling { panels: &mut self.values, slab, n, shift });
    }

    /// Adds what every two rows come to, times `scale`, to the lower triangle of `sum` [n, n], and writes what each comes to with itself
    /// into `own` [n]; with `parallel` on all threads.
    pub(super) fn add_to(&self, sum: &mut [f64], own: &mut [f64], terms: Terms, scale: f64, parallel: bool) {
        // Threads need as many parts as will keep them busy: those with many rows take longer.
        let most = self.n.div_ceil(self.width) / (4 * rayon::current_num_threads());
        let together = if parallel { most.clamp(1, TOGETHER) } else { TOGETHER };
        let rows = together * self.width;
        let add = |(index, (sum, own))| {
            let first = index * together;
            match terms {
                Terms::Products => on_micropanels::<T, _>(Adding::<T, false> { panels: self, first, sum, own, scale }),
                Terms::SquaredDifferences => {
                    on_micropanels::<T, _>(Adding::<T, true> { panels: self, first, sum, own, scale });
                }
            }
        };
        if parallel {
            sum.par_chunks_mut(rows * self.n).zip(own.par_chunks_mut(rows)).enumerate().for_each(add);
        } else {
            sum.chunks_mut(rows * self.n).zip(own.chunks_mut(rows)).enumerate().for_each(add);
        }
    }
}

/// Lays the rows of a slab out.
struct Filling<'a, S, T> {
    panels: &'a mut Vec<T>,
    slab: &'a Slab<'a, S>,
    n: usize,
    shift: Shift<'a>,
}

impl<S: Stored, T: Computed> OnMicropanels for Filling<'_, S, T> {
    /// Rows of a micropanel.
    type Output = usize;

    #[inline(always)]
    fn run<V: Simd, const M: usize, const W: usize>(self, _simd: V) -> usize {
        let Self { panels, slab, n, shift } = self;
        let features = slab.features.len();
        panels.resize(n.div_ceil(W) * features * W, T::default());
        for (index, panel) in panels.chunks_exact_mut(features * W).enumerate() {
            let (panel, first) = (panel.as_chunks_mut::<W>().0, index * W);
            let rows = W.min(n - first);
            if shift.is_moderate() {
                fill_panel::<S, T, W, true>(panel, slab, shift, first, rows);
            } else {
                fill_panel::<S, T, W, false>(panel, slab, shift, first, rows);
            }
        }
        W
    }
}

/// Lays so many rows of `slab` from `first` on out.
#[inline(always)]
fn fill_panel<S: Stored, T: Computed, const W: usize, const SINGLE: bool>(
    panel: &mut [[T; W]],
    slab: &Slab<'_, S>,
    shift: Shift<'_>,
    first: usize,
    rows: usize,
) {
    let mut row = 0;
    while rows - row >= 8 {
        fill_rows::<S, T, 8, W, SINGLE>(panel, slab, shift, first, row);
        row += 8;
    }
    while rows - row >= 4 {
        fill_rows::<S, T, 4, W, SINGLE>(panel, slab, shift, first, row);
        row += 4;
    }
    for row in row..rows {
        fill_rows::<S, T, 1, W, SINGLE>(panel, slab, shift, first, row);
    }
}

/// Lays R rows out: those of a micropanel from `row` on, where the first of the micropanel is the slab's row `first`.
#[inline(always)]
fn fill_rows<S: Stored, T: Computed, const R: usize, const W: usize, const SINGLE: bool>(
    panel: &mut [[T; W]],
    slab: &Slab<'_, S>,
    shift: Shift<'_>,
    first: usize,
    row: usize,
) {
    let values: [&[S]; R] = array::from_fn(|r| slab.row(first + row + r));
    let blocks = values.map(|values| values.as_chunks::<FEATURES>().0);
    let (panel_blocks, rest) = panel.as_chunks_mut::<FEATURES>();
    for (block, panel) in panel_blocks.iter_mut().enumerate() {
        let mut shifted = [[T::default(); FEATURES]; R];
        for r in 0..R {
            shifted[r] = shift.of_all::<S, T, SINGLE>(&blocks[r][block], block * FEATURES);
        }
        for (f, panel) in panel.iter_mut().enumerate() {
            let mut together = [T::default(); R];
            for r in 0..R {
                together[r] = shifted[r][f];
            }
            panel[row..row + R].copy_from_slice(&together);
        }
    }
    for (feature, panel) in (panel_blocks.len() * FEATURES..).zip(rest) {
        for r in 0..R {
            panel[row + r] = shift.of::<S, T, SINGLE>(values[r][feature], feature);
        }
    }
}

/// Adds the rows of some micropanels with all before them and themselves, as squared distances or as products.
struct Adding<'a, T, const SQUARES: bool> {
    panels: &'a Micropanels<T>,
    /// The first of some micropanels.
    first: usize,
    /// Their rows.
    sum: &'a mut [f64],
    own: &'a mut [f64],
    scale: f64,
}

impl<T: Computed, const SQUARES: bool> OnMicropanels for Adding<'_, T, SQUARES> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, const M: usize, const W: usize>(self, simd: S) {
        let Self { panels: &Micropanels { ref values, n, features, .. }, first, sum, own, scale } = self;
        let (values, _) = values.as_chunks::<W>();
        let panel = |index: usize| &values[index * features..][..features];
        let last = first + (sum.len() / n).div_ceil(W);
        for j in 0..last {
            for i in first.max(j)..last {
                let rows = W.min(n - i * W);
                let mut tile = [[T::default(); W]; W];
                for (a, b) in panel(i).chunks(CHAIN).zip(panel(j).chunks(CHAIN)) {
                    add_chain::<T, S, M, W, SQUARES>(simd, a, b, (rows, i == j), &mut tile);
                }
                let above = (i - first) * W;
                for (row, found) in tile[..rows].iter().enumerate() {
                    let columns = if i == j { row + 1 } else { W };
                    let sums = &mut sum[(above + row) * n + j * W..][..columns];
                    for (sum, found) in sums.iter_mut().zip(found) {
                        *sum += found.to_f64() * scale;
                    }
                    if i == j {
                        own[above + row] = found[row].to_f64() * scale;
                    }
                }
            }
        }
    }
}

/// Adds a chain of so many rows of micropanel `a` with those of `b`; on the `diagonal`, where the two are one, with those before them and
/// themselves at least.
#[inline(always)]
fn add_chain<T: Element, S: Simd, const M: usize, const W: usize, const SQUARES: bool>(
    simd: S,
    a: &[[T; W]],
    b: &[[T; W]],
    (rows, diagonal): (usize, bool),
    tile: &mut [[T; W]; W],
) {
    for first in (0..rows).step_by(M) {
        let vectors = if diagonal { (first + M).div_ceil(T::lanes::<S>()) } else { VECTORS };
        let tile = &mut tile[first..first + M];
        match vectors {
            1 => add_rows::<T, S, M, W, 1, SQUARES>(simd, a, b, first, tile),
            2 => add_rows::<T, S, M, W, 2, SQUARES>(simd, a, b, first, tile),
            _ => add_rows::<T, S, M, W, VECTORS, SQUARES>(simd, a, b, first, tile),
        }
    }
}

/// Adds a chain of the M rows from `first` on of micropanel `a` with the first V vectors of `b`.
#[inline(always)]
fn add_rows<T: Element, S: Simd, const M: usize, const W: usize, const V: usize, const SQUARES: bool>(
    simd: S,
    a: &[[T; W]],
    b: &[[T; W]],
    first: usize,
    tile: &mut [[T; W]],
) {
    let mut sums = [[T::splat(simd, T::default()); V]; M];
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (&a[first..first + M], T::vectors::<S>(b));
        let b: [T::Vector<S>; V] = array::from_fn(|v| b[v]);
        for m in 0..M {
            let x = T::splat(simd, a[m]);
            sums[m] = array::from_fn(|v| {
                if SQUARES {
                    let difference = T::subtract(simd, x, b[v]);
                    T::multiply_add(simd, difference, difference, sums[m][v])
                } else {
                    T::multiply_add(simd, x, b[v], sums[m][v])
                }
            });
        }
    }
    for (row, sums) in tile.iter_mut().zip(sums) {
        for (total, sum) in T::vectors_mut::<S>(row).iter_mut().zip(sums) {
            *total = T::add(simd, *total, sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use pulp::{Scalar, Scalar128b, Scalar256b, Scalar512b};

    use super::super::vectors::on_vectors_of;
    use super::*;

    /// What [`Micropanels::fill`] and [`Micropanels::add_to`] do, with vectors of another machine where there is one.
    struct On<S>(Option<S>);

    impl<V: Simd> On<V> {
        fn fill<T: Computed>(&self, panels: &mut Micropanels<T>, slab: &Slab<'_, f32>, n: usize, shift: Shift<'_>) {
            panels.fill(slab, n, shift);
            if let Some(simd) = self.0 {
                panels.width = on_vectors_of::<T, V, _>(simd, Filling { panels: &mut panels.values, slab, n, shift });
            }
        }

        fn add_to<T: Computed>(
            &self,
            panels: &Micropanels<T>,
            sum: &mut [f64],
            own: &mut [f64],
            how: (Terms, f64, bool),
        ) {
            let (terms, scale, parallel) = how;
            let Some(simd) = self.0 else { return panels.add_to(sum, own, terms, scale, parallel) };
            let rows = TOGETHER * panels.width;
            for (index, (sum, own)) in sum.chunks_mut(rows * panels.n).zip(own.chunks_mut(rows)).enumerate() {
                let first = index * TOGETHER;
                match terms {
                    Terms::Products => {
                        on_vectors_of::<T, V, _>(simd, Adding::<T, false> { panels, first, sum, own, scale });
                    }
                    Terms::SquaredDifferences => {
                        on_vectors_of::<T, V, _>(simd, Adding::<T, true> { panels, first, sum, own, scale });
                    }
                }
            }
        }
    }

    /// Small integers, whose sums are exact in either type; rows and features around every size that is taken together.
    fn check<T: Computed, V: Simd>(on: &On<V>) {
        for n in [2, 3, 4, 5, 7, 8, 11, 12, 13, 23, 24, 25, 47, 48, 49, 97, 193] {
            for features in [1, 7, 8, 9, 63, 64, 65, 129] {
                let wide = features + 3;
                let x: Vec<f32> = (0..n * wide).map(|at| ((at * 7 + at / 5) % 11) as f32).collect();
                let slab = Slab { values: &x, width: wide, features: 2..features + 2 };
                let shifts: Vec<f64> = (0..features).map(|f| (f % 3) as f64).collect();
                let single_shifts: Vec<f32> = shifts.iter().map(|&shift| shift as f32).collect();
                let mut panels = Micropanels::<T>::default();
                // What is left of other rows has no part in these.
                let nothing = Shift { shifts: &shifts, single_shifts: &single_shifts, scale: f64::NAN };
                on.fill(&mut panels, &slab, n, nothing);
                on.fill(&mut panels, &slab, n, Shift { scale: 0.5, ..nothing });
                let value = |row: usize, f: usize| (f64::from(x[row * wide + 2 + f]) - shifts[f]) * 0.5;
                for terms in [Terms::Products, Terms::SquaredDifferences] {
                    let term = |i: usize, j: usize, f: usize| match terms {
                        Terms::Products => value(i, f) * value(j, f),
                        Terms::SquaredDifferences => (value(i, f) - value(j, f)).powi(2),
                    };
                    let expected = |i: usize, j: usize| 4.0 * (0..features).map(|f| term(i, j, f)).sum::<f64>();
                    for parallel in [false, true] {
                        let (mut sum, mut own) = (vec![1.0; n * n], vec![f64::NAN; n]);
                        on.add_to(&panels, &mut sum, &mut own, (terms, 4.0, parallel));
                        for i in 0..n {
                            assert_eq!(own[i], expected(i, i), "{n} rows, {features} features: row {i}");
                            for j in 0..n {
                                let expected = if j <= i { 1.0 + expected(i, j) } else { 1.0 };
                                assert_eq!(sum[i * n + j], expected, "{n} rows, {features} features: {i}, {j}");
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn every_two_rows_are_multiplied_and_their_distance_measured() {
        let of_machine = On(None::<Scalar>);
        check::<f32, _>(&of_machine);
        check::<f64, _>(&of_machine);
    }

    #[test]
    fn vectors_of_every_width_do_so() {
        check::<f32, _>(&On(Some(Scalar::new())));
        check::<f32, _>(&On(Some(Scalar128b)));
        check::<f32, _>(&On(Some(Scalar256b)));
        check::<f32, _>(&On(Some(Scalar512b)));
        check::<f64, _>(&On(Some(Scalar128b)));
        check::<f64, _>(&On(Some(Scalar512b)));
    }
}
