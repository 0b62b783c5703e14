//! Interrupted and resumed equals left alone; nothing that exists is overwritten.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use gramscope_nn::Backend;

use super::*;
use crate::data::{self, DataConfig};
use crate::verify;

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

/// Every file of a run with what it holds, but for the times that metrics.jsonl tells.
fn bits(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let metrics = Run::open(dir).unwrap().metrics().unwrap();
    let timeless = metrics.into_iter().map(|epoch| EpochMetrics { images_per_second: 0.0, seconds: 0.0, ..epoch });
    let mut bits = vec![(PathBuf::from("metrics"), format!("{:?}", timeless.collect::<Vec<_>>()).into_bytes())];
    for folder in [dir.to_path_buf(), dir.join("checkpoints")] {
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
        let files = files.filter(|path| !path.ends_with("metrics.jsonl"));
        bits.extend(files.map(|path| (path.strip_prefix(dir).unwrap().to_path_buf(), fs::read(&path).unwrap())));
    }
    bits.sort();
    bits
}

fn train_quietly(setting: &(RunConfig, Dataset), dir: &Path, start: Start) -> Result<Run> {
    train(&setting.0, &setting.1, dir, &Processor::Cpu, start, &AtomicBool::new(false), &mut |_| {})
}

/// The files of the run in `dir` that [`verify`] finds something wrong with.
fn wrong(dir: &Path) -> Vec<PathBuf> {
    let files = verify(dir).unwrap().into_iter().filter(|file| file.problem.is_some());
    files.map(|file| file.path.strip_prefix(dir).unwrap().to_path_buf()).collect()
}

/// The steps of all epochs of [`setting`].
const STEPS: usize = 2 * 3;

#[test]
fn a_run_broken_off_anywhere_ends_with_the_same_bits() {
    let setting = setting();
    let root = tempfile::tempdir().unwrap();
    let whole = root.path().join("whole");
    train_quietly(&setting, &whole, Start::Fresh).unwrap();
    let expected = bits(&whole);
    for stop in 1..=STEPS {
        let dir = root.path().join(format!("stopped-at-{stop}"));
        let mut step = 0;
        let mut progress = |event: Event<'_>| {
            step += usize::from(matches!(event, Event::Step { .. }));
            // As a kill would, but inside this process.
            assert!(step < stop, "stopped");
        };
        let stopped = AssertUnwindSafe(|| {
            train(&setting.0, &setting.1, &dir, &Processor::Cpu, Start::Fresh, &AtomicBool::new(false), &mut progress)
        });
        assert!(catch_unwind(stopped).is_err());
        assert_eq!(wrong(&dir), Vec::<PathBuf>::new(), "stopped at step {stop}");
        assert!(train_quietly(&setting, &dir, Start::Resume).unwrap().is_finished());
        assert!(bits(&dir) == expected, "stopped at step {stop}");
    }
}

/// Asked to stop while the test images are evaluated, or when an epoch has just ended: that epoch's steps are not lost, no step of the next
/// is made, and the run ends with the same bits.
#[test]
fn a_run_that_is_asked_to_stop_between_epochs_begins_no_step() {
    let setting = setting();
    let root = tempfile::tempdir().unwrap();
    let whole = root.path().join("whole");
    train_quietly(&setting, &whole, Start::Fresh).unwrap();
    for (name, while_evaluating, at) in [("evaluating", true, (2, 2)), ("ended", false, (3, 0))] {
        let asks = |event: &Event<'_>| match event {
            Event::Step { epoch: 2, step: 2, .. } => while_evaluating,
            Event::Epoch(metrics) => metrics.epoch == 2,
            _ => false,
        };
        let (dir, stop) = (root.path().join(name), AtomicBool::new(false));
        let stopped = train(&setting.0, &setting.1, &dir, &Processor::Cpu, Start::Fresh, &stop, &mut |event| {
            stop.fetch_or(asks(&event), Ordering::Relaxed);
        });
        match stopped {
            Err(Error::Interrupted { epoch, steps, .. }) => assert_eq!((epoch, steps), at, "{name}"),
            other => panic!("{name}: {other:?}"),
        }
        assert_eq!(Run::open(&dir).unwrap().metrics().unwrap().len(), at.0 - 1, "{name}");
        assert!(train_quietly(&setting, &dir, Start::Resume).unwrap().is_finished());
        assert!(bits(&dir) == bits(&whole), "{name}");
    }
}

