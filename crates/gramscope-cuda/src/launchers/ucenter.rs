//! kernels/ucenter/ucenter.cu.

use cudarc::driver::{CudaView, CudaViewMut, PushKernelArg};

use super::{Launcher, MOST_SPLITS, NULL, Partials, Wanting, checked_count, checked_examples, enqueue, push_view};
use crate::error::Error;
use crate::family::{Kernel, kernels};
use crate::launch::{Arguments, wrong};
use crate::plan::{self, Better, Bounds, LAYERS_TOGETHER, PartialLengths};
use crate::shapes::{CentreShape, LayerSplits, RowSummary};

kernels! {
    /// The kernels of this family.
    UcenterKernels {
        reduce_f32: "gs_ucenter_reduce_f32",
        reduce_f64: "gs_ucenter_reduce_f64",
        rows: "gs_ucenter_rows",
        pack: "gs_ucenter_pack",
        naive: "gs_ucenter_naive",
    }
}

/// Length of a panel row: the strict triangle of `examples` x `examples`, and the diagonal where `biased`.
pub(crate) fn packed_length(examples: usize, biased: bool) -> usize {
    examples * (examples - 1) / 2 + if biased { examples } else { 0 }
}

/// The fewest examples that the unbiased estimator takes.
const FEWEST_UNBIASED: usize = 4;

/// Gram matrices of layers, one after the other.
#[derive(Debug)]
pub struct Gram<'a> {
    /// `[n, n]` each, both triangles and the diagonal.
    pub k: CudaView<'a, f64>,
    /// `[n]` each: what each row's products could have come to.
    pub reach: CudaView<'a, f64>,
}

/// Where Gram matrices of layers go, one after the other.
#[derive(Debug)]
pub struct GramMut<'a> {
    /// `[n, n]` each, both triangles and the diagonal.
    pub k: CudaViewMut<'a, f64>,
    /// `[n]` each: what each row's products could have come to.
    pub reach: CudaViewMut<'a, f64>,
}

/// What row sums are made for, beside themselves: the layers' flags.
#[derive(Debug)]
pub struct Looking<'a> {
    /// Which products each layer wants: looked at, and left by.
    pub flags: CudaViewMut<'a, i32>,
    /// The layers that the launch is for: those that want these, whose products have come; none: all.
    pub only: Option<Better>,
    /// What a layer is to want whose matrix is beyond these bounds; the others want nothing. None: all keep what they want.
    pub verdict: Option<(Better, Bounds)>,
}

