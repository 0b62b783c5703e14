//! Softmax regression (multinomial logistic regression): the linear layer under the cross-entropy, trained by SGD with
//! momentum. A linear probe of a network's layer is this on the layer's activations (Alain and Bengio 2016,
//! *Understanding intermediate layers using linear classifier probes*).

use crate::{Matrix, linear, loss, sgd};

/// Weights and velocities of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct SoftmaxRegression {
    /// W [classes, features].
    pub weight: Matrix,
    /// b \[classes\].
    pub bias: Vec<f64>,
    weight_velocity: Vec<f64>,
    bias_velocity: Vec<f64>,
}

impl SoftmaxRegression {
    /// All zeros.
    pub fn new(features: usize, classes: usize) -> Self {
        Self {
            weight: Matrix::from_fn(classes, features, |_, _| 0.0),
            bias: vec![0.0; classes],
            weight_velocity: vec![0.0; classes * features],
            bias_velocity: vec![0.0; classes],
        }
    }

    /// z [n, classes] from x [n, features].
    pub fn logits(&self, x: &Matrix) -> Matrix {
        linear::forward(x, &self.weight, &self.bias)
    }

    /// One step on a batch; returns the mean cross-entropy before it.
    pub fn step(&mut self, x: &Matrix, labels: &[usize], settings: sgd::Settings) -> f64 {
        let logits = self.logits(x);
        let gradients = linear::backward(x, &self.weight, &loss::cross_entropy_gradient(&logits, labels));
        sgd::step(&mut self.weight.data, &mut self.weight_velocity, &gradients.dweight.data, true, settings);
        sgd::step(&mut self.bias, &mut self.bias_velocity, &gradients.dbias, false, settings);
        loss::cross_entropy(&logits, labels)
    }
}
