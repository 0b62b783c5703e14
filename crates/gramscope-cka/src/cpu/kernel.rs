//! The inner loop: products, or squared distances, of a few rows with a few others, in registers.
//!
//! Rows are packed sixteen at a time, feature after feature ([`Panel`]), so that one layout serves both sides of a product
//! of a matrix with its own transpose. A tile of the result lives in vector registers while a *chain* of features runs past
//! it, and is then added to float64. pulp chooses the vector instructions at run time.

use pulp::{Simd, WithSimd};

/// How many rows are packed together.
pub(crate) const PANEL: usize = 16;

/// One feature of [`PANEL`] rows.
pub(crate) type Panel<T> = [T; PANEL];

/// [`PANEL`] columns, each of [`PANEL`] rows, of a matrix of sums.
pub(crate) type Block = [[f64; PANEL]; PANEL];

/// The formats that products are computed in.
pub(crate) trait Real: Copy + Default + Send + Sync + Into<f64> + 'static {
    /// As many values as a vector register holds.
    type Vector<S: Simd>: Copy;
    /// The panel as vectors.
    fn vectors<S: Simd>(panel: &Panel<Self>) -> &[Self::Vector<S>];
    /// The panel as vectors, to be written.
    fn vectors_mut<S: Simd>(panel: &mut Panel<Self>) -> &mut [Self::Vector<S>];
    /// The same value in every place.
    fn splat<S: Simd>(simd: S, value: Self) -> Self::Vector<S>;
    /// a - b.
    fn subtract<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    /// a b + c, rounded once where the machine can.
    fn multiply_add<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>, c: Self::Vector<S>) -> Self::Vector<S>;
    /// How many values a vector register holds.
    fn lanes<S: Simd>() -> usize;
}

macro_rules! real {
    ($real:ty, $vector:ident, $lanes:ident, $shared:ident, $exclusive:ident, $splat:ident, $sub:ident, $mul_add:ident) => {
        impl Real for $real {
            type Vector<S: Simd> = S::$vector;
            #[inline(always)]
            fn vectors<S: Simd>(panel: &Panel<Self>) -> &[Self::Vector<S>] {
                S::$shared(panel).0
            }
            #[inline(always)]
            fn vectors_mut<S: Simd>(panel: &mut Panel<Self>) -> &mut [Self::Vector<S>] {
                S::$exclusive(panel).0
            }
            #[inline(always)]
            fn splat<S: Simd>(simd: S, value: Self) -> Self::Vector<S> {
                simd.$splat(value)
            }
            #[inline(always)]
            fn subtract<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S> {
                simd.$sub(a, b)
            }
            #[inline(always)]
            fn multiply_add<S: Simd>(
                simd: S,
                a: Self::Vector<S>,
                b: Self::Vector<S>,
                c: Self::Vector<S>,
            ) -> Self::Vector<S> {
                simd.$mul_add(a, b, c)
            }
            #[inline(always)]
            fn lanes<S: Simd>() -> usize {
                S::$lanes
            }
        }
    };
}
real!(f32, f32s, F32_LANES, as_simd_f32s, as_mut_simd_f32s, splat_f32s, sub_f32s, mul_add_e_f32s);
real!(f64, f64s, F64_LANES, as_simd_f64s, as_mut_simd_f64s, splat_f64s, sub_f64s, mul_add_e_f64s);

/// What two rows are combined to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Combine {
    /// sum_f x_f y_f.
    Product,
    /// sum_f (x_f - y_f)^2.
    SquaredDistance,
}

/// One panel of columns against all panels of rows, over one chain of features: `blocks[i]` += `scale` times the
/// combination of rows `rows[i]` with `columns`.
pub(crate) struct Stripe<'a, T> {
    /// The panels of rows, one after the other, each as long as `columns`.
    pub(crate) rows: &'a [Panel<T>],
    /// The panel of columns: one chain of features.
    pub(crate) columns: &'a [Panel<T>],
    /// What the sums are multiplied by before they are added.
    pub(crate) scale: f64,
    /// What rows and columns are combined to.
    pub(crate) combine: Combine,
    /// One block per panel of rows.
    pub(crate) blocks: &'a mut [Block],
}

/// The squares of the sums of one chain, before they were scaled.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Squares {
    /// Those of the first block.
    pub(crate) first: f64,
    /// Those on the diagonal of the first block.
    pub(crate) diagonal: f64,
    /// Those of all other blocks.
    pub(crate) rest: f64,
}

