//! kernels/rbf/rbf.cu.

use cudarc::driver::{CudaView, CudaViewMut, PushKernelArg};

use super::{Launcher, checked_examples, enqueue};
use crate::error::Error;
use crate::family::{Kernel, kernels};
use crate::launch::{Arguments, wrong};
use crate::plan;
use crate::shapes::{RbfShape, Selection};

kernels! {
    /// The kernels of this family.
    RbfKernels {
        start: "gs_rbf_start",
        select: "gs_rbf_select",
        above: "gs_rbf_above",
        apply: "gs_rbf_apply",
        naive: "gs_rbf_naive",
    }
}

impl Launcher<'_> {
    /// Both middle values of the n^2 `distances`: from `selection`'s making to its end. `arrivals` is 0 before and after.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn rbf_median(
        &self,
        selection: &mut CudaViewMut<'_, Selection>,
        histogram: &mut CudaViewMut<'_, u32>,
        arrivals: &mut CudaViewMut<'_, u32>,
        distances: &CudaView<'_, f64>,
        examples: usize,
    ) -> Result<(), Error> {
        self.rbf_start(selection, histogram, examples)?;
        for pass in 0..plan::RADIX_PASSES {
            self.rbf_select(selection, histogram, arrivals, distances, examples, pass)?;
        }
        self.rbf_above(selection, distances, examples)
    }

    /// Makes the search for the median of n^2 distances ready.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn rbf_start(
        &self,
        selection: &mut CudaViewMut<'_, Selection>,
        histogram: &mut CudaViewMut<'_, u32>,
        examples: usize,
    ) -> Result<(), Error> {
        let kernel = &self.device.kernels().rbf.start;
        let shape = shape(kernel, examples)?;
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("selection", selection, 1)?;
        check.writes("histogram", histogram, plan::RADIX_BINS)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(selection).arg(histogram).arg(&shape);
        // SAFETY: the threads write one selection and RADIX_BINS counts. Both have been checked.
        unsafe { enqueue(kernel, plan::rbf_start(), arguments) }
    }

    /// Pass `pass` of the search for the median, of [`plan::RADIX_PASSES`]. `arrivals` is 0 before and after.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn rbf_select(
        &self,
        selection: &mut CudaViewMut<'_, Selection>,
        histogram: &mut CudaViewMut<'_, u32>,
        arrivals: &mut CudaViewMut<'_, u32>,
        distances: &CudaView<'_, f64>,
        examples: usize,
        pass: usize,
    ) -> Result<(), Error> {
        let kernel = &self.device.kernels().rbf.select;
        let number = i32::try_from(pass).ok().filter(|_| pass < plan::RADIX_PASSES);
        let pass = number.ok_or_else(|| wrong(kernel.name, "pass", pass, format!("below {}", plan::RADIX_PASSES)))?;
        let shape = RbfShape { pass, ..shape(kernel, examples)? };
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("selection", selection, 1)?;
        check.writes("histogram", histogram, plan::RADIX_BINS)?;
        check.writes("arrivals", arrivals, 1)?;
        check.reads("distances", distances, examples * examples)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(selection).arg(histogram).arg(arrivals).arg(distances).arg(&shape);
        // SAFETY: the blocks read distances [examples, examples] and count into RADIX_BINS counts; the last of them reads
        // and writes one selection and one count of arrivals. All these lengths have been checked.
        unsafe { enqueue(kernel, plan::rbf_select(examples, self.device.plan()), arguments) }
    }

    /// The upper middle value, once the lower one is known.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn rbf_above(
        &self,
        selection: &mut CudaViewMut<'_, Selection>,
        distances: &CudaView<'_, f64>,
        examples: usize,
    ) -> Result<(), Error> {
        let kernel = &self.device.kernels().rbf.above;
        let shape = shape(kernel, examples)?;
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("selection", selection, 1)?;
        check.reads("distances", distances, examples * examples)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(selection).arg(distances).arg(&shape);
        // SAFETY: the blocks read distances [examples, examples] and read and write one selection. Both have been checked.
        unsafe { enqueue(kernel, plan::rbf_select(examples, self.device.plan()), arguments) }
    }

    /// The kernel's values, in `k` `[n, n]`; 0, and `undefined` 1, where the median is 0.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn rbf_apply(
        &self,
        k: &mut CudaViewMut<'_, f64>,
        undefined: &mut CudaViewMut<'_, i32>,
        distances: &CudaView<'_, f64>,
        selection: &CudaView<'_, Selection>,
        examples: usize,
        bandwidth: f64,
    ) -> Result<(), Error> {
        let kernel = &self.device.kernels().rbf.apply;
        let shape = RbfShape { bandwidth, ..shape(kernel, examples)? };
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("k", k, examples * examples)?;
        check.writes("undefined", undefined, 1)?;
        check.reads("distances", distances, examples * examples)?;
        check.reads("selection", selection, 1)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(k).arg(undefined).arg(distances).arg(selection).arg(&shape);
        // SAFETY: a thread an entry of [examples, examples] reads its distance and one selection and writes its entry of k;
        // the first writes one flag. All these lengths have been checked.
        unsafe { enqueue(kernel, plan::entries(examples), arguments) }
    }

    /// Both middle values in the simplest way, each distance counting those below it.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn rbf_naive(
        &self,
        selection: &mut CudaViewMut<'_, Selection>,
        distances: &CudaView<'_, f64>,
        examples: usize,
    ) -> Result<(), Error> {
        let kernel = &self.device.kernels().rbf.naive;
        let shape = shape(kernel, examples)?;
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("selection", selection, 1)?;
        check.reads("distances", distances, examples * examples)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(selection).arg(distances).arg(&shape);
        // SAFETY: a thread an entry reads distances [examples, examples] and may write one selection. Both have been
        // checked.
        unsafe { enqueue(kernel, plan::entries(examples), arguments) }
    }
}

fn shape(kernel: &Kernel, examples: usize) -> Result<RbfShape, Error> {
    Ok(RbfShape { examples: checked_examples(kernel, examples)?, ..RbfShape::default() })
}
