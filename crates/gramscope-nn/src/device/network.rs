//! A network on a device: evaluated, observed, trained.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::Tensor;
use gramscope_cuda::plan::Arithmetic;
use gramscope_cuda::{Device, Values};

use super::executor::AnyExecutor;
use super::layout::{Layout, Place};
use super::pass::{State, Targets};
use super::replay::Replay;
use super::tasks::{Evaluation, Learning, TrainingStep};
use super::{Images, Observe, Observed, TakeLayer, Totals};
use crate::program::{HandOut, Program, Statistics, check_variants};
use crate::topology::Topology;
use crate::{Error, FirstComponentPenalty, ResNet, Result, Sgd};

/// A copy of a network on a device.
///
/// What is enqueued runs in order on the device's own stream; only what returns numbers waits for it.
pub struct DeviceNetwork {
    device: Arc<Device>,
    state: State,
    /// What batch norms take where nothing is learnt.
    statistics: Statistics,
    evaluation: AnyExecutor,
    observation: AnyExecutor,
    training: AnyExecutor,
    /// Of the choices of deleted blocks that were asked for last.
    ablation: Option<Ablation>,
    learning: Option<Learning>,
    evaluations: Replay,
    steps: Replay,
    topology: Topology,
    image_side: usize,
    arithmetic: Arithmetic,
}

/// Choices of deleted blocks, and what evaluates them.
struct Ablation {
    variants: Vec<Vec<bool>>,
    executor: AnyExecutor,
}

impl DeviceNetwork {
    /// A copy of `network` on `device`, whose products are computed as `arithmetic` says, by cuDNN where the device has it.
    ///
    /// # Errors
    /// [`Error::Device`], [`Error::Candle`].
    pub fn new(network: &ResNet, device: Arc<Device>, arithmetic: Arithmetic) -> Result<Self> {
        let (topology, image_side) = (network.config().topology(), network.config().image_side);
        let evaluation = Program::evaluation(&topology, image_side);
        let layout = Layout::new(&evaluation, network.parameters());
        let (parameters, running) = gather(&layout, &network.state())?;
        let is_narrowed = device.has_cudnn() && arithmetic == Arithmetic::Bf16;
        let narrow = is_narrowed.then(|| device.zeros("the weights in bfloat16", layout.decaying)).transpose()?;
        let state = State {
            narrow,
            parameters: device.upload("the parameters", &parameters)?,
            running: device.upload("the running statistics", &running)?,
            layout,
        };
        let executor = |program| AnyExecutor::new(&device, arithmetic, program);
        Ok(Self {
            state,
            statistics: network.statistics(),
            evaluation: executor(evaluation),
            observation: executor(Program::observation(&topology, image_side, HandOut::OneByOne)),
            training: executor(Program::training(&topology, image_side)),
            ablation: None,
            learning: None,
            evaluations: Replay::default(),
            steps: Replay::default(),
            topology,
            image_side,
            arithmetic,
            device,
        })
    }

    /// The device it is on.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Bytes of device memory that looking at every layer of a batch of `images` takes, beside the parameters.
    pub fn observation_bytes(&self, images: usize) -> u64 {
        self.observation.bytes(images)
    }

    /// Hands layers out several at a time from now on ([`Self::forward_observed`]). They wait for each other, which takes memory.
    pub fn hand_out_together(&mut self) {
        let program = Program::observation(&self.topology, self.image_side, HandOut::Together);
        self.observation = AnyExecutor::new(&self.device, self.arithmetic, program);
    }

    /// Takes the memory in which `other` was observed, if it is of use here, behind what is enqueued; it is freed otherwise. So
    /// that networks that take turns have as much as one of them.
    pub fn take_memory_of(&mut self, other: &mut Self) {
        self.observation.take_memory_of(&mut other.observation);
    }

    /// The logits `[n, classes]` of a batch, row-major. Captured as [`Self::step`] is.
    ///
    /// # Errors
    /// [`Error::Device`], [`Error::Shape`].
    pub fn forward(&mut self, images: Images<'_>) -> Result<Vec<f32>> {
        let _range = gramscope_cuda::range("evaluation");
        let Self { evaluation: executor, state, .. } = self;
        let task = &mut Evaluation { executor, state, statistics: self.statistics };
        let count = self.evaluations.enqueue(&self.device, task, images)?;
        self.evaluation.logits(count)
    }

