#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use gramscope_train::TrainSettings;
use regex::Regex;

use super::*;
use crate::Unfinished;
use crate::activations::{ActivationWriter, ExportOptions, export};
use crate::compare::model::View;
use crate::compare::{MemoryLimits, compare_files};
use crate::testing::{small_data, tiny, trained};

const TEST_IMAGES: usize = 24;

fn no_progress(_: Progress<'_>) {}

/// Two runs of different depth.
fn family(dir: &Path) -> Vec<Run> {
    let deep = TrainSettings { depth: 14, ..tiny(1) };
    vec![
        trained(&dir.join("small"), tiny(0), small_data(TEST_IMAGES)),
        trained(&dir.join("deep"), deep, small_data(TEST_IMAGES)),
    ]
}

fn options(batch_size: usize) -> CompareOptions {
    CompareOptions { batch_size, ..CompareOptions::default() }
}

fn one_pass() -> RunOptions {
    RunOptions { passes: 1, seed: 5, ..RunOptions::default() }
}

/// Writes the activations of `run` for the images of the first pass of [`one_pass`], in its order.
fn export_pass(run: &Run, path: PathBuf) -> PathBuf {
    let runs = std::slice::from_ref(run);
    let images = TestImages::of_runs(runs, None, Limit::None).unwrap();
    let order = batches::shuffled(TEST_IMAGES, 0, 5);
    let model = Model::open_one(run, None, &images, &Processor::Cpu).unwrap();
    let layers: Vec<_> = model.info.layers.iter().cloned().zip(model.shapes().map(<[usize]>::to_vec)).collect();
    let mut writer = ActivationWriter::create(&path, &layers, TEST_IMAGES, &[]).unwrap();
    let batch = Feed::new(&images, std::slice::from_ref(&model), None).unwrap().batch(&order).unwrap();
    let append = &mut |layer: usize, view: View<'_>| match view.unwrap().values() {
        Some(gramscope_cka::Values::F32(values)) => writer.append(layer, values),
        _ => panic!("not float32"),
    };
    model.each_layer(&batch, 0..layers.len(), append).unwrap();
    writer.finish().unwrap();
    path
}

#[test]
fn runs_compare_like_their_stored_activations() {
    let dir = tempfile::tempdir().unwrap();
    let runs = family(dir.path());
    let files: Vec<PathBuf> =
        runs.iter().map(|run| export_pass(run, dir.path().join(format!("{}.safetensors", run.name())))).collect();
    // In one batch the networks see the very tensor that was exported: not a bit may differ. In several, a product with
    // fewer rows may be summed in another order: a few units of 2^-24 in an activation, and CKA moves by no more than
    // twice the relative change of the centred activations.
    for (batch_size, tolerance) in [(TEST_IMAGES, 0.0), (7, 1e-5)] {
        let results = compare_runs(
            &runs,
            &options(batch_size),
            &one_pass(),
            &Processor::Cpu,
            &AtomicBool::new(false),
            &mut no_progress,
        )
        .unwrap();
        assert_eq!(results.len(), 3);
        for (result, (x, y)) in results.iter().zip([(0, 0), (0, 1), (1, 1)]) {
            let other = (x != y).then_some(files[y].as_path());
            let stored =
                compare_files(&files[x], other, &options(batch_size), None, &AtomicBool::new(false), &mut no_progress)
                    .unwrap();
            assert_eq!((&result.info.layers_x, &result.info.layers_y), (&stored.info.layers_x, &stored.info.layers_y));
            assert_eq!((&result.info.model_x, &result.info.model_y), (&stored.info.model_x, &stored.info.model_y));
            assert_eq!(result.info.undefined, stored.info.undefined);
            for (index, (run, file)) in result.similarity.cka.iter().zip(&stored.similarity.cka).enumerate() {
                let same = (run - file).abs() <= tolerance || (run.is_nan() && file.is_nan());
                assert!(same, "pair ({x}, {y}), entry {index}: {run} from the run, {file} from the file");
            }
        }
        assert_eq!(results[0].info.layers_x.len(), 28);
        assert_eq!(results[1].info.layers_y.len(), 49);
        assert_eq!((results[0].info.stages_x[0], results[0].info.stages_x[27]), (0, 4));
    }
}

