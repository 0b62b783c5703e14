#![allow(clippy::unwrap_used)]

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::Saved;
use crate::testing::{small_data, tiny, trained};

/// A made result: before and after an addition in two stages, another layer, and a probe that diverged.
pub(crate) fn made(model: &str) -> ProbeResult {
    let layer = |layer: &str, accuracies: Option<(f64, f64)>| ProbedLayer {
        layer: layer.to_owned(),
        accuracy_train: accuracies.map(|(train, _)| train),
        accuracy_test: accuracies.map(|(_, test)| test),
    };
    let diverged = "stage2.block1.shortcut";
    ProbeResult {
        info: ProbeInfo {
            model: model.to_owned(),
            indices: vec![0, 1, 2, 3, 4, 5],
            stages: vec![0, 1, 1, 2, 2, 2, 4],
            epochs: 2,
            batch_size: 128,
            learning_rate: 0.01,
            momentum: 0.9,
            pool: false,
            seed: 0,
            train_images: 60,
            test_images: 40,
            diverged: vec![Diverged { layer: diverged.to_owned(), epoch: 1, batch: 3 }],
            data: ExampleSource::Images { name: "builtin".to_owned(), dir: None },
            versions: Versions::current(),
        },
        layers: vec![
            layer("stem.conv", Some((0.4, 0.3))),
            layer("stage1.block1.bn2", Some((0.5, 0.25))),
            layer("stage1.block1.add", Some((0.625, 0.5))),
            layer("stage2.block1.bn2", Some((0.75, 0.5))),
            layer(diverged, None),
            layer("stage2.block1.add", Some((1.0, 0.75))),
        ],
    }
}

#[test]
fn what_is_saved_is_loaded_and_damage_is_found() {
    let dir = tempfile::tempdir().unwrap();
    made("older").write(dir.path()).unwrap();
    made("run").write(dir.path()).unwrap();
    assert_eq!(ProbeResult::load(dir.path()).unwrap(), made("run"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    // The list alone is what other tools read: a probe that diverged has null for both accuracies.
    let text = fs::read_to_string(dir.path().join(PROBES)).unwrap();
    let list: Vec<serde_json::Map<String, serde_json::Value>> = serde_json::from_str(&text).unwrap();
    assert_eq!(list[4].keys().collect::<Vec<_>>(), ["accuracy_test", "accuracy_train", "layer"]);
    assert!(list[4]["accuracy_test"].is_null() && list[5]["accuracy_test"] == 0.75);

    for (name, from, to) in [(PROBES, "0.625", "0.725"), (INFO, "\"epochs\": 2", "\"epochs\": 3")] {
        let text = fs::read_to_string(dir.path().join(name)).unwrap();
        assert!(text.contains(from));
        fs::write(dir.path().join(name), text.replace(from, to)).unwrap();
        assert!(ProbeResult::load(dir.path()).unwrap_err().to_string().contains("checksum"), "{name}");
        fs::write(dir.path().join(name), text).unwrap();
    }
}

#[test]
fn what_a_killed_process_left_is_replaced_and_what_is_not_ours_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    made("run").write(dir.path()).unwrap();
    fs::remove_file(dir.path().join(INFO)).unwrap();
    made("run").write(dir.path()).unwrap();
    for name in ["config.toml", PROBES, INFO, PICTURE] {
        let dir = dir.path().join(format!("{name}-holder"));
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join(name), "irreplaceable").unwrap();
        assert!(made("run").write(&dir).unwrap_err().to_string().contains("another place"));
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
    }
}

#[test]
fn settings_out_of_range_are_named() {
    let base = ProbeOptions::default;
    for (options, named) in [
        (ProbeOptions { epochs: 0, ..base() }, "0 epochs"),
        (ProbeOptions { batch_size: 0, ..base() }, "batch size of 0"),
        (ProbeOptions { learning_rate: f64::NAN, ..base() }, "learning rate of NaN"),
        (ProbeOptions { learning_rate: 0.0, ..base() }, "learning rate of 0"),
        (ProbeOptions { momentum: 1.0, ..base() }, "momentum of 1"),
    ] {
        assert!(options.check().unwrap_err().to_string().contains(named), "{named}");
    }
    base().check().unwrap();
}

