//! The parts of a network with parameters, and how they are built.

use candle_core::{DType, Device, Tensor, Var};

use super::workspace::Workspace;
use crate::ops::convolution::{self, Geometry};
use crate::ops::{batch_norm, linear};
use crate::random::Sequence;
use crate::topology::{BlockPlan, ConvolutionPlan, ShortcutPlan};
use crate::{Parameter, Result};

/// Standard deviation of a standard normal variable cut off at two standard deviations.
const TRUNCATED_DEVIATION: f64 = 0.879_625_661_034_239_8;

/// A convolution with bias.
#[derive(Debug)]
pub(super) struct Convolution {
    pub(super) weight: Var,
    pub(super) bias: Var,
    pub(super) geometry: Geometry,
    pub(super) kernel: usize,
}

impl Convolution {
    /// Its result, in memory of the workspace.
    pub(super) fn forward_in(&self, workspace: &Workspace, x: &Tensor) -> candle_core::Result<Tensor> {
        let y = self.place_in(workspace, x)?;
        convolution::forward_into(&y, x, &self.weight, &self.bias, self.geometry)?;
        Ok(y)
    }

    /// As [`Self::forward_in`], of the ReLU of `x`.
    pub(super) fn forward_relu_in(&self, workspace: &Workspace, x: &Tensor) -> candle_core::Result<Tensor> {
        let y = self.place_in(workspace, x)?;
        convolution::forward_relu_into(&y, x, &self.weight, &self.bias, self.geometry)?;
        Ok(y)
    }

    /// Memory of the workspace for its result.
    fn place_in(&self, workspace: &Workspace, x: &Tensor) -> candle_core::Result<Tensor> {
        workspace.take(&convolution::result_dims(x, &self.weight, self.geometry)?, x.device())
    }

    /// The gradient of its input from that of its result, into `dx`.
    pub(super) fn input_gradient_into(&self, dx: &Tensor, dy: &Tensor) -> candle_core::Result<()> {
        convolution::input_gradient_into(dx, dy, &self.weight, self.geometry)
    }

    /// Adds the gradient of its input to `dx`.
    pub(super) fn add_input_gradient(&self, dx: &Tensor, dy: &Tensor) -> candle_core::Result<()> {
        convolution::add_input_gradient(dx, dy, &self.weight, self.geometry)
    }
}

/// A batch norm.
#[derive(Debug)]
pub(super) struct BatchNorm {
    pub(super) gamma: Var,
    pub(super) beta: Var,
    pub(super) running_mean: Var,
    pub(super) running_variance: Var,
    /// Whether evaluation takes the statistics of the batch, as training does, instead of the running ones.
    pub(super) evaluates_batch: bool,
}

impl BatchNorm {
    /// Evaluated; the memory of `x` goes back to the workspace.
    pub(super) fn evaluate_in(
        &self,
        workspace: &Workspace,
        x: Tensor,
        addend: Option<&Tensor>,
        relu: bool,
    ) -> candle_core::Result<Tensor> {
        let statistics = if self.evaluates_batch {
            batch_norm::statistics(&x)?
        } else {
            Tensor::stack(&[self.running_mean.as_detached_tensor(), self.running_variance.as_detached_tensor()], 0)?
        };
        let y = workspace.take(x.dims(), x.device())?;
        batch_norm::normalise_into(&y, &x, &statistics, &self.gamma, &self.beta, addend, relu)?;
        workspace.give(x);
        Ok(y)
    }
}

/// A convolution and the batch norm behind it.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) convolution: Convolution,
    pub(super) batch_norm: BatchNorm,
}

/// A block: residual branches, their mixture where there are two, the addition of the shortcut, and a ReLU.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) branches: Branches,
    pub(super) shortcut: Shortcut,
}

/// The residual branches of a block.
#[derive(Debug)]
pub(super) enum Branches {
    /// One.
    Single(Branch),
    /// Two, of which the sum of a share of the one and the rest of the other goes on (Shake-Shake).
    Mixed([Branch; 2]),
}

