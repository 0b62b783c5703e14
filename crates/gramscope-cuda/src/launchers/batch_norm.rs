//! kernels/batch_norm/batch_norm.cu.

use cudarc::driver::{CudaView, CudaViewMut, DevicePtr, PushKernelArg};

use super::{Activation, Launcher, NULL, Seen, checked_count, enqueue, push_view};
use crate::error::Error;
use crate::family::{Family, Kernel, Typed, kernels};
use crate::launch::{Arguments, wrong};
use crate::plan::training as plan;
use crate::shapes::BatchNormShape;

kernels! {
    /// The kernels of one type of activations.
    TypedBatchNormKernels of an element {
        moments: "gs_batch_norm_moments",
        statistics: "gs_batch_norm_statistics",
        normalise: "gs_batch_norm_normalise",
        sums: "gs_batch_norm_sums",
        input_gradient: "gs_batch_norm_input_gradient",
        naive_statistics: "gs_batch_norm_naive_statistics",
        naive_normalise: "gs_batch_norm_naive_normalise",
        naive_backward: "gs_batch_norm_naive_backward",
    }
}

/// The kernels of this family.
pub(crate) struct BatchNormKernels {
    of_type: Typed<TypedBatchNormKernels>,
    gradients: Kernel,
}

impl BatchNormKernels {
    pub(super) fn load(family: &Family) -> Result<Self, Error> {
        let of_type = Typed::load(family, TypedBatchNormKernels::load)?;
        Ok(Self { of_type, gradients: family.kernel("gs_batch_norm_gradients")? })
    }
}

/// The most rows (images times pixels) of an activation.
const MOST_ROWS: usize = (1 << 31) - (1 << 16);
/// The most channels.
const MOST_CHANNELS: usize = 1 << 24;

/// What the gradients are computed from: `x` and `dy`, and `y`, the result of the ReLU, where it was kept (all `[rows,
/// channels]`), and each channel's `statistics` `[2, channels]`, `gamma` and `beta`.
#[derive(Clone, Copy)]
struct Given<'a, T> {
    x: &'a CudaView<'a, T>,
    y: Option<&'a CudaView<'a, T>>,
    dy: &'a CudaView<'a, T>,
    statistics: &'a CudaView<'a, f32>,
    gamma: &'a CudaView<'a, f32>,
    beta: &'a CudaView<'a, f32>,
}

