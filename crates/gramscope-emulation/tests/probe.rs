//! Steps of a linear probe against float64.
#![allow(clippy::unwrap_used)]

mod support;

use gramscope_cuda::plan::probe as plan;
use gramscope_cuda::shapes::{ProbeRecord, ProbeShape};
use gramscope_emulation::{Buffer, Launch};
use gramscope_reference::{Matrix, linear, loss};
use half::bf16;
use support::inputs::{Random, normal};
use support::{Element, rounded, stored};

/// [examples, features, classes]: around the sizes of runs, warps, tiles, parts and groups of classes.
const SHAPES: [[usize; 3]; 10] = [
    [1, 1, 2],
    [5, 3, 2],
    [2, 4, 13],
    [33, 127, 12],
    [31, 128, 3],
    [37, 1031, 10],
    [9, 644, 100],
    [65, 1540, 10],
    [130, 129, 5],
    [3, 4099, 24],
];
const RATE: f32 = 0.25;
const MOMENTUM: f32 = 0.875;
/// A rounding of float32.
const ROUNDING: f64 = 1.0 / (1 << 24) as f64;

/// A probe that has learnt something, and a batch.
struct Case<T> {
    shape: [usize; 3],
    x: Vec<T>,
    truth: Matrix,
    /// Weights [classes, features], and biases behind them.
    weights: Vec<f32>,
    velocities: Vec<f32>,
    labels: Vec<u32>,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq)]
struct Outcome {
    weights: Vec<f32>,
    velocities: Vec<f32>,
    logits: Vec<f32>,
    record: ProbeRecord,
}

impl<T: Element> Case<T> {
    fn new(shape: [usize; 3]) -> Self {
        let [examples, features, classes] = shape;
        let x = normal(examples, features, 1);
        let mut random = Random::new(2);
        let mut numbers = |scale: f64| -> Vec<f32> {
            (0..(features + 1) * classes).map(|_| (scale * random.normal()) as f32).collect()
        };
        Self {
            shape,
            x: stored(&x),
            truth: rounded::<T>(&x),
            weights: numbers(1.0 / (features as f64).sqrt()),
            velocities: numbers(0.1),
            labels: (0..examples).map(|example| (example * 7 % classes) as u32).collect(),
        }
    }

    fn kernel_shape(&self, splits: usize) -> ProbeShape {
        let [examples, features, classes] = self.shape;
        let plan::Probe { share, row, .. } = plan::probe(examples, features, classes);
        let [examples, features, classes, splits, share, row] =
            [examples, features, classes, splits, share, row].map(|number| number as i32);
        ProbeShape { examples, features, classes, splits, share, row, rate: RATE, momentum: MOMENTUM }
    }

    /// A batch behind `record`: a step, or, unless it `learns`, an evaluation.
    fn run(&self, record: ProbeRecord, learns: bool, naive: bool, seed: u64) -> Outcome {
        let [examples, features, classes] = self.shape;
        let plan = plan::probe(examples, features, classes);
        let suffix = T::SUFFIX;
        let (kind, splits, products, update) = match naive {
            false => ("", plan.splits, plan.products, plan.update),
            true => ("naive_", 1, plan::naive_products(examples, classes), plan::naive_update(features, classes)),
        };
        // What need not be aligned is not.
        let shift = if features.is_multiple_of(plan::FEATURES) { 0 } else { 1 };
        let x = Buffer::misaligned(&self.x, shift);
        let mut weights = Buffer::misaligned(&self.weights, shift);
        let mut velocities = Buffer::misaligned(&self.velocities, shift);
        let mut record = Buffer::new(&[record]);
        let mut partials = Buffer::<f32>::poisoned(splits * examples * classes);
        let shape = self.kernel_shape(splits);
        let name = format!("gs_probe_{kind}products_{suffix}");
        let launch = Launch::new(&name).geometry(products).seed(seed).output(&mut partials);
        launch.input(&x).input(&weights).input(&record).value(shape).run().unwrap();

        let mut dlogits = Buffer::<f32>::poisoned(examples * plan.row);
        let mut logits = Buffer::<f32>::poisoned(examples * classes);
        let mut totals = Buffer::<f64>::poisoned(plan.totals);
        let (mut arrivals, labels) = (Buffer::new(&[0_u32]), Buffer::new(&self.labels));
        let launch = Launch::new("gs_probe_outcome").geometry(plan.outcome).seed(seed);
        let launch = if learns { launch.output(&mut dlogits) } else { launch.null() };
        let launch = launch.output(&mut logits).output(&mut totals).output(&mut arrivals).output(&mut record);
        launch.input(&partials).input(&weights).input(&labels).value(shape).run().unwrap();
        assert_eq!(arrivals.values(), [0]);

        if learns {
            let name = format!("gs_probe_{kind}update_{suffix}");
            let launch = Launch::new(&name).geometry(update).seed(seed).output(&mut weights).output(&mut velocities);
            launch.input(&x).input(&dlogits).input(&record).value(shape).run().unwrap();
        }
        Outcome {
            weights: weights.values().to_vec(),
            velocities: velocities.values().to_vec(),
            logits: logits.values().to_vec(),
            record: record.values()[0],
        }
    }

