//! Probes on the CPU, which runs the network.

use candle_core::Tensor;
use gramscope_cka::{Activation, Values};

use super::linear_probe::{Inputs, LinearProbe, Outcome, Step};
use super::pooling::Pooling;
use super::{Learned, Learning, Probes, Standing};
use crate::compare::{Batch, Model, in_layer, with_view};
use crate::{HOST, Result};

/// A probe for each chosen layer.
pub(super) struct OnHost {
    probes: Vec<Probe>,
    step: Step,
    /// Batches so far.
    batches: usize,
}

/// A layer's probe.
struct Probe {
    probe: LinearProbe,
    pooling: Option<Pooling>,
    standing: Standing,
}

impl OnHost {
    /// The most bytes that probes on layers of these `shapes` take, with batches of so many examples.
    pub(super) fn bytes<'a>(
        shapes: impl Iterator<Item = &'a [usize]>,
        pool: bool,
        classes: usize,
        examples: usize,
    ) -> u64 {
        let bytes = |shape: &[usize]| match Pooling::of(shape).filter(|_| pool) {
            None => LinearProbe::bytes(shape.iter().product(), classes),
            Some(pooling) => {
                let features = pooling.features();
                LinearProbe::bytes(features, classes) + (features * examples * size_of::<f32>()) as u64
            }
        };
        shapes.map(bytes).sum()
    }

    /// On layers of these `shapes`, all zeros; with `pool`, of their squares' maxima where they have some.
    pub(super) fn new<'a>(shapes: impl Iterator<Item = &'a [usize]>, pool: bool, classes: usize, step: Step) -> Self {
        let probe = |shape: &[usize]| {
            let pooling = Pooling::of(shape).filter(|_| pool);
            let features = pooling.as_ref().map_or_else(|| shape.iter().product(), Pooling::features);
            Probe { probe: LinearProbe::new(features, classes), pooling, standing: Standing::default() }
        };
        Self { probes: shapes.map(probe).collect(), step, batches: 0 }
    }
}

impl Probes for OnHost {
    fn take(&mut self, model: &Model, images: &Batch, labels: &[u32], learn: bool) -> Result<()> {
        let Self { probes, step, batches } = self;
        let (info, batch) = (&model.info, *batches);
        let (step, labels) = (learn.then_some(*step), Tensor::new(labels, &HOST)?);
        *batches += 1;
        model.each_output(images, &mut |place, output| {
            let probe = &mut probes[place];
            if probe.standing.diverged.is_some() {
                return Ok(());
            }
            let (stored, relu) = output.as_stored();
            with_view(stored, |view| {
                let activation = view.map_err(in_layer(&info.name, &info.layers[place], batch))?;
                let outcome = probe.take(activation, relu, &labels, step)?;
                probe.standing.correct += outcome.correct;
                if !outcome.loss.is_finite() {
                    probe.standing.diverged = Some(batch);
                }
                Ok(())
            })
        })
    }

    fn standings(&self) -> Result<Vec<Standing>> {
        Ok(self.probes.iter().map(|probe| probe.standing).collect())
    }

    fn parameters(&self) -> Vec<usize> {
        self.probes.iter().map(|probe| probe.probe.parameters()).collect()
    }

    fn learned(&self) -> Result<Vec<Learned>> {
        let learned = |Probe { probe, .. }: &Probe| {
            let [parameters, velocities] = probe.learned();
            Learned { parameters, velocities }
        };
        Ok(self.probes.iter().map(learned).collect())
    }

    fn go_on_from(&mut self, Learning { batches, standings, learned, .. }: &Learning) -> Result<()> {
        self.batches = *batches;
        for (probe, (standing, learned)) in self.probes.iter_mut().zip(standings.iter().zip(learned)) {
            probe.standing = *standing;
            probe.probe.go_on_from([&learned.parameters, &learned.velocities]);
        }
        Ok(())
    }
}

impl Probe {
    /// Learns from `activation`, or is evaluated on it; with `relu`, on its ReLU, which may follow the pooling as well as precede it.
    fn take(&mut self, activation: Activation<'_>, relu: bool, labels: &Tensor, step: Option<Step>) -> Result<Outcome> {
        let Some(Values::F32(values)) = activation.values() else {
            return Err(candle_core::Error::msg("a network's activations are float32 numbers").into());
        };
        let values = match &mut self.pooling {
            Some(pooling) => pooling.apply(values),
            None => values,
        };
        let inputs = Inputs { values, relu };
        Ok(match step {
            Some(step) => self.probe.step(inputs, labels, step)?,
            None => self.probe.evaluate(inputs, labels)?,
        })
    }
}