/// Asked to stop after each step and at each epoch's end in turn, again and again: no step is made twice, and none is lost.
#[test]
fn a_run_that_is_asked_to_stop_goes_on_from_that_step() {
    let setting = setting();
    let root = tempfile::tempdir().unwrap();
    let (whole, dir) = (root.path().join("whole"), root.path().join("stopped"));
    train_quietly(&setting, &whole, Start::Fresh).unwrap();
    let (mut made, mut at) = (0, (1, 0));
    let mut places = Vec::new();
    loop {
        // Where an epoch's steps are over it is evaluated, and then asked.
        let stop = AtomicBool::new(at.1 < 2);
        let trained = train(&setting.0, &setting.1, &dir, &Processor::Cpu, Start::Resume, &stop, &mut |event| {
            made += usize::from(matches!(event, Event::Step { .. }));
            stop.fetch_or(matches!(event, Event::Epoch(_)), Ordering::Relaxed);
        });
        match trained {
            Err(Error::Interrupted { epoch, steps, .. }) => at = (epoch, steps),
            finished => {
                assert!(finished.unwrap().is_finished());
                break;
            }
        }
        places.push(at);
    }
    assert_eq!(places, [(1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (3, 0), (3, 1), (3, 2)]);
    assert_eq!(made, STEPS);
    assert!(bits(&dir) == bits(&whole));
}

/// The disk fails at every point in turn, full or beyond the user's quota, and stays failed: the message says which, what has
/// its final name is whole, nothing else is left, and the run goes on once the disk is well again.
#[test]
fn a_full_disk_costs_nothing_but_time() {
    // The last epoch is one that is kept, and one that is not.
    for epochs in [2, 3] {
        let (mut config, dataset) = setting();
        config.train.epochs = epochs;
        fail_at_every_point(&(config, dataset));
    }
}

fn fail_at_every_point(setting: &(RunConfig, Dataset)) {
    let root = tempfile::tempdir().unwrap();
    let whole = root.path().join("whole");
    train_quietly(setting, &whole, Start::Fresh).unwrap();
    let expected = bits(&whole);
    let failures = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded];
    for (points, failure) in (0..).flat_map(|points| failures.map(|failure| (points, failure))) {
        let dir = root.path().join(format!("failed-at-{points}-{failure:?}"));
        let (result, failed) = fault::fail_from(points, failure, || train_quietly(setting, &dir, Start::Fresh));
        if !failed {
            assert!(points > 20, "only {points} points were passed");
            break;
        }
        let error = result.unwrap_err().to_string();
        assert!(error.contains(&failure.to_string()) && error.contains(dir.to_str().unwrap()), "{error}");
        for checkpoint in RunDirectory::new(&dir).every_checkpoint().unwrap().iter().filter(|path| path.is_file()) {
            checkpoint::load(checkpoint).unwrap();
        }
        // Before there are settings it is no run yet, and when it is trained to its end it has no predictions.
        let is_run = RunDirectory::new(&dir).config().is_file();
        let wrong = if is_run { wrong(&dir) } else { Vec::new() };
        assert!(wrong.iter().all(|file| file.ends_with("predictions.safetensors")), "{points}, {failure}: {wrong:?}");
        train_quietly(setting, &dir, Start::Resume).unwrap();
        assert!(bits(&dir) == expected, "failed at point {points}: {failure}");
    }
}