    fn step(&self, naive: bool) -> Outcome {
        self.run(ProbeRecord::default(), true, naive, 3)
    }

    /// W [classes, features] and b.
    fn parameters(&self) -> (Matrix, Vec<f64>) {
        let [_, features, classes] = self.shape;
        let wide: Vec<f64> = self.weights.iter().map(|&value| value.into()).collect();
        let (weights, biases) = wide.split_at(features * classes);
        (Matrix::new(classes, features, weights.to_vec()), biases.to_vec())
    }

    fn places(&self) -> Vec<usize> {
        self.labels.iter().map(|&label| label as usize).collect()
    }

    /// `outcome` is a step's in float64, but for what float32 sums of so many terms round off, to first order: a logit
    /// `logit_terms` times a rounding of the sum of its terms' magnitudes; a gradient by it as much as the worst logit of its
    /// example, over n (no entry of softmax moves by more than half of what its arguments do); a gradient by a weight what those
    /// make of it, and `gradient_terms` roundings of its own; four roundings the step.
    fn compare(&self, outcome: &Outcome, logit_terms: f64, gradient_terms: f64) {
        let [examples, features, classes] = self.shape;
        let (weight, bias) = self.parameters();
        let magnitude = |matrix: &Matrix| matrix.map(|_, _, value| value.abs());
        let logits = linear::forward(&self.truth, &weight, &bias);
        let absolute: Vec<f64> = bias.iter().map(|value| value.abs()).collect();
        let allowed = linear::forward(&magnitude(&self.truth), &magnitude(&weight), &absolute);
        let allowed = allowed.map(|_, _, sum| logit_terms * ROUNDING * sum);
        for (index, (&found, expected)) in outcome.logits.iter().zip(&logits.data).enumerate() {
            let error = (f64::from(found) - expected).abs();
            assert!(error <= allowed.data[index], "{:?}: logit {index} is {found}, not {expected}", self.shape);
        }
        let record = outcome.record;
        let worst = allowed.data.iter().fold(0.0_f64, |worst, &next| worst.max(next));
        let loss_error = record.loss - loss::cross_entropy(&logits, &self.places());
        assert!(loss_error.abs() <= 2.0 * worst + 1e-13, "{:?}: loss off by {loss_error}", self.shape);
        assert_eq!((record.batches, record.diverged), (1, 0));
        let largest = |row: &[f32]| (1..classes).fold(0, |best, k| if row[k] > row[best] { k } else { best });
        let rows = outcome.logits.chunks(classes).zip(self.places());
        assert_eq!(record.correct, rows.filter(|(row, label)| largest(row) == *label).count() as i64);

        let gradient = loss::cross_entropy_gradient(&logits, &self.places());
        let off = Matrix::from_fn(examples, classes, |e, k| {
            let worst = (0..classes).fold(0.0_f64, |worst, k| worst.max(allowed.get(e, k)));
            worst / examples as f64 + ROUNDING * gradient.get(e, k).abs()
        });
        let mut largest = (0.0, 0.0);
        for (index, (&found_weight, &found_velocity)) in outcome.weights.iter().zip(&outcome.velocities).enumerate() {
            let is_bias = index >= features * classes;
            let (class, feature) =
                if is_bias { (index - features * classes, 0) } else { (index / features, index % features) };
            let x = |e: usize| if is_bias { 1.0 } else { self.truth.get(e, feature) };
            let sum = |term: &dyn Fn(usize) -> f64| (0..examples).map(term).sum::<f64>();
            let by_weight = sum(&|e| gradient.get(e, class) * x(e));
            let own = gradient_terms * ROUNDING * sum(&|e| (gradient.get(e, class) * x(e)).abs());
            let from_logits = sum(&|e| off.get(e, class) * x(e).abs());
            let (rate, kept) = (f64::from(RATE), f64::from(MOMENTUM) * f64::from(self.velocities[index]));
            let velocity = kept - rate * by_weight;
            let expected = f64::from(self.weights[index]) + velocity;
            let scale = kept.abs() + (rate * by_weight).abs() + expected.abs();
            let allowed = rate * (own + from_logits) + 4.0 * ROUNDING * scale;
            let errors = [f64::from(found_velocity) - velocity, f64::from(found_weight) - expected];
            assert!(
                errors.iter().all(|error| error.abs() <= allowed),
                "{:?}: parameter {index} off by {errors:?}, allowed {allowed:e}",
                self.shape
            );
            let (most_allowed, most_moved) = largest;
            largest = (f64::max(most_allowed, allowed), f64::max(most_moved, (rate * by_weight).abs()));
        }
        let (most_allowed, most_moved) = largest;
        assert!(most_moved > 50.0 * most_allowed, "{:?}: {most_moved} would hide in {most_allowed}", self.shape);
    }
}

