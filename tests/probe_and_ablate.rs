//! `gramscope probe` and `gramscope ablate` through the binary: against the definitions on a trained network's own activations
//! and weights, and against scikit-learn (tests/fixtures/make_softmax.py).
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor};
use gramscope_nn::random::{Philox, Stream};
use gramscope_reference::softmax_regression::SoftmaxRegression;
use gramscope_reference::{Matrix, sgd};
use gramscope_study::Saved;
use gramscope_study::ablate::AblateResult;
use gramscope_study::probe::ProbeResult;
use gramscope_study::probe::linear_probe::{LinearProbe, Step};
use gramscope_train::batches;
use gramscope_train::{Run, data};
use safetensors::SafeTensors;
use support::{TINY, fails, gramscope, succeeds, train_tiny};

fn path(dir: &Path, name: &str) -> String {
    dir.join(name).to_str().unwrap().to_owned()
}

/// Share of the rows whose largest logit, the first of equals, is their label's.
fn accuracy(logits: &Matrix, labels: &[usize]) -> f64 {
    let largest = |row: &[f64]| (1..row.len()).fold(0, |best, class| if row[class] > row[best] { class } else { best });
    let right = labels.iter().enumerate().filter(|&(n, &label)| largest(logits.row(n)) == label);
    right.count() as f64 / labels.len() as f64
}

/// The activations of `layer` over a part of the run's images, in order.
fn activations(run: &Run, split: &data::Split, layer: &str) -> Matrix {
    let network = run.network(&Device::Cpu).unwrap();
    let all: Vec<usize> = (0..split.len()).collect();
    let images = batches::images(split, &all, 32, &Device::Cpu).unwrap();
    let index = network.layers().iter().position(|known| known.name == layer).unwrap();
    let mut values = Vec::new();
    network
        .forward_observed::<candle_core::Error>(&images, &mut |found, output| {
            if found == index {
                values = output.values()?.flatten_all()?.to_vec1::<f32>()?;
            }
            Ok(())
        })
        .unwrap();
    Matrix::new(all.len(), values.len() / all.len(), values.into_iter().map(f64::from).collect())
}

/// The probes of a run are softmax regressions in float64 on its own activations, in the order that the seed says; together,
/// alone and on any number of threads they are the same.
#[test]
fn probes_are_the_references_and_do_not_know_of_each_other() {
    const LAYERS: [&str; 3] = ["stage3.block1.bn2", "pool", "logits"];
    const EPOCHS: usize = 3;
    let dir = tempfile::tempdir().unwrap();
    let run = path(dir.path(), "run");
    train_tiny(Path::new(&run), 0);
    // A rate at which no accuracy hangs on a rounding: 60 and 40 images are few.
    let settings =
        ["--epochs", "3", "--batch-size", "25", "--seed", "7", "--learning-rate", "0.001", "--momentum", "0.8"];
    let probed = |name: &str, layers: &str| {
        let out = path(dir.path(), name);
        let line = succeeds(["probe", &run, "--out", &out, "--layers", layers].into_iter().chain(settings));
        assert!(line.contains("3 epochs"), "{line}");
        ProbeResult::load(Path::new(&out)).unwrap()
    };
    let together = probed("together", "^(stage3.block1.bn2|pool|logits)$");
    assert_eq!(together.layers.iter().map(|layer| layer.layer.as_str()).collect::<Vec<_>>(), LAYERS);
    for (place, layer) in LAYERS.iter().enumerate() {
        let alone = probed(layer, &format!("^{layer}$"));
        assert_eq!(alone.layers[0], together.layers[place]);
    }
    let one = path(dir.path(), "one thread");
    let mut command = support::command(["probe", &run, "--out", &one, "--layers", "^(stage3.block1.bn2|pool|logits)$"]);
    assert!(command.args(settings).env("RAYON_NUM_THREADS", "1").output().unwrap().status.success());
    assert_eq!(ProbeResult::load(Path::new(&one)).unwrap(), together);

    let opened = Run::open(Path::new(&run)).unwrap();
    let dataset = data::load(&opened.config().data).unwrap();
    let labels = |split: &data::Split| split.labels().iter().map(|&label| label as usize).collect::<Vec<_>>();
    let (train_labels, test_labels) = (labels(&dataset.train), labels(&dataset.test));
    for (found, layer) in together.layers.iter().zip(LAYERS) {
        let train = activations(&opened, &dataset.train, layer);
        let test = activations(&opened, &dataset.test, layer);
        let mut reference = SoftmaxRegression::new(train.cols, 10);
        let settings = sgd::Settings { learning_rate: 0.001, momentum: 0.8, weight_decay: 0.0 };
        let mut right = 0.0;
        for epoch in 0..EPOCHS {
            right = 0.0;
            let order = Philox::new(7, Stream::Probes).sequence(epoch as u32).permutation(60);
            for batch in order.chunks(25) {
                let x = Matrix::from_fn(batch.len(), train.cols, |n, feature| train.get(batch[n], feature));
                let labels: Vec<usize> = batch.iter().map(|&image| train_labels[image]).collect();
                right += accuracy(&reference.logits(&x), &labels) * batch.len() as f64;
                reference.step(&x, &labels, settings);
            }
        }
        // One image on the edge between two classes may fall to either side.
        let close = |found: Option<f64>, expected: f64, images: f64| (found.unwrap() - expected).abs() <= 1.01 / images;
        assert!(close(found.accuracy_train, right / 60.0, 60.0), "{found:?}, {}", right / 60.0);
        let expected = accuracy(&reference.logits(&test), &test_labels);
        assert!(close(found.accuracy_test, expected, 40.0), "{found:?}, {expected}");
    }
}