impl Launcher<'_> {
    /// Values of float64 scratch that [`Launcher::batch_norm_statistics`] and [`Launcher::batch_norm_backward`] want; what
    /// they hold does not matter.
    pub fn batch_norm_scratch(&self, rows: usize, channels: usize) -> usize {
        plan::batch_norm_scratch(rows, channels)
    }

    /// Mean and biased variance of each channel of `x` `[rows, channels]` into `statistics` `[2, channels]`; `running`
    /// `[2, channels]` moves towards them (the unbiased variance), of which it keeps 0.99.
    ///
    /// # Errors
    /// [`Error::Argument`] (also for fewer than two rows, and for an `x` that is not aligned to 16 bytes where the channels
    /// are a multiple of so many), [`Error::Overlap`], [`Error::Launch`].
    pub fn batch_norm_statistics<T: Activation>(
        &self,
        statistics: &mut CudaViewMut<'_, f32>,
        running: &mut CudaViewMut<'_, f32>,
        scratch: &mut CudaViewMut<'_, f64>,
        x: &CudaView<'_, T>,
        rows: usize,
        channels: usize,
    ) -> Result<(), Error> {
        let kernels = self.batch_norm_kernels::<T>();
        let pass = pass::<T>(&kernels.moments, rows, channels, 2, false)?;
        let mut check = Arguments::new(kernels.moments.name, self.stream);
        check.writes("statistics", statistics, 2 * channels)?;
        check.writes("running", running, 2 * channels)?;
        check.writes("scratch", scratch, pass.plan.partials)?;
        pass.reads(&mut check, "x", x)?;
        let mut arguments = self.stream.launch_builder(&kernels.moments.function);
        arguments.arg(&mut *scratch).arg(x).arg(&pass.shape);
        // SAFETY: each block reads its rows and channels of x [rows, channels], and its first row, and writes its places of
        // partials [2, channels, splits]. Both lengths have been checked.
        unsafe { enqueue(&kernels.moments, pass.plan.geometry, arguments) }?;
        let partials = scratch.as_view();
        let mut arguments = self.stream.launch_builder(&kernels.statistics.function);
        arguments.arg(statistics).arg(running).arg(&partials).arg(x).arg(&pass.shape);
        // SAFETY: a block a channel reads its partials [2, channels, splits] and x's first row, writes its two statistics and
        // reads and writes its two running ones, each [2, channels]. All these lengths have been checked.
        unsafe { enqueue(&kernels.statistics, plan::batch_norm_channels(channels), arguments) }
    }

    /// `x` `[rows, channels]` normalised by `statistics` `[2, channels]` (of the batch to train, running to evaluate), with
    /// `gamma` and `beta` `[channels]`; then `addend` is added, then, if `relu`, what is negative becomes 0. That is `y`, whatever
    /// of what is on the way is `seen`.
    ///
    /// # Errors
    /// [`Error::Argument`] (as for [`Launcher::batch_norm_statistics`], but one row will do), [`Error::Overlap`],
    /// [`Error::Launch`].
    #[allow(clippy::too_many_arguments, reason = "they are the kernel's")]
    pub fn batch_norm_normalise<T: Activation>(
        &self,
        y: &mut CudaViewMut<'_, T>,
        seen: Seen<'_, T>,
        x: &CudaView<'_, T>,
        statistics: &CudaView<'_, f32>,
        gamma: &CudaView<'_, f32>,
        beta: &CudaView<'_, f32>,
        addend: Option<&CudaView<'_, T>>,
        relu: bool,
        rows: usize,
        channels: usize,
    ) -> Result<(), Error> {
        let kernel = &self.batch_norm_kernels::<T>().normalise;
        let pass = pass::<T>(kernel, rows, channels, 1, relu)?;
        self.launch_normalise(kernel, pass, y, seen, x, statistics, gamma, beta, addend)
    }

    /// The gradients of batch norm and, if `relu`, of the ReLU behind it, from `x`, its batch's `statistics`, `gamma`,
    /// `beta` and `dy`, the gradient of the result; `y`, the ReLU's result, has to be given where there was an addend.
    /// `daddend` is the addend's gradient.
    ///
    /// # Errors
    /// As [`Launcher::batch_norm_statistics`].
    #[allow(clippy::too_many_arguments, reason = "they are the kernels'")]
    pub fn batch_norm_backward<T: Activation>(
        &self,
        dx: &mut CudaViewMut<'_, T>,
        mut daddend: Option<&mut CudaViewMut<'_, T>>,
        dgamma: &mut CudaViewMut<'_, f32>,
        dbeta: &mut CudaViewMut<'_, f32>,
        scratch: &mut CudaViewMut<'_, f64>,
        x: &CudaView<'_, T>,
        y: Option<&CudaView<'_, T>>,
        dy: &CudaView<'_, T>,
        statistics: &CudaView<'_, f32>,
        gamma: &CudaView<'_, f32>,
        beta: &CudaView<'_, f32>,
        relu: bool,
        rows: usize,
        channels: usize,
    ) -> Result<(), Error> {
        let kernels = self.batch_norm_kernels::<T>();
        let pass = pass::<T>(&kernels.sums, rows, channels, 2, relu)?;
        let given = Given { x, y, dy, statistics, gamma, beta };
        let mut check = Arguments::new(kernels.sums.name, self.stream);
        check.writes("scratch", scratch, pass.plan.partials)?;
        check_backward(&mut check, &pass, dx, daddend.as_deref(), dgamma, dbeta, &given)?;
        self.launch_sums(&kernels.sums, pass, scratch, daddend.as_deref_mut(), &given)?;

        let kernel = &self.device.kernels().batch_norm.gradients;
        let partials = scratch.as_view();
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(&mut *dgamma).arg(&mut *dbeta).arg(&partials).arg(statistics).arg(&pass.shape);
        // SAFETY: a block a channel reads its partials [2, channels, splits] and its statistics [2, channels] and writes its
        // value of dgamma and dbeta [channels]. All these lengths have been checked.
        unsafe { enqueue(kernel, plan::batch_norm_channels(channels), arguments) }?;

        let gradients = [dgamma.as_view(), dbeta.as_view()];
        match daddend {
            // What the ReLU held back is 0 there already.
            Some(daddend) => {
                let (shape, dy) = (BatchNormShape { relu: 0, ..pass.shape }, daddend.as_view());
                let given = Given { dy: &dy, y: None, ..given };
                self.launch_input_gradient(&kernels.input_gradient, Pass { shape, ..pass }, dx, &given, &gradients)
            }
            None => self.launch_input_gradient(&kernels.input_gradient, pass, dx, &given, &gradients),
        }
    }

    /// As [`Launcher::batch_norm_statistics`], a block a channel, in float64 throughout.
    ///
    /// # Errors
    /// As there.
    pub fn batch_norm_statistics_naive<T: Activation>(
        &self,
        statistics: &mut CudaViewMut<'_, f32>,
        running: &mut CudaViewMut<'_, f32>,
        x: &CudaView<'_, T>,
        rows: usize,
        channels: usize,
    ) -> Result<(), Error> {
        let kernel = &self.batch_norm_kernels::<T>().naive_statistics;
        let pass = pass::<T>(kernel, rows, channels, 2, false)?.naive();
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("statistics", statistics, 2 * channels)?;
        check.writes("running", running, 2 * channels)?;
        pass.reads(&mut check, "x", x)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(statistics).arg(running).arg(x).arg(&pass.shape);
        // SAFETY: a block a channel reads its values of x [rows, channels], writes its two statistics and reads and writes its
        // two running ones, each [2, channels]. All these lengths have been checked.
        unsafe { enqueue(kernel, pass.plan.geometry, arguments) }
    }

    /// As [`Launcher::batch_norm_normalise`], a block a channel.
    ///
    /// # Errors
    /// As there.
    #[allow(clippy::too_many_arguments, reason = "they are the kernel's")]
    pub fn batch_norm_normalise_naive<T: Activation>(
        &self,
        y: &mut CudaViewMut<'_, T>,
        seen: Seen<'_, T>,
        x: &CudaView<'_, T>,
        statistics: &CudaView<'_, f32>,
        gamma: &CudaView<'_, f32>,
        beta: &CudaView<'_, f32>,
        addend: Option<&CudaView<'_, T>>,
        relu: bool,
        rows: usize,
        channels: usize,
    ) -> Result<(), Error> {
        let kernel = &self.batch_norm_kernels::<T>().naive_normalise;
        let pass = pass::<T>(kernel, rows, channels, 1, relu)?.naive();
        self.launch_normalise(kernel, pass, y, seen, x, statistics, gamma, beta, addend)
    }

    /// As [`Launcher::batch_norm_backward`], a block a channel, in float64 throughout.
    ///
    /// # Errors
    /// As there.
    #[allow(clippy::too_many_arguments, reason = "they are the kernel's")]
    pub fn batch_norm_backward_naive<T: Activation>(
        &self,
        dx: &mut CudaViewMut<'_, T>,
        daddend: Option<&mut CudaViewMut<'_, T>>,
        dgamma: &mut CudaViewMut<'_, f32>,
        dbeta: &mut CudaViewMut<'_, f32>,
        x: &CudaView<'_, T>,
        y: Option<&CudaView<'_, T>>,
        dy: &CudaView<'_, T>,
        statistics: &CudaView<'_, f32>,
        gamma: &CudaView<'_, f32>,
        beta: &CudaView<'_, f32>,
        relu: bool,
        rows: usize,
        channels: usize,
    ) -> Result<(), Error> {
        let kernel = &self.batch_norm_kernels::<T>().naive_backward;
        let pass = pass::<T>(kernel, rows, channels, 2, relu)?.naive();
        let given = Given { x, y, dy, statistics, gamma, beta };
        let mut check = Arguments::new(kernel.name, self.stream);
        check_backward(&mut check, &pass, dx, daddend.as_deref(), dgamma, dbeta, &given)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(dx);
        match daddend {
            Some(daddend) => arguments.arg(daddend),
            None => arguments.arg(&NULL),
        };
        arguments.arg(dgamma).arg(dbeta).arg(x);
        push_view(&mut arguments, y);
        arguments.arg(dy).arg(statistics).arg(gamma).arg(beta).arg(&pass.shape);
        // SAFETY: a block a channel reads its values of x, y and dy and writes those of dx and daddend, all [rows, channels];
        // it reads its statistics [2, channels], gamma and beta and writes dgamma and dbeta [channels]. All these lengths have
        // been checked.
        unsafe { enqueue(kernel, pass.plan.geometry, arguments) }
    }

    fn batch_norm_kernels<T: Activation>(&self) -> &TypedBatchNormKernels {
        T::kernels(&self.device.kernels().batch_norm.of_type)
    }

    #[allow(clippy::too_many_arguments, reason = "they are the kernel's")]
    fn launch_normalise<T: Activation>(
        &self,
        kernel: &Kernel,
        pass: Pass,
        y: &mut CudaViewMut<'_, T>,
        mut seen: Seen<'_, T>,
        x: &CudaView<'_, T>,
        statistics: &CudaView<'_, f32>,
        gamma: &CudaView<'_, f32>,
        beta: &CudaView<'_, f32>,
        addend: Option<&CudaView<'_, T>>,
    ) -> Result<(), Error> {
        let mut check = Arguments::new(kernel.name, self.stream);
        pass.writes(&mut check, "y", y)?;
        for (name, view) in [("normalised", &seen.alone), ("sum", &seen.sum)] {
            if let Some(view) = view {
                pass.writes(&mut check, name, view)?;
            }
        }
        pass.reads(&mut check, "x", x)?;
        pass.reads_parameters(&mut check, statistics, gamma, beta)?;
        if let Some(addend) = addend {
            pass.reads(&mut check, "addend", addend)?;
        }
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(y);
        seen.push(&mut arguments);
        arguments.arg(x).arg(statistics).arg(gamma).arg(beta);
        push_view(&mut arguments, addend);
        arguments.arg(&pass.shape);
        // SAFETY: the threads read x and addend and write y and, where they are given, normalised and sum, all [rows, channels],
        // and read statistics [2, channels], gamma and beta [channels]. All these lengths have been checked.
        unsafe { enqueue(kernel, pass.plan.geometry, arguments) }
    }

    /// The first pass back; the caller has checked the arguments.
    fn launch_sums<T: Activation>(
        &self,
        kernel: &Kernel,
        pass: Pass,
        partials: &mut CudaViewMut<'_, f64>,
        daddend: Option<&mut CudaViewMut<'_, T>>,
        given: &Given<'_, T>,
    ) -> Result<(), Error> {
        let Given { x, y, dy, statistics, gamma, beta } = *given;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(partials);
        match daddend {
            Some(daddend) => arguments.arg(daddend),
            None => arguments.arg(&NULL),
        };
        arguments.arg(x);
        push_view(&mut arguments, y);
        arguments.arg(dy).arg(statistics).arg(gamma).arg(beta).arg(&pass.shape);
        // SAFETY: each block reads its rows and channels of x, y and dy and writes those of daddend, all [rows, channels], and
        // its places of partials [2, channels, splits]; it reads statistics [2, channels], gamma and beta [channels]. All
        // these lengths have been checked.
        unsafe { enqueue(kernel, pass.plan.geometry, arguments) }
    }

    /// The second pass back, given dgamma and dbeta; the caller has checked the arguments.
    fn launch_input_gradient<T: Activation>(
        &self,
        kernel: &Kernel,
        pass: Pass,
        dx: &mut CudaViewMut<'_, T>,
        given: &Given<'_, T>,
        gradients: &[CudaView<'_, f32>; 2],
    ) -> Result<(), Error> {
        let Given { x, y, dy, statistics, gamma, beta } = *given;
        let [dgamma, dbeta] = gradients;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(dx).arg(x);
        push_view(&mut arguments, y);
        arguments.arg(dy).arg(statistics).arg(gamma).arg(beta).arg(dgamma).arg(dbeta).arg(&pass.shape);
        // SAFETY: each block reads its rows and channels of x, y and dy and writes those of dx, all [rows, channels]; it reads
        // statistics [2, channels], gamma, beta, dgamma and dbeta [channels]. All these lengths have been checked.
        unsafe { enqueue(kernel, pass.plan.geometry, arguments) }
    }
}

