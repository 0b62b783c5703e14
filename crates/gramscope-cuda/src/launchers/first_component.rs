//! kernels/first_component/first_component.cu.

use cudarc::driver::{CudaView, CudaViewMut, PushKernelArg};

use super::{Activation, Launcher, checked_count, checked_values, enqueue};
use crate::error::Error;
use crate::family::kernels;
use crate::launch::Arguments;
use crate::plan::training as plan;
use crate::shapes::{EigenSummary, FirstComponentShape};

kernels! {
    /// The kernels of this family for one type of activations.
    FirstComponentKernels of an element {
        gradient: "gs_first_component_gradient",
        naive: "gs_first_component_naive",
    }
}

/// A layer's first principal component over a batch, as [`Launcher::eigen_subspace`] leaves it.
#[derive(Debug)]
pub struct FirstComponent<'a> {
    /// `[n]`, of length one.
    pub vector: CudaView<'a, f64>,
    /// One.
    pub summary: CudaView<'a, EigenSummary>,
}

impl Launcher<'_> {
    /// Adds to `dx` the gradient of `weight` times what the first component of `x` explains of its variance beyond
    /// `threshold`; both are `[examples, features]`.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn first_component_gradient<T: Activation>(
        &self,
        dx: &mut CudaViewMut<'_, T>,
        x: &CudaView<'_, T>,
        component: &FirstComponent<'_>,
        weight: f64,
        threshold: f64,
        shape: [usize; 2],
    ) -> Result<(), Error> {
        self.add_gradient(false, dx, x, component, weight, threshold, shape)
    }

    /// The same, an entry a thread.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn first_component_naive<T: Activation>(
        &self,
        dx: &mut CudaViewMut<'_, T>,
        x: &CudaView<'_, T>,
        component: &FirstComponent<'_>,
        weight: f64,
        threshold: f64,
        shape: [usize; 2],
    ) -> Result<(), Error> {
        self.add_gradient(true, dx, x, component, weight, threshold, shape)
    }

    #[allow(clippy::too_many_arguments, reason = "they are the kernels', and which of them")]
    fn add_gradient<T: Activation>(
        &self,
        naive: bool,
        dx: &mut CudaViewMut<'_, T>,
        x: &CudaView<'_, T>,
        FirstComponent { vector, summary }: &FirstComponent<'_>,
        weight: f64,
        threshold: f64,
        [examples, features]: [usize; 2],
    ) -> Result<(), Error> {
        let kernels = T::kernels(&self.device.kernels().first_component);
        let kernel = if naive { &kernels.naive } else { &kernels.gradient };
        let count = checked_values(kernel, "x", &[examples, features])?;
        let shape = FirstComponentShape {
            weight,
            threshold,
            features: checked_count(kernel, "features", features, count)?.into(),
            examples: checked_count(kernel, "examples", examples, count)?,
            padding: 0,
        };
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("dx", dx, count)?;
        check.reads("x", x, count)?;
        check.reads("vector", vector, examples)?;
        check.reads("summary", summary, 1)?;
        let geometry = if naive { plan::values(count) } else { plan::first_component(features) };
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(dx).arg(x).arg(vector).arg(summary).arg(&shape);
        // SAFETY: threads below `features`, or below `examples` x `features`, read a column of x [examples, features], the
        // vector [examples] and the summary, and read and write entries of dx [examples, features]. All have been checked.
        unsafe { enqueue(kernel, geometry, arguments) }
    }
}
