//! Stochastic gradient descent with momentum, in the form of Keras: v = momentum v - lr g; w = w + v.

/// What a step depends on besides the gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// lr.
    pub learning_rate: f64,
    /// The share of the velocity that stays.
    pub momentum: f64,
    /// The loss has this times the sum of squared weights added to it; its gradient is twice that times w.
    pub weight_decay: f64,
}

/// One step of parameters `w` with velocities `v` and gradients `g` of the loss without the penalty; `decays`: the penalty
/// counts for them.
pub fn step(w: &mut [f64], v: &mut [f64], g: &[f64], decays: bool, settings: Settings) {
    let decay = if decays { 2.0 * settings.weight_decay } else { 0.0 };
    for ((w, v), g) in w.iter_mut().zip(v).zip(g) {
        *v = settings.momentum * *v - settings.learning_rate * (g + decay * *w);
        *w += *v;
    }
}
