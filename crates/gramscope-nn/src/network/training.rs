//! One forward and backward pass in training mode, written out.
//!
//! The forward pass keeps, for each convolution, its input and its result, and for each batch norm its statistics; the
//! backward pass takes them from the end and frees them as it goes.

use candle_core::Tensor;
use candle_core::backprop::GradStore;

use super::ResNet;
use super::modules::{BatchNorm, Block, Convolution, Shortcut};
use crate::ops::{batch_norm, convolution, linear, loss, pooling};
use crate::{Error, Result};

/// What one training step needs to know of a batch.
#[derive(Debug)]
pub struct Gradients {
    /// The mean cross-entropy, without the weight penalty: a scalar, f32.
    pub loss: Tensor,
    /// How many images were classified correctly: a scalar, f32.
    pub correct: Tensor,
    /// The gradients of the mean cross-entropy by the parameters; the optimiser adds the weight decay.
    pub grads: GradStore,
}

/// A convolution followed by a batch norm, as the backward pass needs it.
struct Normalised {
    /// The convolution's result.
    x: Tensor,
    /// Its statistics.
    statistics: Tensor,
}

/// A block, as the backward pass needs it.
struct SavedBlock {
    input: Tensor,
    first: Normalised,
    /// The first ReLU's result.
    hidden: Tensor,
    second: Normalised,
    /// The second ReLU's result, where there is an addition before it: elsewhere the batch norm tells where it is 0.
    output: Option<Tensor>,
}

impl ResNet {
    /// The loss on a batch and its gradients, with the batch's own statistics in the batch norms; the running statistics
    /// move towards them. `images` [n, side, side, 3] f32 in [0, 1], `labels` [n] u32.
    ///
    /// # Errors
    /// [`Error::SingleValue`] for a batch so small that a batch norm sees one value a channel, [`Error::Shape`] for
    /// images of another size; [`Error::Label`] and [`Error::DType`], wrapped in candle's.
    pub fn loss_and_gradients(&self, images: &Tensor, labels: &Tensor) -> Result<Gradients> {
        self.check_images(images)?;
        self.check_batch(images.dims()[0])?;
        let mut grads = GradStore::default();

        let stem = Normalised::forward(&self.stem.convolution, images, &self.stem.batch_norm)?;
        let mut x = stem.relu(&self.stem.batch_norm, None)?;
        let mut saved = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            let (output, block) = SavedBlock::forward(block, x)?;
            saved.push(block);
            x = output;
        }
        let pooled = pooling::forward(&x)?;
        let logits = self.logits.forward(&pooled)?;
        let (loss, correct) = loss::forward(&logits, labels)?;

        let head = linear::backward(pooled, &self.logits.weight, &loss::backward(&logits, labels)?)?;
        grads.insert(&self.logits.weight, head.dweight);
        grads.insert(&self.logits.bias, head.dbias);
        let (_, h, w, _) = x.dims4()?;
        drop(x);
        let mut dx = pooling::backward(&head.dx, (h, w))?;
        for (block, saved) in self.blocks.iter().zip(saved).rev() {
            dx = saved.backward(block, dx, &mut grads)?;
        }
        let dx = stem.backward_relu(&self.stem.batch_norm, dx, &mut grads)?;
        parameter_gradients(&self.stem.convolution, images, &dx, &mut grads)?;
        Ok(Gradients { loss, correct, grads })
    }

    /// Fails if a batch norm would see one value a channel.
    fn check_batch(&self, images: usize) -> Result<()> {
        let single = |layer: &&crate::Layer| layer.name.contains("bn") && images * layer.shape[0] * layer.shape[1] < 2;
        match self.layers.iter().find(single) {
            Some(layer) => Err(Error::SingleValue { layer: layer.name.clone() }),
            None => Ok(()),
        }
    }
}

impl Normalised {
    /// The convolution of `x` and its statistics, towards which the running ones of `norm` move.
    fn forward(convolution: &Convolution, x: &Tensor, norm: &BatchNorm) -> Result<Self> {
        let x = convolution.forward(x)?;
        let statistics = batch_norm::statistics(&x)?;
        let (n, h, w, _) = x.dims4()?;
        batch_norm::track(&norm.running_mean, &norm.running_variance, &statistics, n * h * w)?;
        Ok(Self { x, statistics })
    }

