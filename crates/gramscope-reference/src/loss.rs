//! Softmax cross-entropy.

use crate::Matrix;

/// The mean over the examples of -log softmax(logits)_label.
pub fn cross_entropy(logits: &Matrix, labels: &[usize]) -> f64 {
    let losses = labels.iter().enumerate().map(|(n, &label)| -log_softmax(logits.row(n))[label]);
    losses.sum::<f64>() / logits.rows as f64
}

/// dL/dlogits: (softmax - one-hot) / n.
pub fn cross_entropy_gradient(logits: &Matrix, labels: &[usize]) -> Matrix {
    logits.map(|n, c, _| {
        let target = f64::from(u8::from(c == labels[n]));
        (log_softmax(logits.row(n))[c].exp() - target) / logits.rows as f64
    })
}

/// log softmax, with the largest logit taken out against overflow.
fn log_softmax(logits: &[f64]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum = logits.iter().map(|z| (z - largest).exp()).sum::<f64>().ln();
    logits.iter().map(|z| z - largest - log_sum).collect()
}