#[test]
fn every_pass_has_its_own_order_and_the_seed_decides_it() {
    let dir = tempfile::tempdir().unwrap();
    let runs = [trained(&dir.path().join("run"), tiny(0), small_data(TEST_IMAGES))];
    let compare = |passes, seed| {
        let run_options = RunOptions { passes, seed, ..RunOptions::default() };
        let mut results =
            compare_runs(&runs, &options(8), &run_options, &Processor::Cpu, &AtomicBool::new(false), &mut no_progress)
                .unwrap();
        results.remove(0)
    };
    let (one, again, two, other) = (compare(1, 0), compare(1, 0), compare(2, 0), compare(1, 1));
    let bits = |result: &PairResult| result.similarity.cka.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&one), bits(&again));
    assert_ne!(bits(&one), bits(&other));
    assert_ne!(bits(&one), bits(&two));
    assert_eq!((one.info.batches, two.info.batches), (3, 6));
}

#[test]
fn pairs_are_what_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let deep = |seed| TrainSettings { depth: 14, ..tiny(seed) };
    let settings = [tiny(0), deep(0), tiny(1), deep(1)];
    let runs: Vec<Run> = settings
        .into_iter()
        .enumerate()
        .map(|(number, settings)| trained(&dir.path().join(format!("run{number}")), settings, small_data(TEST_IMAGES)))
        .collect();
    let among = |pairs: Pairs, runs: &[Run]| pairs.among(runs).unwrap();
    assert_eq!(among(Pairs::Within, &runs[..3]), [(0, 0), (1, 1), (2, 2)]);
    assert_eq!(among(Pairs::Across, &runs[..3]), [(0, 1), (0, 2), (1, 2)]);
    assert_eq!(among(Pairs::All, &runs[..2]), [(0, 0), (0, 1), (1, 1)]);
    assert_eq!(among(Pairs::These(vec![(1, 0)]), &runs[..2]), [(1, 0)]);
    assert_eq!(among(Pairs::SameArchitecture, &runs), [(0, 2), (1, 3)]);
    assert_eq!(among(Pairs::SameSeed, &runs), [(0, 1), (2, 3)]);
    for pairs in [Pairs::SameArchitecture, Pairs::Across, Pairs::All] {
        assert!(matches!(pairs.among(&[]), Err(Error::Incomparable { .. })), "{pairs:?}");
    }
    assert!(Pairs::SameArchitecture.among(&runs[..2]).unwrap_err().to_string().contains("differ in their seed alone"));
    assert!(Pairs::SameSeed.among(&runs[1..3]).unwrap_err().to_string().contains("have the same seed"));
}