/// A launch over the rows of activations.
#[derive(Clone, Copy)]
struct Pass {
    shape: BatchNormShape,
    plan: plan::BatchNorm,
    /// Values of an activation.
    count: usize,
    channels: usize,
    /// Bytes that activations are aligned to.
    alignment: usize,
}

fn pass<T>(kernel: &Kernel, rows: usize, channels: usize, fewest_rows: usize, relu: bool) -> Result<Pass, Error> {
    let narrow = |what, count, most| checked_count(kernel, what, count, most);
    let shape = BatchNormShape {
        share: 1.0 / rows as f64,
        rows: narrow("rows", if rows < fewest_rows { 0 } else { rows }, MOST_ROWS)?,
        channels: narrow("channels", channels, MOST_CHANNELS)?,
        relu: relu.into(),
        ..BatchNormShape::default()
    };
    let plan = plan::batch_norm(rows, channels, size_of::<T>());
    Ok(Pass {
        shape: BatchNormShape {
            tile: narrow("tile", plan.tile, MOST_CHANNELS)?,
            splits: narrow("splits", plan.splits, MOST_ROWS)?,
            ..shape
        },
        plan,
        count: rows * channels,
        channels,
        alignment: plan::run_of_channels(channels, size_of::<T>()) * size_of::<T>(),
    })
}