#[test]
fn a_damaged_checkpoint_costs_the_epochs_after_the_newest_good_one() {
    let setting = setting();
    let root = tempfile::tempdir().unwrap();
    let whole = root.path().join("whole");
    train_quietly(&setting, &whole, Start::Fresh).unwrap();
    let expected = bits(&whole);
    let checkpoints = ["latest", "previous", "epoch-0002"].map(|name| format!("checkpoints/{name}.safetensors"));
    for damaged in 1..checkpoints.len() {
        for checkpoint in &checkpoints[..damaged] {
            let mut bytes = fs::read(whole.join(checkpoint)).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(whole.join(checkpoint), bytes).unwrap();
        }
        assert!(!Run::open(&whole).unwrap().is_finished());
        let mut epochs = 0;
        train(&setting.0, &setting.1, &whole, &Processor::Cpu, Start::Resume, &AtomicBool::new(false), &mut |event| {
            epochs += usize::from(matches!(event, Event::Epoch(_)));
        })
        .unwrap();
        assert_eq!(epochs, 1, "the third epoch alone is to be trained again");
        let found = bits(&whole);
        let differ = |name: &str| {
            found.iter().find(|file| file.0.ends_with(name)) != expected.iter().find(|file| file.0.ends_with(name))
        };
        for name in ["metrics", "predictions.safetensors", "latest.safetensors", "epoch-0002.safetensors"] {
            assert!(!differ(name), "{name} differs");
        }
    }
}

#[test]
fn a_finished_run_is_not_trained_again() {
    let (config, dataset) = setting();
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("run");
    train(&config, &dataset, &dir, &Processor::Cpu, Start::Fresh, &AtomicBool::new(false), &mut |_| {}).unwrap();
    let fresh = train(&config, &dataset, &dir, &Processor::Cpu, Start::Fresh, &AtomicBool::new(false), &mut |_| {});
    assert!(matches!(fresh, Err(Error::Occupied { .. })));
    let mut events = 0;
    train(&config, &dataset, &dir, &Processor::Cpu, Start::Resume, &AtomicBool::new(false), &mut |_| events += 1)
        .unwrap();
    assert_eq!(events, 0);
}

#[test]
fn other_images_and_damaged_checkpoints_are_refused() {
    let (config, dataset) = setting();
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("run");
    train(&config, &dataset, &dir, &Processor::Cpu, Start::Fresh, &AtomicBool::new(false), &mut |_| {}).unwrap();
    fs::remove_file(dir.join("predictions.safetensors")).unwrap();
    let mut other = dataset.clone();
    std::mem::swap(&mut other.train, &mut other.test);
    let larger = RunConfig::new(config.data.clone(), TrainSettings { batch_size: 16, ..config.train.clone() });
    let error =
        train(&larger, &other, &dir, &Processor::Cpu, Start::Resume, &AtomicBool::new(false), &mut |_| {}).unwrap_err();
    assert!(matches!(error, Error::OtherData { .. }), "{error}");
    let latest = dir.join("checkpoints/latest.safetensors");
    let bytes = fs::read(&latest).unwrap();
    fs::write(&latest, &bytes[..bytes.len() / 2]).unwrap();
    for other in ["previous.safetensors", "epoch-0002.safetensors"] {
        fs::remove_file(dir.join("checkpoints").join(other)).unwrap();
    }
    let error = train(&config, &dataset, &dir, &Processor::Cpu, Start::Resume, &AtomicBool::new(false), &mut |_| {})
        .unwrap_err()
        .to_string();
    assert!(error.contains("latest.safetensors"), "{error}");
}

#[test]
fn a_run_learns_and_its_network_can_be_read() {
    let (mut config, dataset) = setting();
    config.train = TrainSettings { epochs: 12, learning_rate: 0.1, crop_padding: 0, flip: false, ..config.train };
    let root = tempfile::tempdir().unwrap();
    let run = train(
        &config,
        &dataset,
        &root.path().join("run"),
        &Processor::Cpu,
        Start::Fresh,
        &AtomicBool::new(false),
        &mut |_| {},
    )
    .unwrap();
    let metrics = run.metrics().unwrap();
    assert!(metrics[11].train_loss < metrics[0].train_loss, "{metrics:?}");
    assert_eq!(run.kept_epochs().unwrap(), [2, 4, 6, 8, 10, 12]);
    let test = evaluate(&run.network(&Device::Cpu).unwrap(), &dataset.test, &Device::Cpu, &AtomicBool::new(false))
        .unwrap()
        .unwrap();
    assert_eq!(test.loss, metrics[11].test_loss);
    let earlier = evaluate(
        &run.at(2).unwrap().network(&Device::Cpu).unwrap(),
        &dataset.test,
        &Device::Cpu,
        &AtomicBool::new(false),
    )
    .unwrap()
    .unwrap();
    assert_eq!(earlier.loss, metrics[1].test_loss);
}

