//! Types whose values are computed several at a time, in vectors of the machine's width.

use pulp::{Arch, Simd, WithSimd};

/// A type and its vectors.
pub(super) trait Element: Copy + Default + Send + Sync {
    type Vector<S: Simd>: Copy;

    /// Values of a vector.
    fn lanes<S: Simd>() -> usize;
    /// A vector of this value.
    fn splat<S: Simd>(simd: S, value: Self) -> Self::Vector<S>;
    /// The vectors of `values`, but for what does not fill one.
    fn vectors<S: Simd>(values: &[Self]) -> &[Self::Vector<S>];
    fn vectors_mut<S: Simd>(values: &mut [Self]) -> &mut [Self::Vector<S>];
    fn add<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    fn subtract<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    /// `a` times `b` plus `c`, rounded once where the machine has an instruction for it.
    fn multiply_add<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>, c: Self::Vector<S>) -> Self::Vector<S>;
}

macro_rules! element {
    ($type:ty, $vector:ident, $lanes:ident, $splat:ident, $cast:ident, $cast_mut:ident, $add:ident, $sub:ident, $mul_add:ident) => {
        impl Element for $type {
            type Vector<S: Simd> = S::$vector;

            #[inline(always)]
            fn lanes<S: Simd>() -> usize {
                S::$lanes
            }

            #[inline(always)]
            fn splat<S: Simd>(simd: S, value: Self) -> S::$vector {
                simd.$splat(value)
            }

            #[inline(always)]
            fn vectors<S: Simd>(values: &[Self]) -> &[S::$vector] {
                S::$cast(values).0
            }

            #[inline(always)]
            fn vectors_mut<S: Simd>(values: &mut [Self]) -> &mut [S::$vector] {
                S::$cast_mut(values).0
            }

            #[inline(always)]
            fn add<S: Simd>(simd: S, a: S::$vector, b: S::$vector) -> S::$vector {
                simd.$add(a, b)
            }

            #[inline(always)]
            fn subtract<S: Simd>(simd: S, a: S::$vector, b: S::$vector) -> S::$vector {
                simd.$sub(a, b)
            }

            #[inline(always)]
            fn multiply_add<S: Simd>(simd: S, a: S::$vector, b: S::$vector, c: S::$vector) -> S::$vector {
                simd.$mul_add(a, b, c)
            }
        }
    };
}

element!(f32, f32s, F32_LANES, splat_f32s, as_simd_f32s, as_mut_simd_f32s, add_f32s, sub_f32s, mul_add_e_f32s);
element!(f64, f64s, F64_LANES, splat_f64s, as_simd_f64s, as_mut_simd_f64s, add_f64s, sub_f64s, mul_add_e_f64s);

/// Vectors that a row of a micropanel fills.
pub(super) const VECTORS: usize = 3;

/// Rows of a micropanel on the machine with the widest vectors.
pub(super) const WIDEST: u64 = 48;

/// What is done with micropanels of W rows, of which M are multiplied at a time: M x [`VECTORS`] sums, [`VECTORS`] vectors and one
/// more do not overfill the registers. M divides W.
pub(super) trait OnMicropanels {
    type Output;

    fn run<S: Simd, const M: usize, const W: usize>(self, simd: S) -> Self::Output;
}

/// Does so with vectors of `T`, of this machine's width.
pub(super) fn on_micropanels<T: Element, F: OnMicropanels>(work: F) -> F::Output {
    Arch::new().dispatch(Dispatched::<T, F> { work, element: std::marker::PhantomData })
}

struct Dispatched<T, F> {
    work: F,
    element: std::marker::PhantomData<T>,
}

impl<T: Element, F: OnMicropanels> WithSimd for Dispatched<T, F> {
    type Output = F::Output;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> F::Output {
        on_vectors_of::<T, S, F>(simd, self.work)
    }
}

/// The same with the vectors of `simd`.
#[inline(always)]
pub(super) fn on_vectors_of<T: Element, S: Simd, F: OnMicropanels>(simd: S, work: F) -> F::Output {
    match (T::lanes::<S>(), S::REGISTER_COUNT) {
        (16, _) => work.run::<S, 8, 48>(simd),
        (8, 32..) => work.run::<S, 8, 24>(simd),
        (8, _) => work.run::<S, 4, 24>(simd),
        (4, _) => work.run::<S, 4, 12>(simd),
        (2, _) => work.run::<S, 3, 6>(simd),
        _ => work.run::<S, 3, 3>(simd),
    }
}
