//! Gram matrices and squared distances, summed over slabs of features.
//!
//! K = (X - 1 s^T)(X - 1 s^T)^T, where s_f is the trimmed mean of column f: (sum - max - min) / (n - 2). Linear HSIC does
//! not depend on s; the trimmed mean takes most of the cancellation away, and unlike the plain mean it does not spread one
//! outlying row over all the others.
//!
//! Features are taken in slabs of [`SLAB`]. A slab is shifted, scaled by a power of two so that neither overflow nor
//! underflow can hurt, rounded to the arithmetic's type and laid out in micropanels; one triangle of its product with its own
//! transpose is computed and added to a float64 sum. Slabs are divided among a
//! fixed number of groups, which run in parallel and are added in order: the bits do not depend on the threads.

use half::{bf16, f16};
use rayon::prelude::*;

use super::Unusable;
use super::columns::{Columns, Slab, Stored};
use super::matrix::{Matrix, Place, READ_BYTES};
use super::micropanels::{Computed, Micropanels, Shift, Terms};
use crate::activation::{Activation, Format, Source, Values};
use crate::scale::ldexp;

/// Features whose products are summed in the arithmetic's own type.
pub(super) const SLAB: usize = 512;
/// Groups of slabs that are summed side by side, at most.
const MAX_GROUPS: usize = 8;
/// Bytes that the sums of all groups may take; beyond, there are fewer groups.
const GROUP_BYTES: usize = 256 << 20;

/// What is computed of each pair of examples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entries {
    /// Inner products of the shifted rows, in float32; sums of slabs in float64.
    Single,
    /// Inner products of the shifted rows, in float64.
    Double,
    /// Squared distances, in float64, from the differences themselves: through inner products those of close examples
    /// would be lost beside those of distant ones.
    Distances,
}

/// Buffers that are used again for every layer and batch.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    single: Vec<Group<f32>>,
    double: Vec<Group<f64>>,
}

/// A sum over all features, for each pair of examples.
#[derive(Debug)]
pub(super) struct Sums<'a> {
    /// n x n, row-major; what lies above the diagonal has no meaning.
    pub(super) entries: &'a mut [f64],
    /// The entries are to be multiplied by 2^`exponent`.
    pub(super) exponent: i32,
    /// Sum over slabs and pairs i < j of |x_i|^2 |x_j|^2, over the slab's part of the shifted rows: the square of what the
    /// entries could have been, by Cauchy and Schwarz, and so of what their rounding is relative to. Independent features
    /// give about [`SLAB`] times the squared entries themselves.
    pub(super) reach: f64,
}

/// The lower triangle, diagonal included, of the n x n matrix of `entries`. n >= 2.
///
/// # Errors
/// A value that is not finite.
pub(super) fn sums<'a>(
    activation: Activation<'_>,
    entries: Entries,
    workspace: &'a mut Workspace,
) -> Result<Sums<'a>, Unusable> {
    match activation.source() {
        Source::Memory(Values::F16(x)) => sum(&Matrix::of(activation, Place::Memory(x)), entries, workspace),
        Source::Memory(Values::Bf16(x)) => sum(&Matrix::of(activation, Place::Memory(x)), entries, workspace),
        Source::Memory(Values::F32(x)) => sum(&Matrix::of(activation, Place::Memory(x)), entries, workspace),
        Source::Memory(Values::F64(x)) => sum(&Matrix::of(activation, Place::Memory(x)), entries, workspace),
        Source::Elsewhere(format, x) => match format {
            Format::F16 => sum::<f16>(&Matrix::of(activation, Place::Elsewhere(x)), entries, workspace),
            Format::Bf16 => sum::<bf16>(&Matrix::of(activation, Place::Elsewhere(x)), entries, workspace),
            Format::F32 => sum::<f32>(&Matrix::of(activation, Place::Elsewhere(x)), entries, workspace),
            Format::F64 => sum::<f64>(&Matrix::of(activation, Place::Elsewhere(x)), entries, workspace),
        },
    }
}

/// The most bytes of a [`Workspace`] for batches of `n`, whatever their features.
pub(crate) fn workspace_bytes(n: usize) -> u64 {
    let (n, slab) = (n as u64, SLAB as u64);
    let squares = n.saturating_mul(n).saturating_mul(8);
    let count = (GROUP_BYTES as u64 / squares.max(1)).clamp(1, MAX_GROUPS as u64);
    let own = n.saturating_mul(8);
    let groups = |panels: u64| count.saturating_mul(squares.saturating_add(own).saturating_add(panels));
    // Both arithmetics, and the centred copy that a decomposition works on.
    groups(Micropanels::<f32>::bytes(n, slab))
        .saturating_add(groups(Micropanels::<f64>::bytes(n, slab)))
        .saturating_add(n.saturating_mul(n).saturating_mul(16))
}

/// The most bytes that are read at a time of a stored activation of `n` examples, by all groups.
pub(crate) fn read_bytes(n: usize) -> u64 {
    let slab = (n as u64).saturating_mul((SLAB * size_of::<f64>()) as u64);
    slab.max(READ_BYTES as u64).saturating_mul(2 * MAX_GROUPS as u64)
}