/// Whatever was recorded is read again, and nothing is the CPU.
#[test]
fn the_backend_of_a_run_is_recorded() {
    let (config, _) = setting();
    for backend in [Backend::Cpu, Backend::CudaF32, Backend::CudaTf32, Backend::CudaBf16, Backend::CudaBf16Cudnn] {
        let config = config.clone().with_backend(backend);
        let text = config.to_toml().unwrap();
        assert_eq!(text.contains(&format!("backend = \"{backend}\"")), backend != Backend::Cpu, "{text}");
        assert_eq!(RunConfig::parse(&text).unwrap(), config);
    }
    let text = config.with_backend(Backend::CudaF32).to_toml().unwrap();
    let error = RunConfig::parse(&text.replace("cuda-f32", "abacus")).unwrap_err().to_string();
    assert!(error.contains("backend") && error.contains("abacus") && error.contains("cuda-bf16"), "{error}");
}

/// What is left at its default changes nothing: neither config.toml nor a number.
#[test]
fn settings_that_say_nothing_are_not_written_and_change_no_bit() {
    let (config, dataset) = setting();
    let root = tempfile::tempdir().unwrap();
    let dirs = [root.path().join("a"), root.path().join("b")];
    train_quietly(&(config.clone(), dataset.clone()), &dirs[0], Start::Fresh).unwrap();
    let text = fs::read_to_string(dirs[0].join("config.toml")).unwrap();
    for key in ["backend", "family", "shake", "colour", "random_labels", "init", "first_pc"] {
        assert!(!text.contains(key), "{key} in {text}");
    }
    assert_eq!(RunConfig::parse(&text).unwrap().train, config.train);
    assert!(!fs::read_to_string(dirs[0].join("metrics.jsonl")).unwrap().contains("gpu"));
    let nothing = TrainSettings { first_pc_penalty: 1.0, first_pc_threshold: 0.9999, ..config.train.clone() };
    train_quietly(&(RunConfig::new(config.data, nothing), dataset), &dirs[1], Start::Fresh).unwrap();
    let [plain, nothing] = dirs.map(|dir| bits(&dir));
    let checkpoints = |files: &[(PathBuf, Vec<u8>)]| {
        files.iter().filter(|(name, _)| name.starts_with("checkpoints")).cloned().collect::<Vec<_>>()
    };
    assert!(
        checkpoints(&plain) == checkpoints(&nothing),
        "a penalty that is never above its threshold changed a weight"
    );
}

fn state(run: &Run) -> std::collections::BTreeMap<String, Vec<f32>> {
    let state = run.network(&Device::Cpu).unwrap().state();
    state.into_iter().map(|(name, tensor)| (name, tensor.flatten_all().unwrap().to_vec1().unwrap())).collect()
}

/// Each changes what is learned, and a run that was interrupted with it ends as one that was not.
#[test]
fn every_variation_changes_the_run_and_survives_interruption() {
    let (config, dataset) = setting();
    let root = tempfile::tempdir().unwrap();
    let plain = train_quietly(&(config.clone(), dataset.clone()), &root.path().join("plain"), Start::Fresh).unwrap();
    let base = config.train.clone();
    let donor = Some(plain.dir().to_path_buf());
    for (name, settings) in [
        ("labels", TrainSettings { random_labels: true, ..base.clone() }),
        ("colour", TrainSettings { colour_distortion: 0.5, ..base.clone() }),
        ("shake", TrainSettings { shake_shake: true, ..base.clone() }),
        ("penalty", TrainSettings { first_pc_penalty: 1.0, ..base.clone() }),
        ("init", TrainSettings { init_from: donor.clone(), ..base.clone() }),
        ("stages", TrainSettings { init_from: donor, init_stages: Some(1), ..base }),
    ] {
        let setting = (RunConfig::new(config.data.clone(), settings), dataset.clone());
        let dirs = [root.path().join(name), root.path().join(format!("{name}-stopped"))];
        let run = train_quietly(&setting, &dirs[0], Start::Fresh).unwrap();
        assert_ne!(state(&run), state(&plain), "{name}");
        let stop = AtomicBool::new(true);
        for _ in 0..2 {
            let stopped = train(&setting.0, &setting.1, &dirs[1], &Processor::Cpu, Start::Resume, &stop, &mut |_| {});
            assert!(matches!(stopped, Err(Error::Interrupted { .. })), "{name}");
        }
        train_quietly(&setting, &dirs[1], Start::Resume).unwrap();
        assert!(bits(&dirs[0]) == bits(&dirs[1]), "{name}");
    }
}