#[test]
fn options_choose_layers_images_and_pairs() {
    let dir = tempfile::tempdir().unwrap();
    let runs = family(dir.path());
    let layers = Some(Regex::new("relu2$|pool").unwrap());
    let options = CompareOptions { layers, examples: Some(11), ..options(5) };
    let run_options = RunOptions { pairs: Pairs::Across, passes: 3, ..RunOptions::default() };
    let mut steps = Vec::new();
    let results = compare_runs(&runs, &options, &run_options, &Processor::Cpu, &AtomicBool::new(false), &mut |step| {
        steps.push((step.done, step.total))
    })
    .unwrap();
    let [result] = &results[..] else { panic!("{} results", results.len()) };
    assert_eq!(result.info.layers_x, ["stage1.block1.relu2", "stage2.block1.relu2", "stage3.block1.relu2", "pool"]);
    assert_eq!(result.info.layers_y.len(), 7);
    assert_eq!(result.info.stages_x, [1, 2, 3, 4]);
    assert_eq!((result.info.batches, result.info.dropped), (6, 1));
    // Six batches of 4 layers of the one and 7 of the other.
    let expected = (0..6).flat_map(|batch| [(11 * batch + 4, 66), (11 * batch + 11, 66)]);
    assert_eq!(steps, expected.collect::<Vec<_>>());
    let message = |options: &CompareOptions, run_options: &RunOptions, runs: &[Run]| {
        compare_runs(runs, options, run_options, &Processor::Cpu, &AtomicBool::new(false), &mut no_progress)
            .map(drop)
            .unwrap_err()
            .to_string()
    };
    let of = |examples: usize| CompareOptions { examples: Some(examples), ..options.clone() };
    for (options, passes, parts) in [
        (of(TEST_IMAGES + 1), 3, ["25 examples", "24"]),
        (of(0), 3, ["0 examples", "at least 1"]),
        (of(11), 0, ["0 passes", "from 1"]),
    ] {
        let message = message(&options, &RunOptions { passes, ..run_options.clone() }, &runs);
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
    assert!(message(&options, &run_options, &runs[..1]).contains("across runs"));
    let nothing = CompareOptions { layers: Some(Regex::new("attention").unwrap()), ..options };
    assert!(message(&nothing, &run_options, &runs).contains("matches \"attention\""));
}

#[test]
fn runs_of_equal_names_get_a_number() {
    let dir = tempfile::tempdir().unwrap();
    let runs = [
        trained(&dir.path().join("a/run"), tiny(0), small_data(TEST_IMAGES)),
        trained(&dir.path().join("b/run"), tiny(1), small_data(TEST_IMAGES)),
    ];
    let results =
        compare_runs(&runs, &options(8), &one_pass(), &Processor::Cpu, &AtomicBool::new(false), &mut no_progress)
            .unwrap();
    let names: Vec<_> = results.iter().map(|result| (&result.info.model_x[..], &result.info.model_y[..])).collect();
    assert_eq!(names, [("run", "run"), ("run", "run-2"), ("run-2", "run-2")]);
}

#[test]
fn runs_of_different_data_need_a_word() {
    let dir = tempfile::tempdir().unwrap();
    let other_training = DataConfig { train_images: Some(30), ..small_data(TEST_IMAGES) };
    let fewer = DataConfig { test_images: Some(16), ..small_data(TEST_IMAGES) };
    let larger = DataConfig { image_side: Some(11), ..small_data(TEST_IMAGES) };
    let runs = [small_data(TEST_IMAGES), other_training, fewer, larger.clone()]
        .into_iter()
        .enumerate()
        .map(|(number, data)| trained(&dir.path().join(format!("run{number}")), tiny(0), data))
        .collect::<Vec<_>>();
    let compare_with = |chosen: [usize; 2], options: &CompareOptions, run_options: &RunOptions| {
        let runs: Vec<Run> = chosen.iter().map(|&index| Run::open(runs[index].dir()).unwrap()).collect();
        compare_runs(&runs, options, run_options, &Processor::Cpu, &AtomicBool::new(false), &mut no_progress)
    };
    let compare = |chosen, run_options: &RunOptions| compare_with(chosen, &options(8), run_options);
    let first =
        |examples| compare_with([0, 2], &CompareOptions { examples: Some(examples), ..options(8) }, &one_pass());
    // Other training images, the same test images.
    compare([0, 1], &one_pass()).unwrap();
    let message = compare([0, 2], &one_pass()).map(drop).unwrap_err().to_string();
    assert!(["run0", "run2", "choose data"].iter().all(|part| message.contains(part)), "{message}");
    // The first images of both are the same ones.
    first(16).unwrap();
    let message = first(17).map(drop).unwrap_err().to_string();
    assert!(message.contains("17 examples") && message.contains("16"), "{message}");
    // Chosen images come in the size that the networks take, where all take the same.
    for data in [small_data(TEST_IMAGES), larger.clone()] {
        compare([0, 2], &RunOptions { data: Some(data), ..one_pass() }).unwrap();
    }
    let message = compare([0, 3], &RunOptions { data: Some(larger), ..one_pass() }).map(drop).unwrap_err().to_string();
    assert!(["run3", "9 x 9", "11 x 11"].iter().all(|part| message.contains(part)), "{message}");
}

#[test]
fn exports_hold_the_first_images_and_spare_what_is_not_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(&dir.path().join("run"), tiny(0), small_data(TEST_IMAGES));
    let path = dir.path().join("new/out.safetensors");
    let stop = AtomicBool::new(false);
    let export = |options: &ExportOptions| export(&run, &path, options, &Processor::Cpu, &stop, &mut no_progress);
    stop.store(true, Ordering::Relaxed);
    assert!(matches!(export(&ExportOptions::default()), Err(Error::Interrupted)));
    assert_eq!(std::fs::read_dir(dir.path().join("new")).unwrap().count(), 0);
    stop.store(false, Ordering::Relaxed);
    assert_eq!(export(&ExportOptions::default()).unwrap(), TEST_IMAGES);
    let some = ExportOptions {
        examples: Some(10),
        layers: Some(Regex::new("^(pool|logits)$").unwrap()),
        ..ExportOptions::default()
    };
    assert_eq!(export(&some).unwrap(), 10);
    let file = crate::activations::ActivationFile::open(&path, None).unwrap();
    assert_eq!(file.layers().iter().map(|layer| layer.name.as_str()).collect::<Vec<_>>(), ["pool", "logits"]);
    assert_eq!((file.examples(), file.layers()[1].features), (10, 10));
    // The logits are those that the run kept of its test images.
    let predictions = std::fs::read(run.dir().join("predictions.safetensors")).unwrap();
    let predictions = safetensors::SafeTensors::deserialize(&predictions).unwrap();
    let kept: &[u8] = &predictions.tensor("logits").unwrap().data()[..400];
    let mut rows = crate::activations::Rows::default();
    let activation = file.read(1, &(0..10).collect::<Vec<_>>(), &mut rows).unwrap();
    let Some(gramscope_cka::Values::F32(logits)) = activation.values() else { panic!("not float32") };
    for (logit, kept) in logits.iter().zip(kept.chunks(4)) {
        let kept = f32::from_le_bytes(kept.try_into().unwrap());
        assert_eq!(*logit, kept);
    }
    let too_many = ExportOptions { examples: Some(25), ..ExportOptions::default() };
    assert!(export(&too_many).unwrap_err().to_string().contains("25 examples"));
    std::fs::write(&path, "irreplaceable").unwrap();
    assert!(matches!(export(&some), Err(Error::File { mend: [Setting::Out], .. })));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "irreplaceable");
}

