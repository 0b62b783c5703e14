//! What a training step computes and moves: counted, to say how near a measured one comes to what a machine can do.

use crate::ResNetConfig;
use crate::topology::{BlockPlan, ConvolutionPlan, ShortcutPlan, Topology};

/// Bytes of a float32 value.
const VALUE: u64 = 4;

/// What one operation of a training step computes, and what it moves between memory and the processor at least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Products that are added up.
    pub multiply_adds: u64,
    /// Bytes read and written: every activation of a pass over it once, at 4 bytes a value, and the weights once.
    pub bytes: u64,
}

impl ResNetConfig {
    /// The operations of a training step on `images` images, forward and backward, but for what is small beside them: the
    /// head, the optimiser, and of Shake-Shake all between its branches and the next block.
    ///
    /// A convolution has its result, the gradient of its weights and that of its input (not of the images), k^2 · from · to
    /// products a pixel each. Batch norm, fused with what follows it, computes nothing worth counting; it reads its input
    /// for the statistics, then reads it (and an addend) and writes its result; backward it reads input and gradient for
    /// its sums, then reads both and writes the gradient; behind an addition, whose gradient is masked by the ReLU, the
    /// first of these passes reads the result too and writes the gradient.
    pub fn training_work(&self, images: usize) -> Vec<Work> {
        let mut count = Count { images: images as u64, work: Vec::new() };
        let Topology { stem, blocks, .. } = self.topology();
        count.convolution(&stem.convolution, self.image_side, stem.side, false);
        count.batch_norm(&stem.convolution, stem.side, false);
        if let Some(side) = stem.pooled_side {
            count.max_pooling(stem.convolution.to, stem.side, side);
        }
        let mut side = stem.pooled_side.unwrap_or(stem.side);
        for block in &blocks {
            count.block(block, side);
            side = block.sides.last().copied().unwrap_or(side);
        }
        count.work
    }
}

struct Count {
    images: u64,
    work: Vec<Work>,
}

impl Count {
    /// A block whose input has `side` pixels a side.
    fn block(&mut self, block: &BlockPlan, side: usize) {
        let adds = !matches!(block.shortcut, ShortcutPlan::None);
        for _ in 0..block.branches {
            let mut before = side;
            for (number, (convolution, &after)) in (1..).zip(block.convolutions.iter().zip(&block.sides)) {
                self.convolution(convolution, before, after, true);
                self.batch_norm(convolution, after, adds && block.branches == 1 && number == block.convolutions.len());
                before = after;
            }
        }
        if let ShortcutPlan::Projection { convolution, normalised } = &block.shortcut {
            let after = block.sides.last().copied().unwrap_or(side);
            self.convolution(convolution, side, after, true);
            if *normalised {
                self.batch_norm(convolution, after, false);
            }
        }
    }

    fn convolution(&mut self, plan: &ConvolutionPlan, side_in: usize, side_out: usize, has_input_gradient: bool) {
        let ConvolutionPlan { kernel, from, to, .. } = *plan;
        let weights = (kernel * kernel * from * to) as u64;
        let multiply_adds = self.values(side_out, 1) * weights;
        let bytes = VALUE * (self.values(side_in, from) + self.values(side_out, to) + weights);
        let times = if has_input_gradient { 3 } else { 2 };
        self.work.extend((0..times).map(|_| Work { multiply_adds, bytes }));
    }

    fn batch_norm(&mut self, plan: &ConvolutionPlan, side: usize, adds: bool) {
        let activation = VALUE * self.values(side, plan.to);
        let passes = if adds { [1, 3, 4, 3] } else { [1, 2, 2, 3] };
        self.work.extend(passes.map(|passes| Work { multiply_adds: 0, bytes: passes * activation }));
    }

    /// Forward it reads its input and writes its result; backward it reads both and the gradient, and writes one.
    fn max_pooling(&mut self, channels: usize, side_in: usize, side_out: usize) {
        let (x, y) = (VALUE * self.values(side_in, channels), VALUE * self.values(side_out, channels));
        self.work.extend([x + y, 2 * x + 2 * y].map(|bytes| Work { multiply_adds: 0, bytes }));
    }

    fn values(&self, side: usize, channels: usize) -> u64 {
        self.images * (side * side * channels) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Family;

    fn total(config: &ResNetConfig, images: usize) -> Work {
        config.training_work(images).iter().fold(Work::default(), |sum, work| Work {
            multiply_adds: sum.multiply_adds + work.multiply_adds,
            bytes: sum.bytes + work.bytes,
        })
    }

    /// By hand for depth 8, width 1, 4 pixels a side: 3·9·16·16 pixels forward in the stem, twice that in all, as the
    /// images need no gradient; three times everything else.
    #[test]
    fn products_by_hand() {
        let config = ResNetConfig { depth: 8, image_side: 4, ..ResNetConfig::default() };
        let stem = 16 * 9 * 3 * 16;
        let stage1 = 16 * 9 * 16 * 16 * 2;
        let stage2 = 4 * (9 * 16 * 32 + 9 * 32 * 32 + 16 * 32);
        let stage3 = 9 * 32 * 64 + 9 * 64 * 64 + 32 * 64;
        assert_eq!(total(&config, 1).multiply_adds, 2 * stem + 3 * (stage1 + stage2 + stage3));
        assert_eq!(total(&config, 5).multiply_adds, 5 * total(&config, 1).multiply_adds);
    }

    /// He et al. 2016 count 3.8e9 products for ResNet-50 on 224 pixels with the stride on the first convolution of a block;
    /// on its 3 x 3 convolution it is 4.1e9, of which the stem has 0.118e9.
    #[test]
    fn products_of_a_resnet_50() {
        let config = ResNetConfig { family: Family::ImageNet, depth: 50, image_side: 224, ..ResNetConfig::default() };
        let forward = (total(&config, 1).multiply_adds as f64 + 0.118e9) / 3.0;
        assert!((forward / 4.09e9 - 1.0).abs() < 0.01, "{forward:e}");
    }

    /// Of one convolution and batch norm at 2 pixels a side, 3 channels to 16: 12 and 64 values.
    #[test]
    fn bytes_by_hand() {
        let config = ResNetConfig { depth: 8, image_side: 2, ..ResNetConfig::default() };
        let work = config.training_work(1);
        let weights = 9 * 3 * 16;
        let bytes: Vec<u64> = work[..6].iter().map(|work| work.bytes / 4).collect();
        assert_eq!(bytes, [12 + 64 + weights, 12 + 64 + weights, 64, 128, 128, 192]);
        let chain = ResNetConfig { residual: false, ..config.clone() };
        assert!(total(&config, 1).bytes > total(&chain, 1).bytes);
    }
}
