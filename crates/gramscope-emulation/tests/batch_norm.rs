//! Batch norm and its gradients against float64.
#![allow(clippy::unwrap_used)]

mod support;

use gramscope_cuda::plan::training as plan;
use gramscope_cuda::shapes::BatchNormShape;
use gramscope_emulation::{Buffer, Launch};
use gramscope_nn::ops::batch_norm::{EPSILON, MOMENTUM};
use gramscope_reference::{Tensor4, batch_norm as reference};
use half::bf16;
use support::Element;
use support::inputs::Random;

/// float32's unit roundoff.
const ROUNDOFF: f64 = 1.0 / (1u64 << 24) as f64;

/// (rows, channels): one and three channels, a run less or more than whole ones, a tile less or more than a whole one, and
/// rows that are fewer than a block's, a prime, several splits.
const SHAPES: [(usize, usize); 11] =
    [(2, 1), (2, 64), (3, 16), (7, 3), (257, 17), (1021, 16), (1021, 1), (131, 64), (300, 20), (67, 136), (9001, 4)];

/// What stands in place of a unit in the last place of a stored value, relative to it.
fn storage<T: Element>() -> f64 {
    if size_of::<T>() == size_of::<f32>() { ROUNDOFF } else { 1.0 / 256.0 }
}

/// Normal numbers times `deviation` plus `mean`, as they are once stored; channels differ.
fn normal<T: Element>(rows: usize, channels: usize, mean: f64, deviation: f64, seed: u64) -> Vec<T> {
    let mut random = Random::new(seed);
    let value = |index: usize| {
        let channel = (index % channels) as f64;
        T::round((mean + deviation * random.normal()) * (1.0 + channel / 8.0))
    };
    (0..rows * channels).map(value).collect()
}

fn tensor<T: Element>(values: &[T], channels: usize) -> Tensor4 {
    Tensor4::new([values.len() / channels, 1, 1, channels], values.iter().map(|value| value.widen()).collect())
}

fn widened(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

/// How kernels are run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Run {
    naive: bool,
    relu: bool,
    seed: u64,
}

fn shape<T>(rows: usize, channels: usize, run: Run) -> BatchNormShape {
    let plan = plan::batch_norm(rows, channels, size_of::<T>());
    BatchNormShape {
        share: 1.0 / rows as f64,
        rows: rows as i32,
        channels: channels as i32,
        tile: plan.tile as i32,
        splits: plan.splits as i32,
        relu: run.relu.into(),
        padding: 0,
    }
}

fn entry<T: Element>(name: &str, run: Run) -> String {
    format!("gs_batch_norm_{}{name}_{}", if run.naive { "naive_" } else { "" }, T::SUFFIX)
}

/// Statistics and running statistics, the latter from `before`.
fn statistics<T: Element>(x: &[T], channels: usize, before: &[f32], run: Run) -> (Vec<f32>, Vec<f32>) {
    let rows = x.len() / channels;
    let (plan, shape) = (plan::batch_norm(rows, channels, size_of::<T>()), shape::<T>(rows, channels, run));
    let (mut statistics, mut running) = (Buffer::<f32>::poisoned(2 * channels), Buffer::new(before));
    let x = Buffer::new(x);
    let name = entry::<T>("statistics", run);
    let launch = Launch::new(&name).geometry(plan::batch_norm_channels(channels)).seed(run.seed);
    if run.naive {
        launch.output(&mut statistics).output(&mut running).input(&x).value(shape).run().unwrap();
    } else {
        let mut partials = Buffer::<f64>::poisoned(plan.partials);
        let name = entry::<T>("moments", run);
        let moments = Launch::new(&name).geometry(plan.geometry).seed(run.seed);
        moments.output(&mut partials).input(&x).value(shape).run().unwrap();
        launch.output(&mut statistics).output(&mut running).input(&partials).input(&x).value(shape).run().unwrap();
    }
    (statistics.values().to_vec(), running.values().to_vec())
}

/// What normalises a channel: statistics, gamma, beta.
struct Parameters {
    statistics: Buffer<f32>,
    gamma: Buffer<f32>,
    beta: Buffer<f32>,
}