/// Probes of `run` that are stopped in batch `last`, from 1, if at all: their results, and the batch that they began with.
fn probe_until(last: usize, run: &Run, options: &ProbeOptions) -> (Result<ProbeResult>, usize) {
    let (stop, mut first) = (AtomicBool::new(false), 0);
    let result = probe(run, options, &Processor::Cpu, &stop, &mut |progress| {
        first = if first == 0 { progress.batch } else { first };
        stop.store(progress.batch >= last, Ordering::Relaxed);
        assert!(progress.done <= progress.total);
    });
    (result, first)
}

/// The name of the only file in `dir` and what it holds.
fn kept(dir: &Path) -> (OsString, Vec<u8>) {
    let files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    (files[0].file_name(), fs::read(files[0].path()).unwrap())
}

/// Layers whole and pooled, and of a number of features that fills no block of lanes; a probe that has diverged among them.
#[test]
fn stopped_probes_go_on_after_their_last_batch_to_the_same_marks() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(&dir.path().join("run"), tiny(0), small_data(24));
    let place = dir.path().join("results");
    for (pool, learning_rate) in [(false, 0.01), (true, 0.01), (false, 1e38)] {
        // Three steps an epoch, and four batches of test images.
        let options = ProbeOptions { epochs: 3, batch_size: 7, pool, learning_rate, ..ProbeOptions::default() };
        let whole = probe_until(usize::MAX, &run, &options).0.unwrap();
        assert_eq!(whole.info.diverged.is_empty(), learning_rate < 1.0);
        let keeping =
            |unfinished: &Unfinished| ProbeOptions { unfinished: Some(unfinished.clone()), ..options.clone() };
        // The first batch, the middle of an epoch, its end, the last, and in the test, which is begun again.
        let mut learned = 0;
        for last in [1, 2, 3, 8, 9, 11, 13] {
            let (result, first) = probe_until(last, &run, &keeping(&Unfinished::within(&place)));
            assert_eq!(first, learned + 1, "stopped in {last}");
            assert!(matches!(result, Err(Error::Interrupted)));
            learned = last.min(9);
        }
        // What they have learned by then is what probes have that are stopped once.
        let once = dir.path().join("once");
        probe_until(9, &run, &keeping(&Unfinished::within(&once))).0.unwrap_err();
        assert_eq!(kept(&once), kept(&place));
        fs::remove_dir_all(&once).unwrap();
        let unfinished = Unfinished::within(&place);
        let (result, first) = probe_until(usize::MAX, &run, &keeping(&unfinished));
        assert_eq!((result.unwrap(), first), (whole, 10));
        unfinished.remove();
        assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
    }
}

/// Whatever they depend on.
#[test]
fn probes_go_on_from_none_but_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(&dir.path().join("run"), tiny(0), small_data(24));
    let place = dir.path().join("results");
    let base = || ProbeOptions {
        epochs: 3,
        batch_size: 7,
        unfinished: Some(Unfinished::within(&place)),
        ..ProbeOptions::default()
    };
    let first_of = |run: &Run, options: ProbeOptions| probe_until(4, run, &options).1;
    assert_eq!(first_of(&run, base()), 1);
    let other = trained(&dir.path().join("other"), tiny(1), small_data(24));
    let others = [
        first_of(&other, base()),
        first_of(&run, ProbeOptions { layers: Some(Regex::new("relu").unwrap()), ..base() }),
        first_of(&run, ProbeOptions { epochs: 4, ..base() }),
        first_of(&run, ProbeOptions { batch_size: 6, ..base() }),
        first_of(&run, ProbeOptions { learning_rate: 0.02, ..base() }),
        first_of(&run, ProbeOptions { momentum: 0.5, ..base() }),
        first_of(&run, ProbeOptions { pool: true, ..base() }),
        first_of(&run, ProbeOptions { examples: Some(19), ..base() }),
        first_of(&run, ProbeOptions { seed: 1, ..base() }),
        first_of(&run, ProbeOptions { data: Some(DataConfig { train_images: Some(21), ..small_data(24) }), ..base() }),
    ];
    assert_eq!(others, [1; 10]);
    assert_eq!(first_of(&run, base()), 5);
}
