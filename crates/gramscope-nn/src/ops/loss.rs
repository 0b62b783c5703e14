//! Softmax cross-entropy, averaged over the images.
//!
//! ```text
//! L = mean over n of log(sum over k of exp(z[n, k])) - z[n, label n]
//! dL/dz[n, k] = (softmax(z[n])[k] - [k = label n]) / N
//! ```
//!
//! The largest logit is subtracted first, so nothing overflows.

use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor};

use super::values;
use crate::Error;

/// Gradients by logits smaller than this are 0: they may be up to 1, and what is 2^-80 of that moves no float32 weight. Those of an
/// image that a network is sure of are smaller still, and their products would fall below float32's normal numbers, where
/// processors compute a hundred times slower.
const NEGLIGIBLE: f64 = 1.0 / (1_u128 << 80) as f64;

/// The loss (a scalar) and the number of images whose largest logit (the first, of equals) is their label's (a scalar,
/// f32), from `logits` `[n, classes]` and `labels` `[n]` u32.
///
/// # Errors
/// [`Error::Label`] for a label that is not a class, [`Error::Shape`] and [`Error::DType`], wrapped in candle's.
pub fn forward(logits: &Tensor, labels: &Tensor) -> Result<(Tensor, Tensor)> {
    check(logits, labels)?;
    let both = logits.contiguous()?.apply_op2_no_bwd(&labels.contiguous()?, &LossAndCorrect)?;
    Ok((both.get(0)?, both.get(1)?))
}

/// dL/dlogits `[n, classes]`.
///
/// # Errors
/// As [`forward`].
pub fn backward(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    check(logits, labels)?;
    logits.contiguous()?.apply_op2_no_bwd(&labels.contiguous()?, &LogitGradient)
}

fn check(logits: &Tensor, labels: &Tensor) -> Result<()> {
    values::check("loss: logits", logits, 2)?;
    values::check_dtype("loss: labels", labels, DType::U32)?;
    let (images, classes) = logits.dims2()?;
    if labels.dims() != [images] || images == 0 || classes == 0 {
        let expected = format!("one label for each row of the logits, {:?}", logits.dims());
        return Err(Error::Shape { what: "loss: labels", expected, got: labels.dims().to_vec() }.into());
    }
    Ok(())
}

/// Its result is the loss and the number of correct images.
struct LossAndCorrect;

impl CustomOp2 for LossAndCorrect {
    fn name(&self) -> &'static str {
        "softmax cross-entropy"
    }

    fn cpu_fwd(
        &self,
        logits: &CpuStorage,
        logits_layout: &Layout,
        labels: &CpuStorage,
        labels_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (mut loss, mut correct) = (0.0, 0.0);
        let examples = Examples::new(logits, logits_layout, labels, labels_layout)?;
        for image in examples.iter() {
            loss += image.loss();
            if image.is_correct() {
                correct += 1.0;
            }
        }
        let loss = loss / examples.labels.len() as f64;
        Ok((CpuStorage::F32(vec![loss as f32, correct]), Shape::from(2)))
    }
}

struct LogitGradient;

impl CustomOp2 for LogitGradient {
    fn name(&self) -> &'static str {
        "softmax cross-entropy, gradient"
    }

    fn cpu_fwd(
        &self,
        logits: &CpuStorage,
        logits_layout: &Layout,
        labels: &CpuStorage,
        labels_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let examples = Examples::new(logits, logits_layout, labels, labels_layout)?;
        let share = 1.0 / examples.labels.len() as f64;
        let mut gradient = Vec::with_capacity(examples.logits.len());
        for image in examples.iter() {
            gradient.extend(image.gradient(share));
        }
        Ok((CpuStorage::F32(gradient), logits_layout.shape().clone()))
    }
}

/// One image's part of the loss.
#[derive(Clone, Copy, Debug)]
pub struct ImageLoss<'a> {
    logits: &'a [f32],
    label: usize,
    /// The place of the first largest logit.
    largest: usize,
    /// That logit, which is subtracted from the others.
    top: f64,
    /// log(sum exp) of what that leaves. It is not added to the largest logit: beside a huge one nothing would be left of it.
    logarithm: f64,
}

