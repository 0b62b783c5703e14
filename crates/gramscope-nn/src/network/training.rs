//! One forward and backward pass in training mode, written out.
//!
//! The forward pass keeps, for each convolution, its input and its result, and for each batch norm its statistics; the
//! backward pass takes them from the end. Gradients take over the memory of what they replace, and what is done with
//! goes back to the workspace, where what comes next finds it.

use candle_core::Tensor;
use candle_core::backprop::GradStore;

use super::ResNet;
use super::modules::{BatchNorm, Block, Convolution, Shortcut};
use super::workspace::Workspace;
use crate::ops::{batch_norm, convolution, first_component, linear, loss, pooling};
use crate::{Error, Result};

/// What one training step needs to know of a batch.
#[derive(Debug)]
pub struct Gradients {
    /// The mean cross-entropy, without the weight penalty: a scalar, f32.
    pub loss: Tensor,
    /// How many images were classified correctly: a scalar, f32.
    pub correct: Tensor,
    /// What the penalty adds to it; 0 without one.
    pub penalty: f64,
    /// The gradients of the sum of both by the parameters; the optimiser adds the weight decay.
    pub grads: GradStore,
}

/// A penalty on dominant first principal components: `weight` times the sum over all blocks of what the first component
/// of the block's output (`relu2`) explains of its variance over the batch beyond `threshold`; see
/// [`first_component`](crate::ops::first_component).
///
/// Nguyen, Raghu and Kornblith penalise so to train networks without a block structure (*On the origins of the block
/// structure phenomenon in neural network representations*, TMLR 2022).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FirstComponentPenalty {
    /// The factor, at least 0.
    pub weight: f64,
    /// The fraction of the variance that costs nothing, 0 to 1.
    pub threshold: f64,
}

impl ResNet {
    /// The loss on a batch and its gradients, with the batch's own statistics in the batch norms; the running
    /// statistics move towards them. `images` `[n, side, side, 3]` f32 in `[0, 1]`, `labels` `[n]` u32.
    ///
    /// The memory of the activations is kept for the next step, until an evaluation frees it.
    ///
    /// # Errors
    /// [`Error::SingleValue`] for a batch so small that a batch norm sees one value a channel, [`Error::Shape`] for
    /// images of another size; [`Error::Label`] and [`Error::DType`], wrapped in candle's.
    pub fn loss_and_gradients(&self, images: &Tensor, labels: &Tensor) -> Result<Gradients> {
        self.penalised_loss_and_gradients(images, labels, None)
    }

    /// The same with a penalty added to the loss, where there is one.
    ///
    /// # Errors
    /// Those of [`Self::loss_and_gradients`].
    pub fn penalised_loss_and_gradients(
        &self,
        images: &Tensor,
        labels: &Tensor,
        penalty: Option<FirstComponentPenalty>,
    ) -> Result<Gradients> {
        self.check_images(images)?;
        self.check_batch(images.dims()[0])?;
        self.workspace.keep_batches_of(images.dims()[0]);
        let mut step = Step { workspace: &self.workspace, grads: GradStore::default() };

        let stem = step.normalised(&self.stem.convolution, images, &self.stem.batch_norm)?;
        let first = step.relu(&stem, &self.stem.batch_norm, None)?;
        let mut x = first.clone();
        let mut saved = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            let (output, block) = step.forward(block, x)?;
            saved.push(block);
            x = output;
        }
        let pooled = pooling::forward(&x)?;
        let logits = self.logits.forward(&pooled)?;
        let (loss, correct) = loss::forward(&logits, labels)?;

        let head = linear::backward(pooled, &self.logits.weight, &loss::backward(&logits, labels)?)?;
        step.grads.insert(&self.logits.weight, head.dweight);
        step.grads.insert(&self.logits.bias, head.dbias);
        let mut dx = step.like(&x)?;
        drop(x);
        pooling::backward_into(&dx, &head.dx)?;
        let mut added = 0.0;
        for (block, saved) in self.blocks.iter().zip(saved).rev() {
            if let Some(FirstComponentPenalty { weight, threshold }) = penalty {
                added += first_component::add_penalty_gradient(&dx, &saved.output, weight, threshold)?;
            }
            dx = step.backward(block, saved, dx)?;
        }
        let dx = step.backward_relu(stem, &self.stem.batch_norm, dx)?;
        step.parameter_gradients(&self.stem.convolution, images, &dx)?;
        step.workspace.give(dx);
        step.workspace.give(first);
        Ok(Gradients { loss, correct, penalty: added, grads: step.grads })
    }

    /// Fails if a batch norm would see one value a channel.
    fn check_batch(&self, images: usize) -> Result<()> {
        let single = |layer: &&crate::Layer| layer.name.contains(".bn") && images * layer.shape[0] * layer.shape[1] < 2;
        match self.layers.iter().find(single) {
            Some(layer) => Err(Error::SingleValue { layer: layer.name.clone() }),
            None => Ok(()),
        }
    }
}

/// A convolution followed by a batch norm, as the backward pass needs it.
struct Normalised {
    /// The convolution's result.
    x: Tensor,
    /// Its statistics.
    statistics: Tensor,
}

/// A block, as the backward pass needs it.
struct Saved {
    /// The output of what comes before it, which owns it.
    input: Tensor,
    first: Normalised,
    /// The first ReLU's result.
    hidden: Tensor,
    second: Normalised,
    /// The second ReLU's result.
    output: Tensor,
}

/// A step under way. Whatever it takes from the workspace it gives back, once.
struct Step<'a> {
    workspace: &'a Workspace,
    grads: GradStore,
}

