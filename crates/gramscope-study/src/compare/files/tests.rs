#![allow(clippy::unwrap_used, clippy::single_range_in_vec_init)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use gramscope_cka::{Estimator, Gram, Kernel, Options};
use gramscope_nn::random::{Philox, Stream};
use gramscope_reference::{Matrix, cka};
use regex::Regex;
use serde_json::json;

use super::*;
use crate::Unfinished;
use crate::activations::tests::{Layer, write_layers};
use crate::compare::MemoryLimits;

/// `exact` promises 1e-6 of float64 in every entry.
const TOLERANCE: f64 = 1e-6;

/// The result of comparing `a` with `b`, which nobody stops.
fn compared(
    a: &Path,
    b: Option<&Path>,
    options: &CompareOptions,
    shuffled: Option<ShuffledPasses>,
) -> Result<PairResult> {
    compare_files(a, b, options, shuffled, &AtomicBool::new(false), &mut no_progress)
}

struct Folder {
    dir: tempfile::TempDir,
}

impl Folder {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn write(&self, name: &str, layers: &[Layer<'_>]) -> PathBuf {
        let path = self.dir.path().join(name);
        write_layers(&path, layers, None);
        path
    }
}

/// Gaussian values, a pure function of `seed`.
fn noise(seed: u32, len: usize) -> Vec<f32> {
    let mut numbers = Philox::new(7, Stream::Drawing).sequence(seed);
    (0..len).map(|_| numbers.normal() as f32).collect()
}

/// Three related layers of different sizes.
fn layers(seed: u32, examples: usize) -> Vec<Layer<'static>> {
    let base = noise(seed, examples * 6);
    let square = base.iter().map(|value| value * value + 100.0).collect();
    let first = base.chunks(6).map(|row| row[0] - row[3]).collect();
    vec![("base", vec![examples, 3, 2], base), ("square", vec![examples, 6], square), ("first", vec![examples], first)]
}

fn no_progress(_: Progress<'_>) {}

fn options(batch_size: usize, keep_partial: bool) -> CompareOptions {
    CompareOptions { batch_size, keep_partial, ..CompareOptions::default() }
}

/// Minibatch CKA of all pairs of layers in float64.
fn expected(x: &[Layer<'_>], y: &[Layer<'_>], batches: &[std::ops::Range<usize>], options: Options) -> Vec<f64> {
    let estimator = match options.estimator {
        Estimator::Unbiased => cka::Estimator::Unbiased,
        Estimator::Biased => cka::Estimator::Biased,
    };
    let kernel = || match options.kernel {
        Kernel::Linear => cka::Kernel::Linear,
        Kernel::Rbf { bandwidth } => cka::Kernel::Rbf(bandwidth),
    };
    let cut = |(_, shape, values): &Layer<'_>| -> Vec<Matrix> {
        let features = shape[1..].iter().product::<usize>();
        let batch = |range: &std::ops::Range<usize>| {
            let values = &values[range.start * features..range.end * features];
            Matrix::new(range.len(), features, values.iter().map(|&value| f64::from(value)).collect())
        };
        batches.iter().map(batch).collect()
    };
    let pair = |x: &Layer<'_>, y: &Layer<'_>| cka::minibatch(&cut(x), &cut(y), kernel(), estimator);
    x.iter().flat_map(|x| y.iter().map(move |y| (x, y))).map(|(x, y)| pair(x, y)).collect()
}

fn assert_close(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let same = if expected.is_nan() { found.is_nan() } else { (found - expected).abs() <= TOLERANCE };
        assert!(same, "entry {index}: {found}, expected {expected}");
    }
}

