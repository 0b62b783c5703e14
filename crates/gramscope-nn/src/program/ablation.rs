//! A network without some of its blocks, for many choices of them at once.

use super::forward::Builder;
use super::{IMAGES, Program, Step, Tapped, ValueId};
use crate::topology::{BlockPlan, ShortcutPlan, Topology};
use crate::{Error, Result};

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

impl Program {
    /// What gives the logits for each of `variants`, every one a flag for each block that says whether it is deleted: of such a
    /// block only the shortcut and the last ReLU stay. Behind the logits of a variant is a tap of its number. What variants have
    /// in common from the first block on is computed once: a block is evaluated as often as there are different sets of deleted
    /// blocks before it.
    pub(crate) fn ablation(topology: &Topology, image_side: usize, variants: &[Vec<bool>]) -> Self {
        // Of the whole network all is numbered in its order, whatever the variants come by first.
        let mut program = Self::evaluation(topology, image_side);
        program.steps.clear();
        program.values.truncate(IMAGES + 1);
        let mut tree = Tree { builder: Builder::on(program, None), blocks: &topology.blocks, variants };
        let x = tree.builder.stem(&topology.stem);
        tree.follow(0, x, &(0..variants.len()).collect::<Vec<_>>());
        tree.builder.program
    }
}

/// Variants part at the first block that is deleted in one and not in another.
struct Tree<'a> {
    builder: Builder,
    blocks: &'a [BlockPlan],
    variants: &'a [Vec<bool>],
}

impl Tree<'_> {
    /// From `x`, the input of block number `block` in all variants of `group`, to their logits. The side on which the block is
    /// deleted goes first: in what is deleted from the end of a stage it parts no more, so that few values wait.
    fn follow(&mut self, block: usize, x: ValueId, group: &[usize]) {
        let Some(plan) = self.blocks.get(block) else {
            self.builder.step(Step::AveragePool { x });
            self.builder.step(Step::Logits);
            let tap = |&layer: &usize| Step::Tap { layer, of: Tapped::Logits, group: layer };
            self.builder.program.steps.extend(group.iter().map(tap));
            return;
        };
        let (deleted, kept): (Vec<usize>, Vec<usize>) =
            group.iter().partition(|&&variant| self.variants[variant][block]);
        if !deleted.is_empty() {
            let y = self.shortcut_alone(plan, x);
            self.follow(block + 1, y, &deleted);
        }
        if !kept.is_empty() {
            let y = self.builder.block(block, plan, x);
            self.follow(block + 1, y, &kept);
        }
    }

    /// What is left of a block without its residual branch. The ReLU does nothing to the block's input, which comes from one.
    fn shortcut_alone(&mut self, plan: &BlockPlan, input: ValueId) -> ValueId {
        match (plan.shortcut, self.builder.shortcut(plan, input)) {
            (ShortcutPlan::Projection { .. }, Some(x)) => {
                self.builder.step(Step::Relu { x });
                x
            }
            _ => input,
        }
    }
}
