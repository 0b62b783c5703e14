//! The Gram matrix of an activation whose columns have been shifted.
//!
//! K = (X - 1 s^T)(X - 1 s^T)^T, where s_f is the trimmed mean of column f: (sum - max - min) / (n - 2). Linear HSIC does
//! not depend on s; the trimmed mean takes most of the cancellation away, and unlike the plain mean it does not spread one
//! outlying row over all the others.
//!
//! Features are taken in slabs of [`SLAB`]. A slab is shifted, scaled by a power of two so that neither overflow nor
//! underflow can hurt, rounded to the arithmetic's type and packed; one triangle of its product with its own transpose is
//! computed and added to a float64 sum. So no chain of float32 products is longer than a slab. Slabs are divided among a
//! fixed number of groups, which run in parallel and are added in order: the bits do not depend on the threads.

use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::traits::ComplexField;
use faer::{Accum, MatMut, MatRef, Par};
use half::{bf16, f16};
use rayon::prelude::*;

use super::NonFinite;
use crate::activation::{Activation, Values};
use crate::scale::{exponent_of, ldexp};

/// Features whose products are summed in the arithmetic's own type.
const SLAB: usize = 512;
/// Groups of slabs that are summed side by side, at most.
const MAX_GROUPS: usize = 8;
/// Bytes that the sums of all groups may take; beyond, there are fewer groups.
const GROUP_BYTES: usize = 256 << 20;

/// What the products are computed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    /// float32, sums of slabs in float64.
    Single,
    /// float64.
    Double,
}

/// Buffers that are used again for every layer and batch.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    single: Vec<Group<f32>>,
    double: Vec<Group<f64>>,
}

/// The lower triangle, diagonal included, of the n x n Gram matrix, row-major; what lies above the diagonal has no meaning.
///
/// # Errors
/// A value that is not finite.
pub(super) fn gram<'a>(
    activation: Activation<'_>,
    arithmetic: Arithmetic,
    workspace: &'a mut Workspace,
) -> Result<&'a mut [f64], NonFinite> {
    let (n, p) = (activation.examples(), activation.features());
    match (activation.values(), arithmetic) {
        (Values::F16(x), Arithmetic::Single) => sum(x, n, p, &mut workspace.single),
        (Values::Bf16(x), Arithmetic::Single) => sum(x, n, p, &mut workspace.single),
        (Values::F32(x), Arithmetic::Single) => sum(x, n, p, &mut workspace.single),
        (Values::F64(x), Arithmetic::Single) => sum(x, n, p, &mut workspace.single),
        (Values::F16(x), Arithmetic::Double) => sum(x, n, p, &mut workspace.double),
        (Values::Bf16(x), Arithmetic::Double) => sum(x, n, p, &mut workspace.double),
        (Values::F32(x), Arithmetic::Double) => sum(x, n, p, &mut workspace.double),
        (Values::F64(x), Arithmetic::Double) => sum(x, n, p, &mut workspace.double),
    }
}

/// A stored value.
trait Stored: Copy + Sync {
    fn to_f64(self) -> f64;
}

impl Stored for f16 {
    fn to_f64(self) -> f64 {
        self.to_f64()
    }
}

impl Stored for bf16 {
    fn to_f64(self) -> f64 {
        self.to_f64()
    }
}

impl Stored for f32 {
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
}

impl Stored for f64 {
    fn to_f64(self) -> f64 {
        self
    }
}

/// A type that products are computed in.
trait Computed: ComplexField + Copy + Default + Send + Sync {
    fn round(value: f64) -> Self;
    fn to_f64(self) -> f64;
}

impl Computed for f32 {
    fn round(value: f64) -> Self {
        value as f32
    }

    fn to_f64(self) -> f64 {
        f64::from(self)
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

/// What one group of slabs needs.
#[derive(Debug, Default)]
struct Group<T> {
    /// The sum, n x n.
    sum: Vec<f64>,
    /// A slab's product, n x n.
    product: Vec<T>,
    /// A shifted slab, n x width.
    packed: Vec<T>,
    columns: Columns,
}

fn sum<'a, S: Stored, T: Computed>(
    x: &[S],
    n: usize,
    p: usize,
    groups: &'a mut Vec<Group<T>>,
) -> Result<&'a mut [f64], NonFinite> {
    let slabs = p.div_ceil(SLAB);
    let bytes = n * n * (size_of::<f64>() + size_of::<T>());
    let count = slabs.min(MAX_GROUPS).min((GROUP_BYTES / bytes).max(1));
    if groups.len() < count {
        groups.resize_with(count, Group::default);
    }
    // A single group (few features, or very many examples) has the threads for its products instead.
    let par = if count == 1 { Par::rayon(0) } else { Par::Seq };
    groups[..count].par_iter_mut().enumerate().try_for_each(|(index, group)| {
        group.sum.clear();
        group.sum.resize(n * n, 0.0);
        group.product.resize(n * n, T::default());
        for slab in index * slabs / count..(index + 1) * slabs / count {
            group.add_slab(x, n, p, slab * SLAB..((slab + 1) * SLAB).min(p), par)?;
        }
        Ok::<(), NonFinite>(())
    })?;
    let (first, others) = groups[..count].split_at_mut(1);
    let total = &mut first[0].sum;
    for group in others {
        for (total, value) in total.iter_mut().zip(&group.sum) {
            *total += value;
        }
    }
    Ok(total)
}