impl Launcher<'_> {
    /// The Gram matrices from float32 partial sums, of each layer in so many parts, added up in a fixed order in float64.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn ucenter_reduce(
        &self,
        gram: &mut GramMut<'_>,
        partials: &Partials<'_>,
        only: Option<&Wanting<'_>>,
        examples: usize,
        splits: &[usize],
    ) -> Result<(), Error> {
        let kernel = &self.device.kernels().ucenter.reduce_f32;
        let (shape, lengths) = reduce_shape(kernel, examples, splits, only)?;
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("k", &gram.k, splits.len() * examples * examples)?;
        check.writes("reach", &gram.reach, splits.len() * examples)?;
        check.reads("partials", &partials.sums, lengths.partials)?;
        check.reads("exponents", &partials.exponents, lengths.exponents)?;
        check.reads("reaches", &partials.reaches, lengths.exponents)?;
        Wanting::check(only, &mut check, splits.len())?;
        let parts = LayerSplits::new(splits);
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments
            .arg(&mut gram.k)
            .arg(&mut gram.reach)
            .arg(&partials.sums)
            .arg(&partials.exponents)
            .arg(&partials.reaches);
        push_view(&mut arguments, only.map(|only| &only.flags));
        arguments.arg(&parts).arg(&shape);
        // SAFETY: a block a tile of the triangle, of one layer after the other, reads that tile of each of the layer's sets of partial sums, exponents and reaches,
        // whose total lengths follow from the numbers of examples and of parts, and writes entries of the layer's k [examples, examples] and
        // reach [examples]; flags are an int a layer. All have been checked.
        unsafe { enqueue(kernel, plan::ucenter_reduce(examples, splits, only.is_none()), arguments) }
    }

    /// The same from float64 partial sums.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn ucenter_reduce_double(
        &self,
        gram: &mut GramMut<'_>,
        partials: &CudaView<'_, f64>,
        only: Option<&Wanting<'_>>,
        examples: usize,
        splits: &[usize],
    ) -> Result<(), Error> {
        let kernel = &self.device.kernels().ucenter.reduce_f64;
        let (shape, lengths) = reduce_shape(kernel, examples, splits, only)?;
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("k", &gram.k, splits.len() * examples * examples)?;
        check.writes("reach", &gram.reach, splits.len() * examples)?;
        check.reads("partials", partials, lengths.partials)?;
        Wanting::check(only, &mut check, splits.len())?;
        let parts = LayerSplits::new(splits);
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(&mut gram.k).arg(&mut gram.reach).arg(partials);
        push_view(&mut arguments, only.map(|only| &only.flags));
        arguments.arg(&parts).arg(&shape);
        // SAFETY: a block a tile of the triangle, of one layer after the other, reads that tile of each of the layer's sets of partial sums, whose total length follows
        // from the numbers of examples and of parts, and writes entries of the layer's k [examples, examples] and reach [examples]; flags are
        // an int a layer. All have been checked.
        unsafe { enqueue(kernel, plan::ucenter_reduce(examples, splits, only.is_none()), arguments) }
    }

    /// Row sums of so many matrices, of their squares, and their largest entries (`sums` `[3, n]` each); and, where something is
    /// looked for, which products each layer wants now. `arrivals`, one a layer, are 0 before and after.
    ///
    /// # Errors
    /// [`Error::Argument`] (also for fewer than four examples where it is not `biased`), [`Error::Overlap`], [`Error::Launch`].
    #[allow(clippy::too_many_arguments, reason = "they are the kernel's")]
    pub fn ucenter_rows(
        &self,
        sums: &mut CudaViewMut<'_, f64>,
        looking: Option<&mut Looking<'_>>,
        arrivals: &mut CudaViewMut<'_, u32>,
        gram: &Gram<'_>,
        layers: usize,
        examples: usize,
        biased: bool,
    ) -> Result<(), Error> {
        let kernel = &self.device.kernels().ucenter.rows;
        let mut shape = centre_shape(kernel, layers, examples, biased)?;
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("sums", sums, 3 * layers * examples)?;
        if let Some(Looking { flags, only, verdict }) = looking.as_deref() {
            check.writes("flags", flags, layers)?;
            shape.products = only.map_or(0, Better::flag);
            if let Some((better, bounds)) = verdict {
                let (kappa, reach) = (bounds.kappa, bounds.reach);
                shape = CentreShape { largest_kappa: kappa, largest_reach: reach, better: better.flag(), ..shape };
            }
        }
        check.writes("arrivals", arrivals, layers)?;
        check.reads("k", &gram.k, layers * examples * examples)?;
        check.reads("reach", &gram.reach, layers * examples)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(sums);
        match looking {
            Some(looking) => arguments.arg(&mut looking.flags),
            None => arguments.arg(&NULL),
        };
        arguments.arg(arrivals).arg(&gram.k).arg(&gram.reach).arg(&shape);
        // SAFETY: a warp a row of a layer's k [examples, examples], and reach [examples], writes its place of each third of the layer's sums
        // [3, examples]; flags and arrivals are an int a layer, and without flags none is asked for. All these lengths have been checked.
        unsafe { enqueue(kernel, plan::ucenter_rows(examples, layers), arguments) }
    }

    /// Centres so many matrices, given their row sums, and packs them into panel rows with their summaries. `flags` say on the
    /// device which k, having wanted it, is good to float64, `undefined` whether the kernel is not defined on this batch, for each
    /// layer.
    ///
    /// # Errors
    /// As [`Launcher::ucenter_rows`].
    #[allow(clippy::too_many_arguments, reason = "they are the kernel's")]
    pub fn ucenter_pack(
        &self,
        rows: &mut CudaViewMut<'_, f32>,
        summaries: &mut CudaViewMut<'_, RowSummary>,
        norms: &mut CudaViewMut<'_, f64>,
        arrivals: &mut CudaViewMut<'_, u32>,
        gram: &Gram<'_>,
        sums: &CudaView<'_, f64>,
        flags: &CudaView<'_, i32>,
        undefined: Option<&CudaView<'_, i32>>,
        layers: usize,
        examples: usize,
        biased: bool,
    ) -> Result<(), Error> {
        let kernel = &self.device.kernels().ucenter.pack;
        let shape = centre_shape(kernel, layers, examples, biased)?;
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("rows", rows, layers * packed_length(examples, biased))?;
        check.writes("summaries", summaries, layers)?;
        check.writes("norms", norms, layers * examples)?;
        check.writes("arrivals", arrivals, layers)?;
        check.reads("k", &gram.k, layers * examples * examples)?;
        check.reads("reach", &gram.reach, layers * examples)?;
        check.reads("sums", sums, 3 * layers * examples)?;
        check.reads("flags", flags, layers)?;
        undefined.map_or(Ok(()), |undefined| check.reads("undefined", undefined, layers))?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(rows).arg(summaries).arg(norms).arg(arrivals);
        arguments.arg(&gram.k).arg(sums).arg(&gram.reach).arg(flags);
        push_view(&mut arguments, undefined);
        arguments.arg(&shape);
        // SAFETY: a warp a row of a layer's k [examples, examples] reads the layer's sums [3, examples] and reach [examples], writes its part
        // of the packed row and its place of norms [examples]; a layer's last block writes its summary; flags and undefined are an int a layer.
        // All these lengths have been checked.
        unsafe { enqueue(kernel, plan::ucenter_rows(examples, layers), arguments) }
    }

    /// The same as [`Launcher::ucenter_rows`] and [`Launcher::ucenter_pack`] together, in a block a layer and in the simplest way.
    ///
    /// # Errors
    /// As [`Launcher::ucenter_rows`].
    #[allow(clippy::too_many_arguments, reason = "they are the kernel's")]
    pub fn ucenter_naive(
        &self,
        rows: &mut CudaViewMut<'_, f32>,
        summaries: &mut CudaViewMut<'_, RowSummary>,
        sums: &mut CudaViewMut<'_, f64>,
        gram: &Gram<'_>,
        flags: &CudaView<'_, i32>,
        layers: usize,
        examples: usize,
        biased: bool,
    ) -> Result<(), Error> {
        let kernel = &self.device.kernels().ucenter.naive;
        let shape = centre_shape(kernel, layers, examples, biased)?;
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("rows", rows, layers * packed_length(examples, biased))?;
        check.writes("summaries", summaries, layers)?;
        check.writes("sums", sums, 3 * layers * examples)?;
        check.reads("k", &gram.k, layers * examples * examples)?;
        check.reads("reach", &gram.reach, layers * examples)?;
        check.reads("flags", flags, layers)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(rows).arg(summaries).arg(sums).arg(&gram.k).arg(&gram.reach).arg(flags).arg(&shape);
        // SAFETY: a layer's block reads its k [examples, examples], reach [examples] and flag, writes its packed row, sums [3, examples] and
        // summary. All these lengths have been checked.
        unsafe { enqueue(kernel, plan::ucenter_naive(layers), arguments) }
    }
}

