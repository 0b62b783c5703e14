//! kernels/mixing/mixing.cu.

use cudarc::driver::{CudaView, CudaViewMut, PushKernelArg};

use super::{Activation, Launcher, MOST_VALUES, Seen, checked_count, checked_values, enqueue, push_view};
use crate::error::Error;
use crate::family::{Family, Kernel, Typed, kernels};
use crate::launch::Arguments;
use crate::plan::training as plan;
use crate::shapes::{BatchPlace, MixingShape, SharesShape};

kernels! {
    /// The kernels of one type of activations.
    TypedMixingKernels of an element {
        forward: "gs_mixing_forward",
        backward: "gs_mixing_backward",
    }
}

/// The kernels of this family.
pub(crate) struct MixingKernels {
    of_type: Typed<TypedMixingKernels>,
    shares: Kernel,
}

impl MixingKernels {
    pub(super) fn load(family: &Family) -> Result<Self, Error> {
        Ok(Self { of_type: Typed::load(family, TypedMixingKernels::load)?, shares: family.kernel("gs_mixing_shares")? })
    }
}

impl Launcher<'_> {
    /// The shares of the first branches of `blocks` blocks, forward and backward, for the `batch` images from `place` `[1]` on in
    /// `order`, in the epoch of `place`, under `seed`: `shares` `[blocks, 2, batch]`. An image beyond the end of `order` has NaN.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn draw_shares(
        &self,
        shares: &mut CudaViewMut<'_, f32>,
        order: &CudaView<'_, u32>,
        place: &CudaView<'_, BatchPlace>,
        seed: u64,
        blocks: usize,
        batch: usize,
    ) -> Result<(), Error> {
        let kernel = &self.device.kernels().mixing.shares;
        let entries = order.len();
        let values = checked_values(kernel, "shares", &[blocks, 2, batch])?;
        let shape = SharesShape {
            seed,
            entries: checked_count(kernel, "order", entries, MOST_VALUES)?,
            batch: checked_count(kernel, "batch", batch, MOST_VALUES)?,
            blocks: checked_count(kernel, "blocks", blocks, MOST_VALUES)?,
            padding: 0,
        };
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("shares", shares, values)?;
        check.reads("order", order, entries)?;
        check.reads("place", place, 1)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(shares).arg(order).arg(place).arg(&shape);
        // SAFETY: a thread a block and image reads the place [1] and its image's entry of order, where that is below its length,
        // and writes its two values of shares [blocks, 2, batch]. All these lengths have been checked.
        unsafe { enqueue(kernel, plan::values(values / 2), arguments) }
    }

    /// `shares` of `a` and the rest of `b`, and `addend`, and what is negative becomes 0: `y`, all `[images, length]`; without `shares`
    /// `[images]`, half of each. It is the same whatever of what is on the way is `seen`.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn mix<T: Activation>(
        &self,
        y: &mut CudaViewMut<'_, T>,
        mut seen: Seen<'_, T>,
        [a, b, addend]: [&CudaView<'_, T>; 3],
        shares: Option<&CudaView<'_, f32>>,
        images: usize,
        length: usize,
    ) -> Result<(), Error> {
        let kernel = &T::kernels(&self.device.kernels().mixing.of_type).forward;
        let (shape, count) = shape(kernel, images, length)?;
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("y", y, count)?;
        for (name, view) in [("mixture", &seen.alone), ("sum", &seen.sum)] {
            if let Some(view) = view {
                check.writes(name, view, count)?;
            }
        }
        for (name, view) in [("a", a), ("b", b), ("addend", addend)] {
            check.reads(name, view, count)?;
        }
        if let Some(shares) = shares {
            check.reads("shares", shares, images)?;
        }
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(y);
        seen.push(&mut arguments);
        arguments.arg(a).arg(b).arg(addend);
        push_view(&mut arguments, shares);
        arguments.arg(&shape);
        // SAFETY: a thread a run of values reads a, b and addend and writes y and, where they are given, mixture and sum, all
        // [images, length], and reads its image's value of shares [images]. All these lengths have been checked.
        unsafe { enqueue(kernel, plan::runs(count, size_of::<T>()), arguments) }
    }

    /// The gradients of a mixture with an addend from that of its result `y`: `dmixed` is that and becomes the first branch's,
    /// by `shares` `[images]`; `dother` is the second branch's, `daddend` the addend's; all `[images, length]`.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    #[allow(clippy::too_many_arguments, reason = "they are the kernel's")]
    pub fn mix_backward<T: Activation>(
        &self,
        dmixed: &mut CudaViewMut<'_, T>,
        dother: &mut CudaViewMut<'_, T>,
        daddend: &mut CudaViewMut<'_, T>,
        y: &CudaView<'_, T>,
        shares: &CudaView<'_, f32>,
        images: usize,
        length: usize,
    ) -> Result<(), Error> {
        let kernel = &T::kernels(&self.device.kernels().mixing.of_type).backward;
        let (shape, count) = shape(kernel, images, length)?;
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("dmixed", dmixed, count)?;
        check.writes("dother", dother, count)?;
        check.writes("daddend", daddend, count)?;
        check.reads("y", y, count)?;
        check.reads("shares", shares, images)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(dmixed).arg(dother).arg(daddend).arg(y).arg(shares).arg(&shape);
        // SAFETY: a thread a run of values reads y and its image's value of shares [images], reads and writes dmixed, and writes
        // dother and daddend, all but the shares [images, length]. All these lengths have been checked.
        unsafe { enqueue(kernel, plan::runs(count, size_of::<T>()), arguments) }
    }
}

/// The kernels' shape, and the values of an activation.
fn shape(kernel: &Kernel, images: usize, length: usize) -> Result<(MixingShape, usize), Error> {
    let count = checked_values(kernel, "y", &[images, length])?;
    let checked = |what, dimension| checked_count(kernel, what, dimension, count);
    Ok((MixingShape { images: checked("images", images)?, length: checked("length", length)? }, count))
}
