//! What a training step computes and moves: counted, to say how near a measured one comes to what a machine can do.

use crate::ResNetConfig;
use crate::program::{Program, Step, ValueId};

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
    /// first of these passes reads the result too and writes the gradient. Max pooling reads its input and writes its result;
    /// backward it reads both and the gradient, and writes one.
    pub fn training_work(&self, images: usize) -> Vec<Work> {
        let program = self.program(Program::training);
        program.steps.iter().flat_map(|step| work(&program, step, images)).collect()
    }
}

/// What a step computes and moves, pass by pass over the activations.
fn work(program: &Program, step: &Step, images: usize) -> Vec<Work> {
    let bytes = |value: ValueId| VALUE * (images * program.values[value].length()) as u64;
    let moved = |bytes: u64| Work { multiply_adds: 0, bytes };
    match *step {
        Step::Convolution { convolution, .. }
        | Step::WeightGradient { convolution, .. }
        | Step::InputGradient { convolution, .. } => {
            let shape = program.convolution(convolution, images);
            let weights = shape.weight_length();
            let multiply_adds = (shape.out_pixels() * weights) as u64;
            vec![Work { multiply_adds, bytes: VALUE * (shape.x_length() + shape.y_length() + weights) as u64 }]
        }
        Step::Normalise { x, addend, .. } => {
            let written = if addend.is_some() { 3 } else { 2 };
            [1, written].map(|times| moved(times * bytes(x))).to_vec()
        }
        Step::NormaliseBackward { x, added, .. } => {
            let summed = if added.is_some() { 4 } else { 2 };
            [summed, 3].map(|times| moved(times * bytes(x))).to_vec()
        }
        Step::MaxPool { x, y } => vec![moved(bytes(x) + bytes(y))],
        Step::MaxPoolBackward { x, y, .. } => vec![moved(2 * bytes(x) + 2 * bytes(y))],
        _ => Vec::new(),
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

    /// Of one convolution and batch norm at 2 pixels a side, 3 channels to 16: 12 and 64 values. They come first, and last.
    #[test]
    fn bytes_by_hand() {
        let config = ResNetConfig { depth: 8, image_side: 2, ..ResNetConfig::default() };
        let work = config.training_work(1);
        let weights = 9 * 3 * 16;
        let values: Vec<u64> = work.iter().map(|work| work.bytes / 4).collect();
        assert_eq!(values[..3], [12 + 64 + weights, 64, 128]);
        assert_eq!(values[values.len() - 3..], [128, 192, 12 + 64 + weights]);
        let chain = ResNetConfig { residual: false, ..config.clone() };
        assert!(total(&config, 1).bytes > total(&chain, 1).bytes);
    }
}