impl Parameters {
    /// The statistics of `x`, and made gammas, one of them negative, and betas.
    fn of<T: Element>(x: &[T], channels: usize) -> Self {
        let (statistics, _) = statistics(x, channels, &vec![0.0; 2 * channels], Run::default());
        let mut random = Random::new(11);
        let gamma: Vec<f32> =
            (0..channels).map(|c| (random.normal() + if c == 1 { -3.0 } else { 2.0 }) as f32).collect();
        let beta: Vec<f32> = (0..channels).map(|_| (0.3 * random.normal()) as f32).collect();
        Self { statistics: Buffer::new(&statistics), gamma: Buffer::new(&gamma), beta: Buffer::new(&beta) }
    }

    fn channels(&self) -> usize {
        self.gamma.values().len()
    }

    /// gamma / sqrt(variance + eps).
    fn scale(&self, channel: usize) -> f64 {
        let variance = f64::from(self.statistics.values()[self.channels() + channel]);
        f64::from(self.gamma.values()[channel]) / (variance + EPSILON).sqrt()
    }

    fn mean(&self, channel: usize) -> f64 {
        f64::from(self.statistics.values()[channel])
    }
}

/// Whose results on the way nobody looks at.
fn normalise<T: Element>(x: &[T], parameters: &Parameters, addend: Option<&[T]>, run: Run) -> Vec<T> {
    normalise_and_show(x, parameters, addend, [None, None], run)
}

/// The result, and in `seen` what is on the way to it: normalised, and the sum.
fn normalise_and_show<T: Element>(
    x: &[T],
    parameters: &Parameters,
    addend: Option<&[T]>,
    seen: [Option<&mut Buffer<T>>; 2],
    run: Run,
) -> Vec<T> {
    let channels = parameters.channels();
    let (x, addend) = (Buffer::new(x), addend.map(Buffer::new));
    let rows = x.values().len() / channels;
    let mut y = Buffer::<T>::poisoned(x.values().len());
    let plan = plan::batch_norm(rows, channels, size_of::<T>()).geometry;
    let geometry = if run.naive { plan::batch_norm_channels(channels) } else { plan };
    let name = entry::<T>("normalise", run);
    let launch = Launch::new(&name).geometry(geometry).seed(run.seed).output(&mut y);
    let launch = seen.into_iter().fold(launch, |launch, seen| match seen {
        Some(seen) => launch.output(seen),
        None => launch.null(),
    });
    let launch = launch.input(&x).input(&parameters.statistics).input(&parameters.gamma).input(&parameters.beta);
    let launch = match &addend {
        Some(addend) => launch.input(addend),
        None => launch.null(),
    };
    launch.value(shape::<T>(rows, channels, run)).run().unwrap();
    y.values().to_vec()
}

#[derive(Debug, PartialEq)]
struct Gradients<T> {
    dx: Vec<T>,
    daddend: Vec<T>,
    dgamma: Vec<f32>,
    dbeta: Vec<f32>,
}

