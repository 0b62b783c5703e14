//! How well a network does on a split.

use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Device;
use gramscope_nn::ResNet;
use gramscope_nn::ops::loss::ImageLoss;

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
            let image = ImageLoss::new(row, label as usize);
            loss += image.loss();
            correct += usize::from(image.is_correct());
        }
        let images = labels.len() as f64;
        Self { loss: loss / images, accuracy: correct as f64 / images, logits }
    }
}