impl<T: Computed> Group<T> {
    fn add_slab<S: Stored>(
        &mut self,
        x: &[S],
        n: usize,
        p: usize,
        features: std::ops::Range<usize>,
        par: Par,
    ) -> Result<(), NonFinite> {
        let width = features.len();
        let rows = || x.chunks_exact(p).map(|row| &row[features.clone()]);
        self.columns.measure(rows(), width, n)?;
        // A slab that is zero once it is shifted adds nothing.
        let Some(exponent) = self.columns.exponent() else { return Ok(()) };
        self.packed.resize(n * width, T::default());
        let scale = ldexp(1.0, -exponent);
        for (packed, row) in self.packed.chunks_exact_mut(width).zip(rows()) {
            for ((packed, value), shift) in packed.iter_mut().zip(row).zip(&self.columns.shifts) {
                *packed = T::round((value.to_f64() - shift) * scale);
            }
        }
        let packed = MatRef::from_row_major_slice(&self.packed[..n * width], n, width);
        triangular::matmul(
            MatMut::from_row_major_slice_mut(&mut self.product[..n * n], n, n),
            BlockStructure::TriangularLower,
            Accum::Replace,
            packed,
            BlockStructure::Rectangular,
            packed.transpose(),
            BlockStructure::Rectangular,
            T::round(1.0),
            par,
        );
        let unscale = ldexp(1.0, 2 * exponent);
        for (i, (sum, product)) in self.sum.chunks_exact_mut(n).zip(self.product.chunks_exact(n)).enumerate() {
            for (sum, product) in sum[..=i].iter_mut().zip(&product[..=i]) {
                *sum += product.to_f64() * unscale;
            }
        }
        Ok(())
    }
}

/// Sum, minimum and maximum of a slab's columns, and what follows from them.
#[derive(Debug, Default)]
struct Columns {
    sums: Vec<f64>,
    minima: Vec<f64>,
    maxima: Vec<f64>,
    shifts: Vec<f64>,
}

impl Columns {
    fn measure<'x, S: Stored + 'x>(
        &mut self,
        rows: impl Iterator<Item = &'x [S]> + Clone,
        width: usize,
        n: usize,
    ) -> Result<(), NonFinite> {
        for (values, start) in
            [(&mut self.sums, 0.0), (&mut self.minima, f64::INFINITY), (&mut self.maxima, f64::NEG_INFINITY)]
        {
            values.clear();
            values.resize(width, start);
        }
        for row in rows.clone() {
            let columns = self.sums.iter_mut().zip(&mut self.minima).zip(&mut self.maxima);
            for (((sum, minimum), maximum), value) in columns.zip(row) {
                let value = value.to_f64();
                *sum += value;
                *minimum = minimum.min(value);
                *maximum = maximum.max(value);
            }
        }
        // NaN and infinity in a column survive in its sum.
        if self.sums.iter().any(|sum| !sum.is_finite())
            && let Some(example) = rows.clone().position(|row| row.iter().any(|value| !value.to_f64().is_finite()))
        {
            return Err(NonFinite { example });
        }
        self.shifts.clear();
        let columns = self.sums.iter().zip(&self.minima).zip(&self.maxima);
        self.shifts.extend(columns.map(|((sum, minimum), maximum)| {
            let others = n.saturating_sub(2).max(1) as f64;
            // Rounding must not move the shift of a constant column off its value.
            ((sum - maximum - minimum) / others).clamp(*minimum, *maximum)
        }));
        Ok(())
    }

    /// The e with 2^e <= max |x - s| < 2^(e + 1) over the slab; none if all of it is zero.
    fn exponent(&self) -> Option<i32> {
        let columns = self.minima.iter().zip(&self.maxima).zip(&self.shifts);
        let largest = columns
            .fold(0.0_f64, |largest, ((minimum, maximum), shift)| largest.max(maximum - shift).max(shift - minimum));
        (largest > 0.0).then(|| exponent_of(largest))
    }
}