#[test]
fn a_limit_on_memory_changes_no_bit() {
    let dir = tempfile::tempdir().unwrap();
    let runs = family(dir.path());
    let compare = |host: Option<u64>| {
        let memory = MemoryLimits { host, device: None };
        let (options, stop) = (CompareOptions { memory, ..options(7) }, AtomicBool::new(false));
        let mut steps = 0;
        let mut count = |progress: Progress<'_>| {
            steps += 1;
            assert!(progress.done <= progress.total);
        };
        let results = compare_runs(&runs, &options, &one_pass(), &Processor::Cpu, &stop, &mut count)?;
        let numbers = results.iter().flat_map(|result| [&result.similarity.cka, &result.similarity.hsic_xy]);
        Ok::<_, Error>((numbers.flatten().map(|value| value.to_bits()).collect::<Vec<_>>(), steps))
    };
    let (whole, steps) = compare(None).unwrap();
    let Err(Error::Memory { needed, .. }) = compare(Some(1)) else { panic!("one byte will do") };
    let row = gramscope_cka::Comparison::panel_bytes(&[1], 7);
    let mut all_steps = vec![steps];
    for rows in [0, 1, 7, 31] {
        let (parts, steps) = compare(Some(needed + rows * row)).unwrap();
        assert_eq!(parts, whole, "{rows} rows more than are needed");
        all_steps.push(steps);
    }
    // Both networks once a batch, and more often the less there is.
    assert!(all_steps[1] > all_steps[3] && all_steps[3] > all_steps[4] && all_steps[4] > steps, "{all_steps:?}");
}

#[test]
fn noise_takes_the_place_of_images_and_depends_on_the_seed() {
    let dir = tempfile::tempdir().unwrap();
    let runs = [trained(&dir.path().join("run"), tiny(0), small_data(TEST_IMAGES))];
    let compare = |noise, seed| {
        let run_options = RunOptions { passes: 1, seed, noise, ..RunOptions::default() };
        let stop = AtomicBool::new(false);
        compare_runs(&runs, &options(8), &run_options, &Processor::Cpu, &stop, &mut no_progress).unwrap().remove(0)
    };
    let (noise, again, other, images) = (compare(true, 5), compare(true, 5), compare(true, 6), compare(false, 5));
    let bits = |result: &PairResult| bits(std::slice::from_ref(result));
    assert_eq!(bits(&noise), bits(&again));
    assert_ne!(bits(&noise), bits(&other));
    assert_ne!(bits(&noise), bits(&images));
    let described = serde_json::to_value(&noise.info.data).unwrap();
    assert_eq!((&described["noise"], &described["examples"]), (&true.into(), &TEST_IMAGES.into()));
    assert!(serde_json::to_value(&images.info.data).unwrap().get("noise").is_none());

    // Of 24 x 9 x 9 x 3 bytes, the mean within five standard deviations, 73.9 / sqrt(5832), of 127.5; no image twice.
    let data = TestImages::of_runs(&runs, None, Limit::None).unwrap().into_noise(5).unwrap();
    let images: Vec<&[u8]> = (0..data.len()).map(|image| data.split().image(image)).collect();
    let mean = images.concat().iter().map(|&byte| f64::from(byte)).sum::<f64>() / 5832.0;
    assert!((mean - 127.5).abs() <= 5.0 * 73.9 / 5832.0_f64.sqrt(), "{mean}");
    assert!((1..images.len()).all(|image| !images[..image].contains(&images[image])));
    let labels = |data: &TestImages| data.split().labels().to_vec();
    assert_eq!(labels(&data), labels(&TestImages::of_runs(&runs, None, Limit::None).unwrap()));
}

