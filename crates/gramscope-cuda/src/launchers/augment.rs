//! kernels/augment/augment.cu.

use cudarc::driver::{CudaView, CudaViewMut, PushKernelArg};

use super::{Activation, Launcher, MOST_VALUES, checked_count, checked_values, enqueue};
use crate::error::Error;
use crate::launch::{Arguments, wrong};
use crate::plan::{Placing, training as plan};
use crate::shapes::AugmentShape;

/// Colours of a pixel.
const COLOURS: usize = 3;

impl Launcher<'_> {
    /// The images at `order` `[batch]` of a data set of N, of which M are in `pixels` `[M, side, side, 3]` and `labels` `[M]`,
    /// at the `rows` `[N]`, as they are in an epoch: `images` `[batch, side, side, 3]` in [0, 1], `labels_out` `[batch]`. An
    /// entry of `order` that is no image's, or that of one without a row, gives NaN and a label that is no class.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    #[allow(clippy::too_many_arguments, reason = "they are the kernel's")]
    pub fn augment<T: Activation>(
        &self,
        images: &mut CudaViewMut<'_, T>,
        labels_out: &mut CudaViewMut<'_, u32>,
        pixels: &CudaView<'_, u8>,
        labels: &CudaView<'_, u32>,
        rows: &CudaView<'_, u32>,
        order: &CudaView<'_, u32>,
        augmentation: Placing,
        side: usize,
    ) -> Result<(), Error> {
        let kernel = &T::kernels(&self.device.functions().training.layers).augment;
        let (batch, count, stored) = (order.len(), rows.len(), labels.len());
        let places = checked_values(kernel, "images", &[batch, side, side])?;
        let Placing { seed, epoch, padding, flip } = augmentation;
        let narrow = i32::try_from(padding).ok().filter(|_| padding < side);
        let image_values = side * side * COLOURS;
        let source_values = stored.checked_mul(image_values);
        let shape = AugmentShape {
            seed,
            count: checked_count(kernel, "rows", count, MOST_VALUES)?.into(),
            epoch,
            batch: checked_count(kernel, "order", batch, MOST_VALUES)?,
            side: checked_count(kernel, "side", side, MOST_VALUES)?,
            padding: narrow.ok_or_else(|| wrong(kernel.name, "padding", padding, format!("below the side, {side}")))?,
            flip: flip.into(),
            stored: checked_count(kernel, "labels", stored, MOST_VALUES)?,
        };
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("images", images, batch * image_values)?;
        check.writes("labels_out", labels_out, batch)?;
        check.reads("pixels", pixels, source_values.ok_or_else(|| wrong(kernel.name, "labels", stored, "fewer"))?)?;
        check.reads("labels", labels, stored)?;
        check.reads("rows", rows, count)?;
        check.reads("order", order, batch)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(images).arg(labels_out).arg(pixels).arg(labels).arg(rows).arg(order).arg(&shape);
        // SAFETY: a thread a pixel of images [batch, side, side, 3] reads its image's entry of order [batch] and, where that
        // is below N, its entry of rows [N] and, where that is below M, a pixel of pixels [M, side, side, 3] and a label of
        // labels [M], and writes its pixel and perhaps a label of labels_out [batch]. All these lengths have been checked.
        unsafe { enqueue(kernel, plan::values(places), arguments) }
    }
}
