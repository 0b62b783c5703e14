//! Whole families and kept epochs through the binary: `cka --pairs` selectors with means, `RUN@EPOCH`, `epochs`.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use gramscope_study::Saved;
use gramscope_study::epochs::EpochsResult;
use gramscope_study::mean::Mean;
use gramscope_study::pair::{self, PairResult};
use support::{fails, succeeds};

const PLAN: &str = "\
[data]
train_images = 40
test_images = 16
image_side = 8
[train]
width = 0.25
epochs = 3
batch_size = 10
learning_rate = 0.05
checkpoint_every = 1
[family]
depth = [8, 14]
seed = [0, 1]
";

fn path(dir: &Path, name: &str) -> String {
    dir.join(name).to_str().unwrap().to_owned()
}

/// Names of the directories in `dir` that hold `file`.
fn with(dir: &Path, file: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let holding = entries.filter(|entry| entry.join(file).is_file());
    holding.map(|entry| entry.file_name().unwrap().to_str().unwrap().to_owned()).collect()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn a_family_is_compared_by_seeds_by_architectures_and_over_its_training() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| path(dir.path(), name);
    fs::write(dir.path().join("plan.toml"), PLAN).unwrap();
    succeeds(["sweep", &at("plan.toml"), "--out", &at("runs")]);
    // In this order the deeper network comes first once, so that a map has to be turned for the mean.
    let runs = ["resnet8-w0.25-s0", "resnet14-w0.25-s0", "resnet14-w0.25-s1", "resnet8-w0.25-s1"];
    let runs = runs.map(|run| at(&format!("runs/{run}")));
    let cka = |extra: &[&str], out: &str| {
        let mut arguments = vec!["cka", "--passes", "1", "--batch-size", "8", "--out", out];
        arguments.extend(runs.iter().map(String::as_str));
        arguments.extend(extra);
        succeeds(arguments)
    };

    cka(&["--pairs", "same-architecture"], &at("seeds"));
    let seeds = ["resnet14-w0.25-s0__resnet14-w0.25-s1", "resnet8-w0.25-s0__resnet8-w0.25-s1"];
    assert_eq!(with(&dir.path().join("seeds"), pair::INFO), names(&seeds));
    cka(&["--pairs", "same-seed"], &at("depths"));
    let depths = ["resnet8-w0.25-s0__resnet14-w0.25-s0", "resnet14-w0.25-s1__resnet8-w0.25-s1"];
    assert_eq!(with(&dir.path().join("depths"), pair::INFO), names(&depths));

    // A directory stands for the runs below it.
    for (command, result) in [("pcs", "pcs.json"), ("sparsity", "sparsity.json"), ("dominant", "dominant.json")] {
        succeeds([command, &at("runs"), "--out", &at(command)]);
        let own = ["resnet14-w0.25-s0", "resnet14-w0.25-s1", "resnet8-w0.25-s0", "resnet8-w0.25-s1"];
        assert_eq!(with(&dir.path().join(command), result), names(&own), "{command}");
    }

    let said = cka(&["--mean"], &at("all"));
    assert!(said.contains("mean of 4 maps"), "{said}");
    // A mean each: within both, across both (four pairs). Between two seeds there is a single pair of each.
    let means = ["depth14-width0.25", "depth8-width0.25", "depth8-width0.25__depth14-width0.25"];
    assert_eq!(with(&dir.path().join("all/mean"), "mean.json"), names(&means));
    check_mean_across(dir.path(), &depths);
    fails(
        ["cka", &runs[0], &runs[1], "--pairs", "same-architecture", "--out", &at("x")],
        1,
        &["seed alone", "--pairs"],
    );

    let early = format!("{}@1", runs[0]);
    succeeds([
        "cka",
        &early,
        &runs[0],
        "--pairs",
        "across",
        "--passes",
        "1",
        "--batch-size",
        "8",
        "--out",
        &at("early"),
    ]);
    succeeds(["epochs", &runs[0], "--batch-size", "8", "--out", &at("epochs")]);
    let pair = PairResult::load(&dir.path().join("early")).unwrap();
    let over = EpochsResult::load(&dir.path().join("epochs")).unwrap();
    assert_eq!(over.info.epochs, [1, 2, 3]);
    let layers = over.info.layers.len();
    let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&over.cka[..layers * layers]), bits(&pair.similarity.cka));
    fails(["pcs", &format!("{}@7", runs[0]), "--out", &at("x")], 1, &["epoch-0007", "kept are 1, 2, 3"]);
    fails(["epochs", &early, "--out", &at("x")], 1, &["one epoch"]);

    succeeds(["report", dir.path().to_str().unwrap()]);
    let page = fs::read_to_string(dir.path().join("report.html")).unwrap();
    for section in ["Over training", "Means over networks", "variance of 4 maps", "Dominant images"] {
        assert!(page.contains(section), "{section:?} is missing");
    }
    succeeds(["verify", dir.path().to_str().unwrap()]);
}

/// The mean of all pairs of both depths is that of the four maps, those of the deeper network against the other turned.
fn check_mean_across(dir: &Path, same_seed: &[&str; 2]) {
    let mean = Mean::load(&dir.join("all/mean/depth8-width0.25__depth14-width0.25")).unwrap();
    assert_eq!((mean.info.layers_x.len(), mean.info.layers_y.len(), mean.info.maps.len()), (28, 49, 4));
    let mut expected = vec![0.0; 28 * 49];
    let all =
        [same_seed[0], same_seed[1], "resnet8-w0.25-s0__resnet14-w0.25-s1", "resnet14-w0.25-s0__resnet8-w0.25-s1"];
    for name in all {
        let map = PairResult::load(&dir.join("all").join(name)).unwrap();
        let turned = map.similarity.layers_x == 49;
        for x in 0..28 {
            for y in 0..49 {
                expected[x * 49 + y] += map.similarity.cka[if turned { y * 28 + x } else { x * 49 + y }] / 4.0;
            }
        }
    }
    for (found, expected) in mean.mean.iter().zip(&expected) {
        // Undefined entries are left out of means, so that only defined ones are comparable here.
        assert!(expected.is_nan() || (found - expected).abs() < 1e-12, "{found} {expected}");
    }
}
