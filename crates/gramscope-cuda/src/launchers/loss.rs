//! kernels/loss/loss.cu.

use cudarc::driver::{CudaView, CudaViewMut, PushKernelArg};

use super::{Launcher, checked_count, checked_values, enqueue};
use crate::error::Error;
use crate::family::kernels;
use crate::launch::Arguments;
use crate::plan::training as plan;
use crate::shapes::LossShape;

kernels! {
    /// The kernel of this family.
    LossKernels {
        softmax_cross_entropy: "gs_loss_softmax_cross_entropy",
    }
}

/// The most images, and classes, of a batch's logits.
const MOST: usize = 1 << 24;

impl Launcher<'_> {
    /// The gradient by logits `[images, classes]` of the mean softmax cross-entropy. The loss is added to `totals[0]`, the
    /// number of images whose largest logit is their label's to `totals[1]`. A label that is not a class makes the loss
    /// NaN.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Overlap`], [`Error::Launch`].
    pub fn softmax_cross_entropy(
        &self,
        dlogits: &mut CudaViewMut<'_, f32>,
        totals: &mut CudaViewMut<'_, f64>,
        logits: &CudaView<'_, f32>,
        labels: &CudaView<'_, u32>,
        images: usize,
        classes: usize,
    ) -> Result<(), Error> {
        let kernel = &self.device.kernels().loss.softmax_cross_entropy;
        let shape = LossShape {
            images: checked_count(kernel, "images", images, MOST)?,
            classes: checked_count(kernel, "classes", classes, MOST)?,
        };
        let count = checked_values(kernel, "logits", &[images, classes])?;
        let mut check = Arguments::new(kernel.name, self.stream);
        check.writes("dlogits", dlogits, count)?;
        check.writes("totals", totals, 2)?;
        check.reads("logits", logits, count)?;
        check.reads("labels", labels, images)?;
        let mut arguments = self.stream.launch_builder(&kernel.function);
        arguments.arg(dlogits).arg(totals).arg(logits).arg(labels).arg(&shape);
        // SAFETY: a warp an image reads its logits and label and writes its gradients; the first thread reads and writes two
        // totals; labels are used as an index only where they are one of the classes. All these lengths have been checked.
        unsafe { enqueue(kernel, plan::loss(), arguments) }
    }
}
