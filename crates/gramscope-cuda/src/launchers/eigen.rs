//! kernels/eigen/eigen.cu.

use cudarc::driver::{CudaView, CudaViewMut, PushKernelArg};

use super::{Launcher, MOST_LAYERS, checked_count, checked_examples, enqueue};
use crate::error::Error;
use crate::family::{Kernel, kernels};
use crate::launch::Arguments;
use crate::plan::{self, Settled};
use crate::shapes::{EigenShape, EigenSummary};

kernels! {
    /// The kernels of this family.
    EigenKernels {
        subspace: "gs_eigen_subspace",
        deflate: "gs_eigen_deflate",
        naive: "gs_eigen_naive",
    }
}

/// Gram matrices whose eigenpairs are wanted.
#[derive(Debug)]
pub struct Grams<'a> {
    /// `[layers, n, n]`.
    pub k: CudaView<'a, f64>,
    /// `[layers, 3, n]`, as [`Launcher::ucenter_rows`] makes them with `biased`.
    pub sums: CudaView<'a, f64>,
    /// How many matrices.
    pub layers: usize,
    /// n.
    pub examples: usize,
}

impl Grams<'_> {
    /// The shape, in range, so that lengths are products that fit.
    fn shape(&self, kernel: &Kernel) -> Result<EigenShape, Error> {
        Ok(EigenShape {
            examples: checked_examples(kernel, self.examples)?,
            layers: checked_count(kernel, "layers", self.layers, MOST_LAYERS)?,
            ..EigenShape::default()
        })
    }

    fn check(&self, arguments: &mut Arguments<'_>) -> Result<(), Error> {
        arguments.reads("k", &self.k, self.layers * self.examples * self.examples)?;
        arguments.reads("sums", &self.sums, self.layers * 3 * self.examples)
    }

    /// Values of the vectors that the subspace iteration keeps.
    fn vectors(&self) -> usize {
        self.layers * plan::EIGEN_VECTORS * self.examples
    }
}

impl Launcher<'_> {
    /// The leading eigenpairs of every HKH, until they are `settled`: `vectors` and `scratch` `[layers, EIGEN_VECTORS, n]`,
    /// `summaries` `[layers]`.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn eigen_subspace(
        &self,
        vectors: &mut CudaViewMut<'_, f64>,
        summaries: &mut CudaViewMut<'_, EigenSummary>,
        scratch: &mut CudaViewMut<'_, f64>,
        grams: &Grams<'_>,
        settled: Settled,
    ) -> Result<(), Error> {
        let kernel = &self.device.kernels().eigen.subspace;
        let shape = EigenShape {
            tolerance: settled.residual,
            iterations: checked_count(kernel, "steps", settled.steps, 1 << 20)?,
            pairs: checked_count(kernel, "pairs", settled.pairs, 2)?,
            ..grams.shape(kernel)?
        };
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("vectors", vectors, grams.vectors())?;
        check.writes("summaries", summaries, grams.layers)?;
        check.writes("scratch", scratch, grams.vectors())?;
        grams.check(&mut check)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(vectors).arg(summaries).arg(scratch).arg(&grams.k).arg(&grams.sums).arg(&shape);
        // SAFETY: block l reads matrix l of k [layers, examples, examples] and sums [layers, 3, examples], and writes its
        // part of vectors and scratch [layers, EIGEN_VECTORS, examples] and its summary. All have been checked.
        unsafe { enqueue(kernel, plan::eigen_subspace(grams.layers), arguments) }
    }

    /// HKH - l_1 v_1 v_1^T of every matrix, `deflated` `[layers, n, n]`, given its first eigenpair.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn eigen_deflate(
        &self,
        deflated: &mut CudaViewMut<'_, f64>,
        vectors: &CudaView<'_, f64>,
        summaries: &CudaView<'_, EigenSummary>,
        grams: &Grams<'_>,
    ) -> Result<(), Error> {
        let kernel = &self.device.kernels().eigen.deflate;
        let shape = grams.shape(kernel)?;
        // Layers are blocks along y.
        checked_count(kernel, "layers", grams.layers, 65_535)?;
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("deflated", deflated, grams.layers * grams.examples * grams.examples)?;
        check.reads("vectors", vectors, grams.vectors())?;
        check.reads("summaries", summaries, grams.layers)?;
        grams.check(&mut check)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(deflated).arg(vectors).arg(summaries).arg(&grams.k).arg(&grams.sums).arg(&shape);
        // SAFETY: a thread an entry of deflated [layers, examples, examples] reads that entry of k, the matrix's sums, its
        // summary and its first vector. All have been checked.
        unsafe { enqueue(kernel, plan::eigen_deflate(grams.examples, grams.layers), arguments) }
    }

    /// All eigenvalues of every HKH by Jacobi's method: `values` `[layers, n]`, `work` `[layers, 2, n, n]`.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn eigen_naive(
        &self,
        values: &mut CudaViewMut<'_, f64>,
        work: &mut CudaViewMut<'_, f64>,
        grams: &Grams<'_>,
        iterations: usize,
        tolerance: f64,
    ) -> Result<(), Error> {
        let kernel = &self.device.kernels().eigen.naive;
        let iterations = checked_count(kernel, "iterations", iterations, 1 << 20)?;
        let shape = EigenShape { iterations, tolerance, ..grams.shape(kernel)? };
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("values", values, grams.layers * grams.examples)?;
        check.writes("work", work, grams.layers * 2 * grams.examples * grams.examples)?;
        grams.check(&mut check)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(values).arg(work).arg(&grams.k).arg(&grams.sums).arg(&shape);
        // SAFETY: block l reads matrix l of k [layers, examples, examples] and sums [layers, 3, examples], and writes its
        // part of values [layers, examples] and work [layers, 2, examples, examples]. All have been checked.
        unsafe { enqueue(kernel, plan::eigen_naive(grams.layers), arguments) }
    }
}
