//! `gramscope cka --activations` against float64, twice: the definitions of gramscope-reference, and NumPy by a script that
//! shares nothing with this project but the formulas. Run with --nocapture for the largest error of every case.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use gramscope_reference::cka::{Estimator, Kernel};
use gramscope_reference::largest_difference;
use safetensors::Dtype;
use support::activations::{Comparison, Layer, normals, related};

/// `--gram exact` promises this of every entry,
const EXACT: f64 = 1e-6;
/// and `--gram fast` this, for batches of 32 or more.
const FAST: f64 = 1e-3;

/// Runs all cases, holds every entry to the promise, and has NumPy do the same.
fn check(cases: &[Comparison]) {
    let dir = tempfile::tempdir().unwrap();
    let mut written = Vec::new();
    let mut failed = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        let (result, out) = case.run(&dir.path().join(index.to_string()));
        let error = largest_difference(&result.similarity.cka, &case.truth());
        println!("{error:9.2e} {} ({:?}, {:?}, {})", case.name, case.estimator, case.kernel, case.gram);
        let promised = if case.gram == "exact" { EXACT } else { FAST };
        if error > promised {
            failed.push(format!("{}: {error:e}", case.name));
        }
        written.push(out);
    }
    assert!(failed.is_empty(), "further than promised from float64: {failed:?}");
    check_with_numpy(&written);
}