impl Step<'_> {
    /// A block's result, and what its backward pass needs.
    fn forward(&self, block: &Block, input: Tensor) -> Result<(Tensor, Saved)> {
        let first = self.normalised(&block.convolution1, &input, &block.batch_norm1)?;
        let hidden = self.relu(&first, &block.batch_norm1, None)?;
        let second = self.normalised(&block.convolution2, &hidden, &block.batch_norm2)?;
        let output = match &block.shortcut {
            Shortcut::None => self.relu(&second, &block.batch_norm2, None)?,
            Shortcut::Identity => self.relu(&second, &block.batch_norm2, Some(&input))?,
            Shortcut::Projection(projection) => {
                let addend = projection.forward_in(self.workspace, &input)?;
                let output = self.relu(&second, &block.batch_norm2, Some(&addend))?;
                self.workspace.give(addend);
                output
            }
        };
        Ok((output.clone(), Saved { input, first, hidden, second, output }))
    }

    /// The gradient of a block's input from `dy`, that of its result.
    fn backward(&mut self, block: &Block, saved: Saved, dy: Tensor) -> Result<Tensor> {
        let Saved { input, first, hidden, second, output } = saved;
        let (dx, dshortcut) = match &block.shortcut {
            Shortcut::None => (self.backward_relu(second, &block.batch_norm2, dy)?, None),
            Shortcut::Identity | Shortcut::Projection(_) => {
                let (dx, dshortcut) = self.backward_add_relu(second, &block.batch_norm2, &output, dy)?;
                (dx, Some(dshortcut))
            }
        };
        self.workspace.give(output);
        self.parameter_gradients(&block.convolution2, &hidden, &dx)?;
        let dhidden = hidden;
        block.convolution2.input_gradient_into(&dhidden, &dx)?;
        self.workspace.give(dx);
        let dx = self.backward_relu(first, &block.batch_norm1, dhidden)?;
        self.parameter_gradients(&block.convolution1, &input, &dx)?;
        let dinput = match (&block.shortcut, dshortcut) {
            (Shortcut::Identity, Some(dinput)) => {
                block.convolution1.add_input_gradient(&dinput, &dx)?;
                dinput
            }
            (Shortcut::Projection(projection), Some(dshortcut)) => {
                self.parameter_gradients(projection, &input, &dshortcut)?;
                let dinput = self.like(&input)?;
                block.convolution1.input_gradient_into(&dinput, &dx)?;
                projection.add_input_gradient(&dinput, &dshortcut)?;
                self.workspace.give(dshortcut);
                dinput
            }
            _ => {
                let dinput = self.like(&input)?;
                block.convolution1.input_gradient_into(&dinput, &dx)?;
                dinput
            }
        };
        self.workspace.give(dx);
        Ok(dinput)
    }

    /// The convolution of `x` and its statistics, towards which the running ones of `norm` move.
    fn normalised(&self, convolution: &Convolution, x: &Tensor, norm: &BatchNorm) -> Result<Normalised> {
        let x = convolution.forward_in(self.workspace, x)?;
        let statistics = batch_norm::statistics(&x)?;
        let (n, h, w, _) = x.dims4()?;
        batch_norm::track(&norm.running_mean, &norm.running_variance, &statistics, n * h * w)?;
        Ok(Normalised { x, statistics })
    }

    /// The batch norm, the addition where there is one, and the ReLU.
    fn relu(&self, normalised: &Normalised, norm: &BatchNorm, addend: Option<&Tensor>) -> Result<Tensor> {
        let Normalised { x, statistics } = normalised;
        let y = self.like(x)?;
        batch_norm::normalise_into(&y, x, statistics, &norm.gamma, &norm.beta, addend, true)?;
        Ok(y)
    }

    /// The gradient of the convolution's result from that of the ReLU's.
    fn backward_relu(&mut self, normalised: Normalised, norm: &BatchNorm, dy: Tensor) -> Result<Tensor> {
        let Normalised { x, statistics } = normalised;
        let gradients = batch_norm::backward_relu(&x, &statistics, &norm.gamma, &norm.beta, dy)?;
        self.workspace.give(x);
        Ok(self.keep(gradients, norm))
    }

    /// The gradients of the convolution's result and of the addend, from that of `y`, the ReLU's result.
    fn backward_add_relu(
        &mut self,
        normalised: Normalised,
        norm: &BatchNorm,
        y: &Tensor,
        dy: Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let Normalised { x, statistics } = normalised;
        let (gradients, daddend) = batch_norm::backward_add_relu(x, &statistics, &norm.gamma, y, dy)?;
        Ok((self.keep(gradients, norm), daddend))
    }

    /// Stores the gradients of the parameters and returns that of the input.
    fn keep(&mut self, gradients: batch_norm::Gradients, norm: &BatchNorm) -> Tensor {
        self.grads.insert(&norm.gamma, gradients.dgamma);
        self.grads.insert(&norm.beta, gradients.dbeta);
        gradients.dx
    }

    fn parameter_gradients(&mut self, layer: &Convolution, x: &Tensor, dy: &Tensor) -> Result<()> {
        let (dw, db) = convolution::parameter_gradients(x, dy, layer.geometry, (layer.kernel, layer.kernel))?;
        self.grads.insert(&layer.weight, dw);
        self.grads.insert(&layer.bias, db);
        Ok(())
    }

    /// Memory of the size of `x`.
    fn like(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.workspace.take(x.dims(), x.device())?)
    }
}