/// As the launcher does it; `adds`: the addend's gradient is asked for.
fn backward<T: Element>(
    x: &[T],
    y: Option<&[T]>,
    dy: &[T],
    parameters: &Parameters,
    adds: bool,
    run: Run,
) -> Gradients<T> {
    let channels = parameters.channels();
    let (x, y, dy) = (Buffer::new(x), y.map(Buffer::new), Buffer::new(dy));
    let rows = x.values().len() / channels;
    let (plan, shape) = (plan::batch_norm(rows, channels, size_of::<T>()), shape::<T>(rows, channels, run));
    let (mut dx, mut daddend) = (Buffer::<T>::poisoned(rows * channels), Buffer::<T>::poisoned(rows * channels));
    let (mut dgamma, mut dbeta) = (Buffer::<f32>::poisoned(channels), Buffer::<f32>::poisoned(channels));
    let Parameters { statistics, gamma, beta } = parameters;
    if run.naive {
        let name = entry::<T>("backward", run);
        let launch = Launch::new(&name).geometry(plan::batch_norm_channels(channels)).seed(run.seed).output(&mut dx);
        let launch = if adds { launch.output(&mut daddend) } else { launch.null() };
        let launch = launch.output(&mut dgamma).output(&mut dbeta).input(&x);
        let launch = if let Some(y) = &y { launch.input(y) } else { launch.null() };
        launch.input(&dy).input(statistics).input(gamma).input(beta).value(shape).run().unwrap();
    } else {
        let mut partials = Buffer::<f64>::poisoned(plan.partials);
        let name = entry::<T>("sums", run);
        let launch = Launch::new(&name).geometry(plan.geometry).seed(run.seed).output(&mut partials);
        let launch = if adds { launch.output(&mut daddend) } else { launch.null() };
        let launch = launch.input(&x);
        let launch = if let Some(y) = &y { launch.input(y) } else { launch.null() };
        launch.input(&dy).input(statistics).input(gamma).input(beta).value(shape).run().unwrap();
        let launch = Launch::new("gs_batch_norm_gradients").geometry(plan::batch_norm_channels(channels));
        let launch = launch.seed(run.seed).output(&mut dgamma).output(&mut dbeta);
        launch.input(&partials).input(statistics).value(shape).run().unwrap();
        let name = entry::<T>("input_gradient", run);
        let launch = Launch::new(&name).geometry(plan.geometry).seed(run.seed).output(&mut dx).input(&x);
        let (launch, shape) = match (&y, adds) {
            (_, true) => (launch.null().input(&daddend), BatchNormShape { relu: 0, ..shape }),
            (Some(y), false) => (launch.input(y).input(&dy), shape),
            (None, false) => (launch.null().input(&dy), shape),
        };
        let launch = launch.input(statistics).input(gamma).input(beta).input(&dgamma).input(&dbeta);
        launch.value(shape).run().unwrap();
    }
    Gradients {
        dx: dx.values().to_vec(),
        daddend: if adds { daddend.values().to_vec() } else { Vec::new() },
        dgamma: dgamma.values().to_vec(),
        dbeta: dbeta.values().to_vec(),
    }
}

/// Means to float32's rounding and 1e-6 deviations, variances to 1e-6 of themselves.
fn check_statistics<T: Element>(x: &[T], channels: usize, what: &str) {
    let rows = x.len() / channels;
    let (ones, zeros) = (vec![1.0; channels], vec![0.0; channels]);
    let truth = reference::forward(&tensor(x, channels), &ones, &zeros, EPSILON);
    let before: Vec<f32> = (0..2 * channels).map(|index| index as f32 / 4.0).collect();
    for naive in [false, true] {
        let (found, running) = statistics(x, channels, &before, Run { naive, ..Run::default() });
        let (mut mean, mut variance) = (widened(&before[..channels]), widened(&before[channels..]));
        reference::track(&mut mean, &mut variance, &truth, rows, MOMENTUM);
        let moved: Vec<f64> = mean.into_iter().chain(variance).collect();
        for index in 0..2 * channels {
            let (mean, variance) = (truth.mean[index % channels], truth.variance[index % channels]);
            let (expected, tolerance) = if index < channels {
                (mean, ROUNDOFF * mean.abs() + 1e-6 * variance.sqrt())
            } else {
                (variance, 1e-6 * variance)
            };
            let error = (f64::from(found[index]) - expected).abs();
            assert!(error <= tolerance, "{what}, naive {naive}: statistic {index}, {expected}, is off by {error}");
            // The unbiased variance is at most twice the biased one, and a hundredth of it counts.
            let tolerance = ROUNDOFF * moved[index].abs() + 2.0 * (1.0 - MOMENTUM) * tolerance;
            let error = (f64::from(running[index]) - moved[index]).abs();
            assert!(error <= tolerance, "{what}, naive {naive}: running {index}, {}, is off by {error}", moved[index]);
        }
    }
}

#[test]
fn statistics_match_float64() {
    for (rows, channels) in SHAPES {
        check_statistics::<f32>(&normal(rows, channels, 0.5, 2.0, 1), channels, &format!("f32 {rows} x {channels}"));
        check_statistics::<bf16>(&normal(rows, channels, 0.5, 2.0, 2), channels, &format!("bf16 {rows} x {channels}"));
    }
}