#[test]
fn random_labels_are_uniform_and_depend_on_seed_and_image_alone() {
    const N: usize = 20_000;
    let images = Split::new(vec![0; 3 * N], vec![0; N], 1).unwrap();
    let classes = (0..7).map(|class| class.to_string()).collect();
    let dataset = Dataset { name: "made".to_owned(), classes, image_side: 1, train: images.clone(), test: images };
    let labels = |seed, random_labels| {
        training_labels(&TrainSettings { seed, random_labels, ..TrainSettings::default() }, &dataset)
    };
    assert_eq!(labels(1, true), labels(1, true));
    assert_ne!(labels(1, true), labels(2, true));
    assert_eq!(labels(1, false), dataset.train.labels());
    // Five standard deviations of a count of N draws with probability 1/7.
    let (mean, deviation) = (N as f64 / 7.0, (N as f64 * 6.0 / 49.0).sqrt());
    for class in 0..7 {
        let count = labels(1, true).into_iter().filter(|&label| label == class).count() as f64;
        assert!((count - mean).abs() <= 5.0 * deviation, "class {class}: {count} of {N}");
    }
}

/// The state a run starts with, of which the settings say how much is another's.
#[test]
fn a_run_starts_where_another_ended() {
    let (config, dataset) = setting();
    let root = tempfile::tempdir().unwrap();
    let donor = train_quietly(&(config.clone(), dataset), &root.path().join("donor"), Start::Fresh).unwrap();
    let finished = state(&donor);
    let settings = TrainSettings { seed: 9, init_from: Some(donor.dir().to_path_buf()), ..config.train };
    let start = |settings: &TrainSettings, classes: usize| {
        let network = ResNet::new(&settings.network(classes, 8), settings.seed, &Device::Cpu).unwrap();
        let fresh =
            network.state().into_iter().map(|(name, tensor)| (name, tensor.copy().unwrap())).collect::<Vec<_>>();
        initialise(&network, settings).map(|()| (fresh, network.state()))
    };
    let classes = finished["logits.bias"].len();
    for stages in [None, Some(0), Some(2), Some(3)] {
        let (fresh, started) = start(&TrainSettings { init_stages: stages, ..settings.clone() }, classes).unwrap();
        let values = |tensor: &candle_core::Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for ((name, fresh), (_, started)) in fresh.iter().zip(&started) {
            let stage = ["stem", "stage1", "stage2", "stage3", "logits"].iter().position(|part| name.starts_with(part));
            let taken = stages.is_none_or(|stages| stage.unwrap() <= stages);
            let expected = if taken { finished[name].clone() } else { values(fresh) };
            assert_eq!(values(started), expected, "{name}, {stages:?} stages");
        }
    }
    // Other classes need other logits, and a wider network other weights; a deeper one has blocks that nobody trained.
    start(&TrainSettings { init_stages: Some(3), ..settings.clone() }, classes + 1).unwrap();
    let error = |settings: &TrainSettings, classes| start(settings, classes).map(drop).unwrap_err().to_string();
    assert!(error(&settings, classes + 1).contains("logits.weight"));
    let wider = TrainSettings { width: 0.5, init_stages: Some(1), ..settings.clone() };
    assert!(error(&wider, classes).contains("stem.conv.weight"), "{}", error(&wider, classes));
    let deeper = TrainSettings { depth: 14, ..settings.clone() };
    assert!(error(&deeper, classes).contains("stage1.block2.conv1.weight"), "{}", error(&deeper, classes));
    fs::remove_file(donor.dir().join("predictions.safetensors")).unwrap();
    assert!(error(&settings, classes).contains("not finished"));
    let missing = TrainSettings { init_from: Some(root.path().join("missing")), ..settings };
    assert!(error(&missing, classes).contains("init_from"), "{}", error(&missing, classes));
}
