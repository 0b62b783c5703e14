//! Linear probes on the GPU against float64, at shapes that no tile fits, for both types of activations.

use std::sync::Arc;

use gramscope_cuda::plan::probe as plan;
use gramscope_cuda::{Device, DeviceProbes, ProbeBatch, ProbeInput, ProbeOutcome, ProbeRecord, ProbeStep, Slice};
use gramscope_reference::softmax_regression::SoftmaxRegression;
use gramscope_reference::{Matrix, sgd};
use half::bf16;

use super::training_kernels::{Values, WHAT, normal, over};
use super::{Finding, Report};
use crate::stored::Stored;

/// Examples, features and classes: one and several parts of the features, whole runs of them and single ones.
const SHAPES: [[usize; 3]; 5] = [[1, 1, 2], [37, 131, 10], [9, 644, 100], [130, 1540, 10], [65, 4099, 3]];
const STEPS: usize = 3;
/// Error of a probe's weights after some steps, over the learning rate: gradients are means of products with features around 1,
/// and float32 sums of up to 150 terms a lane make logits around 1 of them, with roundings of 6e-8 of random signs.
const ALLOWED: f64 = 5e-6;

/// A rate at which logits of so many features move by about 1 a step.
fn step_for(features: usize) -> ProbeStep {
    ProbeStep { learning_rate: 4.0 / features as f64, momentum: 0.9 }
}

/// Every kernel, and what is made of them.
pub(super) fn check(report: &mut Report<'_>, device: &Arc<Device>) {
    check_stored::<f32>(report, device);
    check_stored::<bf16>(report, device);
    report.check("probe, what diverges", || over(&SHAPES[1..], 0.0, |finding, shape| diverges(device, shape, finding)));
}

fn check_stored<T: Stored>(report: &mut Report<'_>, device: &Arc<Device>) {
    for (name, naive) in [("probe", false), ("probe naive", true)] {
        report.check(&format!("{name}, {}", T::NAME), || {
            over(&SHAPES, ALLOWED, |finding, shape| steps::<T>(device, shape, naive, finding))
        });
    }
}

/// A probe and what its kernels need, on the device.
struct Probe {
    weights: Slice<f32>,
    velocities: Slice<f32>,
    record: Slice<ProbeRecord>,
    labels: Slice<u32>,
}

/// Labels of which all classes have some, but for what there are too few examples of.
fn labels([examples, _, classes]: [usize; 3]) -> Vec<u32> {
    (0..examples as u32).map(|example| example * 7 % classes as u32).collect()
}

/// Some steps from zero, on one batch.
fn steps<T: Stored>(device: &Device, shape: [usize; 3], naive: bool, finding: &mut Finding) -> anyhow::Result<()> {
    let [examples, features, classes] = shape;
    let (x, labels) = (normal::<T>(device, 1, examples * features, 0.0)?, labels(shape));
    let parameters = (features + 1) * classes;
    let mut probe = Probe {
        weights: device.zeros(WHAT, parameters)?,
        velocities: device.zeros(WHAT, parameters)?,
        record: device.zeros(WHAT, 1)?,
        labels: device.upload(WHAT, &labels)?,
    };
    for _ in 0..STEPS {
        step(device, &mut probe, &x, shape, naive)?;
    }

    let mut reference = SoftmaxRegression::new(features, classes);
    let x = Matrix::new(examples, features, x.host);
    let places: Vec<usize> = labels.iter().map(|&label| label as usize).collect();
    let ProbeStep { learning_rate, momentum } = step_for(features);
    let settings = sgd::Settings { learning_rate, momentum, weight_decay: 0.0 };
    let loss: f64 = (0..STEPS).map(|_| reference.step(&x, &places, settings)).sum();
    let found = device.download(&probe.weights)?.into_iter().map(f64::from);
    finding.compare_all(found, &[reference.weight.data, reference.bias].concat(), learning_rate);
    let [record] = device.download(&probe.record)?[..] else { anyhow::bail!("one record") };
    finding.compare(record.loss / loss, 1.0);
    finding.compare_all([f64::from(record.batches), f64::from(record.diverged)], &[STEPS as f64, 0.0], 1.0);
    Ok(())
}