#[test]
fn a_mean_far_beyond_the_deviation_costs_nothing() {
    for (mean, deviation) in [(1e3, 1e-3), (-1e4, 0.05), (1.0, 1e-6), (1e15, 1e10)] {
        for (rows, channels) in [(2, 3), (1021, 16), (1021, 17)] {
            let x = normal::<f32>(rows, channels, mean, deviation, 3);
            check_statistics(&x, channels, &format!("{mean} +- {deviation}, {rows} x {channels}"));
        }
    }
}

#[test]
fn an_outlier_costs_nothing_wherever_it_is() {
    for place in [0, 1, 500, 1020] {
        let mut x = normal::<f32>(1021, 16, 0.0, 1.0, 4);
        x[place * 16..][..16].fill(-3e4);
        check_statistics(&x, 16, &format!("an outlier in row {place}"));
    }
}

#[test]
fn a_constant_channel_has_no_variance() {
    let x: Vec<bf16> = (0..300 * 8).map(|index| bf16::from_f32(1.7 + (index % 8) as f32)).collect();
    let (found, _) = statistics(&x, 8, &[0.0; 16], Run::default());
    for (c, value) in x[..8].iter().enumerate() {
        assert_eq!((found[c], found[8 + c]), (value.to_f32(), 0.0));
    }
}

#[test]
fn nan_stays_in_its_channel() {
    let mut x = normal::<f32>(500, 12, 0.0, 1.0, 5);
    x[77 * 12 + 5] = f32::NAN;
    let (found, _) = statistics(&x, 12, &[0.0; 24], Run::default());
    for (index, value) in found.iter().enumerate() {
        assert_eq!(value.is_nan(), index % 12 == 5, "{index}: {value}");
    }
}

/// `found` is within the rounding of its storage and a few roundings of float32 of the terms' sizes.
fn check_values<T: Element>(found: &[T], expected: &[f64], sizes: impl Fn(usize) -> f64, what: &str) {
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let tolerance = storage::<T>() * expected.abs() + 8.0 * ROUNDOFF * sizes(index);
        let error = (found.widen() - expected).abs();
        assert!(error <= tolerance, "{what}, value {index}: {} is not {expected} to {tolerance}", found.widen());
    }
}

fn check_normalise<T: Element>() {
    for (rows, channels) in SHAPES {
        let x = normal::<T>(rows, channels, 0.5, 2.0, 6);
        let addend = normal::<T>(rows, channels, 0.0, 1.0, 7);
        let parameters = Parameters::of(&x, channels);
        let (mean, variance) = parameters.statistics.values().split_at(channels);
        let (gamma, beta) = (widened(parameters.gamma.values()), widened(parameters.beta.values()));
        let plain =
            reference::inference(&tensor(&x, channels), &gamma, &beta, &widened(mean), &widened(variance), EPSILON);
        for adds in [false, true] {
            for relu in [false, true] {
                for naive in [false, true] {
                    let value = |index: usize| {
                        let sum = plain.data[index] + if adds { addend[index].widen() } else { 0.0 };
                        if relu { sum.max(0.0) } else { sum }
                    };
                    let expected: Vec<f64> = (0..x.len()).map(value).collect();
                    let run = Run { naive, relu, seed: 1 };
                    let found = normalise(&x, &parameters, adds.then_some(&addend[..]), run);
                    let sizes = |index: usize| {
                        let channel = index % channels;
                        let product =
                            (x[index].widen().abs() + parameters.mean(channel).abs()) * parameters.scale(channel).abs();
                        product + beta[channel].abs() + addend[index].widen().abs()
                    };
                    check_values(&found, &expected, sizes, &format!("{rows} x {channels}, {adds}, {run:?}"));
                }
            }
        }
    }
}

#[test]
fn normalised_values_match_float64() {
    check_normalise::<f32>();
    check_normalise::<bf16>();
}