/// Without `--layers` both sides of every addition are probed; pooling has an effect; pictures are drawn and all is verified.
#[test]
fn the_default_is_before_and_after_every_addition() {
    let dir = tempfile::tempdir().unwrap();
    let (run, plain) = (path(dir.path(), "run"), path(dir.path(), "plain"));
    train_tiny(Path::new(&run), 0);
    succeeds(["train", "--no-residual", "--out", &plain].into_iter().chain(TINY));
    let out = path(dir.path(), "probes");
    succeeds(["probe", &run, "--epochs", "2", "--out", &out]);
    let result = ProbeResult::load(Path::new(&out)).unwrap();
    let expected: Vec<String> =
        (1..=3).flat_map(|stage| ["bn2", "add"].map(|part| format!("stage{stage}.block1.{part}"))).collect();
    assert_eq!(result.layers.iter().map(|layer| layer.layer.clone()).collect::<Vec<_>>(), expected);
    assert_eq!((result.info.train_images, result.info.test_images, result.info.stages.len()), (60, 40, 28));
    assert!(image::open(Path::new(&out).join("probe.png")).unwrap().width() > 800);

    let pooled = path(dir.path(), "pooled");
    succeeds(["probe", &run, "--epochs", "2", "--pool", "--examples", "30", "--out", &pooled]);
    let pooled = ProbeResult::load(Path::new(&pooled)).unwrap();
    assert!(pooled.info.pool && pooled.info.train_images == 30 && pooled.layers != result.layers);

    let of_plain = path(dir.path(), "of plain");
    succeeds(["probe", &plain, "--epochs", "1", "--out", &of_plain]);
    let result = ProbeResult::load(Path::new(&of_plain)).unwrap();
    assert_eq!(
        result.layers[..2].iter().map(|l| l.layer.as_str()).collect::<Vec<_>>(),
        ["stage1.block1.bn2", "stage1.block1.relu2"]
    );

    // Everything is found again, damage too.
    succeeds(["verify", dir.path().to_str().unwrap()]);
    let list = dir.path().join("probes").join("probe.json");
    let text = fs::read_to_string(&list).unwrap();
    fs::write(&list, text.replacen("0.", "0.0", 1)).unwrap();
    fails(["verify", dir.path().to_str().unwrap()], 1, &["probe.json"]);
}

#[test]
fn deleted_blocks_cost_what_the_network_without_them_says() {
    let dir = tempfile::tempdir().unwrap();
    let (run, other) = (path(dir.path(), "run"), path(dir.path(), "deeper"));
    train_tiny(Path::new(&run), 0);
    let deeper = TINY.map(|flag| if flag == "8" { "14" } else { flag });
    succeeds(["train", "--out", &other].into_iter().chain(deeper));
    let out = path(dir.path(), "out");
    succeeds(["ablate", &run, &other, "--each", "--out", &out]);
    for (name, per_stage) in [("run", 1), ("deeper", 2)] {
        let place = Path::new(&out).join(name);
        let result = AblateResult::load(&place).unwrap();
        assert_eq!(result.stages.len(), 3 * (per_stage + 1));
        assert!(image::open(place.join("ablate.png")).unwrap().width() > 800);
        let opened = Run::open(&dir.path().join(name)).unwrap();
        let evaluated = opened.metrics().unwrap().last().unwrap().test_accuracy;
        let dataset = data::load(&opened.config().data).unwrap();
        let network = opened.network(&Device::Cpu).unwrap();
        let all: Vec<usize> = (0..40).collect();
        let images = batches::images(&dataset.test, &all, 32, &Device::Cpu).unwrap();
        let labels: Vec<usize> = dataset.test.labels().iter().map(|&label| label as usize).collect();
        let without = |deleted: &dyn Fn(usize) -> bool| {
            let variant: Vec<bool> = (0..3 * per_stage).map(deleted).collect();
            let logits: Tensor = network.forward_without(&images, &[variant]).unwrap().remove(0);
            let values: Vec<f32> = logits.flatten_all().unwrap().to_vec1().unwrap();
            accuracy(&Matrix::new(40, 10, values.into_iter().map(f64::from).collect()), &labels)
        };
        for entry in &result.stages {
            let end = entry.stage * per_stage;
            let expected = without(&|block| (end - entry.deleted..end).contains(&block));
            assert_eq!(entry.accuracy, expected, "{entry:?}");
            assert!(entry.deleted > 0 || entry.accuracy == evaluated, "{entry:?}, {evaluated}");
        }
        assert_eq!(result.info.alone.len(), 3 * per_stage);
        for (block, entry) in result.info.alone.iter().enumerate() {
            assert_eq!(entry.accuracy, without(&|other| other == block), "{entry:?}");
        }
    }
    // One block by its name, straight into DIR.
    let alone = path(dir.path(), "alone");
    succeeds(["ablate", &other, "--block", "stage2.block2", "--examples", "20", "--out", &alone]);
    let result = AblateResult::load(Path::new(&alone)).unwrap();
    assert_eq!((result.info.alone.len(), result.info.alone[0].block.as_str()), (1, "stage2.block2"));
    let last_of_two = result.stages.iter().find(|entry| entry.stage == 2 && entry.deleted == 1).unwrap();
    assert_eq!((last_of_two.accuracy, result.info.examples), (result.info.alone[0].accuracy, 20));

    succeeds(["verify", dir.path().to_str().unwrap()]);
    succeeds(["report", dir.path().to_str().unwrap()]);
    let page = fs::read_to_string(dir.path().join("report.html")).unwrap();
    assert!(page.contains("Deleting all 2 blocks of a stage costs most"));
}