fn check_with_numpy(results: &[PathBuf]) {
    let numpy = Command::new("python3").args(["-c", "import numpy"]).output();
    if !numpy.is_ok_and(|output| output.status.success()) {
        println!("skipped: no python3 with numpy to check {} results with", results.len());
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/numpy_cka.py");
    let output = Command::new("python3").arg(script).args(results).output().unwrap();
    assert!(output.status.success(), "{}{}", support::text(&output.stdout), support::text(&output.stderr));
}

/// The case as it is, and with the other estimator and the other kernel.
fn in_all_ways(case: Comparison) -> Vec<Comparison> {
    let ways = [
        (Estimator::Unbiased, Kernel::Linear),
        (Estimator::Biased, Kernel::Linear),
        (Estimator::Unbiased, Kernel::Rbf(0.5)),
        (Estimator::Biased, Kernel::Rbf(0.5)),
    ];
    ways.map(|(estimator, kernel)| Comparison { estimator, kernel, ..case.clone() }).to_vec()
}

fn in_both_estimators(case: Comparison) -> Vec<Comparison> {
    [Estimator::Unbiased, Estimator::Biased].map(|estimator| Comparison { estimator, ..case.clone() }).to_vec()
}

#[test]
fn features_of_every_number_and_batches_of_every_size() {
    let mut cases = Vec::new();
    for n in [5, 33, 256] {
        let layers = related(n as u32, n, &[1, 3, 64, 1000]);
        cases.extend(in_all_ways(Comparison::new(format!("gaussian, n = {n}"), n, layers)));
    }
    for n in [5, 33] {
        let layers = related(20, n, &[1, 200_000, 200_000]);
        cases.extend(in_both_estimators(Comparison::new(format!("200,000 features, n = {n}"), n, layers)));
    }
    check(&cases);
}

#[test]
fn the_smallest_batch_many_times() {
    // Of four examples centring leaves two degrees of freedom: what is left of a Gram matrix may be arbitrarily little.
    let cases: Vec<_> = (0..24)
        .map(|seed| {
            Comparison::new(format!("n = 4, seed {seed}"), 4, related(100 * seed, 4, &[1, 2, 3, 5, 17, 100, 1000]))
        })
        .collect();
    check(&cases);
}

#[test]
fn features_far_from_zero_and_rows_far_from_the_others() {
    let mut cases = Vec::new();
    for n in [5, 33, 256] {
        let layers = related(30, n, &[3, 40, 100]);
        let moved = layers.iter().map(|layer| layer.map(|_, _, value| 100.0 + 0.1 * value)).collect();
        cases.extend(in_all_ways(Comparison::new(format!("100 +- 0.1, n = {n}"), n, moved)));
        for factor in [1e4, 1e6, 1e8] {
            let outlying = |layer: &Layer| layer.map(|i, _, value| if i == n / 2 { factor * value } else { value });
            // One layer stays as it is.
            let layers = layers.iter().take(2).map(outlying).chain(layers.iter().skip(2).cloned()).collect();
            cases.extend(in_all_ways(Comparison::new(format!("a row of {factor:e}, n = {n}"), n, layers)));
        }
    }
    check(&cases);
}

#[test]
fn scales_from_tiny_to_huge() {
    let mut cases = Vec::new();
    for n in [5, 33, 256] {
        let layers = related(40, n, &[10, 10, 10, 10]);
        let scaled = layers.iter().zip([1e-15, 1.0, 1e15, 1e25]);
        let scaled: Vec<Layer> = scaled.map(|(layer, scale)| layer.map(|_, _, value| scale * value)).collect();
        cases.extend(in_all_ways(Comparison::new(format!("scales 1e-15 .. 1e25, n = {n}"), n, scaled)));
    }
    // Squares of these have no float64.
    let layers = related(41, 33, &[10, 10, 10]);
    let extreme = layers.iter().zip([1e-200, 1.0, 1e200]);
    let extreme = extreme.map(|(layer, scale)| {
        let values = layer.values.iter().map(|value| scale * value).collect();
        Layer { dtype: Dtype::F64, values, ..layer.clone() }
    });
    // Similarities do not depend on the scale; the definitions, without one, would overflow.
    let dir = tempfile::tempdir().unwrap();
    let plain = Comparison::new("float64 scales", 33, layers.clone());
    let (found, _) = Comparison { x: extreme.collect(), ..plain.clone() }.run(dir.path());
    let error = largest_difference(&found.similarity.cka, &plain.truth());
    assert!(error <= EXACT, "scales of 1e-200 and 1e200: {error:e}");
    check(&cases);
}

#[test]
fn several_batches_alike_and_unlike_in_scale() {
    let mut cases = Vec::new();
    for (n, batches) in [(4, 50), (33, 6), (256, 3)] {
        let layers = related(50, n * batches, &[5, 50, 20]);
        let case =
            Comparison { batch_size: n, ..Comparison::new(format!("{batches} batches of {n}"), n * batches, layers) };
        cases.extend(in_all_ways(case.clone()));
        // Batch b of layer l is 10^((b + l) mod 3) times as large.
        let unlike =
            |(index, layer): (usize, &Layer)| layer.map(|i, _, value| value * 10f64.powi(((i / n + index) % 3) as i32));
        let layers = case.x.iter().enumerate().map(unlike).collect();
        cases.extend(in_both_estimators(Comparison {
            name: format!("{} of unlike scale", case.name),
            x: layers,
            ..case
        }));
    }
    check(&cases);
}

#[test]
fn every_format_and_two_files() {
    let mut cases = Vec::new();
    for (n, batch_size) in [(24, 8), (66, 33)] {
        let layers = related(60, n, &[7, 30, 700, 30]);
        let formats = [Dtype::F16, Dtype::BF16, Dtype::F32, Dtype::F64];
        let x: Vec<Layer> = layers.iter().zip(formats).map(|(layer, format)| layer.stored_as(format)).collect();
        let case =
            Comparison { batch_size, ..Comparison::new(format!("four formats, n = {batch_size}"), n, x.clone()) };
        let y = related(60, n, &[11, 12, 13])[1..].to_vec();
        cases.extend(in_both_estimators(case.clone()));
        cases.extend(in_all_ways(Comparison { name: format!("two files, n = {batch_size}"), y: Some(y), ..case }));
    }
    check(&cases);
}

#[test]
fn rows_that_are_repeated() {
    let mut cases = Vec::new();
    for n in [8, 33, 256] {
        for classes in [3, 5] {
            let layers: Vec<Layer> = related(70, classes, &[1, 20, 600]);
            let value = |layer: &Layer, i: usize, f: usize| layer.values[i % classes * layer.features + f];
            let repeat = |layer: &Layer| Layer::from_fn(&layer.name, n, layer.features, |i, f| value(layer, i, f));
            let layers = layers.iter().map(repeat).collect();
            cases.extend(in_all_ways(Comparison::new(format!("{classes} different rows of {n}"), n, layers)));
        }
    }
    check(&cases);
}

#[test]
fn two_hundred_layers() {
    let widths: Vec<usize> = (0..200).map(|layer| 1 + 7 * layer % 40).collect();
    let case = Comparison { batch_size: 33, ..Comparison::new("200 layers", 66, related(1000, 66, &widths)) };
    check(&in_both_estimators(case));
}

#[test]
fn layers_without_a_similarity() {
    let mut cases = Vec::new();
    for n in [5, 33, 256] {
        let mut layers = related(80, n, &[4, 600]);
        layers.push(Layer::from_fn("constant", n, 600, |_, f| 0.1 + f as f64));
        layers.push(Layer::from_fn("single", n, 600, |i, f| if i == 3 { 0.1 + f as f64 } else { 0.3 }));
        cases.extend(in_both_estimators(Comparison::new(format!("dead layers, n = {n}"), n, layers)));
    }
    let dir = tempfile::tempdir().unwrap();
    for (index, case) in cases.iter().enumerate() {
        // With the biased estimator, a layer that tells one example from the others has a similarity.
        let dead = if case.estimator == Estimator::Unbiased { vec!["constant", "single"] } else { vec!["constant"] };
        let (result, _) = case.run(&dir.path().join(index.to_string()));
        assert_eq!(result.info.undefined.x, dead, "{}", case.name);
    }
    check(&cases);
}

#[test]
fn the_fast_way_is_within_its_own_promise() {
    let mut cases = Vec::new();
    for n in [32, 33, 256] {
        let layers = related(90, n, &[1, 3, 64, 1000]);
        let moved = layers.iter().map(|layer| layer.map(|_, _, value| 100.0 + 0.1 * value)).collect();
        let outlying = |layer: &Layer| layer.map(|i, _, value| if i == 7 { 1e8 * value } else { value });
        let outlying = layers.iter().map(outlying).collect();
        for (name, layers) in [("gaussian", layers), ("100 +- 0.1", moved), ("a row of 1e8", outlying)] {
            let case = Comparison::new(format!("{name}, n = {n}"), n, layers);
            cases.extend(in_all_ways(Comparison { gram: "fast", ..case }));
        }
    }
    check(&cases);
}

#[test]
fn an_unbiased_similarity_of_unrelated_layers_is_zero_on_average() {
    // Minibatch CKA of independent Gaussian layers, over 16 seeds of 40 layers: 20 layers x 20 others each.
    const SEEDS: u32 = 16;
    let dir = tempfile::tempdir().unwrap();
    for batch_size in [8, 32, 256] {
        let mean_of = |estimator: Estimator| -> Vec<f64> {
            let mean = |seed: u32| {
                let layers = |first: u32| -> Vec<Layer> {
                    let layer = |index: u32| {
                        let values = normals(10_000 * (seed + 1) + 100 * first + index, batch_size * 6);
                        Layer::from_fn(&format!("layer{index}"), batch_size, 6, |i, f| values[i * 6 + f])
                    };
                    (0..20).map(layer).collect()
                };
                let case = Comparison::new("independent", batch_size, layers(0));
                let case = Comparison { y: Some(layers(1)), estimator, ..case };
                let (result, _) = case.run(&dir.path().join(format!("{batch_size}-{seed}-{estimator:?}")));
                result.similarity.cka.iter().sum::<f64>() / result.similarity.cka.len() as f64
            };
            (0..SEEDS).map(mean).collect()
        };
        let summary = |means: &[f64]| {
            let count = means.len() as f64;
            let mean = means.iter().sum::<f64>() / count;
            let variance = means.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
            (mean, (variance / count).sqrt())
        };
        let (unbiased, error) = summary(&mean_of(Estimator::Unbiased));
        let (biased, biased_error) = summary(&mean_of(Estimator::Biased));
        println!(
            "n = {batch_size}: unbiased {unbiased:.6} +- {error:.6}, biased {biased:.6} +- {biased_error:.6} over {SEEDS} seeds"
        );
        assert!(unbiased.abs() <= 3.0 * error, "n = {batch_size}: {unbiased} with a standard error of {error}");
        assert!(biased >= 10.0 * biased_error, "n = {batch_size}: the biased estimator shows no bias: {biased}");
    }
}
