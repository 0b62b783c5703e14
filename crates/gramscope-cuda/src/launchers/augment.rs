//! kernels/augment/augment.cu.

use cudarc::driver::{CudaView, CudaViewMut, PushKernelArg};

use super::{Activation, Launcher, MOST_VALUES, checked_count, checked_values, enqueue};
use crate::error::Error;
use crate::family::{Family, Kernel, Typed, kernels};
use crate::launch::{Arguments, wrong};
use crate::plan::{Placing, training as plan};
use crate::shapes::{AugmentShape, BatchPlace};

kernels! {
    /// The kernel of one type of activations.
    TypedAugmentKernels of an element {
        crop: "gs_augment_crop",
    }
}

/// The kernels of this family.
pub(crate) struct AugmentKernels {
    of_type: Typed<TypedAugmentKernels>,
    advance: Kernel,
}

impl AugmentKernels {
    pub(super) fn load(family: &Family) -> Result<Self, Error> {
        let of_type = Typed::load(family, TypedAugmentKernels::load)?;
        Ok(Self { of_type, advance: family.kernel("gs_augment_advance")? })
    }
}

/// Colours of a pixel.
const COLOURS: usize = 3;

impl Launcher<'_> {
    /// The `batch` images from `place` `[1]` on in `order` `[E]`, indices into a data set of N images, of which M are in `pixels`
    /// `[M, side, side, 3]` and `labels` `[M]`, at the `rows` `[N]`, as they are in the epoch of `place`: `images`
    /// `[batch, side, side, 3]` in [0, 1], `labels_out` `[batch]`. An image beyond the end of `order`, and an entry of it that is no
    /// image's, or that of one without a row, gives NaN and a label that is no class.
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
        place: &CudaView<'_, BatchPlace>,
        placing: Placing,
        batch: usize,
        side: usize,
    ) -> Result<(), Error> {
        let kernel = &T::kernels(&self.device.kernels().augment.of_type).crop;
        let (entries, count, stored) = (order.len(), rows.len(), labels.len());
        let places = checked_values(kernel, "images", &[batch, side, side])?;
        let Placing { seed, padding, flip } = placing;
        let narrow = i32::try_from(padding).ok().filter(|_| padding < side);
        let image_values = side * side * COLOURS;
        let source_values = stored.checked_mul(image_values);
        let shape = AugmentShape {
            seed,
            count: checked_count(kernel, "rows", count, MOST_VALUES)?.into(),
            entries: checked_count(kernel, "order", entries, MOST_VALUES)?,
            batch: checked_count(kernel, "batch", batch, MOST_VALUES)?,
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
        check.reads("order", order, entries)?;
        check.reads("place", place, 1)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(images).arg(labels_out).arg(pixels).arg(labels).arg(rows).arg(order).arg(place).arg(&shape);
        // SAFETY: a thread a pixel of images [batch, side, side, 3] reads the place [1], its image's entry of order, where that
        // is below E, and, where that is below N, its entry of rows [N] and, where that is below M, a pixel of pixels
        // [M, side, side, 3] and a label of labels [M], and writes its pixel and perhaps a label of labels_out [batch]. All
        // these lengths have been checked.
        unsafe { enqueue(kernel, plan::values(places), arguments) }
    }

    /// Moves `place` `[1]` on to what follows `batch` images.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Launch`].
    pub fn advance(&self, place: &mut CudaViewMut<'_, BatchPlace>, batch: usize) -> Result<(), Error> {
        let kernel = &self.device.kernels().augment.advance;
        let images = u32::try_from(batch).map_err(|_| wrong(kernel.name, "batch", batch, "below 2^32"))?;
        Arguments::new(kernel.name, self.stream).writes("place", place, 1)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(place).arg(&images);
        // SAFETY: one thread reads and writes the one place there is, as has been checked.
        unsafe { enqueue(kernel, plan::advance(), arguments) }
    }
}