fn check_seen<T: Element>() {
    for (rows, channels) in SHAPES {
        let (x, added) = (normal::<T>(rows, channels, 0.5, 2.0, 6), normal::<T>(rows, channels, 0.0, 1.0, 7));
        let parameters = Parameters::of(&x, channels);
        for addend in [None, Some(&added[..])] {
            for (naive, relu) in [(false, false), (false, true), (true, false), (true, true)] {
                let (run, what) = (Run { naive, relu, seed: 1 }, format!("{rows} x {channels}, naive {naive}"));
                let y = normalise(&x, &parameters, addend, run);
                let as_last = Run { relu: false, ..run };
                let [alone, sum] = [None, addend].map(|addend| normalise(&x, &parameters, addend, as_last));
                for looks in [[true, false], [false, true], [true, true]] {
                    let mut seen = [(); 2].map(|()| Buffer::<T>::poisoned(x.len()));
                    let [first, second] = &mut seen;
                    let shown = [looks[0].then_some(first), looks[1].then_some(second)];
                    assert_eq!(normalise_and_show(&x, &parameters, addend, shown, run), y, "{what}");
                    for ((looks, seen), expected) in looks.into_iter().zip(&seen).zip([&alone, &sum]) {
                        assert!(!looks || seen.values() == *expected, "{what}");
                    }
                }
            }
        }
    }
}

/// What is on the way is what it would be as the result, to the last bit, and the result is the same whatever is looked at: the
/// sum is not that of what was rounded to be stored.
#[test]
fn what_is_seen_on_the_way_changes_nothing() {
    check_seen::<f32>();
    check_seen::<bf16>();
}

/// Gradients of the batch norm of x, whose result (with the addend, behind the ReLU) is y.
fn check_gradients<T: Element>(found: &Gradients<T>, x: &[T], g: &[f64], parameters: &Parameters, what: &str) {
    let channels = parameters.channels();
    let rows = x.len() / channels;
    let gamma = widened(parameters.gamma.values());
    let truth =
        reference::backward(&tensor(x, channels), &gamma, &Tensor4::new([rows, 1, 1, channels], g.to_vec()), EPSILON);
    // What the terms of a channel's sums add up to in magnitude.
    let (mut plain, mut product) = (vec![0.0; channels], vec![0.0; channels]);
    for (index, g) in g.iter().enumerate() {
        let c = index % channels;
        plain[c] += g.abs();
        let inverse = (parameters.scale(c) / gamma[c]).abs();
        product[c] += g.abs() * (x[index].widen().abs() + parameters.mean(c).abs()) * inverse;
    }
    for c in 0..channels {
        let error = (f64::from(found.dbeta[c]) - truth.dbeta[c]).abs();
        assert!(error <= 8.0 * ROUNDOFF * plain[c], "{what}: dbeta {} is off by {error}", truth.dbeta[c]);
        let error = (f64::from(found.dgamma[c]) - truth.dgamma[c]).abs();
        assert!(error <= 8.0 * ROUNDOFF * product[c], "{what}: dgamma {} is off by {error}", truth.dgamma[c]);
    }
    let sizes = |index: usize| {
        let c = index % channels;
        let inverse = (parameters.scale(c) / gamma[c]).abs();
        let xhat = (x[index].widen().abs() + parameters.mean(c).abs()) * inverse;
        parameters.scale(c).abs() * (g[index].abs() + plain[c] / rows as f64 + xhat * product[c] / rows as f64)
    };
    check_values(&found.dx, &truth.dx.data, sizes, what);
}

fn check_backward<T: Element>() {
    for (rows, channels) in SHAPES {
        let x = normal::<T>(rows, channels, 0.5, 2.0, 8);
        let addend = normal::<T>(rows, channels, 0.0, 1.0, 9);
        let dy = normal::<T>(rows, channels, 0.1, 1.0, 10);
        let parameters = Parameters::of(&x, channels);
        for (relu, adds) in [(false, false), (false, true), (true, false), (true, true)] {
            let y = normalise(&x, &parameters, adds.then_some(&addend[..]), Run { relu, ..Run::default() });
            let through = |index: usize| !relu || y[index].widen() > 0.0;
            let g: Vec<f64> = (0..x.len()).map(|i| if through(i) { dy[i].widen() } else { 0.0 }).collect();
            for naive in [false, true] {
                let run = Run { naive, relu, seed: 2 };
                let what = format!("{rows} x {channels}, {adds}, {run:?}");
                let found = backward(&x, Some(&y), &dy, &parameters, adds, run);
                check_gradients(&found, &x, &g, &parameters, &what);
                let handed_on: Vec<f64> = found.daddend.iter().map(|value| value.widen()).collect();
                assert!(!adds || handed_on == g, "{what}: the addend's gradient");
                if !adds {
                    assert_eq!(backward(&x, None, &dy, &parameters, adds, run), found, "{what}: y worked out again");
                }
            }
        }
    }
}