#[test]
fn two_files_agree_with_the_definition() {
    let folder = Folder::new();
    let (x, y) = (layers(1, 27), layers(2, 27));
    let (a, b) = (folder.write("a.safetensors", &x), folder.write("b.safetensors", &y[..2]));
    for estimator in [Estimator::Unbiased, Estimator::Biased] {
        for kernel in [Kernel::Linear, Kernel::Rbf { bandwidth: 0.5 }] {
            for (keep_partial, batches) in [(false, vec![0..11, 11..22]), (true, vec![0..11, 11..22, 22..27])] {
                let cka = Options { estimator, kernel, gram: Gram::Exact, ..Options::default() };
                let options = CompareOptions { cka, ..options(11, keep_partial) };
                let result = compared(&a, Some(&b), &options, None).unwrap();
                assert_close(&result.similarity.cka, &expected(&x, &y[..2], &batches, cka));
                let info = &result.info;
                assert_eq!((info.layers_x.len(), info.layers_y.len(), info.batches), (3, 2, batches.len()));
                let (last, dropped) = if keep_partial { (5, 0) } else { (11, 5) };
                assert_eq!((info.batch_size, info.last_batch, info.dropped), (11, last, dropped));
                assert_eq!((info.model_x.as_str(), info.model_y.as_str()), ("a", "b"));
            }
        }
    }
}

/// A file that is sorted gives what a file gives that is not: every pass cuts another order of its examples into batches.
#[test]
fn shuffled_passes_agree_with_the_definition() {
    let folder = Folder::new();
    let x = layers(1, 27);
    let a = folder.write("a.safetensors", &x);
    let passes = ShuffledPasses { passes: 3, seed: 5 };
    let orders: Vec<usize> = (0..3).flat_map(|pass| batches::shuffled(27, pass, 5)[..22].to_vec()).collect();
    let in_order = |(name, shape, values): &Layer<'static>| {
        let features = shape[1..].iter().product::<usize>();
        let values = orders.iter().flat_map(|&row| values[row * features..][..features].to_vec()).collect();
        (*name, [&[orders.len()], &shape[1..]].concat(), values)
    };
    let shuffled: Vec<Layer<'_>> = x.iter().map(in_order).collect();
    let ranges: Vec<_> = (0..6).map(|batch| batch * 11..(batch + 1) * 11).collect();
    let result = compared(&a, None, &options(11, false), Some(passes)).unwrap();
    assert_close(&result.similarity.cka, &expected(&shuffled, &shuffled, &ranges, Options::default()));
    assert_eq!((result.info.batches, result.info.dropped), (6, 5));
    let DataInfo::Activations { examples: 27, shuffled, .. } = result.info.data else {
        panic!("{:?}", result.info.data)
    };
    assert_eq!(shuffled, Some(passes));
    let none = Some(ShuffledPasses { passes: 0, seed: 0 });
    let error = compared(&a, None, &options(11, false), none).unwrap_err().to_string();
    assert!(error.contains("0 passes"), "{error}");
}

#[test]
fn one_file_is_compared_with_itself() {
    let folder = Folder::new();
    let x = layers(3, 13);
    let a = folder.write("a.safetensors", &x);
    let result = compared(&a, None, &options(13, false), None).unwrap();
    assert_close(&result.similarity.cka, &expected(&x, &x, &[0..13], Options::default()));
    assert_eq!(result.info.model_x, result.info.model_y);
    // A copy under the same name elsewhere is another model.
    std::fs::create_dir(folder.dir.path().join("copy")).unwrap();
    let copy = folder.write("copy/a.safetensors", &x);
    let across = compared(&a, Some(&copy), &options(13, false), None).unwrap();
    assert_close(&across.similarity.cka, &result.similarity.cka);
    assert_eq!((across.info.model_x.as_str(), across.info.model_y.as_str()), ("a", "a-2"));
}

#[test]
fn a_dead_layer_is_named_and_nan() {
    let folder = Folder::new();
    let mut x = layers(4, 9);
    x.push(("constant", vec![9, 2], [3.5, -1.0].repeat(9)));
    let mut alive_once = vec![0.0; 9];
    alive_once[4] = 2.0;
    x.push(("alive once", vec![9], alive_once));
    let a = folder.write("a.safetensors", &x);
    let result = compared(&a, None, &options(9, false), None).unwrap();
    assert_eq!(result.info.undefined.x, ["constant", "alive once"]);
    assert_eq!(result.info.undefined.x, result.info.undefined.y);
    for (index, value) in result.similarity.cka.iter().enumerate() {
        assert_eq!(value.is_nan(), index / 5 >= 3 || index % 5 >= 3, "entry {index} is {value}");
    }
}

