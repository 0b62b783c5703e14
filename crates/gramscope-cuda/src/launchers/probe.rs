//! kernels/probe/probe.cu.

use cudarc::driver::{CudaView, CudaViewMut, PushKernelArg};

use super::{Activation, Launcher, NULL, checked_count, checked_values, enqueue};
use crate::error::Error;
use crate::family::{Family, Kernel, Typed, kernels};
use crate::launch::Arguments;
use crate::plan::{self, Geometry};
use crate::shapes::{ProbeRecord, ProbeShape};

kernels! {
    /// The kernels of one type of activations.
    TypedProbeKernels of an element {
        products: "gs_probe_products",
        update: "gs_probe_update",
        naive_products: "gs_probe_naive_products",
        naive_update: "gs_probe_naive_update",
    }
}

/// The kernels of this family.
pub(crate) struct ProbeKernels {
    of_type: Typed<TypedProbeKernels>,
    outcome: Kernel,
}

impl ProbeKernels {
    pub(super) fn load(family: &Family) -> Result<Self, Error> {
        Ok(Self { of_type: Typed::load(family, TypedProbeKernels::load)?, outcome: family.kernel("gs_probe_outcome")? })
    }
}

/// The most classes of a probe.
const MOST_CLASSES: usize = 1 << 20;

/// A batch of activations `[examples, features]`, row-major, and what is to be told apart.
#[derive(Debug)]
pub struct ProbeBatch<'a, T> {
    /// The activations.
    pub x: CudaView<'a, T>,
    /// How many examples.
    pub examples: usize,
    /// How many features.
    pub features: usize,
    /// How many classes.
    pub classes: usize,
}

/// The settings of a probe's SGD.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProbeStep {
    /// Learning rate.
    pub learning_rate: f64,
    /// Share of the velocity that a step keeps.
    pub momentum: f64,
}

/// What [`Launcher::probe_outcome`] writes beside the record; lengths are those of [`plan::probe`].
#[derive(Debug)]
pub struct ProbeOutcome<'a> {
    /// The gradient by the logits; none where nothing is learnt.
    pub dlogits: Option<CudaViewMut<'a, f32>>,
    /// `[examples, classes]`.
    pub logits: CudaViewMut<'a, f32>,
    /// What each block found.
    pub totals: CudaViewMut<'a, f64>,
    /// A number that is 0, and is again afterwards.
    pub arrivals: CudaViewMut<'a, u32>,
}

impl<T: Activation> ProbeBatch<'_, T> {
    /// How the kernels are launched, once dimensions have been found to be in range.
    fn plan(&self, kernel: &Kernel) -> Result<plan::probe::Probe, Error> {
        checked_values(kernel, "x", &[self.examples, self.features])?;
        checked_count(kernel, "classes", self.classes, MOST_CLASSES)?;
        Ok(plan::probe::probe(self.examples, self.features, self.classes))
    }

    /// Values of weights and biases.
    fn parameters(&self) -> usize {
        (self.features + 1) * self.classes
    }

    /// The shape, its products in `splits` parts, once `x` has been looked at.
    fn check(&self, kernel: &Kernel, arguments: &mut Arguments<'_>, splits: usize) -> Result<ProbeShape, Error> {
        let plan::probe::Probe { share, row, .. } = self.plan(kernel)?;
        let count = self.examples * self.features;
        arguments.reads("x", &self.x, count)?;
        Ok(ProbeShape {
            examples: checked_count(kernel, "examples", self.examples, count)?,
            features: checked_count(kernel, "features", self.features, count)?,
            classes: checked_count(kernel, "classes", self.classes, MOST_CLASSES)?,
            splits: checked_count(kernel, "splits", splits, self.features)?,
            share: checked_count(kernel, "share", share, i32::MAX as usize)?,
            row: checked_count(kernel, "row", row, i32::MAX as usize)?,
            ..ProbeShape::default()
        })
    }

    /// Whether rows are whole runs, which must lie as runs do.
    fn check_runs(&self, arguments: &Arguments<'_>, weights: &CudaView<'_, f32>) -> Result<(), Error> {
        if self.features.is_multiple_of(plan::probe::FEATURES) {
            arguments.aligned("x", &self.x, plan::training::RUN_BYTES)?;
            arguments.aligned("weights", weights, plan::training::RUN_BYTES)?;
        }
        Ok(())
    }
}

