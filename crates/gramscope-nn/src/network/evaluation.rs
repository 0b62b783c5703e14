//! The forward pass of evaluation, with and without handing out every layer's output.

use candle_core::Tensor;

use super::ResNet;
use super::modules::{Block, Shortcut};
use crate::Result;
use crate::ops::{elementwise, pooling};

impl ResNet {
    /// The logits `[n, classes]` of `images` `[n, side, side, 3]`, f32 in `[0, 1]`. Frees the memory that training
    /// keeps from step to step.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] for images of another size, [`crate::Error::Candle`].
    pub fn forward(&self, images: &Tensor) -> Result<Tensor> {
        self.check_images(images)?;
        self.workspace.clear();
        let mut x = self.stem.batch_norm.evaluate(&self.stem.convolution.forward(images)?, None, true)?;
        for block in &self.blocks {
            x = forward_block(block, x)?;
        }
        Ok(self.logits.forward(&pooling::forward(&x)?)?)
    }

    /// As [`Self::forward`], with every intermediate result computed on its own and handed to `observe` as it is made,
    /// with its index in [`Self::layers`]. It is dropped after its last use. The logits are the same to the last bit.
    ///
    /// # Errors
    /// Those of `observe`; and [`crate::Error::Shape`] for images of another size, wrapped in candle's.
    pub fn forward_observed<E: From<candle_core::Error>>(
        &self,
        images: &Tensor,
        observe: &mut dyn FnMut(usize, &Tensor) -> Result<(), E>,
    ) -> Result<Tensor, E> {
        self.check_images(images).map_err(candle_core::Error::from)?;
        self.workspace.clear();
        let mut taps = Taps { observe, next: 0 };
        let x = taps.tap(self.stem.convolution.forward(images)?)?;
        let x = taps.tap(self.stem.batch_norm.evaluate(&x, None, false)?)?;
        let mut x = taps.tap(elementwise::relu(&x)?)?;
        for block in &self.blocks {
            x = observe_block(block, x, &mut taps)?;
        }
        let pooled = taps.tap(pooling::forward(&x)?)?;
        taps.tap(self.logits.forward(&pooled)?)
    }
}

fn forward_block(block: &Block, x: Tensor) -> Result<Tensor> {
    let y = block.batch_norm1.evaluate(&block.convolution1.forward(&x)?, None, true)?;
    let y = block.convolution2.forward(&y)?;
    let addend = match &block.shortcut {
        Shortcut::None => None,
        Shortcut::Identity => Some(x),
        Shortcut::Projection(projection) => Some(projection.forward(&x)?),
    };
    Ok(block.batch_norm2.evaluate(&y, addend.as_ref(), true)?)
}

fn observe_block<E: From<candle_core::Error>>(block: &Block, x: Tensor, taps: &mut Taps<'_, E>) -> Result<Tensor, E> {
    let y = taps.tap(block.convolution1.forward(&x)?)?;
    let y = taps.tap(block.batch_norm1.evaluate(&y, None, false)?)?;
    let y = taps.tap(elementwise::relu(&y)?)?;
    let y = taps.tap(block.convolution2.forward(&y)?)?;
    let y = taps.tap(block.batch_norm2.evaluate(&y, None, false)?)?;
    let sum = match &block.shortcut {
        Shortcut::None => y,
        Shortcut::Identity => taps.tap(elementwise::add(&y, &x)?)?,
        Shortcut::Projection(projection) => {
            let addend = taps.tap(projection.forward(&x)?)?;
            taps.tap(elementwise::add(&y, &addend)?)?
        }
    };
    taps.tap(elementwise::relu(&sum)?)
}

/// Hands out results and counts them.
struct Taps<'a, E> {
    observe: &'a mut dyn FnMut(usize, &Tensor) -> Result<(), E>,
    next: usize,
}

impl<E> Taps<'_, E> {
    fn tap(&mut self, result: Tensor) -> Result<Tensor, E> {
        (self.observe)(self.next, &result)?;
        self.next += 1;
        Ok(result)
    }
}
