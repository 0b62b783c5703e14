//! The optimiser: stochastic gradient descent with momentum and weight decay, in Keras's form.

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use candle_nn::Optimizer;

use crate::network::state;
use crate::ops::sgd::{self, Step};
use crate::{NamedTensors, ResNet, Result};

/// The settings of [`Sgd`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SgdConfig {
    /// Learning rate.
    pub learning_rate: f64,
    /// Share of the velocity that a step keeps.
    pub momentum: f64,
    /// Factor on the sum of squared weights that is added to the loss.
    pub weight_decay: f64,
}

/// Stochastic gradient descent with momentum: v = momentum v - rate (g + 2 decay w), w = w + v.
#[derive(Debug)]
pub struct Sgd {
    slots: Vec<Slot>,
    config: SgdConfig,
}

/// A parameter and what the optimiser keeps for it.
#[derive(Debug)]
struct Slot {
    name: String,
    parameter: Var,
    velocity: Tensor,
    decays: bool,
}

impl Slot {
    fn new(name: String, parameter: Var, decays: bool) -> candle_core::Result<Self> {
        let velocity = Tensor::zeros(parameter.shape(), parameter.dtype(), parameter.device())?;
        Ok(Self { name, parameter, velocity, decays })
    }
}

impl Sgd {
    /// For all parameters of a network; the weight decay is for its convolution and linear weights only. Velocities
    /// start at 0.
    ///
    /// # Errors
    /// When the device has no memory for the velocities.
    pub fn for_network(network: &ResNet, config: SgdConfig) -> Result<Self> {
        let slots = network
            .parameters()
            .iter()
            .map(|parameter| Slot::new(parameter.name.clone(), parameter.var.clone(), parameter.decays))
            .collect::<candle_core::Result<_>>()?;
        Ok(Self { slots, config })
    }

    /// Its settings.
    pub fn config(&self) -> SgdConfig {
        self.config
    }

    /// The velocities, by the names of their parameters. They share the optimiser's memory: a later step changes them.
    pub fn velocities(&self) -> Vec<(String, Tensor)> {
        self.slots.iter().map(|slot| (slot.name.clone(), slot.velocity.clone())).collect()
    }

    /// Takes over the values of `velocities`, as [`Self::velocities`] returned them.
    ///
    /// # Errors
    /// [`crate::Error::MissingState`], [`crate::Error::SurplusState`] or [`crate::Error::StateShape`] where names and
    /// shapes are not those of the parameters; then nothing has changed. [`crate::Error::Candle`] where a tensor cannot be read.
    pub fn load_velocities(&mut self, velocities: &impl NamedTensors) -> Result<()> {
        let expected: Vec<(&str, &Tensor)> =
            self.slots.iter().map(|slot| (slot.name.as_str(), &slot.velocity)).collect();
        state::check(&expected, &velocities.shapes().into_iter().collect())?;
        for slot in &mut self.slots {
            slot.velocity = state::copied(&velocities.tensor(&slot.name)?, &slot.velocity)?;
        }
        Ok(())
    }
}

impl Optimizer for Sgd {
    type Config = SgdConfig;

    /// For `vars` without names (they are numbered); those with more than one dimension get the weight decay, which is
    /// the rule of [`Sgd::for_network`] too.
    fn new(vars: Vec<Var>, config: SgdConfig) -> candle_core::Result<Self> {
        let slots = vars
            .into_iter()
            .enumerate()
            .map(|(index, var)| {
                let decays = var.rank() > 1;
                Slot::new(index.to_string(), var, decays)
            })
            .collect::<candle_core::Result<_>>()?;
        Ok(Self { slots, config })
    }

    /// Parameters without a gradient in `gradients` stay as they are.
    fn step(&mut self, gradients: &GradStore) -> candle_core::Result<()> {
        for slot in &self.slots {
            if let Some(gradient) = gradients.get(&slot.parameter) {
                let SgdConfig { learning_rate: rate, momentum, weight_decay } = self.config;
                let decay = if slot.decays { weight_decay } else { 0.0 };
                sgd::step(&slot.parameter, gradient, &slot.velocity, Step { rate, momentum, decay })?;
            }
        }
        Ok(())
    }

    fn learning_rate(&self) -> f64 {
        self.config.learning_rate
    }

    fn set_learning_rate(&mut self, learning_rate: f64) {
        self.config.learning_rate = learning_rate;
    }
}
