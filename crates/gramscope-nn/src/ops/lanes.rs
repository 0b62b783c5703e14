//! Sixteen values that are computed together, as vectors of whatever width the machine has.

use std::array;

use pulp::Simd;

/// Values that are computed together.
pub const LANES: usize = 16;

/// A value for each lane.
pub type Lanes = [f32; LANES];

/// The lanes as V vectors.
#[inline(always)]
pub fn load<S: Simd, const V: usize>(lanes: &Lanes) -> [S::f32s; V] {
    let (vectors, _) = S::as_simd_f32s(lanes);
    array::from_fn(|v| vectors[v])
}

/// V vectors as lanes.
#[inline(always)]
pub fn store<S: Simd, const V: usize>(vectors: &[S::f32s; V]) -> Lanes {
    let mut lanes = [0.0; LANES];
    S::as_mut_simd_f32s(&mut lanes).0.copy_from_slice(vectors);
    lanes
}