#[test]
fn gradients_match_float64() {
    check_backward::<f32>();
}

#[test]
fn gradients_of_bf16_match_float64() {
    check_backward::<bf16>();
}

/// So many rows that a thread comes back for more, of a whole tile of runs of channels and a part of one.
#[test]
fn threads_that_take_several_turns_miss_nothing() {
    for (rows, channels) in [(8500, 128), (4700, 144)] {
        let x = normal::<f32>(rows, channels, 0.5, 2.0, 17);
        let (addend, dy) = (normal::<f32>(rows, channels, 0.0, 1.0, 18), normal::<f32>(rows, channels, 0.0, 1.0, 19));
        let plan = plan::batch_norm(rows, channels, size_of::<f32>());
        assert!(rows.div_ceil(plan.splits) > 4 * 256 / plan.tile, "one turn does: {plan:?}");
        check_statistics(&x, channels, &format!("{rows} x {channels}"));
        let parameters = Parameters::of(&x, channels);
        let run = Run { relu: true, ..Run::default() };
        let y = normalise(&x, &parameters, Some(&addend), run);
        assert!(y == normalise(&x, &parameters, Some(&addend), Run { naive: true, ..run }));
        let g: Vec<f64> = y.iter().zip(&dy).map(|(y, dy)| if *y > 0.0 { f64::from(*dy) } else { 0.0 }).collect();
        let found = backward(&x, Some(&y), &dy, &parameters, true, run);
        check_gradients(&found, &x, &g, &parameters, &format!("{rows} x {channels}"));
        assert!(widened(&found.daddend) == g);
    }
}

/// Without an addend, y may be given and the addend's gradient left out: the mask is asked for twice.
#[test]
fn a_kept_result_serves_both_passes() {
    let x = normal::<f32>(300, 20, 0.5, 2.0, 12);
    let (addend, dy) = (normal::<f32>(300, 20, 0.0, 1.0, 13), normal::<f32>(300, 20, 0.0, 1.0, 14));
    let parameters = Parameters::of(&x, 20);
    let run = Run { relu: true, ..Run::default() };
    let y = normalise(&x, &parameters, Some(&addend), run);
    let with = backward(&x, Some(&y), &dy, &parameters, true, run);
    let without = backward(&x, Some(&y), &dy, &parameters, false, run);
    assert_eq!((with.dx, with.dgamma, with.dbeta), (without.dx, without.dgamma, without.dbeta));
}

#[test]
fn the_same_bits_in_any_order() {
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    let x = normal::<f32>(5000, 20, 0.5, 2.0, 15);
    let dy = normal::<f32>(5000, 20, 0.0, 1.0, 16);
    let parameters = Parameters::of(&x, 20);
    let results = |seed| {
        let run = Run { relu: true, seed, ..Run::default() };
        let (found, running) = statistics(&x, 20, &[0.5; 40], run);
        let y = normalise(&x, &parameters, None, run);
        let Gradients { dx, dgamma, dbeta, .. } = backward(&x, Some(&y), &dy, &parameters, true, run);
        [found, running, y, dx, dgamma, dbeta].map(|values| bits(&values))
    };
    let first = results(1);
    assert!([1, 2, 3].iter().all(|&seed| results(seed) == first));
}

#[test]
fn scratch_is_enough_for_either_type() {
    for (rows, channels) in SHAPES {
        let scratch = plan::batch_norm_scratch(rows, channels);
        assert!([2, 4].iter().all(|&bytes| plan::batch_norm(rows, channels, bytes).partials <= scratch));
    }
}