impl<'a> ImageLoss<'a> {
    /// Of `logits` \[classes\].
    ///
    /// # Panics
    /// If there are no logits.
    pub fn new(logits: &'a [f32], label: usize) -> Self {
        let largest =
            (1..logits.len()).fold(0, |largest, class| if logits[class] > logits[largest] { class } else { largest });
        let top = f64::from(logits[largest]);
        let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - top).exp()).sum();
        Self { logits, label, largest, top, logarithm: sum.ln() }
    }

    /// Its cross-entropy.
    ///
    /// # Panics
    /// If the label is not a class.
    pub fn loss(&self) -> f64 {
        self.logarithm - (f64::from(self.logits[self.label]) - self.top)
    }

    /// Whether its largest logit (the first, of equals) is its label's.
    pub fn is_correct(&self) -> bool {
        self.largest == self.label
    }

    /// `share` times the gradient of its cross-entropy by each logit; 0 for those below 2^-80 of the share.
    pub fn gradient(self, share: f64) -> impl Iterator<Item = f32> + 'a {
        self.logits.iter().enumerate().map(move |(class, logit)| {
            let target = if class == self.label { 1.0 } else { 0.0 };
            let gradient = (f64::from(*logit) - self.top - self.logarithm).exp() - target;
            if gradient.abs() < NEGLIGIBLE { 0.0 } else { (gradient * share) as f32 }
        })
    }
}

/// Fails for a label that is not one of so many classes.
///
/// # Errors
/// [`Error::Label`], wrapped in candle's.
pub fn check_labels(labels: &[u32], classes: usize) -> Result<()> {
    match labels.iter().position(|label| *label as usize >= classes) {
        Some(image) => Err(Error::Label { image, label: labels[image], classes }.into()),
        None => Ok(()),
    }
}

/// Rows of logits with their labels, all of which are classes.
struct Examples<'a> {
    logits: &'a [f32],
    labels: &'a [u32],
    classes: usize,
}

impl<'a> Examples<'a> {
    fn new(
        logits: &'a CpuStorage,
        logits_layout: &Layout,
        labels: &'a CpuStorage,
        labels_layout: &Layout,
    ) -> Result<Self> {
        let (_, classes) = logits_layout.shape().dims2()?;
        let logits = values::of("loss: logits", logits, logits_layout)?;
        let (start, end) = values::range("loss: labels", labels_layout)?;
        let labels = &labels.as_slice::<u32>()?[start..end];
        check_labels(labels, classes)?;
        Ok(Self { logits, labels, classes })
    }

    fn iter(&self) -> impl Iterator<Item = ImageLoss<'a>> {
        let labels = self.labels.iter().map(|label| *label as usize);
        self.logits.chunks_exact(self.classes).zip(labels).map(|(logits, label)| ImageLoss::new(logits, label))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever their size.
    #[test]
    fn equal_logits_cost_the_logarithm_of_the_classes() {
        for logit in [-1e30_f32, 0.0, 1e30] {
            let logits = [logit; 10];
            let image = ImageLoss::new(&logits, 3);
            let difference = image.loss() - 10.0_f64.ln();
            assert!(difference.abs() <= 4.0 * f64::EPSILON * 10.0_f64.ln(), "off by {difference}");
            let gradient: Vec<f32> = image.gradient(1.0).collect();
            assert!(
                gradient
                    .iter()
                    .zip(0..)
                    .all(|(found, class)| (found - if class == 3 { -0.9 } else { 0.1 }).abs() < 1e-7),
                "{gradient:?}"
            );
        }
        assert!(ImageLoss::new(&[f32::NAN, 0.0], 1).loss().is_nan());
    }

    #[test]
    fn a_gradient_is_the_softmaxs_or_0_where_it_is_negligible() {
        let logits = [0.0, -40.0, -55.0, -56.0, -80.0, -104.0, -1e30];
        let gradient: Vec<f32> = ImageLoss::new(&logits, 0).gradient(0.25).collect();
        for (logit, found) in logits.iter().zip(&gradient).skip(1) {
            let softmax = f64::from(*logit).exp();
            // Above 2^-80 to float32's rounding; the sum that the softmax divides by is 1 to 1e-17.
            let expected = if softmax < (-80f64).exp2() { 0.0 } else { 0.25 * softmax };
            assert!((f64::from(*found) - expected).abs() <= 1e-7 * expected, "{logit}: {found:e}, not {expected:e}");
        }
        assert_eq!(gradient[3..], [0.0; 4]);
        assert!(gradient[2] > 0.0);
        assert!(ImageLoss::new(&[f32::NAN, 0.0], 1).gradient(1.0).all(f32::is_nan));
    }
}