    /// The batch norm, the addition where there is one, and the ReLU.
    fn relu(&self, norm: &BatchNorm, addend: Option<&Tensor>) -> Result<Tensor> {
        Ok(batch_norm::normalise(&self.x, &self.statistics, &norm.gamma, &norm.beta, addend, true)?)
    }

    /// The gradient of the convolution's result from that of the ReLU's.
    fn backward_relu(self, norm: &BatchNorm, dy: Tensor, grads: &mut GradStore) -> Result<Tensor> {
        let gradients = batch_norm::backward_relu(&self.x, &self.statistics, &norm.gamma, &norm.beta, dy)?;
        Ok(keep(gradients, norm, grads))
    }

    /// The gradients of the convolution's result and of the addend, from that of `y`, the ReLU's result.
    fn backward_add_relu(
        self,
        norm: &BatchNorm,
        y: &Tensor,
        dy: Tensor,
        grads: &mut GradStore,
    ) -> Result<(Tensor, Tensor)> {
        let (gradients, addend) = batch_norm::backward_add_relu(self.x, &self.statistics, &norm.gamma, y, dy)?;
        Ok((keep(gradients, norm, grads), addend))
    }
}

impl SavedBlock {
    /// The block's result, and what its backward pass needs.
    fn forward(block: &Block, input: Tensor) -> Result<(Tensor, Self)> {
        let first = Normalised::forward(&block.convolution1, &input, &block.batch_norm1)?;
        let hidden = first.relu(&block.batch_norm1, None)?;
        let second = Normalised::forward(&block.convolution2, &hidden, &block.batch_norm2)?;
        let addend = match &block.shortcut {
            Shortcut::None => None,
            Shortcut::Identity => Some(input.clone()),
            Shortcut::Projection(projection) => Some(projection.forward(&input)?),
        };
        let output = second.relu(&block.batch_norm2, addend.as_ref())?;
        let saved = Self { input, first, hidden, second, output: addend.map(|_| output.clone()) };
        Ok((output, saved))
    }

    /// The gradient of the block's input from `dy`, that of its result. In a plain chain it takes over the memory of the
    /// input; with shortcuts that is still the output of the block before.
    fn backward(self, block: &Block, dy: Tensor, grads: &mut GradStore) -> Result<Tensor> {
        let Self { input, first, hidden, second, output } = self;
        let (dx, dshortcut) = match output {
            None => (second.backward_relu(&block.batch_norm2, dy, grads)?, None),
            Some(output) => {
                let (dx, dshortcut) = second.backward_add_relu(&block.batch_norm2, &output, dy, grads)?;
                (dx, Some(dshortcut))
            }
        };
        parameter_gradients(&block.convolution2, &hidden, &dx, grads)?;
        let dhidden = block.convolution2.input_gradient(&dx, hidden)?;
        drop(dx);
        let dx = first.backward_relu(&block.batch_norm1, dhidden, grads)?;
        parameter_gradients(&block.convolution1, &input, &dx, grads)?;
        match (&block.shortcut, dshortcut) {
            (Shortcut::Identity, Some(dinput)) => {
                block.convolution1.add_input_gradient(&dinput, &dx)?;
                Ok(dinput)
            }
            (Shortcut::Projection(projection), Some(dshortcut)) => {
                parameter_gradients(projection, &input, &dshortcut, grads)?;
                let dinput = block.convolution1.input_gradient(&dx, input.zeros_like()?)?;
                projection.add_input_gradient(&dinput, &dshortcut)?;
                Ok(dinput)
            }
            _ => Ok(block.convolution1.input_gradient(&dx, input)?),
        }
    }
}

fn keep(gradients: batch_norm::Gradients, norm: &BatchNorm, grads: &mut GradStore) -> Tensor {
    grads.insert(&norm.gamma, gradients.dgamma);
    grads.insert(&norm.beta, gradients.dbeta);
    gradients.dx
}

fn parameter_gradients(layer: &Convolution, x: &Tensor, dy: &Tensor, grads: &mut GradStore) -> Result<()> {
    let (dw, db) = convolution::parameter_gradients(x, dy, layer.geometry, (layer.kernel, layer.kernel))?;
    grads.insert(&layer.weight, dw);
    grads.insert(&layer.bias, db);
    Ok(())
}
