//! How well a network does on a split.

use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Device;
use gramscope_nn::ResNet;

use crate::batches;
use crate::data::Split;
use crate::error::Result;

/// Images that are evaluated together, at most.
pub const BATCH: usize = 250;

/// Bytes of the largest activation of the images that a CPU evaluates together. A forward pass has a few such at a time.
const BYTES: usize = 128 << 20;

/// The outcome of an evaluation.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// Mean cross-entropy.
    pub loss: f64,
    /// Share of the images that are classified correctly.
    pub accuracy: f64,
    /// [images, classes], row-major, in the order of the split.
    pub logits: Vec<f32>,
}

/// Evaluates `network` on all images of `split`; nothing once `stop` is set.
///
/// # Errors
/// Images of another side than the network takes, and what candle may say.
pub fn evaluate(network: &ResNet, split: &Split, device: &Device, stop: &AtomicBool) -> Result<Option<Evaluation>> {
    let classes = network.config().classes;
    let indices: Vec<usize> = (0..split.len()).collect();
    let mut logits = Vec::with_capacity(split.len() * classes);
    for batch in indices.chunks(together(network)) {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let images = batches::images(split, batch, network.config().image_side, device)?;
        logits.extend(network.forward(&images)?.flatten_all()?.to_vec1::<f32>()?);
    }
    Ok(Some(Evaluation::new(logits, split.labels(), classes)))
}

/// Images of which the largest activations take no more than [`BYTES`], at most [`BATCH`]: what is trained in small batches, because its
/// images are large, is evaluated in small ones too.
fn together(network: &ResNet) -> usize {
    let largest = network.layers().iter().map(|layer| layer.shape.iter().product::<usize>()).max().unwrap_or(1);
    (BYTES / (largest * size_of::<f32>())).clamp(1, BATCH)
}

impl Evaluation {
    /// Of `logits` [images, classes], given every image's label.
    pub(crate) fn new(logits: Vec<f32>, labels: &[u32], classes: usize) -> Self {
        let (mut loss, mut correct) = (0.0, 0);
        for (row, &label) in logits.chunks_exact(classes).zip(labels) {
            loss += cross_entropy(row, label as usize);
            // The first of equal logits counts, as everywhere.
            let largest = row.iter().enumerate().rev().max_by(|a, b| a.1.total_cmp(b.1));
            correct += usize::from(largest.is_some_and(|(class, _)| class == label as usize));
        }
        let images = labels.len() as f64;
        Self { loss: loss / images, accuracy: correct as f64 / images, logits }
    }
}

/// -log softmax(logits)_label, in float64.
fn cross_entropy(logits: &[f32], label: usize) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - largest).exp()).sum();
    sum.ln() - f64::from(logits[label] - largest)
}

#[cfg(test)]
mod tests {
    use super::cross_entropy;

    #[test]
    fn equal_logits_cost_the_logarithm_of_the_classes() {
        for logit in [-1e30_f32, 0.0, 1e30] {
            let difference = cross_entropy(&[logit; 10], 3) - 10.0_f64.ln();
            assert!(difference.abs() <= 4.0 * f64::EPSILON * 10.0_f64.ln(), "off by {difference}");
        }
        assert!(cross_entropy(&[f32::NAN, 0.0], 1).is_nan());
    }
}