/// The numbers of a result, undefined ones too.
fn bits(results: &[PairResult]) -> Vec<u64> {
    let numbers = results.iter().flat_map(|result| {
        let similarity = &result.similarity;
        [&similarity.cka, &similarity.hsic_xy, &similarity.hsic_xx, &similarity.hsic_yy]
    });
    numbers.flatten().map(|value| value.to_bits()).collect()
}

/// A comparison that is stopped in the midst of batch `last`, from 1, if at all: its results, and the batch that it began with.
fn compare_until(
    last: usize,
    runs: &[Run],
    options: &CompareOptions,
    run_options: &RunOptions,
) -> (Result<Vec<PairResult>>, usize) {
    let (stop, mut first) = (AtomicBool::new(false), 0);
    let results = compare_runs(runs, options, run_options, &Processor::Cpu, &stop, &mut |progress| {
        first = if first == 0 { progress.batch } else { first };
        stop.store(progress.batch >= last, Ordering::Relaxed);
        assert!(progress.done <= progress.total);
    });
    (results, first)
}

/// The only file in `dir`, that of sums.
fn kept_sums(dir: &Path) -> PathBuf {
    let files: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

#[test]
fn a_stopped_comparison_goes_on_after_its_last_batch_to_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let runs = family(dir.path());
    let run_options = RunOptions { passes: 3, ..one_pass() };
    let whole = compare_until(usize::MAX, &runs, &options(7), &run_options).0.unwrap();
    assert_eq!(whole[0].info.batches, 9);
    let place = dir.path().join("results");
    let keeping = |unfinished: &Unfinished| CompareOptions { unfinished: Some(unfinished.clone()), ..options(7) };
    // The first batch, the middle of a pass, its end, twice; all of it long before it is time to write sums.
    let mut done = 0;
    for last in [1, 2, 3, 8, 9] {
        let (results, first) = compare_until(last, &runs, &keeping(&Unfinished::within(&place)), &run_options);
        assert_eq!(first, done + 1);
        assert!(matches!(results, Err(Error::Interrupted)));
        done = last;
    }
    // All batches are over: what is left is to finish.
    let unfinished = Unfinished::within(&place);
    let (results, first) = compare_until(1, &runs, &keeping(&unfinished), &run_options);
    assert_eq!((bits(&results.unwrap()), first), (bits(&whole), 0));
    unfinished.remove();
    unfinished.remove();
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0);
}

/// Whatever it depends on, and beside comparisons of anything else, whose sums lie in the same directory.
#[test]
fn a_comparison_goes_on_from_no_sums_but_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let runs = family(dir.path());
    let place = dir.path().join("results");
    let keeping = CompareOptions { unfinished: Some(Unfinished::always(&place)), ..options(7) };
    let first_of = |last: usize, runs: &[Run], options: &CompareOptions, run_options: &RunOptions| {
        let unfinished = Some(Unfinished::always(&place));
        compare_until(last, runs, &CompareOptions { unfinished, ..options.clone() }, run_options).1
    };
    assert_eq!(first_of(2, &runs, &keeping, &one_pass()), 1);
    let file = kept_sums(&place);
    let written = std::fs::read(&file).unwrap();
    let again = trained(&dir.path().join("again"), tiny(2), small_data(TEST_IMAGES));
    let biased = gramscope_cka::Options { estimator: gramscope_cka::Estimator::Biased, ..keeping.cka };
    let some = CompareOptions { layers: Some(Regex::new("relu").unwrap()), ..keeping.clone() };
    let reversed = [runs[1].clone(), runs[0].clone()];
    let with_batches = [runs[0].clone().with_batch_statistics(), runs[1].clone()];
    let others = [
        first_of(2, &[again, runs[1].clone()], &keeping, &one_pass()),
        first_of(2, &with_batches, &keeping, &one_pass()),
        first_of(2, &runs[..1], &keeping, &one_pass()),
        first_of(2, &reversed, &keeping, &one_pass()),
        first_of(2, &runs, &some, &one_pass()),
        first_of(2, &runs, &keeping, &RunOptions { pairs: Pairs::Within, ..one_pass() }),
        first_of(2, &runs, &CompareOptions { cka: biased, ..keeping.clone() }, &one_pass()),
        first_of(2, &runs, &keeping, &RunOptions { noise: true, ..one_pass() }),
        // As many batches of as many images, of another number of them.
        first_of(2, &runs, &CompareOptions { examples: Some(23), ..keeping.clone() }, &one_pass()),
        first_of(2, &runs, &CompareOptions { batch_size: 8, ..keeping.clone() }, &one_pass()),
        first_of(2, &runs, &CompareOptions { keep_partial: true, batch_size: 10, ..keeping.clone() }, &one_pass()),
        first_of(2, &runs, &keeping, &RunOptions { seed: 6, ..one_pass() }),
        first_of(2, &runs, &keeping, &RunOptions { passes: 2, ..one_pass() }),
    ];
    assert_eq!(others, [1; 13]);
    assert_eq!(std::fs::read(&file).unwrap(), written);
    // A run that has another name is the same one.
    std::fs::rename(runs[0].dir(), dir.path().join("renamed")).unwrap();
    let renamed = [Run::open(&dir.path().join("renamed")).unwrap(), runs[1].clone()];
    assert_eq!(first_of(usize::MAX, &renamed, &keeping, &one_pass()), 3);
}