    /// Enqueues a batch and hands every layer's output to `observe`, on the device, in the order of [`ResNet::layers`], one
    /// at a time or, behind [`Self::hand_out_together`], as many as have 2^19 values an image together, or fewer.
    ///
    /// # Errors
    /// Those of `observe`; [`Error::Device`] and [`Error::Shape`].
    pub fn forward_observed<E: From<Error>>(
        &mut self,
        mut images: Images<'_>,
        observe: &mut Observe<'_, E>,
    ) -> Result<(), E> {
        let count = self.observation.run(&mut images, &mut self.state, self.statistics, None, observe)?;
        images.are_taken(count);
        Ok(())
    }

    /// The same with a copy on the host, in float32, of every layer that is `wanted`. Waits for each.
    ///
    /// # Errors
    /// Those of `take`; [`Error::Device`] and [`Error::Shape`].
    pub fn forward_copied<E: From<Error>>(
        &mut self,
        images: Images<'_>,
        wanted: &dyn Fn(usize) -> bool,
        take: &mut TakeLayer<'_, E>,
    ) -> Result<(), E> {
        let device = self.device.clone();
        self.forward_observed(images, &mut |layers| {
            let mut wanted = layers.iter().filter(|observed| wanted(observed.layer));
            wanted.try_for_each(|Observed { layer, values }| take(*layer, &copied(&device, values)?))
        })
    }

    /// The logits `[n, classes]`, row-major, of a batch for each of `variants`, in which flagged blocks are deleted, as
    /// [`ResNet::forward_without`] has them.
    ///
    /// # Errors
    /// [`Error::NoShortcuts`], [`Error::Shape`]; [`Error::Device`].
    pub fn forward_without(&mut self, mut images: Images<'_>, variants: &[Vec<bool>]) -> Result<Vec<Vec<f32>>> {
        let device = self.device.clone();
        let mut ablation = self.take_ablation(variants)?;
        let mut logits = vec![Vec::new(); variants.len()];
        let count = ablation.executor.run(&mut images, &mut self.state, self.statistics, None, &mut |variants| {
            for Observed { layer: variant, values } in variants {
                logits[*variant] = copied(&device, values)?;
            }
            Ok::<(), Error>(())
        })?;
        images.are_taken(count);
        self.ablation = Some(ablation);
        Ok(logits)
    }

    /// Bytes of device memory that [`Self::forward_without`] takes for a batch of `images`, beside the parameters. What evaluates
    /// `variants` is made for that, and kept for it.
    ///
    /// # Errors
    /// [`Error::NoShortcuts`], [`Error::Shape`].
    pub fn ablation_bytes(&mut self, images: usize, variants: &[Vec<bool>]) -> Result<u64> {
        let ablation = self.take_ablation(variants)?;
        Ok(self.ablation.insert(ablation).executor.bytes(images))
    }

    /// What evaluates `variants`: the last, if it does.
    fn take_ablation(&mut self, variants: &[Vec<bool>]) -> Result<Ablation> {
        check_variants(&self.topology, variants)?;
        Ok(self.ablation.take().filter(|ablation| ablation.variants == variants).unwrap_or_else(|| {
            let program = Program::ablation(&self.topology, self.image_side, variants);
            let executor = AnyExecutor::new(&self.device, self.arithmetic, program);
            Ablation { variants: variants.to_vec(), executor }
        }))
    }

    /// Makes it ready to be trained, from where `sgd` is.
    ///
    /// # Errors
    /// [`Error::Device`], [`Error::Candle`].
    pub fn learn(&mut self, sgd: &Sgd) -> Result<()> {
        let layout = &self.state.layout;
        let (velocities, _) = gather(layout, &sgd.velocities())?;
        let what = "the gradients";
        // What was captured has the optimiser's settings in it.
        self.steps = Replay::default();
        self.learning = Some(Learning {
            targets: Targets {
                gradients: self.device.zeros(what, layout.parameters)?,
                totals: self.device.zeros(what, 2)?,
            },
            velocities: self.device.upload("the velocities", &velocities)?,
            rate: self.device.upload("the learning rate", &[sgd.config().learning_rate as f32])?,
            config: sgd.config(),
        });
        Ok(())
    }

    /// Changes the learning rate of the steps that follow.
    ///
    /// # Errors
    /// [`Error::NotTraining`] before [`Self::learn`]; [`Error::Device`].
    pub fn set_learning_rate(&mut self, rate: f64) -> Result<()> {
        let learning = self.learning.as_mut().ok_or(Error::NotTraining)?;
        learning.config.learning_rate = rate;
        Ok(self.device.copy_to("the learning rate", &[rate as f32], &mut learning.rate.as_view_mut())?)
    }

    /// Adds `penalty` to the loss of the steps that follow.
    pub fn penalise(&mut self, penalty: FirstComponentPenalty) {
        let program = Program::penalised(&self.topology, self.image_side, penalty);
        self.training = AnyExecutor::new(&self.device, self.arithmetic, program);
        // What was captured has no penalty in it.
        self.steps = Replay::default();
    }