#[test]
fn layers_are_chosen_by_name_in_both_files() {
    let folder = Folder::new();
    let a = folder.write("a.safetensors", &layers(5, 8));
    let b = folder.write("b.safetensors", &layers(6, 8)[..2]);
    let choose = |pattern: &str| CompareOptions { layers: Some(Regex::new(pattern).unwrap()), ..options(8, false) };
    let result = compared(&a, Some(&b), &choose("^(first|base)$"), None).unwrap();
    assert_eq!(
        (result.info.layers_x, result.info.layers_y),
        (vec!["base".into(), "first".into()], vec!["base".into()])
    );
    let error = compared(&a, Some(&b), &choose("first"), None).unwrap_err().to_string();
    assert!(error.contains("b.safetensors") && error.contains("matches \"first\""), "{error}");
}

#[test]
fn files_that_do_not_belong_together_are_refused() {
    let folder = Folder::new();
    let a = folder.write("a.safetensors", &layers(7, 8));
    let b = folder.write("b.safetensors", &layers(7, 9));
    let error = |options: &CompareOptions| compared(&a, Some(&b), options, None).map(drop).unwrap_err().to_string();
    let message = error(&options(4, false));
    assert!(["a.safetensors has 8", "b.safetensors has 9"].iter().all(|part| message.contains(part)), "{message}");
    let message = compared(&a, None, &options(256, false), None).unwrap_err().to_string();
    assert!(message.contains("a.safetensors: 8 examples") && message.contains("smaller ones"), "{message}");
    assert_eq!(compared(&a, None, &options(256, true), None).unwrap().info.last_batch, 8);
}

#[test]
fn the_first_examples_are_compared_as_a_file_of_them_alone() {
    let folder = Folder::new();
    let layers = layers(12, 11);
    let first = |(name, shape, values): &Layer<'static>| {
        (*name, [&[8], &shape[1..]].concat(), values[..8 * (values.len() / 11)].to_vec())
    };
    let first: Vec<_> = layers.iter().map(first).collect();
    let (whole, part) = (folder.write("whole.safetensors", &layers), folder.write("part.safetensors", &first));
    let of =
        |path: &Path, examples| compared(path, None, &CompareOptions { examples, ..options(4, false) }, None).unwrap();
    let (some, all) = (of(&whole, Some(8)), of(&part, None));
    assert!(some.similarity == all.similarity && some.info.data != all.info.data);
    assert!(matches!(some.info.data, DataInfo::Activations { examples: 8, .. }));
}

#[test]
fn nan_and_infinity_are_placed() {
    let folder = Folder::new();
    let healthy = Regex::new("base|first").unwrap();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = layers(8, 12);
        x[1].2[6 * 6 + 1] = bad; // example 6 of the layer `square`
        let a = folder.write("a.safetensors", &x);
        let error = compared(&a, None, &options(4, false), None).unwrap_err();
        let Error::NonFinite { model, layer, batch, example, within } = &error else { panic!("{error}") };
        assert!(model.ends_with("a.safetensors"));
        assert_eq!((layer.as_str(), *batch, *example, *within), ("square", 2, 7, Within::File));
        // Wherever it comes in the batches, and where the batches of the first pass do not have it.
        for seed in 0..8 {
            let passes = ShuffledPasses { passes: 64, seed };
            let error = compared(&a, None, &options(5, false), Some(passes)).unwrap_err();
            let Error::NonFinite { batch, example: 7, within: Within::File, .. } = error else { panic!("{error}") };
            let order = batches::shuffled(12, (batch as u32 - 1) / 2, seed);
            assert!(order[(batch - 1) % 2 * 5..][..5].contains(&6), "batch {batch}");
        }
        // What is left out does no harm, and neither does what is in no batch.
        let without = CompareOptions { layers: Some(healthy.clone()), ..options(4, false) };
        compared(&a, None, &without, None).unwrap();
        compared(&a, None, &options(6, false), None).unwrap_err();
        compared(&a, None, &options(5, false), None).unwrap_err();
        x[1].2[6 * 6 + 1] = 0.0;
        x[1].2[6 * 11] = bad; // the last example
        let a = folder.write("a.safetensors", &x);
        compared(&a, None, &options(11, false), None).unwrap();
    }
}

