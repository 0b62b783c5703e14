//! The forward pass of evaluation with blocks deleted.

use candle_core::Tensor;

use super::ResNet;
use super::evaluation::{forward_block, project};
use super::modules::{Block, Shortcut};
use super::workspace::Workspace;
use crate::ops::elementwise;
use crate::topology::{ShortcutPlan, Topology};
use crate::{Error, Result, threads};

impl ResNet {
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
        check_variants(&self.config.topology(), variants)?;
        self.workspace.clear();
        threads::enter(|| {
            let workspace = Workspace::default();
            let mut ablation = Ablation { network: self, workspace, variants, logits: vec![None; variants.len()] };
            let x = self.forward_stem(images, &ablation.workspace)?;
            ablation.follow(0, x, &(0..variants.len()).collect::<Vec<_>>())?;
            Ok(ablation.logits.into_iter().flatten().collect())
        })
    }
}

/// Whether every one of `variants` says of each block whether it is deleted, and something is left of a deleted one.
pub(crate) fn check_variants(topology: &Topology, variants: &[Vec<bool>]) -> Result<()> {
    let blocks = &topology.blocks;
    if blocks.iter().any(|block| matches!(block.shortcut, ShortcutPlan::None)) {
        return Err(Error::NoShortcuts);
    }
    match variants.iter().find(|variant| variant.len() != blocks.len()) {
        None => Ok(()),
        Some(wrong) => {
            let expected = format!("one flag for each of the {} blocks", blocks.len());
            Err(Error::Shape { what: "a choice of deleted blocks", expected, got: vec![wrong.len()] })
        }
    }
}

/// The tree of all variants: they part at the first block that is deleted in one and not in another.
struct Ablation<'a> {
    network: &'a ResNet,
    workspace: Workspace,
    variants: &'a [Vec<bool>],
    logits: Vec<Option<Tensor>>,
}

impl Ablation<'_> {
    /// From `x`, the input of block number `block` in all variants of `group`, to their logits. The side on which the block
    /// is deleted goes first: in what is deleted from the end of a stage it parts no more, so that few activations wait.
    fn follow(&mut self, block: usize, x: Tensor, group: &[usize]) -> Result<()> {
        let Some(module) = self.network.blocks.get(block) else {
            let logits = self.network.forward_head(&x)?;
            group.iter().for_each(|&variant| self.logits[variant] = Some(logits.clone()));
            return Ok(());
        };
        let (deleted, kept): (Vec<usize>, Vec<usize>) =
            group.iter().partition(|&&variant| self.variants[variant][block]);
        if kept.is_empty() {
            let y = forward_shortcut(module, x, &self.workspace)?;
            return self.follow(block + 1, y, &deleted);
        }
        if !deleted.is_empty() {
            let y = forward_shortcut(module, x.copy()?, &self.workspace)?;
            self.follow(block + 1, y, &deleted)?;
        }
        let y = forward_block(module, x, &self.workspace)?;
        self.follow(block + 1, y, &kept)
    }
}

/// What is left of `block` without its residual branch; the memory of `x` is used again.
fn forward_shortcut(block: &Block, x: Tensor, workspace: &Workspace) -> Result<Tensor> {
    let sum = match (&block.shortcut, project(&block.shortcut, &x, workspace)?) {
        (Shortcut::None, _) => return Err(Error::NoShortcuts),
        (_, None) => x,
        (_, Some(projected)) => {
            workspace.give(x);
            projected
        }
    };
    Ok(elementwise::relu(sum)?)
}
