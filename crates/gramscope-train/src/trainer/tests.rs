//! Interrupted and resumed equals left alone; nothing that exists is overwritten.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::data::{self, DataConfig};

fn setting() -> (RunConfig, Dataset) {
    let data =
        DataConfig { train_images: Some(40), test_images: Some(20), image_side: Some(8), ..DataConfig::default() };
    let train = TrainSettings {
        depth: 8,
        width: 0.25,
        seed: 3,
        epochs: 3,
        batch_size: 16,
        checkpoint_every: Some(2),
        ..TrainSettings::default()
    };
    (RunConfig::new(data.clone(), train), data::load(&data).unwrap())
}

/// Everything of a run that does not depend on the time it took.
fn bits(dir: &Path) -> Vec<Vec<u8>> {
    let metrics = Run::open(dir).unwrap().metrics().unwrap();
    let timeless = metrics.into_iter().map(|epoch| EpochMetrics { images_per_second: 0.0, seconds: 0.0, ..epoch });
    let mut bits = vec![format!("{:?}", timeless.collect::<Vec<_>>()).into_bytes()];
    for file in [
        "config.toml",
        "predictions.safetensors",
        "checkpoints/latest.safetensors",
        "checkpoints/epoch-0002.safetensors",
    ] {
        bits.push(fs::read(dir.join(file)).unwrap());
    }
    bits
}

#[test]
fn a_run_broken_off_anywhere_ends_with_the_same_bits() {
    let (config, dataset) = setting();
    let root = tempfile::tempdir().unwrap();
    let whole = root.path().join("whole");
    train(&config, &dataset, &whole, &Device::Cpu, Start::Fresh, &mut |_| {}).unwrap();
    let (steps, expected) = (2 * 3, bits(&whole));
    for stop in 1..=steps {
        let dir = root.path().join(format!("stopped-at-{stop}"));
        let mut step = 0;
        let mut progress = |event: Event<'_>| {
            step += usize::from(matches!(event, Event::Step { .. }));
            // As a kill would, but inside this process.
            assert!(step < stop, "stopped");
        };
        let stopped = AssertUnwindSafe(|| train(&config, &dataset, &dir, &Device::Cpu, Start::Fresh, &mut progress));
        assert!(catch_unwind(stopped).is_err());
        let run = train(&config, &dataset, &dir, &Device::Cpu, Start::Resume, &mut |_| {}).unwrap();
        assert!(run.is_finished());
        assert!(bits(&dir) == expected, "stopped at step {stop}");
    }
}

#[test]
fn a_finished_run_is_not_trained_again() {
    let (config, dataset) = setting();
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("run");
    train(&config, &dataset, &dir, &Device::Cpu, Start::Fresh, &mut |_| {}).unwrap();
    let fresh = train(&config, &dataset, &dir, &Device::Cpu, Start::Fresh, &mut |_| {});
    assert!(matches!(fresh, Err(Error::Occupied { .. })));
    let mut events = 0;
    train(&config, &dataset, &dir, &Device::Cpu, Start::Resume, &mut |_| events += 1).unwrap();
    assert_eq!(events, 0);
}

#[test]
fn other_images_and_damaged_checkpoints_are_refused() {
    let (config, dataset) = setting();
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("run");
    train(&config, &dataset, &dir, &Device::Cpu, Start::Fresh, &mut |_| {}).unwrap();
    fs::remove_file(dir.join("predictions.safetensors")).unwrap();
    let mut other = dataset.clone();
    std::mem::swap(&mut other.train, &mut other.test);
    let larger = RunConfig::new(config.data.clone(), TrainSettings { batch_size: 16, ..config.train.clone() });
    let error = train(&larger, &other, &dir, &Device::Cpu, Start::Resume, &mut |_| {}).unwrap_err();
    assert!(matches!(error, Error::OtherData { .. }), "{error}");
    let latest = dir.join("checkpoints/latest.safetensors");
    let bytes = fs::read(&latest).unwrap();
    fs::write(&latest, &bytes[..bytes.len() / 2]).unwrap();
    let error = train(&config, &dataset, &dir, &Device::Cpu, Start::Resume, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("latest.safetensors"), "{error}");
}

#[test]
fn a_run_learns_and_its_network_can_be_read() {
    let (mut config, dataset) = setting();
    config.train = TrainSettings { epochs: 12, learning_rate: 0.1, crop_padding: 0, flip: false, ..config.train };
    let root = tempfile::tempdir().unwrap();
    let run = train(&config, &dataset, &root.path().join("run"), &Device::Cpu, Start::Fresh, &mut |_| {}).unwrap();
    let metrics = run.metrics().unwrap();
    assert!(metrics[11].train_loss < metrics[0].train_loss, "{metrics:?}");
    assert_eq!(run.kept_epochs().unwrap(), [2, 4, 6, 8, 10, 12]);
    let test = evaluate(&run.network(&Device::Cpu).unwrap(), &dataset.test, &Device::Cpu).unwrap();
    assert_eq!(test.loss, metrics[11].test_loss);
    let earlier = evaluate(&run.network_at(2, &Device::Cpu).unwrap(), &dataset.test, &Device::Cpu).unwrap();
    assert_eq!(earlier.loss, metrics[1].test_loss);
}