/// What centring is told. U-centring divides by n - 2, and HSIC by n - 3.
fn centre_shape(kernel: &Kernel, layers: usize, examples: usize, biased: bool) -> Result<CentreShape, Error> {
    checked_count(kernel, "layers", layers, LAYERS_TOGETHER)?;
    let count = checked_examples(kernel, examples)?;
    if !biased && examples < FEWEST_UNBIASED {
        return Err(wrong(kernel.name, "examples", examples, format!("at least {FEWEST_UNBIASED}")));
    }
    Ok(CentreShape { examples: count, biased: biased.into(), ..CentreShape::default() })
}

/// What adding up so many parts a layer is told, and the lengths of their buffers.
fn reduce_shape(
    kernel: &Kernel,
    examples: usize,
    splits: &[usize],
    only: Option<&Wanting<'_>>,
) -> Result<(CentreShape, PartialLengths), Error> {
    checked_count(kernel, "layers", splits.len(), LAYERS_TOGETHER)?;
    for &of_layer in splits {
        checked_count(kernel, "splits", of_layer, MOST_SPLITS)?;
    }
    let examples_told = checked_examples(kernel, examples)?;
    let shape = CentreShape { examples: examples_told, products: Wanting::products(only), ..CentreShape::default() };
    Ok((shape, plan::gram_lengths(examples, splits.iter().sum())))
}
