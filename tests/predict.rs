//! Predictions of groups of runs: statistics and divergences against SciPy, statsmodels and mpmath
//! (tests/fixtures/make_predict.py), and the command through the binary against what its files follow from.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;

use gramscope_study::Saved;
use gramscope_study::predict::PredictResult;
use gramscope_study::predict::divergences::{Distributions, Likeness};
use gramscope_study::statistics::{Moments, cohens_d, hedges_g, holm, welch};
use gramscope_train::Run;
use gramscope_train::data::builtin::class_names;
use serde_json::Value;
use support::{TINY, fails, gramscope, succeeds, text, train_tiny};

fn fixture() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/predict.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap_or(f64::NAN)).collect()
}

/// Fails unless `found` is the number `expected`, or NaN where that is null.
fn check(found: f64, expected: &Value, tolerance: f64, what: &str) {
    match expected.as_f64() {
        None => assert!(found.is_nan(), "{what}: {found} where nothing is defined"),
        Some(expected) => {
            let difference = (found - expected).abs();
            assert!(difference <= tolerance, "{what}: {found}, not {expected}: off by {difference}");
        }
    }
}

#[test]
fn welch_and_effect_sizes_are_scipys() {
    for case in fixture()["welch"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let [a, b] = ["a", "b"].map(|group| Moments::of(&numbers(&case[group])));
        let test = welch(&a, &b);
        // Values below 1 are rounded by 1e-16, and their differences are of 1e-3 and more: relative errors of 1e-13. The p value
        // of t = 400 and 38 degrees of freedom has 38 times the relative error of t; quantiles are found to 1e-11.
        let relative = |key: &str| 1e-11 * case[key].as_f64().unwrap_or(0.0).abs().max(1e-300);
        for (key, found) in [("t", test.t), ("df", test.df), ("p", test.p)] {
            check(found, &case[key], relative(key) + if key == "t" { 1e-13 } else { 0.0 }, &format!("{name}: {key}"));
        }
        for (key, found) in [("low", test.interval[0]), ("high", test.interval[1])] {
            check(found, &case[key], 1e-11, &format!("{name}: {key}"));
        }
        for (key, found) in [("cohens_d", cohens_d(&a, &b)), ("hedges_g", hedges_g(&a, &b))] {
            check(found, &case[key], relative(key) + 1e-13, &format!("{name}: {key}"));
        }
        let back = welch(&b, &a);
        assert!(test.t.is_nan() || (back.t, back.df, back.p) == (-test.t, test.df, test.p), "{name}: not symmetric");
    }
}

#[test]
fn corrections_are_those_of_statsmodels() {
    for case in fixture()["holm"].as_array().unwrap() {
        let adjusted = holm(&numbers(&case["p"]));
        let expected = case["adjusted"].as_array().unwrap();
        assert_eq!(adjusted.len(), expected.len());
        for (found, expected) in adjusted.iter().zip(expected) {
            // One product.
            check(*found, expected, 1e-15 * found.abs(), "adjusted p");
        }
    }
}

#[test]
fn divergences_are_right_where_probabilities_underflow_and_where_they_are_nearly_equal() {
    for case in fixture()["likeness"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let rows = |key: &str| case[key].as_array().unwrap().clone();
        let distributions = |key: &str| {
            let logit = |value: &Value| value.as_f64().unwrap_or(f64::NEG_INFINITY) as f32;
            let logits: Vec<f32> = rows(key).iter().flat_map(|row| row.as_array().unwrap()).map(logit).collect();
            Distributions::new(&logits, rows(key)[0].as_array().unwrap().len()).unwrap()
        };
        let (p, q) = (distributions("p"), distributions("q"));
        let found = Likeness::of(&p, &q);
        check(found.agreement, &case["agreement"], 0.0, name);
        for (key, value) in
            [("kl", found.kl), ("kl_back", found.kl_back), ("hellinger", found.hellinger), ("entropy", found.entropy)]
        {
            match case[key].as_f64() {
                // A logarithm of about 10 is rounded by 1e-15, an image; large sums are rounded relatively.
                Some(truth) => {
                    let tolerance = 4e-15 * rows("p").len() as f64 + 1e-14 * truth;
                    check(value, &case[key], tolerance, &format!("{name}: {key}"));
                }
                None => assert_eq!(value, f64::INFINITY, "{name}: {key}"),
            }
        }
        let back = Likeness::of(&q, &p);
        assert_eq!((back.agreement, back.hellinger, back.entropy), (found.agreement, found.hellinger, found.entropy));
        let own = Likeness::of(&p, &p);
        assert_eq!((own.kl, own.kl_back, own.hellinger, own.agreement), (0.0, 0.0, 0.0, rows("p").len() as f64));
    }
}

