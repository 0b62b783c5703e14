//! Linear probes that learn from a network's layers on the device, as these stream by.
//!
//! A probe's step is three launches, and one more where activations are pooled; nothing comes to the host but, when they are
//! asked for, the records of what the batches came to. Whether a probe has diverged is decided and remembered on the device.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaView};
use half::bf16;

use crate::device::Device;
use crate::error::Error;
use crate::launch::wrong;
use crate::launchers::{Activation, ProbeBatch, ProbeOutcome, ProbeStep, Values};
use crate::memory::Buffer;
use crate::plan;
use crate::shapes::ProbeRecord;

/// What messages call them.
const PROBES: &str = "linear probes";

/// What a probe sees of an example's activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeInput {
    /// All of so many features.
    Whole(usize),
    /// The largest of each 2 x 2 pixels of `[height, width, channels]`.
    Squares([usize; 3]),
}

impl ProbeInput {
    /// Features of an example.
    fn features(self) -> usize {
        match self {
            Self::Whole(features) => features,
            Self::Squares([height, width, channels]) => {
                plan::training::max_pooled(height) * plan::training::max_pooled(width) * channels
            }
        }
    }
}

/// Linear probes, which all see the same examples.
pub struct DeviceProbes {
    device: Arc<Device>,
    classes: usize,
    step: ProbeStep,
    probes: Vec<Probe>,
    records: CudaSlice<ProbeRecord>,
    /// Examples of the batch.
    examples: usize,
    labels: Buffer<u32>,
    scratch: Scratch,
    pooled_f32: Buffer<f32>,
    pooled_bf16: Buffer<bf16>,
}

/// Weights and biases, and their velocities.
struct Probe {
    input: ProbeInput,
    weights: CudaSlice<f32>,
    velocities: CudaSlice<f32>,
}

/// What a step leaves behind, and nobody needs after it.
struct Scratch {
    partials: Buffer<f32>,
    logits: Buffer<f32>,
    dlogits: Buffer<f32>,
    totals: Buffer<f64>,
    arrivals: CudaSlice<u32>,
}

impl DeviceProbes {
    /// A probe for each of `inputs`, all zeros, that tells apart so many classes.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Driver`].
    pub fn new(device: Arc<Device>, inputs: &[ProbeInput], classes: usize, step: ProbeStep) -> Result<Self, Error> {
        let probe = |&input: &ProbeInput| {
            let parameters = (input.features() + 1) * classes;
            let zeros = || device.zeros(PROBES, parameters);
            Ok(Probe { input, weights: zeros()?, velocities: zeros()? })
        };
        Ok(Self {
            classes,
            step,
            probes: inputs.iter().map(probe).collect::<Result<_, Error>>()?,
            records: device.zeros(PROBES, inputs.len().max(1))?,
            examples: 0,
            labels: Buffer::new(PROBES),
            scratch: Scratch {
                partials: Buffer::new(PROBES),
                logits: Buffer::new(PROBES),
                dlogits: Buffer::new(PROBES),
                totals: Buffer::new(PROBES),
                arrivals: device.zeros(PROBES, 1)?,
            },
            pooled_f32: Buffer::new(PROBES),
            pooled_bf16: Buffer::new(PROBES),
            device,
        })
    }

    /// Bytes of device memory that probes on `inputs` take at most, with batches of so many examples or fewer.
    pub fn bytes(inputs: &[ProbeInput], classes: usize, examples: usize) -> u64 {
        let parameters = |input: &ProbeInput| 2 * (input.features() + 1) * classes * size_of::<f32>();
        let pooled = inputs.iter().filter(|input| matches!(input, ProbeInput::Squares(_)));
        let pooled = pooled.map(|input| examples * input.features() * size_of::<f32>()).max().unwrap_or(0);
        let partials = inputs.iter().map(|input| plan::probe::most_partials(examples, input.features(), classes)).max();
        let partials = partials.unwrap_or(0) * size_of::<f32>();
        let plan = plan::probe::probe(examples, 1, classes);
        // The gradient by the logits, the logits and the labels; the blocks' totals, and how many have arrived.
        let batch = examples * (plan.row + classes + 1) * size_of::<f32>();
        let blocks = plan.totals * size_of::<f64>() + size_of::<u32>();
        let records = inputs.len().max(1) * size_of::<ProbeRecord>();
        (inputs.iter().map(parameters).sum::<usize>() + pooled + partials + batch + blocks + records) as u64
    }

    /// Begins a batch of examples of these labels.
    ///
    /// # Errors
    /// [`Error::Argument`] for a label that is not a class; [`Error::OutOfMemory`], [`Error::Driver`].
    pub fn begin_batch(&mut self, labels: &[u32]) -> Result<(), Error> {
        if let Some(label) = labels.iter().find(|&&label| label as usize >= self.classes) {
            return Err(wrong(PROBES, "labels", label, format!("below {}", self.classes)));
        }
        self.examples = labels.len();
        let mut all = self.labels.at_least(&self.device, labels.len())?;
        self.device.copy_to("the labels of a batch", labels, &mut all.slice_mut(..labels.len()))
    }

    /// Enqueues a step of a probe on its layer's activations over the batch.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::OutOfMemory`], [`Error::Launch`], [`Error::Driver`].
    pub fn learn(&mut self, probe: usize, x: &Values<'_>) -> Result<(), Error> {
        self.take(probe, x, true)
    }

    /// Enqueues what tells how a probe does on its layer's activations over the batch.
    ///
    /// # Errors
    /// As [`Self::learn`].
    pub fn evaluate(&mut self, probe: usize, x: &Values<'_>) -> Result<(), Error> {
        self.take(probe, x, false)
    }