    /// Enqueues a training step on a batch: batch norms take the batch's statistics, and the running ones move. Batches that
    /// are the next of an order are one launch each from the third on, where they are of one size.
    ///
    /// # Errors
    /// [`Error::NotTraining`] before [`Self::learn`]; [`Error::Device`], [`Error::Shape`].
    pub fn step(&mut self, images: Images<'_>) -> Result<()> {
        let _range = gramscope_cuda::range("training step");
        let Self { device, training: executor, state, .. } = self;
        let learning = self.learning.as_mut().ok_or(Error::NotTraining)?;
        let task = &mut TrainingStep { launcher: device.launcher(), executor, state, learning };
        self.steps.enqueue(device, task, images).map(drop)
    }

    /// What the sums of the steps begin with. They go on from step to step, however often they are looked at, so that their
    /// bits do not depend on that.
    ///
    /// # Errors
    /// [`Error::NotTraining`] before [`Self::learn`]; [`Error::Device`].
    pub fn set_totals(&mut self, Totals { loss, correct }: Totals) -> Result<()> {
        let totals = &mut self.learning.as_mut().ok_or(Error::NotTraining)?.targets.totals;
        Ok(self.device.copy_to("the sums of losses", &[loss, correct], &mut totals.as_view_mut())?)
    }

    /// The sums so far. Waits for all steps.
    ///
    /// # Errors
    /// [`Error::NotTraining`] before [`Self::learn`]; [`Error::Device`].
    pub fn totals(&self) -> Result<Totals> {
        let totals = &self.learning.as_ref().ok_or(Error::NotTraining)?.targets.totals;
        let [loss, correct] = self.device.download(totals)?[..] else { return Ok(Totals::default()) };
        Ok(Totals { loss, correct })
    }

    /// Copies parameters and running statistics to `network`, which it was made from, and velocities to `sgd`. Waits for all
    /// steps.
    ///
    /// # Errors
    /// [`Error::NotTraining`] before [`Self::learn`]; [`Error::Device`], [`Error::Candle`].
    pub fn write_back(&self, network: &ResNet, sgd: &mut Sgd) -> Result<()> {
        let learning = self.learning.as_ref().ok_or(Error::NotTraining)?;
        let parameters = self.device.download(&self.state.parameters)?;
        let running = self.device.download(&self.state.running)?;
        let state = scatter(&self.state.layout, &network.state(), &parameters, &running)?;
        network.load_state(&state.into_iter().collect::<HashMap<_, _>>())?;
        let velocities = self.device.download(&learning.velocities)?;
        let velocities = scatter(&self.state.layout, &sgd.velocities(), &velocities, &running)?;
        sgd.load_velocities(&velocities.into_iter().collect::<HashMap<_, _>>())
    }
}

/// `values` on the host, as float32, which holds them all exactly.
fn copied(device: &Device, values: &Values<'_>) -> Result<Vec<f32>> {
    Ok(match values {
        Values::F32(values) => device.download(values)?,
        Values::Bf16(values) => device.download(values)?.into_iter().map(f32::from).collect(),
        Values::F16(values) => device.download(values)?.into_iter().map(f32::from).collect(),
    })
}

/// The values of named tensors where the layout has them: in the buffer of parameters and in that of statistics.
fn gather(layout: &Layout, tensors: &[(String, Tensor)]) -> Result<(Vec<f32>, Vec<f32>)> {
    let (mut parameters, mut statistics) = (vec![0.0; layout.parameters], vec![0.0; layout.statistics]);
    for (name, tensor) in tensors {
        let values = tensor.flatten_all()?.to_vec1::<f32>()?;
        match layout.place(name)? {
            Place::Parameter(range) => parameters[range.clone()].copy_from_slice(&values),
            Place::Statistic(range) => statistics[range.clone()].copy_from_slice(&values),
        }
    }
    Ok((parameters, statistics))
}

/// The reverse: tensors of the shapes of `tensors`.
fn scatter(
    layout: &Layout,
    tensors: &[(String, Tensor)],
    parameters: &[f32],
    statistics: &[f32],
) -> Result<Vec<(String, Tensor)>> {
    let of = |(name, tensor): &(String, Tensor)| {
        let values = match layout.place(name)? {
            Place::Parameter(range) => &parameters[range.clone()],
            Place::Statistic(range) => &statistics[range.clone()],
        };
        Ok((name.clone(), Tensor::from_slice(values, tensor.shape(), tensor.device())?))
    };
    tensors.iter().map(of).collect()
}