fn sum<'a, S: Stored>(x: &Matrix<'_, S>, entries: Entries, workspace: &'a mut Workspace) -> Result<Sums<'a>, Unusable> {
    match entries {
        Entries::Single => sum_in(x, entries, &mut workspace.single),
        Entries::Double | Entries::Distances => sum_in(x, entries, &mut workspace.double),
    }
}

/// What one group of slabs needs.
#[derive(Debug, Default)]
struct Group<T> {
    /// The sum, n x n, to be multiplied by 2^`exponent`.
    sum: Vec<f64>,
    /// Part of [`Sums::reach`], to be multiplied by the square of that.
    reach: f64,
    /// Of the largest slab so far, so that nothing leaves the range of numbers, nor its square; none before the first slab that is not
    /// zero.
    exponent: Option<i32>,
    /// A shifted slab.
    panels: Micropanels<T>,
    /// What its rows come to with themselves.
    own: Vec<f64>,
    columns: Columns,
    /// The columns' shifts, rounded: any shift will do, as long as all rows have the same.
    single_shifts: Vec<f32>,
    /// What was read of an activation that is not in memory.
    read: Vec<u64>,
}

fn sum_in<'a, S: Stored, T: Computed>(
    x: &Matrix<'_, S>,
    entries: Entries,
    groups: &'a mut Vec<Group<T>>,
) -> Result<Sums<'a>, Unusable> {
    let (n, slabs) = (x.n, x.slabs());
    let count = slabs.min(MAX_GROUPS).min((GROUP_BYTES / (n * n * size_of::<f64>())).max(1));
    if groups.len() < count {
        groups.resize_with(count, Group::default);
    }
    // A single group (few features, or very many examples) has the threads for its products instead.
    let parallel = count == 1;
    groups[..count].par_iter_mut().enumerate().try_for_each(|(index, group)| {
        group.sum.clear();
        group.sum.resize(n * n, 0.0);
        (group.reach, group.exponent) = (0.0, None);
        let mut read = std::mem::take(&mut group.read);
        let slabs = index * slabs / count..(index + 1) * slabs / count;
        let outcome = x.each_slab(slabs, &mut read, |slab| group.add_slab(slab, n, entries, parallel));
        group.read = read;
        outcome
    })?;
    let exponent = groups[..count].iter().filter_map(|group| group.exponent).max().unwrap_or(0);
    let (first, others) = groups[..count].split_at_mut(1);
    let total = &mut first[0];
    total.raise_to(exponent);
    for group in others {
        let scale = ldexp(1.0, group.exponent.unwrap_or(exponent) - exponent);
        total.reach += group.reach * scale * scale;
        for (total, value) in total.sum.iter_mut().zip(&group.sum) {
            *total += value * scale;
        }
    }
    Ok(Sums { entries: &mut total.sum, exponent, reach: total.reach })
}

impl<T: Computed> Group<T> {
    fn add_slab<S: Stored>(
        &mut self,
        slab: &Slab<'_, S>,
        n: usize,
        entries: Entries,
        parallel: bool,
    ) -> Result<(), Unusable> {
        self.columns.measure(slab)?;
        let terms = match entries {
            Entries::Single | Entries::Double => Terms::Products,
            Entries::Distances => Terms::SquaredDifferences,
        };
        if terms == Terms::Products {
            self.columns.shift_to_trimmed_means(n);
        }
        // A slab that is zero once it is shifted adds nothing.
        let Some(exponent) = self.columns.exponent() else { return Ok(()) };
        self.single_shifts.clear();
        self.single_shifts.extend(self.columns.shifts().iter().map(|&shift| shift as f32));
        let (shifts, single_shifts) = (self.columns.shifts(), self.single_shifts.as_slice());
        self.panels.fill(slab, n, Shift { shifts, single_shifts, scale: ldexp(1.0, -exponent) });
        let scale = ldexp(1.0, 2 * exponent - self.raise_to(2 * exponent));
        self.own.resize(n, 0.0);
        self.panels.add_to(&mut self.sum, &mut self.own, terms, scale, parallel);
        self.add_reach();
        Ok(())
    }

    /// Sees to it that the sum's exponent is at least `exponent`, and returns it.
    fn raise_to(&mut self, exponent: i32) -> i32 {
        let before = self.exponent.unwrap_or(exponent);
        if before < exponent {
            let scale = ldexp(1.0, before - exponent);
            self.sum.iter_mut().for_each(|entry| *entry *= scale);
            self.reach *= scale * scale;
        }
        *self.exponent.insert(before.max(exponent))
    }

    /// Adds what the slab's entries could have been to the reach.
    fn add_reach(&mut self) {
        let (mut squares, mut pairs) = (0.0, 0.0);
        for square in &self.own {
            pairs += square * squares;
            squares += square;
        }
        self.reach += pairs;
    }
}
