//! kernels/sgd/sgd.cu.

use cudarc::driver::{CudaView, CudaViewMut, PushKernelArg};

use super::{Launcher, checked_length, enqueue};
use crate::error::Error;
use crate::family::kernels;
use crate::launch::{Arguments, wrong};
use crate::plan::training as plan;
use crate::shapes::SgdShape;

kernels! {
    /// The kernel of this family.
    SgdKernels {
        step: "gs_sgd_step",
    }
}

impl Launcher<'_> {
    /// One step: v = momentum v - rate (g + 2 decay w), w = w + v, the decay for the first `decaying` values alone. All are
    /// of one length, that of `weights`; `rate` is one value.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    #[allow(clippy::too_many_arguments, reason = "they are the kernel's")]
    #[allow(clippy::cast_possible_truncation, reason = "a step's factors are rounded to float32, as on the CPU")]
    pub fn sgd(
        &self,
        weights: &mut CudaViewMut<'_, f32>,
        velocities: &mut CudaViewMut<'_, f32>,
        gradients: &CudaView<'_, f32>,
        rate: &CudaView<'_, f32>,
        momentum: f64,
        decay: f64,
        decaying: usize,
    ) -> Result<(), Error> {
        let kernel = &self.device.kernels().sgd.step;
        let count = weights.len();
        let length = checked_length(kernel, count)?;
        let first = i64::try_from(decaying).ok().filter(|_| decaying <= count);
        let shape = SgdShape {
            length,
            decaying: first.ok_or_else(|| wrong(kernel.name, "decaying", decaying, format!("at most {count}")))?,
            momentum: momentum as f32,
            twice_decay: 2.0 * decay as f32,
        };
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("weights", weights, count)?;
        check.writes("velocities", velocities, count)?;
        check.reads("gradients", gradients, count)?;
        check.reads("rate", rate, 1)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(weights).arg(velocities).arg(gradients).arg(rate).arg(&shape);
        // SAFETY: a thread a run of values reads gradients and one rate and reads and writes weights and velocities, all
        // [length], as has been checked.
        unsafe { enqueue(kernel, plan::runs(count, size_of::<f32>()), arguments) }
    }
}