impl Launcher<'_> {
    /// Partial sums of X W^T, of `weights` `[classes, features]` and biases behind them. Returns the number of parts.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn probe_products<T: Activation>(
        &self,
        partials: &mut CudaViewMut<'_, f32>,
        batch: &ProbeBatch<'_, T>,
        weights: &CudaView<'_, f32>,
        record: &CudaView<'_, ProbeRecord>,
    ) -> Result<usize, Error> {
        let kernel = &T::kernels(&self.device.kernels().probe.of_type).products;
        let plan = batch.plan(kernel)?;
        self.products_by(kernel, plan.products, plan.splits, partials, batch, weights, record)
    }

    /// The same in float64, in one part.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn probe_products_naive<T: Activation>(
        &self,
        partials: &mut CudaViewMut<'_, f32>,
        batch: &ProbeBatch<'_, T>,
        weights: &CudaView<'_, f32>,
        record: &CudaView<'_, ProbeRecord>,
    ) -> Result<usize, Error> {
        let kernel = &T::kernels(&self.device.kernels().probe.of_type).naive_products;
        batch.plan(kernel)?;
        let geometry = plan::probe::naive_products(batch.examples, batch.classes);
        self.products_by(kernel, geometry, 1, partials, batch, weights, record)
    }

    #[allow(clippy::too_many_arguments, reason = "they are the kernel's")]
    fn products_by<T: Activation>(
        &self,
        kernel: &Kernel,
        geometry: Geometry,
        splits: usize,
        partials: &mut CudaViewMut<'_, f32>,
        batch: &ProbeBatch<'_, T>,
        weights: &CudaView<'_, f32>,
        record: &CudaView<'_, ProbeRecord>,
    ) -> Result<usize, Error> {
        let mut check = Arguments::new(kernel.name, self.stream);
        let shape = batch.check(kernel, &mut check, splits)?;
        check.writes("partials", partials, splits * batch.examples * batch.classes)?;
        check.reads("weights", weights, batch.parameters())?;
        check.reads("record", record, 1)?;
        batch.check_runs(&check, weights)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(partials).arg(&batch.x).arg(weights).arg(record).arg(&shape);
        // SAFETY: warps (naive: threads) read rows of x [examples, features] and of the weights [classes, features], and the
        // record, and write each logit of their part of partials [splits, examples, classes] once. All these lengths have been
        // checked, as has the alignment of runs.
        unsafe { enqueue(kernel, geometry, arguments) }?;
        Ok(splits)
    }

    /// Adds up the partial sums of so many parts and takes what `batch`, of one label an example, comes to into `record`.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    #[allow(clippy::too_many_arguments, reason = "they are the kernel's")]
    pub fn probe_outcome<T: Activation>(
        &self,
        outcome: &mut ProbeOutcome<'_>,
        record: &mut CudaViewMut<'_, ProbeRecord>,
        partials: &CudaView<'_, f32>,
        splits: usize,
        batch: &ProbeBatch<'_, T>,
        weights: &CudaView<'_, f32>,
        labels: &CudaView<'_, u32>,
    ) -> Result<(), Error> {
        let kernel = &self.device.kernels().probe.outcome;
        let plan = batch.plan(kernel)?;
        let mut check = Arguments::new(kernel.name, self.stream);
        let shape = batch.check(kernel, &mut check, splits)?;
        let logits = batch.examples * batch.classes;
        if let Some(dlogits) = &outcome.dlogits {
            check.writes("dlogits", dlogits, batch.examples * plan.row)?;
        }
        check.writes("logits", &outcome.logits, logits)?;
        check.writes("totals", &outcome.totals, plan.totals)?;
        check.writes("arrivals", &outcome.arrivals, 1)?;
        check.writes("record", record, 1)?;
        check.reads("partials", partials, splits * logits)?;
        check.reads("weights", weights, batch.parameters())?;
        check.reads("labels", labels, batch.examples)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        match &mut outcome.dlogits {
            Some(dlogits) => arguments.arg(dlogits),
            None => arguments.arg(&NULL),
        };
        arguments.arg(&mut outcome.logits).arg(&mut outcome.totals).arg(&mut outcome.arrivals).arg(record);
        arguments.arg(partials).arg(weights).arg(labels).arg(&shape);
        // SAFETY: a warp an example reads its label, its logits' parts and the biases behind the weights and writes its row of
        // logits and, where there is one, of dlogits [examples, row]; a block writes its totals; the last one reads them all and
        // reads and writes one record and one number of arrivals. All these lengths have been checked; labels are used as an
        // index only where they are one of the classes.
        unsafe { enqueue(kernel, plan.outcome, arguments) }
    }

    /// One step of weights and biases by `dlogits`, unless the record says that the probe has diverged.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn probe_update<T: Activation>(
        &self,
        weights: &mut CudaViewMut<'_, f32>,
        velocities: &mut CudaViewMut<'_, f32>,
        batch: &ProbeBatch<'_, T>,
        dlogits: &CudaView<'_, f32>,
        record: &CudaView<'_, ProbeRecord>,
        step: ProbeStep,
    ) -> Result<(), Error> {
        let kernel = &T::kernels(&self.device.kernels().probe.of_type).update;
        self.update_by(kernel, batch.plan(kernel)?.update, weights, velocities, batch, dlogits, record, step)
    }

    /// The same, its sums in float64.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn probe_update_naive<T: Activation>(
        &self,
        weights: &mut CudaViewMut<'_, f32>,
        velocities: &mut CudaViewMut<'_, f32>,
        batch: &ProbeBatch<'_, T>,
        dlogits: &CudaView<'_, f32>,
        record: &CudaView<'_, ProbeRecord>,
        step: ProbeStep,
    ) -> Result<(), Error> {
        let kernel = &T::kernels(&self.device.kernels().probe.of_type).naive_update;
        batch.plan(kernel)?;
        let geometry = plan::probe::naive_update(batch.features, batch.classes);
        self.update_by(kernel, geometry, weights, velocities, batch, dlogits, record, step)
    }

    #[allow(clippy::too_many_arguments, reason = "they are the kernel's")]
    #[allow(clippy::cast_possible_truncation, reason = "a step's factors are rounded to float32, as on the CPU")]
    fn update_by<T: Activation>(
        &self,
        kernel: &Kernel,
        geometry: Geometry,
        weights: &mut CudaViewMut<'_, f32>,
        velocities: &mut CudaViewMut<'_, f32>,
        batch: &ProbeBatch<'_, T>,
        dlogits: &CudaView<'_, f32>,
        record: &CudaView<'_, ProbeRecord>,
        ProbeStep { learning_rate, momentum }: ProbeStep,
    ) -> Result<(), Error> {
        let plan = batch.plan(kernel)?;
        let mut check = Arguments::new(kernel.name, self.stream);
        let shape = batch.check(kernel, &mut check, plan.splits)?;
        let shape = ProbeShape { rate: learning_rate as f32, momentum: momentum as f32, ..shape };
        check.writes("weights", weights, batch.parameters())?;
        check.writes("velocities", velocities, batch.parameters())?;
        check.reads("dlogits", dlogits, batch.examples * plan.row)?;
        check.reads("record", record, 1)?;
        check.aligned("dlogits", dlogits, plan::training::RUN_BYTES)?;
        batch.check_runs(&check, &weights.as_view())?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(weights).arg(velocities).arg(&batch.x).arg(dlogits).arg(record).arg(&shape);
        // SAFETY: blocks (naive: threads) read x [examples, features], dlogits [examples, row] and the record, and read and
        // write each weight, bias and velocity [features * classes + classes] once. All these lengths have been checked, as has
        // the alignment of runs.
        unsafe { enqueue(kernel, geometry, arguments) }
    }
}