fn path(dir: &Path, name: &str) -> String {
    dir.join(name).to_str().unwrap().to_owned()
}

/// Trains the tiny network at width 0.5.
fn train_wider(out: &str, seed: &str) {
    let flags = TINY.iter().map(|&flag| if flag == "0.25" { "0.5" } else { flag });
    succeeds(["train"].into_iter().chain(flags).chain(["--seed", seed, "--out", out]));
}

/// Log-softmax by the definition.
fn log_probabilities(logits: &[f32]) -> Vec<f64> {
    let total: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
    logits.iter().map(|&logit| f64::from(logit) - total.ln()).collect()
}

fn check_against_brute_force(result: &PredictResult, dir: &Path) {
    let runs: Vec<_> =
        result.info.runs.iter().map(|name| Run::open(&dir.join(name)).unwrap().predictions().unwrap()).collect();
    let (images, classes) = (result.info.images, result.info.classes);
    assert_eq!((images, classes, runs.len()), (40, 10, 5));
    let said = |run: usize, image: usize| {
        let row = &runs[run].logits[image * classes..][..classes];
        (0..classes).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap()
    };
    for row in 0..5 {
        for column in 0..5 {
            let (mut agreement, mut kl, mut hellinger) = (0.0, 0.0, 0.0);
            for image in 0..images {
                let [p, q] =
                    [row, column].map(|run| log_probabilities(&runs[run].logits[image * classes..][..classes]));
                agreement += f64::from(said(row, image) == said(column, image));
                kl += p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
                let affinity: f64 = p.iter().zip(&q).map(|(p, q)| ((p + q) / 2.0).exp()).sum();
                hellinger += (1.0 - affinity).max(0.0).sqrt();
            }
            let at = row * 5 + column;
            assert_eq!(result.runs.agreement[at], agreement / images as f64);
            // Sums of a few hundred terms below 10; this form of the Hellinger distance loses half of the digits near 0.
            assert!((result.runs.kl[at] - kl / images as f64).abs() <= 1e-12);
            assert!((result.runs.hellinger[at] - hellinger / images as f64).abs() <= 1e-7);
        }
    }
    for (group, members) in [(0, 0..3), (1, 3..5)] {
        for image in 0..images {
            let right = members.clone().filter(|&run| said(run, image) == runs[run].labels[image] as usize).count();
            assert_eq!(result.example_accuracy[group * images + image], right as f64 / members.len() as f64);
        }
        for (run, accuracy) in members.clone().zip(&result.info.groups[group].accuracies) {
            let last = Run::open(&dir.join(&result.info.runs[run])).unwrap().metrics().unwrap().pop().unwrap();
            assert!((accuracy - last.test_accuracy).abs() <= 1e-15, "not the accuracy that training says");
        }
    }
}

