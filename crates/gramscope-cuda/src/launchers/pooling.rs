//! kernels/pooling/pooling.cu.

use cudarc::driver::{CudaView, CudaViewMut, PushKernelArg};

use super::{Activation, Launcher, checked_count, checked_values, enqueue};
use crate::error::Error;
use crate::family::{Kernel, kernels};
use crate::launch::Arguments;
use crate::plan::training as plan;
use crate::shapes::PoolingShape;

kernels! {
    /// The kernels of this family for one type of activations.
    PoolingKernels of an element {
        average: "gs_pooling_average",
        average_backward: "gs_pooling_average_backward",
        max: "gs_pooling_max",
        max_backward: "gs_pooling_max_backward",
        squares: "gs_pooling_squares",
    }
}

impl Launcher<'_> {
    /// The mean over the pixels of `x` `[images, pixels, channels]`: `[images, channels]`.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn average_pool<T: Activation>(
        &self,
        pooled: &mut CudaViewMut<'_, f32>,
        x: &CudaView<'_, T>,
        images: usize,
        pixels: usize,
        channels: usize,
    ) -> Result<(), Error> {
        let kernel = &T::kernels(&self.device.kernels().pooling).average;
        let (shape, count) = shape(kernel, images, pixels, 1, channels)?;
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("pooled", pooled, images * channels)?;
        check.reads("x", x, count)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(pooled).arg(x).arg(&shape);
        // SAFETY: a thread a value of pooled [images, channels] writes it and reads its pixels of x [images, pixels,
        // channels]. Both lengths have been checked.
        unsafe { enqueue(kernel, plan::average_pool(images, channels), arguments) }
    }

    /// dL/dx `[images, pixels, channels]` from `dpooled` `[images, channels]`: every pixel gets an equal share.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn average_pool_backward<T: Activation>(
        &self,
        dx: &mut CudaViewMut<'_, T>,
        dpooled: &CudaView<'_, f32>,
        images: usize,
        pixels: usize,
        channels: usize,
    ) -> Result<(), Error> {
        let kernel = &T::kernels(&self.device.kernels().pooling).average_backward;
        let (shape, count) = shape(kernel, images, pixels, 1, channels)?;
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("dx", dx, count)?;
        check.reads("dpooled", dpooled, images * channels)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(dx).arg(dpooled).arg(&shape);
        // SAFETY: a thread a value of dx [images, pixels, channels] writes it and reads one of dpooled [images, channels].
        // Both lengths have been checked.
        unsafe { enqueue(kernel, plan::values(count), arguments) }
    }

    /// The largest of each 3 x 3 pixels of `x` `[images, height, width, channels]`, with stride 2:
    /// `[images, ceil(height / 2), ceil(width / 2), channels]`.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn max_pool<T: Activation>(
        &self,
        y: &mut CudaViewMut<'_, T>,
        x: &CudaView<'_, T>,
        images: usize,
        height: usize,
        width: usize,
        channels: usize,
    ) -> Result<(), Error> {
        let kernel = &T::kernels(&self.device.kernels().pooling).max;
        self.largest_of_windows(kernel, y, x, [images, height, width, channels])
    }

    /// The largest of each 2 x 2 pixels of `x` `[images, height, width, channels]`, of those that there are at odd sides:
    /// `[images, ceil(height / 2), ceil(width / 2), channels]`.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn square_pool<T: Activation>(
        &self,
        y: &mut CudaViewMut<'_, T>,
        x: &CudaView<'_, T>,
        images: usize,
        [height, width, channels]: [usize; 3],
    ) -> Result<(), Error> {
        let kernel = &T::kernels(&self.device.kernels().pooling).squares;
        self.largest_of_windows(kernel, y, x, [images, height, width, channels])
    }

    fn largest_of_windows<T: Activation>(
        &self,
        kernel: &Kernel,
        y: &mut CudaViewMut<'_, T>,
        x: &CudaView<'_, T>,
        [images, height, width, channels]: [usize; 4],
    ) -> Result<(), Error> {
        let (shape, count) = shape(kernel, images, height, width, channels)?;
        let results = images * plan::max_pooled(height) * plan::max_pooled(width) * channels;
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("y", y, results)?;
        check.reads("x", x, count)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(y).arg(x).arg(&shape);
        // SAFETY: a thread a value of y writes it and reads its window, inside the image, of x. Both lengths have been checked.
        unsafe { enqueue(kernel, plan::values(results), arguments) }
    }

    /// dL/dx from `x`, its result `y` and `dy` = dL/dy: a window's gradient goes to the first of its largest values.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    #[allow(clippy::too_many_arguments, reason = "they are the kernel's")]
    pub fn max_pool_backward<T: Activation>(
        &self,
        dx: &mut CudaViewMut<'_, T>,
        x: &CudaView<'_, T>,
        y: &CudaView<'_, T>,
        dy: &CudaView<'_, T>,
        images: usize,
        height: usize,
        width: usize,
        channels: usize,
    ) -> Result<(), Error> {
        let kernel = &T::kernels(&self.device.kernels().pooling).max_backward;
        let (shape, count) = shape(kernel, images, height, width, channels)?;
        let results = images * plan::max_pooled(height) * plan::max_pooled(width) * channels;
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("dx", dx, count)?;
        check.reads("x", x, count)?;
        check.reads("y", y, results)?;
        check.reads("dy", dy, results)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(dx).arg(x).arg(y).arg(dy).arg(&shape);
        // SAFETY: a thread a value of dx writes it and reads the windows that it lies in, inside the image, of x, and their
        // places of y and dy. All these lengths have been checked.
        unsafe { enqueue(kernel, plan::values(count), arguments) }
    }
}

/// The shape, and how many values an activation of it has.
fn shape(
    kernel: &Kernel,
    images: usize,
    height: usize,
    width: usize,
    channels: usize,
) -> Result<(PoolingShape, usize), Error> {
    let count = checked_values(kernel, "x", &[images, height, width, channels])?;
    let checked = |what, dimension| checked_count(kernel, what, dimension, count);
    let shape = PoolingShape {
        images: checked("images", images)?,
        height: checked("height", height)?,
        width: checked("width", width)?,
        channels: checked("channels", channels)?,
    };
    Ok((shape, count))
}