    fn take(&mut self, index: usize, x: &Values<'_>, learns: bool) -> Result<(), Error> {
        let Self { device, classes, step, probes, records, examples, labels, scratch, pooled_f32, pooled_bf16 } = self;
        let count = probes.len();
        let probe = probes.get_mut(index).ok_or_else(|| wrong(PROBES, "probe", index, format!("below {count}")))?;
        let mut work = Work {
            device,
            examples: *examples,
            classes: *classes,
            step: learns.then_some(*step),
            labels: labels.view()?,
            probe,
            record: &mut records.slice_mut(index..=index),
            scratch,
        };
        match x {
            Values::F32(x) => work.pooled(x, pooled_f32),
            Values::Bf16(x) => work.pooled(x, pooled_bf16),
            Values::F16(_) => Err(wrong(PROBES, "x", "float16", "float32 or bfloat16")),
        }
    }

    /// What the batches so far came to, a record a probe. Waits for all of them.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn records(&self) -> Result<Vec<ProbeRecord>, Error> {
        let mut records = self.device.download(&self.records)?;
        records.truncate(self.probes.len());
        Ok(records)
    }

    /// How many weights and biases each probe has.
    pub fn parameter_counts(&self) -> Vec<usize> {
        self.probes.iter().map(|probe| probe.weights.len()).collect()
    }

    /// A probe's weights `[classes, features]`, row-major, and biases `[classes]` behind them. Waits for all steps.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Driver`].
    pub fn parameters(&self, probe: usize) -> Result<Vec<f32>, Error> {
        self.device.download(&self.probe(probe)?.weights)
    }

    /// The velocities of a probe's [parameters](Self::parameters), in their order. Waits for all steps.
    ///
    /// # Errors
    /// As there.
    pub fn velocities(&self, probe: usize) -> Result<Vec<f32>, Error> {
        self.device.download(&self.probe(probe)?.velocities)
    }

    fn probe(&self, probe: usize) -> Result<&Probe, Error> {
        self.probes.get(probe).ok_or_else(|| wrong(PROBES, "probe", probe, format!("below {}", self.probes.len())))
    }

    /// Goes on from what probes on the same inputs had come to: the record of each, and its parameters and their velocities.
    ///
    /// # Errors
    /// [`Error::Argument`] for those of other probes; [`Error::Driver`].
    pub fn go_on_from(&mut self, records: &[ProbeRecord], learned: &[[&[f32]; 2]]) -> Result<(), Error> {
        let count = self.probes.len();
        if records.len() != count || learned.len() != count {
            return Err(wrong(PROBES, "probes", learned.len().min(records.len()), count));
        }
        self.device.copy_to("the records of probes", records, &mut self.records.slice_mut(..count))?;
        for (probe, [parameters, velocities]) in self.probes.iter_mut().zip(learned) {
            self.device.copy_to("the parameters of a probe", parameters, &mut probe.weights.as_view_mut())?;
            self.device.copy_to("the velocities of a probe", velocities, &mut probe.velocities.as_view_mut())?;
        }
        Ok(())
    }
}

/// One probe on one batch.
struct Work<'a, 'r> {
    device: &'a Device,
    examples: usize,
    classes: usize,
    /// None: it is evaluated.
    step: Option<ProbeStep>,
    labels: CudaView<'a, u32>,
    probe: &'a mut Probe,
    record: &'a mut cudarc::driver::CudaViewMut<'r, ProbeRecord>,
    scratch: &'a mut Scratch,
}

impl Work<'_, '_> {
    /// What the probe does with `x`, once it is pooled, where it is.
    fn pooled<T: Activation>(&mut self, x: &CudaView<'_, T>, pooled: &mut Buffer<T>) -> Result<(), Error> {
        let ProbeInput::Squares(shape) = self.probe.input else { return self.take(x.slice(..)) };
        let length = self.examples * self.probe.input.features();
        let mut to = pooled.at_least(self.device, length)?;
        self.device.launcher().square_pool(&mut to.slice_mut(..length), x, self.examples, shape)?;
        self.take(pooled.view()?)
    }

    fn take<T: Activation>(&mut self, x: CudaView<'_, T>) -> Result<(), Error> {
        let (launcher, Scratch { partials, logits, dlogits, totals, arrivals }) =
            (self.device.launcher(), &mut *self.scratch);
        let (examples, features, classes) = (self.examples, self.probe.input.features(), self.classes);
        let (batch, plan) =
            (ProbeBatch { x, examples, features, classes }, plan::probe::probe(examples, features, classes));
        let weights = self.probe.weights.as_view();
        let mut sums = partials.at_least(self.device, plan.partials)?;
        let splits = launcher.probe_products(&mut sums, &batch, &weights, &self.record.as_view())?;
        let gradient = self.step.map(|_| dlogits.at_least(self.device, examples * plan.row)).transpose()?;
        let mut outcome = ProbeOutcome {
            dlogits: gradient,
            logits: logits.at_least(self.device, examples * classes)?,
            totals: totals.at_least(self.device, plan.totals)?,
            arrivals: arrivals.as_view_mut(),
        };
        let sums = partials.view()?;
        launcher.probe_outcome(&mut outcome, self.record, &sums, splits, &batch, &weights, &self.labels)?;
        let Some(step) = self.step else { return Ok(()) };
        let Probe { weights, velocities, .. } = &mut *self.probe;
        let (weights, velocities) = (&mut weights.as_view_mut(), &mut velocities.as_view_mut());
        launcher.probe_update(weights, velocities, &batch, &dlogits.view()?, &self.record.as_view(), step)
    }
}
