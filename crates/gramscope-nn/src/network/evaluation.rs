//! Evaluation: of the network, of every layer, and without some of the blocks.

use std::sync::Arc;

use candle_core::Tensor;

use super::ResNet;
use crate::host::{Observe, Output, Pass, Plan, Workspace};
use crate::program::{HandOut, Program, check_variants};
use crate::{Error, Result, threads};

impl ResNet {
    /// The logits `[n, classes]` of `images` `[n, side, side, 3]`, f32 in `[0, 1]`. Frees the memory that training
    /// keeps from step to step.
    ///
    /// # Errors
    /// [`Error::Shape`] for images of another size, [`Error::Candle`].
    pub fn forward(&self, images: &Tensor) -> Result<Tensor> {
        threads::enter(|| self.evaluate(&self.evaluation, images, &mut |_, _| Ok::<(), Error>(())))
    }

    /// As [`Self::forward`], with every intermediate result computed on its own and handed to `observe` as it is made,
    /// with its index in [`Self::layers`]. Its memory is used again by later layers, so an observer copies what it
    /// wants to keep. The logits are the same to the last bit.
    ///
    /// # Errors
    /// Those of `observe`; and those of [`Self::forward`].
    pub fn forward_observed<E: From<Error>>(
        &self,
        images: &Tensor,
        observe: &mut dyn FnMut(usize, &mut Output) -> Result<(), E>,
    ) -> Result<Tensor, E> {
        self.evaluate(self.observation(), images, observe)
    }

    /// The most bytes of memory that [`Self::forward_observed`] takes for a batch of `images`, beside the parameters.
    pub fn observation_bytes(&self, images: usize) -> u64 {
        self.observation().bytes(images)
    }

    fn observation(&self) -> &Plan {
        let program = || Program::observation(&self.topology, self.config.image_side, HandOut::OneByOne);
        self.observation.get_or_init(|| Plan::new(program()))
    }

    /// The logits `[n, classes]` of `images` for each of `variants`, every one a flag for each block
    /// ([`crate::ResNetConfig::block_names`]) that says whether it is deleted. Of a deleted block the residual branch
    /// contributes nothing; the shortcut, the projection where the block has one, and the last ReLU stay:
    /// y = relu(shortcut(x)). With no block deleted this is [`Self::forward`], to the last bit.
    ///
    /// What variants have in common from the first block on is computed once: a block is evaluated as often as there
    /// are different sets of deleted blocks before it.
    ///
    /// # Errors
    /// [`Error::NoShortcuts`] for a network without residual connections, [`Error::Shape`] for images of another size
    /// or another number of flags, [`Error::Candle`].
    pub fn forward_without(&self, images: &Tensor, variants: &[Vec<bool>]) -> Result<Vec<Tensor>> {
        self.check_images(images)?;
        let plan = self.ablation(variants)?;
        if variants.is_empty() {
            return Ok(Vec::new());
        }
        let mut logits = vec![None; variants.len()];
        threads::enter(|| {
            self.evaluate(&plan, images, &mut |variant, output| {
                logits[variant] = Some(output.values()?.clone());
                Ok::<(), Error>(())
            })
        })?;
        Ok(logits.into_iter().flatten().collect())
    }

    /// The most bytes of memory that [`Self::forward_without`] takes for a batch of `images`, beside the parameters and the logits.
    ///
    /// # Errors
    /// [`Error::NoShortcuts`], [`Error::Shape`].
    pub fn ablation_bytes(&self, images: usize, variants: &[Vec<bool>]) -> Result<u64> {
        Ok(self.ablation(variants)?.bytes(images))
    }

    fn ablation(&self, variants: &[Vec<bool>]) -> Result<Arc<Plan>> {
        check_variants(&self.topology, variants)?;
        let program = || Program::ablation(&self.topology, self.config.image_side, variants);
        Ok(self.ablation.get(variants, program))
    }

    /// The logits that `plan` comes to last.
    fn evaluate<E: From<Error>>(
        &self,
        plan: &Plan,
        images: &Tensor,
        observe: &mut Observe<'_, E>,
    ) -> Result<Tensor, E> {
        self.check_images(images)?;
        self.workspace.clear();
        let workspace = Workspace::default();
        let mut pass = Pass::evaluation(plan, &self.parts, self.statistics, images, &workspace);
        pass.run(observe)?;
        Ok(pass.into_logits()?)
    }
}