fn step<T: Stored>(
    device: &Device,
    probe: &mut Probe,
    x: &Values<T>,
    [examples, features, classes]: [usize; 3],
    naive: bool,
) -> anyhow::Result<()> {
    let Probe { weights, velocities, record, labels } = probe;
    let (launcher, lengths) = (device.launcher(), plan::probe(examples, features, classes));
    let mut partials = device.zeros::<f32>(WHAT, lengths.partials)?;
    let mut dlogits = device.zeros::<f32>(WHAT, examples * lengths.row)?;
    let mut logits = device.zeros::<f32>(WHAT, examples * classes)?;
    let (mut totals, mut arrivals) = (device.zeros::<f64>(WHAT, lengths.totals)?, device.zeros::<u32>(WHAT, 1)?);
    let batch = ProbeBatch { x: x.device.as_view(), examples, features, classes };
    let splits = if naive {
        let (weights, record) = (weights.as_view(), record.as_view());
        launcher.probe_products_naive(&mut partials.as_view_mut(), &batch, &weights, &record)?
    } else {
        launcher.probe_products(&mut partials.as_view_mut(), &batch, &weights.as_view(), &record.as_view())?
    };
    let outcome = &mut ProbeOutcome {
        dlogits: Some(dlogits.as_view_mut()),
        logits: logits.as_view_mut(),
        totals: totals.as_view_mut(),
        arrivals: arrivals.as_view_mut(),
    };
    let (sums, labels) = (partials.as_view(), labels.as_view());
    launcher.probe_outcome(outcome, &mut record.as_view_mut(), &sums, splits, &batch, &weights.as_view(), &labels)?;
    let (weights, velocities) = (&mut weights.as_view_mut(), &mut velocities.as_view_mut());
    let (gradient, record) = (dlogits.as_view(), record.as_view());
    let step = step_for(features);
    if naive {
        launcher.probe_update_naive(weights, velocities, &batch, &gradient, &record, step)?;
    } else {
        launcher.probe_update(weights, velocities, &batch, &gradient, &record, step)?;
    }
    Ok(())
}

/// Of two probes the one that sees NaN in the second batch keeps its weights, and tells; the other goes on.
fn diverges(device: &Arc<Device>, shape: [usize; 3], finding: &mut Finding) -> anyhow::Result<()> {
    let [examples, features, classes] = shape;
    let x = normal::<f32>(device, 1, examples * features, 0.0)?;
    let mut broken = device.download(&x.device)?;
    broken[examples * features / 2] = f32::NAN;
    let broken = device.upload(WHAT, &broken)?;
    let inputs = [ProbeInput::Whole(features); 2];
    let mut probes = DeviceProbes::new(device.clone(), &inputs, classes, step_for(features))?;
    let mut weights = Vec::new();
    for seen_by_second in [&x.device, &broken, &x.device] {
        probes.begin_batch(&labels(shape))?;
        probes.learn(0, &gramscope_cuda::Values::F32(x.device.as_view()))?;
        probes.learn(1, &gramscope_cuda::Values::F32(seen_by_second.as_view()))?;
        weights.push(probes.parameters(1)?.into_iter().map(f64::from).collect::<Vec<_>>());
    }
    let [before, after @ ..] = &weights[..] else { anyhow::bail!("no batches") };
    for after in after {
        finding.compare_all(after.iter().copied(), before, 1.0);
    }
    let told = probes.records()?.into_iter().flat_map(|record| [record.batches, record.diverged]);
    finding.compare_all(told.map(f64::from), &[3.0, 0.0, 2.0, 2.0], 1.0);
    Ok(())
}