#[test]
fn two_groups_of_runs_are_compared() {
    let dir = tempfile::tempdir().unwrap();
    let runs: Vec<String> = ["n0", "n1", "n2", "w0", "w1"].iter().map(|name| path(dir.path(), name)).collect();
    (0..3).for_each(|seed| train_tiny(Path::new(&runs[seed]), seed as u32));
    (0..2).for_each(|seed| train_wider(&runs[3 + seed], &seed.to_string()));
    let out = path(dir.path(), "predict");
    // In any order.
    let line = succeeds(["predict"].into_iter().chain(runs.iter().rev().map(String::as_str)).chain(["--out", &out]));
    assert!(
        line.contains("5 runs in 2 groups, 40 test images") && line.contains("compared: depth 8, width 0.25 and"),
        "{line}"
    );
    let result = PredictResult::load(Path::new(&out)).unwrap();
    assert_eq!(result.info.runs, ["n0", "n1", "n2", "w0", "w1"]);
    check_against_brute_force(&result, dir.path());

    let read = |name: &str| -> Value {
        serde_json::from_str(&fs::read_to_string(Path::new(&out).join(name)).unwrap()).unwrap()
    };
    let (classes, accuracies) = (read("classes.json"), read("accuracies.json"));
    assert_eq!(classes.as_array().unwrap().len(), 10);
    for (class, found) in classes.as_array().unwrap().iter().enumerate() {
        assert_eq!(found["class"], class);
        assert_eq!(found["name"], class_names()[class]);
        for key in ["mean_a", "mean_b", "t", "df", "p", "p_adjusted", "interval", "cohens_d", "hedges_g"] {
            assert!(!found[key].is_null() || found["t"].is_null(), "class {class} has no {key}");
        }
    }
    assert_eq!((&accuracies[0]["n"], &accuracies[1]["n"]), (&3.into(), &2.into()));
    for name in ["predict-maps.png", "examples.png", "classes.png"] {
        assert!(image::open(Path::new(&out).join(name)).unwrap().width() > 800, "{name}");
    }

    let page = fs::read_to_string(succeeds(["report", dir.path().to_str().unwrap()]).trim()).unwrap();
    assert!(page.contains("5 runs in 2 groups, 40 test images"), "the report says nothing of predictions");
    succeeds(["verify", &out]);
    let turned = path(dir.path(), "turned");
    let groups = ["depth 8, width 0.5", "depth 8, width 0.25"];
    let between = ["--between", groups[0], groups[1], "--out", &turned];
    let said = gramscope(["predict"].into_iter().chain(runs.iter().map(String::as_str)).chain(between));
    let turned = PredictResult::load(Path::new(&turned)).unwrap().info.between.unwrap();
    let untested = turned.undefined().map(|class| format!("{} ({})", class.class, class_names()[class.class]));
    let warning = format!("class {}", untested.collect::<Vec<_>>().join(", "));
    assert!(text(&said.stderr).contains(&warning), "{warning:?} is missing from: {}", text(&said.stderr));
    assert_eq!((turned.a.as_str(), turned.b.as_str()), (groups[0], groups[1]));
    for (turned, class) in turned.classes.iter().zip(&result.info.between.unwrap().classes) {
        assert!(turned.t.is_nan() && class.t.is_nan() || turned.t == -class.t);
    }
    fs::write(Path::new(&out).join("classes.json"), "[]").unwrap();
    let verified = gramscope(["verify", &out]);
    assert!(verified.status.code() == Some(1) && text(&verified.stdout).contains("classes.json"));
}

#[test]
fn what_cannot_be_compared_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let [run, other, out] = ["run", "other", "out"].map(|name| path(dir.path(), name));
    train_tiny(Path::new(&run), 0);
    train_wider(&other, "0");
    fails(["predict", &run, &run, "--out", &run], 1, &[&run, "holds a run", "--out"]);
    fails(["predict", &path(dir.path(), "none"), "--out", &out], 1, &["none", "not a run"]);
    let unknown = ["--between", "depth 8, width 0.25", "depth 62"];
    fails(["predict", &run, &other, "--out", &out].into_iter().chain(unknown), 1, &["depth 62", "depth 8, width 0.5"]);
    // Twice, or as part of a directory that is named too, a run would pass for two seeds.
    fails(["predict", &run, &run, "--out", &out], 1, &["run", "given twice"]);
    fails(["predict", dir.path().to_str().unwrap(), &run, "--out", &out], 1, &["run", "given twice"]);
    let predictions = Path::new(&other).join("predictions.safetensors");
    let bytes = fs::read(&predictions).unwrap();
    let mut damaged = bytes.clone();
    *damaged.last_mut().unwrap() ^= 1;
    fs::write(&predictions, damaged).unwrap();
    fails(["predict", &run, &other, "--out", &out], 1, &["other", "predictions.safetensors", "checksum"]);
    fs::remove_file(&predictions).unwrap();
    let kept = path(dir.path(), "kept");
    succeeds(["train", "--checkpoint-every", "1", "--out", &kept].into_iter().chain(TINY));
    fails(["predict", &format!("{kept}@1"), "--out", &out], 1, &["kept@1", "without the epoch"]);
    fails(["predict", &run, &other, "--out", &out], 1, &["other", "predictions.safetensors", "--resume"]);
    assert!(!Path::new(&out).exists());
    assert_eq!(gramscope(["predict", "--out", &out]).status.code(), Some(2));

    // One run has no spread, which is said.
    let output = gramscope(["predict", &run, "--out", &out]);
    assert!(output.status.success() && text(&output.stderr).contains("one run only"), "{}", text(&output.stderr));
    let result = PredictResult::load(Path::new(&out)).unwrap();
    assert!(result.info.groups[0].sd.is_nan() && result.groups.agreement[0].is_nan() && result.info.between.is_none());
}

#[test]
fn other_test_images_are_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let [run, other, out] = ["run", "other", "out"].map(|name| path(dir.path(), name));
    train_tiny(Path::new(&run), 0);
    let flags = TINY.iter().map(|&flag| if flag == "40" { "30" } else { flag });
    succeeds(["train"].into_iter().chain(flags).chain(["--seed", "1", "--out", &other]));
    fails(["predict", &run, &other, "--out", &out], 1, &["run and other", "40 and 30 test images"]);
}
