#![allow(clippy::unwrap_used)]

use std::fs;

use super::*;
use crate::Saved;

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