#[test]
fn damaged_sums_are_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let runs = family(dir.path());
    let place = dir.path().join("results");
    let keeping = CompareOptions { unfinished: Some(Unfinished::always(&place)), ..options(7) };
    let whole = compare_until(usize::MAX, &runs, &options(7), &one_pass()).0.unwrap();
    compare_until(2, &runs, &keeping, &one_pass()).0.unwrap_err();
    let file = kept_sums(&place);
    // Another comparison's under the name of this one's.
    let biased = gramscope_cka::Options { estimator: gramscope_cka::Estimator::Biased, ..keeping.cka };
    let other = CompareOptions { unfinished: Some(Unfinished::always(&place)), cka: biased, ..options(7) };
    std::fs::remove_file(&file).unwrap();
    compare_until(2, &runs, &other, &one_pass()).0.unwrap_err();
    std::fs::rename(kept_sums(&place), &file).unwrap();
    let (results, first) = compare_until(usize::MAX, &runs, &keeping, &one_pass());
    assert_eq!((bits(&results.unwrap()), first), (bits(&whole), 1));
    for damage in [|bytes: &mut Vec<u8>| *bytes.last_mut().unwrap() ^= 1, |bytes: &mut Vec<u8>| bytes.truncate(9)] {
        let mut bytes = std::fs::read(&file).unwrap();
        damage(&mut bytes);
        std::fs::write(&file, bytes).unwrap();
        let (results, first) = compare_until(usize::MAX, &runs, &keeping, &one_pass());
        assert_eq!((bits(&results.unwrap()), first), (bits(&whole), 1));
    }
    // What cannot be read may be whole, and is not written over.
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    let error = compare_until(usize::MAX, &runs, &keeping, &one_pass()).0.unwrap_err().to_string();
    assert!(error.contains("cannot read") && error.contains("unfinished-"), "{error}");
}

/// Sums that cannot be written are no reason to give up: results may have another place by then.
#[test]
fn a_comparison_that_cannot_keep_its_sums_ends_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let runs = family(dir.path());
    let whole = compare_until(usize::MAX, &runs, &options(7), &one_pass()).0.unwrap();
    std::fs::write(dir.path().join("results"), "a file where the directory would be").unwrap();
    let keeping = CompareOptions { unfinished: Some(Unfinished::always(&dir.path().join("results"))), ..options(7) };
    assert_eq!(bits(&compare_until(usize::MAX, &runs, &keeping, &one_pass()).0.unwrap()), bits(&whole));
    // Where it is stopped they are lost, which is said instead of a promise.
    let error = compare_until(2, &runs, &keeping, &one_pass()).0.unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

/// The sums of each are in a file of its own, and each is removed.
#[test]
fn comparisons_share_a_place() {
    let dir = tempfile::tempdir().unwrap();
    let runs = family(dir.path());
    let place = dir.path().join("results");
    let unfinished = Unfinished::within(&place);
    let of_size = |size: usize| CompareOptions { unfinished: Some(unfinished.clone()), ..options(size) };
    for size in [7, 8] {
        compare_until(2, &runs, &of_size(size), &one_pass()).0.unwrap_err();
    }
    for size in [7, 8] {
        assert_eq!(compare_until(usize::MAX, &runs, &of_size(size), &one_pass()).1, 3);
    }
    unfinished.remove();
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0);
}