/// A lane adds the features of a part that fall to it, then the lanes' five halvings, and the rounding to a logit; a warp adds
/// every eighth example, then eight warps.
fn steps_match_float64<T: Element>() {
    for shape in SHAPES {
        let case = Case::<T>::new(shape);
        let plan = plan::probe(shape[0], shape[1], shape[2]);
        let (a_lane, a_warp) = (plan.share.min(shape[1]).div_ceil(32) + 4, shape[0].div_ceil(8));
        let outcome = case.step(false);
        case.compare(&outcome, (a_lane + 6) as f64, (a_warp + 8) as f64);
        assert_eq!(case.run(ProbeRecord::default(), true, false, 4), outcome, "{shape:?}: bits depend on the order");
        // Rounded to float32 twice, and once.
        case.compare(&case.step(true), 2.0, 1.0);
    }
}

#[test]
fn steps_on_float32_match_float64() {
    steps_match_float64::<f32>();
}

#[test]
fn steps_on_bfloat16_match_float64() {
    steps_match_float64::<bf16>();
}

#[test]
fn several_parts_are_added_up() {
    let parts = |[n, p, k]: [usize; 3]| plan::probe(n, p, k).splits;
    assert!(SHAPES.iter().any(|&shape| parts(shape) == 1) && SHAPES.iter().any(|&shape| parts(shape) > 2));
    // Groups of examples leave at least one part, however many they are, and parts are whole tiles.
    for shape in [[128, 16_384, 10], [256, 163_840, 100], [100_000, 640, 10], [1, 1, 2]] {
        let plan = plan::probe(shape[0], shape[1], shape[2]);
        assert!(plan.splits >= 1 && plan.share * plan.splits >= shape[1] && plan.share * (plan.splits - 1) < shape[1]);
        assert!(plan.share.is_multiple_of(128));
    }
}

#[test]
fn an_evaluation_counts_and_changes_nothing() {
    let case = Case::<f32>::new([37, 131, 10]);
    let stepped = case.step(false);
    let record = ProbeRecord { loss: 0.5, correct: 7, batches: 3, diverged: 0 };
    let evaluated = case.run(record, false, false, 1);
    assert_eq!((&evaluated.weights, &evaluated.velocities), (&case.weights, &case.velocities));
    assert_eq!(evaluated.logits, stepped.logits);
    let of_batch = stepped.record;
    assert_eq!(evaluated.record.loss, 0.5 + of_batch.loss);
    assert_eq!((evaluated.record.correct, evaluated.record.batches), (7 + of_batch.correct, 4));
}

#[test]
fn of_equal_logits_the_first_counts() {
    let mut case = Case::<f32>::new([40, 12, 34]);
    case.weights.fill(0.0);
    case.labels = (0..40).map(|example| example % 4).collect();
    assert_eq!(case.step(false).record.correct, 10);
}

/// A probe whose loss is not finite keeps its weights, then and for ever, and tells the batch; a label that is no class is as bad.
#[test]
fn a_probe_that_diverges_stays_as_it_was() {
    let before = ProbeRecord { loss: 1.0, correct: 5, batches: 6, diverged: 0 };
    for naive in [false, true] {
        for (value, label) in [(f32::NAN, 0), (f32::INFINITY, 0), (f32::NEG_INFINITY, 0), (1.0, 3), (1.0, u32::MAX)] {
            let mut case = Case::<f32>::new([17, 133, 3]);
            case.x[16 * 133 + 131] = value;
            case.labels[11] = label;
            let diverged = case.run(before, true, naive, 1);
            assert_eq!((&diverged.weights, &diverged.velocities), (&case.weights, &case.velocities));
            assert!(!diverged.record.loss.is_finite());
            assert_eq!((diverged.record.batches, diverged.record.diverged), (7, 7), "{value} {label}");
            let bits = |record: ProbeRecord| (record.loss.to_bits(), record.correct, record.batches, record.diverged);
            let later = Case::<f32>::new([17, 133, 3]).run(diverged.record, true, naive, 2);
            assert_eq!((&later.weights, &later.velocities), (&case.weights, &case.velocities));
            assert_eq!(bits(later.record), bits(diverged.record));
        }
    }
}

/// Logits of 1e30: the loss is large, and stays a number.
#[test]
fn huge_features_do_not_diverge() {
    let mut case = Case::<f32>::new([9, 20, 4]);
    case.x.iter_mut().for_each(|value| *value *= 1e30);
    let record = case.step(false).record;
    assert!(record.loss > 1e28 && record.diverged == 0, "{record:?}");
}
