//! kernels/ucenter/ucenter.cu.

use cudarc::driver::{CudaView, CudaViewMut, PushKernelArg};

use super::{
    Launcher, MOST_SPLITS, NULL, Needed, Partials, check_flag, checked_count, checked_examples, enqueue, push_flag,
};
use crate::error::Error;
use crate::functions::Kernel;
use crate::launch::{Arguments, wrong};
use crate::plan::{self, Bounds, PartialLengths};
use crate::shapes::{CentreShape, RowSummary};

/// Length of a panel row: the strict triangle of `examples` x `examples`, and the diagonal where `biased`.
pub(crate) fn packed_length(examples: usize, biased: bool) -> usize {
    examples * (examples - 1) / 2 + if biased { examples } else { 0 }
}

/// The fewest examples that the unbiased estimator takes.
const FEWEST_UNBIASED: usize = 4;

/// A Gram matrix.
#[derive(Debug)]
pub struct Gram<'a> {
    /// `[n, n]`, both triangles and the diagonal.
    pub k: CudaView<'a, f64>,
    /// `[n]`: what each row's products could have come to.
    pub reach: CudaView<'a, f64>,
}

/// Where a Gram matrix goes.
#[derive(Debug)]
pub struct GramMut<'a> {
    /// `[n, n]`, both triangles and the diagonal.
    pub k: CudaViewMut<'a, f64>,
    /// `[n]`: what each row's products could have come to.
    pub reach: CudaViewMut<'a, f64>,
}

