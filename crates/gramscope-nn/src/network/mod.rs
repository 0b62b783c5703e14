//! The network: its parameters, its evaluation and its training step.

mod evaluation;
mod parameters;
pub(crate) mod state;
mod training;

use std::sync::OnceLock;

use candle_core::{Device, Tensor, Var};
use rayon::prelude::*;

use crate::host::{LastPlan, Parts, Plan, Workspace};
use crate::program::{Program, Statistics};
use crate::random::{Philox, Stream};
use crate::topology::{IMAGE_CHANNELS, Topology};
use crate::{Error, Layer, ResNetConfig, Result};
use parameters::Builder;
pub use state::NamedTensors;
pub use training::{FirstComponentPenalty, Gradients, Shake, StepOptions};

/// A trained tensor of a network.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Its name, such as `stage1.block1.conv1.weight`.
    pub name: String,
    /// Its values.
    pub var: Var,
    /// Whether the weight decay is for it: convolution and linear weights, but not biases and batch norm.
    pub decays: bool,
}

/// A network of a residual family, with its parameters and running statistics on one device.
#[derive(Debug)]
pub struct ResNet {
    config: ResNetConfig,
    layers: Vec<Layer>,
    device: Device,
    parameters: Vec<Parameter>,
    /// Parameters and running statistics in the order of the network.
    state: Vec<(String, Var)>,
    parts: Parts,
    /// What batch norms take where nothing is learnt.
    statistics: Statistics,
    topology: Topology,
    evaluation: Plan,
    /// Made when it is first asked for.
    observation: OnceLock<Plan>,
    /// By what is added to the loss.
    training: LastPlan<Option<FirstComponentPenalty>>,
    /// By the choices of deleted blocks.
    ablation: LastPlan<Vec<Vec<bool>>>,
    /// What a training step leaves to the next.
    workspace: Workspace,
}

impl ResNet {
    /// A network with initial weights from `seed`: He-normal as Keras draws it (a normal distribution cut off at two
    /// standard deviations, rescaled to the variance 2 / fan_in), biases 0, gammas 1, betas 0, running means 0, running
    /// variances 1. A parameter's values depend on the seed, its place among the parameters and its shape alone.
    ///
    /// # Errors
    /// Those of [`ResNetConfig::validate`]; [`Error::Memory`], and [`Error::Candle`] when the device has no memory for it.
    pub fn new(config: &ResNetConfig, seed: u64, device: &Device) -> Result<Self> {
        config.validate()?;
        Self::build(config, &config.topology(), device)?.with_initial_weights(seed)
    }

    /// A network with these values, as [`Self::state`] of a network of the same configuration returned them.
    ///
    /// # Errors
    /// Those of [`Self::new`] and of [`Self::load_state`].
    pub fn from_state(config: &ResNetConfig, state: &impl NamedTensors, device: &Device) -> Result<Self> {
        config.validate()?;
        let network = Self::build(config, &config.topology(), device)?;
        network.load_state(state)?;
        Ok(network)
    }

    /// Draws the weights of convolutions and of the linear layer, on all threads.
    fn with_initial_weights(self, seed: u64) -> Result<Self> {
        let generator = Philox::new(seed, Stream::Initialisation);
        let weights = self.parameters.par_iter().enumerate().filter(|(_, parameter)| parameter.decays);
        weights.try_for_each(|(place, Parameter { var, .. })| {
            let major = u32::try_from(place).expect("a network has fewer than 2^32 parameters");
            let values = parameters::he_normal(&mut generator.sequence(major), var.dims());
            var.set(&Tensor::from_vec(values, var.dims(), &self.device)?)
        })?;
        Ok(self)
    }

    /// The network of `topology`, for images as `config` says, with weights of 0.
    fn build(config: &ResNetConfig, topology: &Topology, device: &Device) -> Result<Self> {
        config.check_evaluation_memory(0)?;
        let program = Program::evaluation(topology, config.image_side);
        let mut builder = Builder::new(device);
        let parts = builder.parts(&program)?;
        let Builder { parameters, state, .. } = builder;
        Ok(Self {
            config: config.clone(),
            layers: topology.layers(),
            device: device.clone(),
            parameters,
            state,
            parts,
            statistics: Statistics::Running,
            topology: topology.clone(),
            evaluation: Plan::new(program),
            observation: OnceLock::new(),
            training: LastPlan::new(),
            ablation: LastPlan::new(),
            workspace: Workspace::default(),
        })
    }

    /// The same network, whose evaluation normalises with the mean and variance of the batch it is given, as a training
    /// step does, instead of the running statistics. What an image's activations are then depends on the others.
    pub fn with_batch_statistics(mut self) -> Self {
        self.statistics = Statistics::Batch;
        self
    }

    /// What its batch norms take where nothing is learnt.
    #[cfg(feature = "cuda")]
    pub(crate) fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// What network it is.
    pub fn config(&self) -> &ResNetConfig {
        &self.config
    }

    /// Its layers in the order of the computation; [`Self::forward_observed`] counts them in this order.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The device it is on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What is trained, in a fixed order.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Parameters and running statistics by name, in a fixed order. They share the network's memory: training changes
    /// them ([`Tensor::copy`] keeps the values of today).
    pub fn state(&self) -> Vec<(String, Tensor)> {
        self.state.iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect()
    }

    /// Takes over the values of `state`, as [`Self::state`] of a network of the same configuration returned them.
    ///
    /// # Errors
    /// [`Error::MissingState`], [`Error::SurplusState`] or [`Error::StateShape`] where names and shapes are not this
    /// network's; then nothing has changed. [`Error::Candle`] where a tensor cannot be read; then those before it have been taken over.
    pub fn load_state(&self, state: &impl NamedTensors) -> Result<()> {
        self.load_stages(state, None)
    }

    /// Takes over the values of the stem and the first `stages` stages of `state`, parameters and running statistics; all
    /// of it where that is `None`. What lies behind them in `state` may be of another network.
    ///
    /// # Errors
    /// As [`Self::load_state`], of the parts that are taken over.
    pub fn load_stages(&self, state: &impl NamedTensors, stages: Option<usize>) -> Result<()> {
        let taken = |name: &str| stages.is_none_or(|stages| state::stage(name).is_some_and(|stage| stage <= stages));
        let vars: Vec<_> = self.state.iter().filter(|(name, _)| taken(name)).collect();
        let expected: Vec<_> = vars.iter().map(|(name, var)| (name.as_str(), var.as_tensor())).collect();
        state::check(&expected, &state.shapes().into_iter().filter(|(name, _)| taken(name)).collect())?;
        // One after the other, so that one copy is there at a time.
        vars.into_iter().try_for_each(|(name, var)| Ok(var.set(&state::copied(&state.tensor(name)?, var)?)?))
    }

    /// Fails unless `images` are a batch this network takes.
    fn check_images(&self, images: &Tensor) -> Result<()> {
        let side = self.config.image_side;
        let expected = [side, side, IMAGE_CHANNELS];
        if images.rank() != 4 || images.dims()[1..] != expected || images.dims()[0] == 0 {
            let expected = format!("[images, {side}, {side}, {IMAGE_CHANNELS}] with at least one image");
            return Err(Error::Shape { what: "the batch of images", expected, got: images.dims().to_vec() });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
