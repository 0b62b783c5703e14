//! The forward pass of evaluation.

use candle_core::Tensor;

use super::ResNet;
use super::modules::{Block, Branch, Branches, Shortcut};
use super::workspace::Workspace;
use crate::ops::{elementwise, max_pooling, mixing, pooling};
use crate::{Result, threads};

impl ResNet {
    /// The logits `[n, classes]` of `images` `[n, side, side, 3]`, f32 in `[0, 1]`. Frees the memory that training
    /// keeps from step to step.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] for images of another size, [`crate::Error::Candle`].
    pub fn forward(&self, images: &Tensor) -> Result<Tensor> {
        self.check_images(images)?;
        self.workspace.clear();
        threads::enter(|| {
            let workspace = Workspace::default();
            let mut x = self.forward_stem(images, &workspace)?;
            for block in &self.blocks {
                x = forward_block(block, x, &workspace)?;
            }
            self.forward_head(&x)
        })
    }

    /// The input of the first block.
    pub(super) fn forward_stem(&self, images: &Tensor, workspace: &Workspace) -> Result<Tensor> {
        let x = self.stem.unit.convolution.forward_in(workspace, images)?;
        let x = self.stem.unit.batch_norm.evaluate_in(workspace, x, None, true)?;
        self.pool_stem(x, workspace)
    }

    /// The max pooling behind the stem, where there is one; the memory of `x` goes back to the workspace.
    pub(super) fn pool_stem(&self, x: Tensor, workspace: &Workspace) -> Result<Tensor> {
        if !self.stem.pools {
            return Ok(x);
        }
        let y = workspace.take(&max_pooling::result_dims(&x)?, x.device())?;
        max_pooling::forward_into(&y, &x)?;
        workspace.give(x);
        Ok(y)
    }

    /// The logits from the output of the last block.
    pub(super) fn forward_head(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.logits.forward(&pooling::forward(x)?)?)
    }
}

/// The output of `block`; the memory of `x` goes back to the workspace.
pub(super) fn forward_block(block: &Block, x: Tensor, workspace: &Workspace) -> Result<Tensor> {
    let y = match &block.branches {
        Branches::Single(branch) => {
            let y = forward_to_last(branch, &x, workspace)?;
            let projected = project(&block.shortcut, &x, workspace)?;
            let addend = addend(&block.shortcut, &x, projected.as_ref());
            let y = branch.last.batch_norm.evaluate_in(workspace, y, addend, true)?;
            projected.into_iter().for_each(|projected| workspace.give(projected));
            y
        }
        Branches::Mixed(branches) => {
            let [a, b] = [&branches[0], &branches[1]].map(|branch| {
                let y = forward_to_last(branch, &x, workspace)?;
                branch.last.batch_norm.evaluate_in(workspace, y, None, false)
            });
            let (a, b) = (a?, b?);
            let mut sum = mixing::mix_evenly(a, &b)?;
            workspace.give(b);
            let projected = project(&block.shortcut, &x, workspace)?;
            if let Some(addend) = addend(&block.shortcut, &x, projected.as_ref()) {
                sum = elementwise::add(sum, addend)?;
            }
            projected.into_iter().for_each(|projected| workspace.give(projected));
            elementwise::relu(sum)?
        }
    };
    workspace.give(x);
    workspace.keep_shape(y.dims());
    Ok(y)
}

/// The result of the last convolution of `branch`.
fn forward_to_last(branch: &Branch, x: &Tensor, workspace: &Workspace) -> candle_core::Result<Tensor> {
    let mut hidden: Option<Tensor> = None;
    for unit in &branch.hidden {
        let y = unit.convolution.forward_in(workspace, hidden.as_ref().unwrap_or(x))?;
        hidden.into_iter().for_each(|hidden| workspace.give(hidden));
        hidden = Some(unit.batch_norm.evaluate_in(workspace, y, None, true)?);
    }
    let y = branch.last.convolution.forward_in(workspace, hidden.as_ref().unwrap_or(x))?;
    hidden.into_iter().for_each(|hidden| workspace.give(hidden));
    Ok(y)
}

/// The projection of a block's input, where there is one.
pub(super) fn project(shortcut: &Shortcut, x: &Tensor, workspace: &Workspace) -> candle_core::Result<Option<Tensor>> {
    match shortcut {
        Shortcut::None | Shortcut::Identity => Ok(None),
        Shortcut::Projection(projection) => projection.forward_in(workspace, x).map(Some),
        Shortcut::NormalisedProjection(unit) => {
            let y = unit.convolution.forward_in(workspace, x)?;
            unit.batch_norm.evaluate_in(workspace, y, None, false).map(Some)
        }
    }
}

/// What is added to the result of the branches.
pub(super) fn addend<'a>(shortcut: &Shortcut, x: &'a Tensor, projected: Option<&'a Tensor>) -> Option<&'a Tensor> {
    match shortcut {
        Shortcut::None => None,
        Shortcut::Identity => Some(x),
        Shortcut::Projection(_) | Shortcut::NormalisedProjection(_) => projected,
    }
}