impl Branches {
    pub(super) fn iter_mut(&mut self) -> std::slice::IterMut<'_, Branch> {
        match self {
            Self::Single(branch) => std::slice::from_mut(branch).iter_mut(),
            Self::Mixed(branches) => branches.iter_mut(),
        }
    }
}

/// A residual branch: units with ReLUs between them.
#[derive(Debug)]
pub(super) struct Branch {
    /// All units but the last; a ReLU follows each.
    pub(super) hidden: Vec<Unit>,
    /// The last, behind which comes what the block has in common.
    pub(super) last: Unit,
}

/// What is added before a block's last ReLU.
#[derive(Debug)]
pub(super) enum Shortcut {
    /// Nothing: the network is a plain chain.
    None,
    /// The block's input.
    Identity,
    /// A 1 x 1 convolution of the block's input, where the sizes change.
    Projection(Convolution),
    /// The same with a batch norm.
    NormalisedProjection(Unit),
}

/// The linear layer.
#[derive(Debug)]
pub(super) struct Linear {
    pub(super) weight: Var,
    pub(super) bias: Var,
}

impl Linear {
    pub(super) fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        linear::forward(x, &self.weight, &self.bias)
    }
}

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

    /// With zeros around the image so that stride 1 keeps its size.
    pub(super) fn convolution(&mut self, name: &str, plan: ConvolutionPlan) -> Result<Convolution> {
        let ConvolutionPlan { kernel, from, to, stride } = plan;
        Ok(Convolution {
            weight: self.weight(name, &[to, kernel, kernel, from])?,
            bias: self.constant(name, "bias", to, 0.0)?,
            geometry: Geometry { stride, padding: kernel / 2 },
            kernel,
        })
    }

    pub(super) fn batch_norm(&mut self, name: &str, channels: usize) -> Result<BatchNorm> {
        Ok(BatchNorm {
            gamma: self.constant(name, "weight", channels, 1.0)?,
            beta: self.constant(name, "bias", channels, 0.0)?,
            running_mean: self.statistic(name, "running_mean", channels, 0.0)?,
            running_variance: self.statistic(name, "running_var", channels, 1.0)?,
            evaluates_batch: false,
        })
    }

    pub(super) fn unit(&mut self, convolution: &str, norm: &str, plan: ConvolutionPlan) -> Result<Unit> {
        Ok(Unit { convolution: self.convolution(convolution, plan)?, batch_norm: self.batch_norm(norm, plan.to)? })
    }

    pub(super) fn block(&mut self, plan: &BlockPlan) -> Result<Block> {
        let branches = match plan.branches {
            1 => Branches::Single(self.branch(plan, 0)?),
            _ => Branches::Mixed([self.branch(plan, 0)?, self.branch(plan, 1)?]),
        };
        let name = format!("{}.shortcut", plan.prefix());
        let shortcut = match plan.shortcut {
            ShortcutPlan::None => Shortcut::None,
            ShortcutPlan::Identity => Shortcut::Identity,
            ShortcutPlan::Projection { convolution, normalised: false } => {
                Shortcut::Projection(self.convolution(&name, convolution)?)
            }
            ShortcutPlan::Projection { convolution, normalised: true } => {
                Shortcut::NormalisedProjection(self.unit(&name, &format!("{name}_bn"), convolution)?)
            }
        };
        Ok(Block { branches, shortcut })
    }

    fn branch(&mut self, plan: &BlockPlan, branch: usize) -> Result<Branch> {
        let prefix = plan.branch_prefix(branch);
        let units = (1..).zip(&plan.convolutions).map(|(number, convolution)| {
            self.unit(&format!("{prefix}.conv{number}"), &format!("{prefix}.bn{number}"), *convolution)
        });
        let mut hidden: Vec<Unit> = units.collect::<Result<_>>()?;
        let last = hidden.pop().expect("every block has a convolution");
        Ok(Branch { hidden, last })
    }

    pub(super) fn linear(&mut self, name: &str, from: usize, to: usize) -> Result<Linear> {
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