impl<T: Real> WithSimd for Stripe<'_, T> {
    type Output = Squares;

    /// The shape of a tile, in panels of rows (of so many vectors) and columns, keeps 16 sums under way where there are 32
    /// registers and 8 where there are 16: enough to hide the latency of a multiplication, few enough not to spill.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Squares {
        let many = S::REGISTER_COUNT >= 32;
        match PANEL / T::lanes::<S>() {
            1 => self.run::<S, 2, 1, 8>(simd),
            2 if many => self.run::<S, 1, 2, 8>(simd),
            2 => self.run::<S, 1, 2, 4>(simd),
            4 if many => self.run::<S, 1, 4, 4>(simd),
            4 => self.run::<S, 1, 4, 2>(simd),
            8 => self.run::<S, 1, 8, 2>(simd),
            _ => self.run::<S, 1, 16, 1>(simd),
        }
    }
}

impl<T: Real> Stripe<'_, T> {
    /// Tiles of `P` panels of rows, of `V` vectors each, and `C` columns.
    #[inline(always)]
    fn run<S: Simd, const P: usize, const V: usize, const C: usize>(self, simd: S) -> Squares {
        match self.combine {
            Combine::Product => self.tiles::<S, P, V, C, false>(simd),
            Combine::SquaredDistance => self.tiles::<S, P, V, C, true>(simd),
        }
    }

    #[inline(always)]
    fn tiles<S: Simd, const P: usize, const V: usize, const C: usize, const DISTANCE: bool>(self, simd: S) -> Squares {
        let Self { rows, columns, scale, blocks, .. } = self;
        let panel = |index: usize| &rows[index * columns.len()..][..columns.len()];
        let mut squares = Squares::default();
        for first in (0..PANEL).step_by(C) {
            let mut index = 0;
            if blocks.len() % P != 0 {
                let tile = tile::<T, S, 1, V, C, DISTANCE>(simd, [panel(0)], columns, first);
                squares.add(index, first, &tile, 0);
                fold(&tile, 0, scale, &mut blocks[index][first..][..C]);
                index += 1;
            }
            while index + P <= blocks.len() {
                let panels = std::array::from_fn(|p| panel(index + p));
                let tile = tile::<T, S, P, V, C, DISTANCE>(simd, panels, columns, first);
                for p in 0..P {
                    squares.add(index + p, first, &tile, p);
                    fold(&tile, p, scale, &mut blocks[index + p][first..][..C]);
                }
                index += P;
            }
        }
        squares
    }
}

/// A tile of sums: columns, panels of rows.
type Tile<T, const P: usize, const C: usize> = [[Panel<T>; P]; C];

/// Runs one chain of features past a tile.
#[inline(always)]
fn tile<T: Real, S: Simd, const P: usize, const V: usize, const C: usize, const DISTANCE: bool>(
    simd: S,
    rows: [&[Panel<T>]; P],
    columns: &[Panel<T>],
    first: usize,
) -> Tile<T, P, C> {
    let mut sums = [[[T::splat(simd, T::default()); V]; P]; C];
    // Said once, so that the loop needs no checks.
    assert!(rows.iter().all(|panel| panel.len() == columns.len()) && first + C <= PANEL);
    for feature in 0..columns.len() {
        let mut values = [[T::splat(simd, T::default()); V]; P];
        for p in 0..P {
            values[p].copy_from_slice(T::vectors::<S>(&rows[p][feature]));
        }
        for c in 0..C {
            let other = T::splat(simd, columns[feature][first + c]);
            for p in 0..P {
                for v in 0..V {
                    sums[c][p][v] = if DISTANCE {
                        let difference = T::subtract(simd, values[p][v], other);
                        T::multiply_add(simd, difference, difference, sums[c][p][v])
                    } else {
                        T::multiply_add(simd, values[p][v], other, sums[c][p][v])
                    };
                }
            }
        }
    }
    let mut tile = [[[T::default(); PANEL]; P]; C];
    for c in 0..C {
        for p in 0..P {
            T::vectors_mut::<S>(&mut tile[c][p]).copy_from_slice(&sums[c][p]);
        }
    }
    tile
}

/// Adds a tile's panel `p` to float64 sums.
#[inline(always)]
fn fold<T: Real, const P: usize, const C: usize>(tile: &Tile<T, P, C>, p: usize, scale: f64, sums: &mut [[f64; PANEL]]) {
    for (column, sums) in tile.iter().zip(sums) {
        for (&value, sum) in column[p].iter().zip(sums) {
            *sum += scale * value.into();
        }
    }
}

impl Squares {
    /// Counts a tile's panel `p`, which lies in block `index` from column `first` on.
    #[inline(always)]
    fn add<T: Real, const P: usize, const C: usize>(&mut self, index: usize, first: usize, tile: &Tile<T, P, C>, p: usize) {
        let mut squares = [0.0; PANEL];
        for column in tile {
            for (square, &value) in squares.iter_mut().zip(&column[p]) {
                let value: f64 = value.into();
                *square += value * value;
            }
        }
        let total: f64 = squares.iter().sum();
        if index == 0 {
            self.first += total;
            for (c, column) in tile.iter().enumerate() {
                let value: f64 = column[p][first + c].into();
                self.diagonal += value * value;
            }
        } else {
            self.rest += total;
        }
    }
}
