//! The forward pass of evaluation, with and without handing out every layer's output.

use candle_core::Tensor;

use super::ResNet;
use super::modules::{Block, Shortcut};
use super::workspace::Workspace;
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
        let workspace = Workspace::default();
        let mut x = self.forward_stem(images, &workspace)?;
        for block in &self.blocks {
            x = forward_block(block, x, &workspace)?;
        }
        self.forward_head(&x)
    }

    /// The input of the first block.
    pub(super) fn forward_stem(&self, images: &Tensor, workspace: &Workspace) -> Result<Tensor> {
        let x = self.stem.convolution.forward_in(workspace, images)?;
        Ok(self.stem.batch_norm.evaluate_in(workspace, x, None, true)?)
    }

    /// The logits from the output of the last block.
    pub(super) fn forward_head(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.logits.forward(&pooling::forward(x)?)?)
    }

    /// As [`Self::forward`], with every intermediate result computed on its own and handed to `observe` as it is made,
    /// with its index in [`Self::layers`]. Its memory is used again by later layers, so an observer copies what it
    /// wants to keep. The logits are the same to the last bit.
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
        let workspace = Workspace::default();
        let mut taps = Taps { observe, next: 0 };
        let x = taps.tap(self.stem.convolution.forward_in(&workspace, images)?)?;
        let x = taps.tap(self.stem.batch_norm.evaluate_in(&workspace, x, None, false)?)?;
        let mut x = taps.tap(elementwise::relu(x)?)?;
        for block in &self.blocks {
            x = observe_block(block, x, &workspace, &mut taps)?;
        }
        let pooled = taps.tap(pooling::forward(&x)?)?;
        taps.tap(self.logits.forward(&pooled)?)
    }
}

/// The output of `block`; the memory of `x` goes back to the workspace.
pub(super) fn forward_block(block: &Block, x: Tensor, workspace: &Workspace) -> Result<Tensor> {
    let y = block.convolution1.forward_in(workspace, &x)?;
    let hidden = block.batch_norm1.evaluate_in(workspace, y, None, true)?;
    let y = block.convolution2.forward_in(workspace, &hidden)?;
    workspace.give(hidden);
    let projected = match &block.shortcut {
        Shortcut::None | Shortcut::Identity => None,
        Shortcut::Projection(projection) => Some(projection.forward_in(workspace, &x)?),
    };
    let addend = match &block.shortcut {
        Shortcut::None => None,
        Shortcut::Identity => Some(&x),
        Shortcut::Projection(_) => projected.as_ref(),
    };
    let y = block.batch_norm2.evaluate_in(workspace, y, addend, true)?;
    projected.into_iter().for_each(|projected| workspace.give(projected));
    workspace.give(x);
    workspace.keep_shape(y.dims());
    Ok(y)
}

fn observe_block<E: From<candle_core::Error>>(
    block: &Block,
    x: Tensor,
    workspace: &Workspace,
    taps: &mut Taps<'_, E>,
) -> Result<Tensor, E> {
    let y = taps.tap(block.convolution1.forward_in(workspace, &x)?)?;
    let y = taps.tap(block.batch_norm1.evaluate_in(workspace, y, None, false)?)?;
    let hidden = taps.tap(elementwise::relu(y)?)?;
    let y = taps.tap(block.convolution2.forward_in(workspace, &hidden)?)?;
    workspace.give(hidden);
    let y = taps.tap(block.batch_norm2.evaluate_in(workspace, y, None, false)?)?;
    let sum = match &block.shortcut {
        Shortcut::None => y,
        Shortcut::Identity => taps.tap(elementwise::add(y, &x)?)?,
        Shortcut::Projection(projection) => {
            let addend = taps.tap(projection.forward_in(workspace, &x)?)?;
            let sum = taps.tap(elementwise::add(y, &addend)?)?;
            workspace.give(addend);
            sum
        }
    };
    workspace.give(x);
    workspace.keep_shape(sum.dims());
    taps.tap(elementwise::relu(sum)?)
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