impl Launcher<'_> {
    /// The Gram matrix from float32 partial sums in so many parts, added up in a fixed order in float64.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn ucenter_reduce(
        &self,
        gram: &mut GramMut<'_>,
        partials: &Partials<'_>,
        needed: Needed<'_>,
        examples: usize,
        splits: usize,
    ) -> Result<(), Error> {
        let kernel = &self.device.functions().ucenter_reduce_f32;
        let (shape, lengths) = reduce_shape(kernel, examples, splits)?;
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("k", &gram.k, examples * examples)?;
        check.writes("reach", &gram.reach, examples)?;
        check.reads("partials", &partials.sums, lengths.partials)?;
        check.reads("exponents", &partials.exponents, lengths.exponents)?;
        check.reads("reaches", &partials.reaches, lengths.exponents)?;
        check_flag(&mut check, "needed", needed)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments
            .arg(&mut gram.k)
            .arg(&mut gram.reach)
            .arg(&partials.sums)
            .arg(&partials.exponents)
            .arg(&partials.reaches);
        push_flag(&mut arguments, needed);
        arguments.arg(&shape);
        // SAFETY: a block a tile of the triangle reads that tile of each of `splits` sets of partial sums, exponents and reaches,
        // whose total lengths follow from the two numbers, and writes entries of k [examples, examples] and of reach [examples]. All have been checked.
        unsafe { enqueue(kernel, plan::ucenter_reduce(examples), arguments) }
    }

    /// The same from float64 partial sums.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn ucenter_reduce_double(
        &self,
        gram: &mut GramMut<'_>,
        partials: &CudaView<'_, f64>,
        needed: Needed<'_>,
        examples: usize,
        splits: usize,
    ) -> Result<(), Error> {
        let kernel = &self.device.functions().ucenter_reduce_f64;
        let (shape, lengths) = reduce_shape(kernel, examples, splits)?;
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("k", &gram.k, examples * examples)?;
        check.writes("reach", &gram.reach, examples)?;
        check.reads("partials", partials, lengths.partials)?;
        check_flag(&mut check, "needed", needed)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(&mut gram.k).arg(&mut gram.reach).arg(partials);
        push_flag(&mut arguments, needed);
        arguments.arg(&shape);
        // SAFETY: a block a tile of the triangle reads that tile of each of `splits` sets of partial sums, whose total
        // length follows from the two numbers, and writes entries of k [examples, examples] and of reach [examples]. All have been checked.
        unsafe { enqueue(kernel, plan::ucenter_reduce(examples), arguments) }
    }

    /// Row sums of the matrix, of its squares, and its largest entries (`sums` `[3, n]`); where `redo` is given, it becomes 1
    /// where the matrix is beyond `bounds`, else 0. `arrivals` is 0 before and after.
    ///
    /// # Errors
    /// [`Error::Argument`] (also for fewer than four examples where it is not `biased`), [`Error::Overlap`], [`Error::Launch`].
    #[allow(clippy::too_many_arguments, reason = "they are the kernel's")]
    pub fn ucenter_rows(
        &self,
        sums: &mut CudaViewMut<'_, f64>,
        redo: Option<&mut CudaViewMut<'_, i32>>,
        arrivals: &mut CudaViewMut<'_, u32>,
        gram: &Gram<'_>,
        needed: Needed<'_>,
        examples: usize,
        biased: bool,
        bounds: Bounds,
    ) -> Result<(), Error> {
        let kernel = &self.device.functions().ucenter_rows;
        let shape = CentreShape {
            largest_kappa: bounds.kappa,
            largest_reach: bounds.reach,
            ..centre_shape(kernel, examples, biased)?
        };
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("sums", sums, 3 * examples)?;
        if let Some(redo) = redo.as_deref() {
            check.writes("redo", redo, 1)?;
        }
        check.writes("arrivals", arrivals, 1)?;
        check.reads("k", &gram.k, examples * examples)?;
        check.reads("reach", &gram.reach, examples)?;
        check_flag(&mut check, "needed", needed)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(sums);
        match redo {
            Some(redo) => arguments.arg(redo),
            None => arguments.arg(&NULL),
        };
        arguments.arg(arrivals).arg(&gram.k).arg(&gram.reach);
        push_flag(&mut arguments, needed);
        arguments.arg(&shape);
        // SAFETY: a warp a row of k [examples, examples], and reach [examples], writes its place of each third of sums [3, examples]; redo,
        // arrivals and needed are one int each. All these lengths have been checked.
        unsafe { enqueue(kernel, plan::ucenter_rows(examples), arguments) }
    }

    /// Centres a matrix, given its row sums, and packs it into a panel row with its summary. `in_double` says on the device
    /// whether k is good to float64, `undefined` whether the kernel is not defined on this batch.
    ///
    /// # Errors
    /// As [`Launcher::ucenter_rows`].
    #[allow(clippy::too_many_arguments, reason = "they are the kernel's")]
    pub fn ucenter_pack(
        &self,
        row: &mut CudaViewMut<'_, f32>,
        summary: &mut CudaViewMut<'_, RowSummary>,
        norms: &mut CudaViewMut<'_, f64>,
        arrivals: &mut CudaViewMut<'_, u32>,
        gram: &Gram<'_>,
        sums: &CudaView<'_, f64>,
        in_double: &CudaView<'_, i32>,
        undefined: Option<&CudaView<'_, i32>>,
        examples: usize,
        biased: bool,
    ) -> Result<(), Error> {
        let kernel = &self.device.functions().ucenter_pack;
        let shape = centre_shape(kernel, examples, biased)?;
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("row", row, packed_length(examples, biased))?;
        check.writes("summary", summary, 1)?;
        check.writes("norms", norms, examples)?;
        check.writes("arrivals", arrivals, 1)?;
        check.reads("k", &gram.k, examples * examples)?;
        check.reads("reach", &gram.reach, examples)?;
        check.reads("sums", sums, 3 * examples)?;
        check.reads("in_double", in_double, 1)?;
        check_flag(&mut check, "undefined", undefined)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(row).arg(summary).arg(norms).arg(arrivals);
        arguments.arg(&gram.k).arg(sums).arg(&gram.reach).arg(in_double);
        push_flag(&mut arguments, undefined);
        arguments.arg(&shape);
        // SAFETY: a warp a row of k [examples, examples] reads sums [3, examples] and reach [examples], writes its part of the packed row and
        // its place of norms [examples]; the last block writes one summary; in_double and undefined are one int. All these
        // lengths have been checked.
        unsafe { enqueue(kernel, plan::ucenter_rows(examples), arguments) }
    }

    /// The same as [`Launcher::ucenter_rows`] and [`Launcher::ucenter_pack`] together, in one block and in the simplest way.
    ///
    /// # Errors
    /// As [`Launcher::ucenter_rows`].
    #[allow(clippy::too_many_arguments, reason = "they are the kernel's")]
    pub fn ucenter_naive(
        &self,
        row: &mut CudaViewMut<'_, f32>,
        summary: &mut CudaViewMut<'_, RowSummary>,
        sums: &mut CudaViewMut<'_, f64>,
        gram: &Gram<'_>,
        in_double: &CudaView<'_, i32>,
        examples: usize,
        biased: bool,
    ) -> Result<(), Error> {
        let kernel = &self.device.functions().ucenter_naive;
        let shape = centre_shape(kernel, examples, biased)?;
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("row", row, packed_length(examples, biased))?;
        check.writes("summary", summary, 1)?;
        check.writes("sums", sums, 3 * examples)?;
        check.reads("k", &gram.k, examples * examples)?;
        check.reads("reach", &gram.reach, examples)?;
        check.reads("in_double", in_double, 1)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(row).arg(summary).arg(sums).arg(&gram.k).arg(&gram.reach).arg(in_double).arg(&shape);
        // SAFETY: one block reads k [examples, examples], reach [examples] and one int, writes the packed row, sums [3, examples] and one summary. All these
        // lengths have been checked.
        unsafe { enqueue(kernel, plan::ucenter_naive(), arguments) }
    }
}

/// What centring is told. U-centring divides by n - 2, and HSIC by n - 3.
fn centre_shape(kernel: &Kernel, examples: usize, biased: bool) -> Result<CentreShape, Error> {
    let count = checked_examples(kernel, examples)?;
    if !biased && examples < FEWEST_UNBIASED {
        return Err(wrong(kernel.name, "examples", examples, format!("at least {FEWEST_UNBIASED}")));
    }
    Ok(CentreShape { examples: count, biased: biased.into(), ..CentreShape::default() })
}

/// What adding up so many parts is told, and the lengths of their buffers.
fn reduce_shape(kernel: &Kernel, examples: usize, splits: usize) -> Result<(CentreShape, PartialLengths), Error> {
    let shape = CentreShape {
        examples: checked_examples(kernel, examples)?,
        splits: checked_count(kernel, "splits", splits, MOST_SPLITS)?,
        ..CentreShape::default()
    };
    Ok((shape, plan::gram_lengths(examples, splits)))
}
