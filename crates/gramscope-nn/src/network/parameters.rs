//! The parameters of a network, as they are made.

use candle_core::{DType, Device, Var};

use crate::host::{BatchNorm, Convolution, Linear, Parts};
use crate::ops::convolution::Geometry;
use crate::program::{NamedConvolution, NamedNorm, Program};
use crate::random::Sequence;
use crate::topology::ConvolutionPlan;
use crate::{Parameter, Result};

/// Standard deviation of a standard normal variable cut off at two standard deviations.
const TRUNCATED_DEVIATION: f64 = 0.879_625_661_034_239_8;

/// Makes parts, weights as 0 and all else with its initial values, and keeps the lists of their tensors.
pub(super) struct Builder<'a> {
    device: &'a Device,
    pub(super) parameters: Vec<Parameter>,
    pub(super) state: Vec<(String, Var)>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(device: &'a Device) -> Self {
        Self { device, parameters: Vec::new(), state: Vec::new() }
    }

    /// The parts of the network of `program`: convolutions, each with the batch norm that follows it, and the linear layer.
    pub(super) fn parts(&mut self, program: &Program) -> Result<Parts> {
        let (mut convolutions, mut norms) = (Vec::new(), Vec::new());
        let mut named = program.norms.iter().peekable();
        for (number, convolution) in program.convolutions.iter().enumerate() {
            convolutions.push(self.convolution(convolution)?);
            if let Some(norm) = named.next_if(|norm| norm.convolution == number) {
                norms.push(self.batch_norm(norm)?);
            }
        }
        Ok(Parts { convolutions, norms, logits: self.linear("logits", program.features, program.classes)? })
    }

    /// With zeros around the image so that stride 1 keeps its size.
    fn convolution(&mut self, NamedConvolution { name, plan, .. }: &NamedConvolution) -> Result<Convolution> {
        let ConvolutionPlan { kernel, from, to, stride } = *plan;
        Ok(Convolution {
            weight: self.weight(name, &[to, kernel, kernel, from])?,
            bias: self.constant(name, "bias", to, 0.0)?,
            geometry: Geometry { stride, padding: kernel / 2 },
            kernel,
        })
    }

    fn batch_norm(&mut self, NamedNorm { name, channels, .. }: &NamedNorm) -> Result<BatchNorm> {
        Ok(BatchNorm {
            gamma: self.constant(name, "weight", *channels, 1.0)?,
            beta: self.constant(name, "bias", *channels, 0.0)?,
            running_mean: self.statistic(name, "running_mean", *channels, 0.0)?,
            running_variance: self.statistic(name, "running_var", *channels, 1.0)?,
        })
    }

    fn linear(&mut self, name: &str, from: usize, to: usize) -> Result<Linear> {
        Ok(Linear { weight: self.weight(name, &[to, from])?, bias: self.constant(name, "bias", to, 0.0)? })
    }

    fn weight(&mut self, name: &str, shape: &[usize]) -> Result<Var> {
        let var = Var::zeros(shape, DType::F32, self.device)?;
        self.parameter(format!("{name}.weight"), var, true)
    }

    fn constant(&mut self, name: &str, part: &str, length: usize, value: f32) -> Result<Var> {
        let var = Var::from_vec(vec![value; length], length, self.device)?;
        self.parameter(format!("{name}.{part}"), var, false)
    }

    fn statistic(&mut self, name: &str, part: &str, length: usize, value: f32) -> Result<Var> {
        let var = Var::from_vec(vec![value; length], length, self.device)?;
        self.state.push((format!("{name}.{part}"), var.clone()));
        Ok(var)
    }

    fn parameter(&mut self, name: String, var: Var, decays: bool) -> Result<Var> {
        self.state.push((name.clone(), var.clone()));
        self.parameters.push(Parameter { name, var: var.clone(), decays });
        Ok(var)
    }
}

/// He-normal values of a weight [out, ...], whose fan-in is the product of the other dimensions.
pub(super) fn he_normal(numbers: &mut Sequence, shape: &[usize]) -> Vec<f32> {
    let fan_in: usize = shape[1..].iter().product();
    let deviation = (2.0 / fan_in as f64).sqrt() / TRUNCATED_DEVIATION;
    (0..shape.iter().product()).map(|_| (numbers.truncated_normal() * deviation) as f32).collect()
}