#[test]
fn progress_counts_every_layer_of_every_batch_once() {
    let folder = Folder::new();
    let a = folder.write("a.safetensors", &layers(9, 9));
    let b = folder.write("b.safetensors", &layers(10, 9)[..1]);
    let mut seen = Vec::new();
    compare_files(&a, Some(&b), &options(4, false), None, &AtomicBool::new(false), &mut |step| {
        seen.push((step.done, step.batch, step.subject == "b"))
    })
    .unwrap();
    let expected: Vec<_> = (1..=8).map(|done| (done, if done <= 4 { 1 } else { 2 }, done % 4 == 0)).collect();
    assert_eq!(seen, expected);
    let mut totals = Vec::new();
    compare_files(&a, None, &options(4, false), None, &AtomicBool::new(false), &mut |step| {
        totals.push((step.total, step.batches))
    })
    .unwrap();
    assert_eq!(totals, [(6, 2); 6]);
}

#[test]
fn the_order_of_the_metadata_is_the_order_of_the_result() {
    let folder = Folder::new();
    let x = layers(11, 8);
    let path = folder.dir.path().join("a.safetensors");
    write_layers(&path, &x, Some(json!({ "layers": r#"["first", "base", "square"]"# })));
    let result = compared(&path, None, &options(8, false), None).unwrap();
    assert_eq!(result.info.layers_x, ["first", "base", "square"]);
    let ordered = [x[2].clone(), x[0].clone(), x[1].clone()];
    assert_close(&result.similarity.cka, &expected(&ordered, &ordered, &[0..8], Options::default()));
}

/// The result where `limit` bytes of memory may be taken.
fn limited(a: &Path, b: &Path, limit: Option<u64>) -> Result<PairResult> {
    compared(
        a,
        Some(b),
        &CompareOptions { memory: MemoryLimits { host: limit, device: None }, ..options(8, true) },
        Some(ShuffledPasses { passes: 1, seed: 3 }),
    )
}

#[test]
fn a_limit_on_memory_changes_no_bit_and_is_named_where_it_is_too_small() {
    let folder = Folder::new();
    // 33 layers of 20 examples and one whose batch of 8 takes 160 MB: it has to stay in the file.
    let mut many: Vec<Layer<'_>> = (0..33).map(|index| ("layer", vec![20, 7], noise(index, 140))).collect();
    let names: Vec<String> = (0..33).map(|index| format!("layer{index}")).collect();
    for (layer, name) in many.iter_mut().zip(&names) {
        layer.0 = name;
    }
    let wide: Vec<f32> = noise(99, 4000).into_iter().cycle().take(20 * 5_000_001).collect();
    many.push(("wide", vec![20, 5_000_001], wide));
    let [a, b] = [folder.write("a.safetensors", &many), folder.write("b.safetensors", &many[..3])];
    let whole = limited(&a, &b, None).unwrap();
    assert!(whole.similarity.cka.iter().all(|value| value.is_finite()));
    let needed = |error: &Error| match error {
        Error::Memory { needed, .. } => *needed,
        other => panic!("{other}"),
    };
    let error = limited(&a, &b, Some(1)).unwrap_err();
    let least = needed(&error);
    for part in ["smaller batches or fewer layers", "allow more", " bytes"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert!(limited(&a, &b, Some(least - 1)).is_err());
    let row = gramscope_cka::Comparison::panel_bytes(&[1], 8);
    // Two rows, three, some, and so many that the layers fit but the wide one does not.
    for limit in [least, least + row, least + 5 * row, least + 100 * row] {
        let parts = limited(&a, &b, Some(limit)).unwrap();
        let bits = |result: &PairResult| result.similarity.cka.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&parts), bits(&whole), "{limit} bytes, of which {least} are needed");
    }
}

/// Shuffled and as they lie; ended by a panic in the midst of a batch, as by a signal that nobody minds.
#[test]
fn an_interrupted_comparison_goes_on_from_its_last_batch_to_the_same_bits() {
    const STOPPED: &str = "stopped by the test";
    let folder = Folder::new();
    let a = folder.write("a.safetensors", &layers(20, 27));
    let place = folder.dir.path().join("results");
    for shuffled in [None, Some(ShuffledPasses { passes: 2, seed: 9 })] {
        let compare = |unfinished: Option<Unfinished>, examples: Option<usize>, last: usize| {
            let mut first = 0;
            let options = CompareOptions { unfinished, examples, ..options(4, true) };
            let result = catch_unwind(AssertUnwindSafe(|| {
                compare_files(&a, None, &options, shuffled, &AtomicBool::new(false), &mut |progress| {
                    first = if first == 0 { progress.batch } else { first };
                    assert!(progress.done <= progress.total);
                    if progress.batch >= last {
                        std::panic::panic_any(STOPPED);
                    }
                })
            }));
            (result.map_err(|payload| *payload.downcast_ref::<&str>().unwrap()), first)
        };
        let keeping = || Some(Unfinished::always(&place));
        let whole = compare(None, None, usize::MAX).0.unwrap().unwrap();
        assert_eq!(compare(keeping(), None, 3).0.unwrap_err(), STOPPED);
        // As many batches of as many examples, taken from fewer.
        assert_eq!(compare(keeping(), Some(26), 3).1, 1);
        let (result, first) = compare(keeping(), None, usize::MAX);
        assert_eq!((result.unwrap().unwrap().similarity, first), (whole.similarity, 3), "{shuffled:?}");
        // A file that was written since is another.
        folder.write("a.safetensors", &layers(20, 27));
        assert_eq!(compare(keeping(), None, usize::MAX).1, 1);
    }
}

/// Long before it is time to write sums.
#[test]
fn a_stopped_comparison_goes_on_after_its_last_batch() {
    let folder = Folder::new();
    let a = folder.write("a.safetensors", &layers(20, 27));
    let options = CompareOptions { unfinished: Some(Unfinished::within(folder.dir.path())), ..options(4, true) };
    let compare = |last: usize| {
        let (stop, mut first) = (AtomicBool::new(false), 0);
        let result = compare_files(&a, None, &options, None, &stop, &mut |progress| {
            first = if first == 0 { progress.batch } else { first };
            stop.store(progress.batch >= last, Ordering::Relaxed);
        });
        (result, first)
    };
    assert!(matches!(compare(2), (Err(Error::Interrupted), 1)));
    assert!(matches!(compare(5), (Err(Error::Interrupted), 3)));
    assert!(matches!(compare(usize::MAX), (Ok(_), 6)));
}

/// What was summed is of the file as it was when it was opened.
#[test]
fn a_file_that_is_written_while_it_is_compared_is_begun_anew() {
    let folder = Folder::new();
    let a = folder.write("a.safetensors", &layers(20, 27));
    let options = CompareOptions { unfinished: Some(Unfinished::within(folder.dir.path())), ..options(4, true) };
    let stop = AtomicBool::new(false);
    let result = compare_files(&a, None, &options, None, &stop, &mut |progress| {
        if progress.batch == 2 && !stop.swap(true, Ordering::Relaxed) {
            std::thread::sleep(std::time::Duration::from_millis(20));
            folder.write("a.safetensors", &layers(20, 27));
        }
    });
    assert!(matches!(result, Err(Error::Interrupted)), "{result:?}");
    let mut first = 0;
    compare_files(&a, None, &options, None, &AtomicBool::new(false), &mut |progress| {
        first = if first == 0 { progress.batch } else { first };
    })
    .unwrap();
    assert_eq!(first, 1);
}