#[test]
fn wrong_use_is_explained_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (run, plain, out) = (path(dir.path(), "run"), path(dir.path(), "plain"), path(dir.path(), "out"));
    train_tiny(Path::new(&run), 0);
    succeeds(["train", "--no-residual", "--out", &plain].into_iter().chain(TINY));
    fails(["probe", &run, "--epochs", "0", "--out", &out], 1, &["0 epochs", "--epochs"]);
    fails(["probe", &run, "--momentum", "1", "--out", &out], 1, &["momentum of 1", "--momentum"]);
    fails(["probe", &run, "--layers", "none", "--out", &out], 1, &["matches \"none\"", "--layers"]);
    fails(["probe", &run, "--examples", "61", "--out", &out], 1, &["61 examples", "--examples", "60"]);
    fails(["probe", &run, "--out", &run], 1, &[&run, "--out"]);
    let one_class = dir.path().join("one-class");
    for split in ["train", "test"] {
        fs::create_dir_all(one_class.join(split).join("cat")).unwrap();
        for name in ["a.png", "b.png"] {
            image::RgbImage::new(8, 8).save(one_class.join(split).join("cat").join(name)).unwrap();
        }
    }
    let one_class = one_class.to_str().unwrap();
    fails(["probe", &run, "--data", one_class, "--batch-size", "2", "--out", &out], 1, &["one class"]);
    fails(["ablate", &plain, "--out", &out], 1, &[&plain, "without residual connections"]);
    fails(
        ["ablate", &run, "--block", "stage4.block1", "--out", &out],
        1,
        &["no block stage4.block1", "--block", "stage3.block1"],
    );
    fails(["ablate", &run, "--examples", "41", "--out", &out], 1, &["41 examples", "--examples", "40"]);
    fails(["ablate", &run, "--out", &run], 1, &[&run, "--out"]);
    assert!(!Path::new(&out).exists());
    for wrong in [
        vec!["probe", "--out", "x"],
        vec!["ablate", "--out", "x"],
        vec!["ablate", &run, "--each", "--block", "stage1.block1", "--out", "x"],
    ] {
        assert_eq!(gramscope(&wrong).status.code(), Some(2));
    }
}

/// Trained to the end, a probe reaches the loss and the accuracy of scikit-learn's logistic regression without a penalty.
///
/// The loss is convex and, near its minimum, a parabola: a gradient of norm g leaves a loss of at most g^2 / (2 m) above the
/// minimum, m being the least curvature. After 20,000 steps what is left is float32's: an error in the loss of some roundings.
#[test]
fn a_converged_probe_is_scikit_learns() {
    let bytes = fs::read(format!("{}/tests/fixtures/softmax.safetensors", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let floats = |name: &str| -> Vec<f64> {
        let data = file.tensor(name).unwrap();
        data.data().chunks_exact(8).map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap())).collect()
    };
    let x: Vec<f32> = floats("x").iter().map(|&value| value as f32).collect();
    let labels: Vec<u32> = floats("labels").iter().map(|&label| label as u32).collect();
    let features = x.len() / labels.len();
    let examples = labels.len();
    let labels = Tensor::from_vec(labels, examples, &Device::Cpu).unwrap();
    let mut trained = LinearProbe::new(features, 3);
    for _ in 0..20_000 {
        trained.step(&x, &labels, Step { learning_rate: 0.2, momentum: 0.9 }).unwrap();
    }
    let outcome = trained.evaluate(&x, &labels).unwrap();
    let [loss, accuracy] = ["loss", "accuracy"].map(|name| floats(name)[0]);
    // The loss is a float32 number below 1, from logits below 16 with eight roundings each.
    assert!((outcome.loss - loss).abs() <= 16.0 * 8.0 * f64::from(f32::EPSILON), "{} and {loss}", outcome.loss);
    assert_eq!(outcome.correct as f64 / examples as f64, accuracy);
}