impl Pass {
    /// The same, a block a channel, values one by one.
    fn naive(self) -> Self {
        let geometry = plan::batch_norm_channels(self.channels);
        Self { plan: plan::BatchNorm { geometry, ..self.plan }, alignment: 1, ..self }
    }

    fn reads<T>(&self, check: &mut Arguments<'_>, name: &'static str, x: &impl DevicePtr<T>) -> Result<(), Error> {
        check.aligned(name, x, self.alignment)?;
        check.reads(name, x, self.count)
    }

    fn writes<T>(&self, check: &mut Arguments<'_>, name: &'static str, y: &impl DevicePtr<T>) -> Result<(), Error> {
        check.aligned(name, y, self.alignment)?;
        check.writes(name, y, self.count)
    }

    fn reads_parameters(
        &self,
        check: &mut Arguments<'_>,
        statistics: &CudaView<'_, f32>,
        gamma: &CudaView<'_, f32>,
        beta: &CudaView<'_, f32>,
    ) -> Result<(), Error> {
        check.reads("statistics", statistics, 2 * self.channels)?;
        check.reads("gamma", gamma, self.channels)?;
        check.reads("beta", beta, self.channels)
    }
}

/// What both ways back read and write, but for scratch.
fn check_backward<T>(
    check: &mut Arguments<'_>,
    pass: &Pass,
    dx: &CudaViewMut<'_, T>,
    daddend: Option<&CudaViewMut<'_, T>>,
    dgamma: &CudaViewMut<'_, f32>,
    dbeta: &CudaViewMut<'_, f32>,
    given: &Given<'_, T>,
) -> Result<(), Error> {
    pass.writes(check, "dx", dx)?;
    if let Some(daddend) = daddend {
        pass.writes(check, "daddend", daddend)?;
        // From x alone nobody knows then what the ReLU held back.
        if pass.shape.relu != 0 && given.y.is_none() {
            return Err(wrong(check.kernel(), "y", "nothing", "the result of the ReLU, where there was an addend"));
        }
    }
    check.writes("dgamma", dgamma, pass.channels)?;
    check.writes("dbeta", dbeta, pass.channels)?;
    pass.reads(check, "x", given.x)?;
    if let Some(y) = given.y {
        pass.reads(check, "y", y)?;
    }
    pass.reads(check, "dy", given.dy)?;
    pass.reads_parameters(check, given.statistics, given.gamma, given.beta)
}
