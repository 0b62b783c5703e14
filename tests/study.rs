//! `gramscope study` through the binary, on a plan of its own that takes seconds.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;

use gramscope_study::predict::PredictResult;
use gramscope_study::probe::ProbeResult;
use gramscope_study::studies::StudyInfo;
use gramscope_study::{Saved, pair, studies};
use support::{fails, files, gramscope, succeeds, text};

/// At scale 0.5 one depth, two widths and two seeds are left.
const PLAN: &str = "\
title = \"A small study\"
figure = \"1\"
reported = \"What the paper says.\"
[data]
train_images = 80
test_images = 40
image_side = 8
[train]
epochs = 4
batch_size = 40
checkpoint_every = 2
[[family]]
depth = [8]
width = [0.5, 1]
seed = [0, 1, 2]
[measure]
cka = \"all\"
mean = true
blocks = true
pcs = true
ablate = true
sparsity = true
predict = true
epochs = true
[measure.probe]
epochs = 4
";

fn bytes(dir: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    files(dir).into_iter().map(|file| (file.clone(), fs::read(dir.join(file)).unwrap())).collect()
}

#[test]
fn a_study_goes_from_nothing_to_its_figure_and_does_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let plan = dir.path().join("mine.toml");
    fs::write(&plan, PLAN).unwrap();
    let (plan, out) = (plan.to_str().unwrap(), dir.path().join("out"));
    let study = |scale: &str| ["study", plan, "--scale", scale, "--out", out.to_str().unwrap()].map(str::to_owned);
    let said = succeeds(study("0.5"));
    for part in
        ["A small study", "scale 0.5: builtin, 40 training images, 2 epochs", "The paper reports: What", "figure.png"]
    {
        assert!(said.contains(part), "{part:?} is missing from {said}");
    }
    let info = StudyInfo::load(&out).unwrap();
    assert_eq!(info.runs.len(), 4, "{:?}", info.runs);
    let said_of = |words: &str| info.findings.iter().filter(|finding| finding.contains(words)).count();
    for words in ["linear probe", "is lost without the last", "first component"] {
        assert!(said_of(words) >= 4, "{words:?} is not said of every network: {:?}", info.findings);
    }
    // Ten pairs, of which four are within a network; means within and between the seeds of both widths, and across.
    assert_eq!(fs::read_dir(out.join("cka")).unwrap().count(), 10);
    assert!(fs::read_dir(out.join("mean")).unwrap().count() >= 3);
    let picture = image::open(out.join(studies::FIGURE)).unwrap();
    assert!(picture.width() > 1000 && picture.height() > 500);
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(
        ["A small study", "Over training", "Linear probes", "Deleted blocks", "Sparsity", "Predictions"]
            .iter()
            .all(|section| page.contains(section))
    );
    succeeds(["verify", out.to_str().unwrap()]);

    let before = bytes(&out);
    succeeds(study("0.5"));
    assert!(before == bytes(&out), "the second run changed something");
    // One result is gone: it alone is made again, with the same bits.
    let lost = out.join("cka").join(format!("{0}__{0}", info.runs[0]));
    fs::remove_file(lost.join(pair::NUMBERS)).unwrap();
    succeeds(study("0.5"));
    assert!(before == bytes(&out), "what was lost came back differently");

    fails(study("0.6"), 1, &["study.toml", "train_images is 40 there and 48 here", "--out"]);
    fails(study("0"), 1, &["scale of 0", "--scale"]);
    fails(study("0.01"), 1, &["choose a larger scale", "--scale"]);
    let other = dir.path().to_str().unwrap().to_owned();
    fails(["study", plan, "--scale", "0.5", "--out", &other], 1, &["no study"]);
    fails(["study", "fig3", "--out", "x"], 1, &["'fig3'", "fig3-pcs"]);
    fails(["study", "missing.toml", "--out", "x"], 1, &["missing.toml"]);
}

/// A plan that takes a second, with what is measured.
fn small(train: &str, family: &str, measure: &str) -> String {
    format!(
        "title = \"t\"\n[data]\ntrain_images = 40\ntest_images = 20\nimage_side = 8\n[train]\nbatch_size = 20\nwidth = 0.25\n\
         {train}\n[[family]]\ndepth = [8]\n{family}\n[measure]\n{measure}\n"
    )
}

/// What is trained stays, and what is measured is of the networks and of the kind that the plan names now.
#[test]
fn a_plan_may_grow() {
    let dir = tempfile::tempdir().unwrap();
    let (plan, out) = (dir.path().join("mine.toml"), dir.path().join("out"));
    let study = |text: &str| {
        fs::write(&plan, text).unwrap();
        ["study", plan.to_str().unwrap(), "--out", out.to_str().unwrap()].map(str::to_owned)
    };
    let measure =
        |probes: usize| format!("cka = \"within\"\nblocks = true\npredict = true\nprobe = {{ epochs = {probes} }}");
    succeeds(study(&small("epochs = 1", "seed = [0, 1]", &measure(1))));
    let first = out.join("runs/resnet8-w0.25-s0");
    let trained = bytes(&first);
    succeeds(study(&small("epochs = 1", "seed = [1, 0, 2]", &(measure(2) + "\nsparsity = true"))));
    assert!(bytes(&first) == trained, "a network was trained again");
    let runs = ["resnet8-w0.25-s1", "resnet8-w0.25-s0", "resnet8-w0.25-s2"];
    assert_eq!(StudyInfo::load(&out).unwrap().runs, runs);
    assert_eq!(PredictResult::load(&out.join("predict")).unwrap().info.runs.len(), 3);
    for run in runs {
        assert_eq!(ProbeResult::load(&out.join("probe").join(run)).unwrap().info.epochs, 2);
        assert!(out.join("sparsity").join(run).join("sparsity.npz").is_file());
    }
    succeeds(["verify", out.to_str().unwrap()]);

    // But it is not another network of that name.
    fails(
        study(&small("epochs = 2", "seed = [0]", &measure(2))),
        1,
        &["resnet8-w0.25-s", "epochs is 1 there and 2 here", "--out"],
    );
    // Networks alone are taken for what they are.
    let elsewhere = dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::rename(out.join("runs"), elsewhere.join("runs")).unwrap();
    let mut again = study(&small("epochs = 1", "seed = [0]", "sparsity = true"));
    again[3] = elsewhere.to_str().unwrap().to_owned();
    succeeds(again);
    assert!(bytes(&elsewhere.join("runs/resnet8-w0.25-s0")) == trained, "a network was trained again");
}

#[test]
fn what_cannot_be_measured_is_said_before_anything_is_trained() {
    let dir = tempfile::tempdir().unwrap();
    let (plan, out) = (dir.path().join("mine.toml"), dir.path().join("out"));
    for (train, family, measure, part) in [
        ("epochs = 2", "seed = [0]", "epochs = true", "checkpoint_every"),
        ("epochs = 2\ncheckpoint_every = 2", "seed = [0]", "epochs = true", "checkpoint_every"),
        ("epochs = 1", "seed = [0]", "cka = \"across\"", "at least two"),
        ("epochs = 1", "seed = [0]", "cka = \"same-architecture\"", "seed alone"),
        ("epochs = 1", "seed = [0, 1]", "cka = \"same-seed\"", "same seed"),
        ("epochs = 1\nresidual = false", "seed = [0]", "ablate = true", "residual"),
        ("epochs = 0", "seed = [0]", "sparsity = true", "epochs"),
        ("epochs = 1", "seed = [0]", "probe = { epochs = 0 }", "0 epochs"),
        ("epochs = 1", "seed = [0, 0]", "sparsity = true", "twice"),
        ("epochs = 1\nseed = 3", "seed = [0]", "sparsity = true", "[train] too"),
        ("epochs = 1\nfraction = 0.25", "seed = [0]", "sparsity = true", "lower batch_size"),
    ] {
        fs::write(&plan, small(train, family, measure)).unwrap();
        fails(["study", plan.to_str().unwrap(), "--out", out.to_str().unwrap()], 1, &[part]);
        assert!(!out.exists(), "{part}: {:?}", files(&out));
    }
    fs::write(
        &plan,
        small("epochs = 1", "seed = [0]", "cka = \"within\"").replace("test_images = 20", "test_images = 3"),
    )
    .unwrap();
    fails(["study", plan.to_str().unwrap(), "--out", out.to_str().unwrap()], 1, &["3 test images"]);
    assert!(!out.exists());
}

/// Other data, as many of them as the plan says.
#[test]
fn a_plan_keeps_its_size_on_other_data() {
    let dir = tempfile::tempdir().unwrap();
    let (plan, out) = (dir.path().join("mine.toml"), dir.path().join("out"));
    fs::write(
        &plan,
        small("epochs = 1", "seed = [0]", "sparsity = true").replace("image_side = 8", "name = \"cifar10\""),
    )
    .unwrap();
    let said = succeeds(["study", plan.to_str().unwrap(), "--data", "builtin", "--out", out.to_str().unwrap()]);
    assert!(said.contains("builtin, 40 training images"), "{said}");
}

/// Two seeds of one network have one map between them: there is no mean of it, and the figure shows the map itself.
#[test]
fn two_seeds_are_shown_against_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let plan = dir.path().join("seeds.toml");
    let family = "[[family]]\ndepth = [8]\nwidth = [0.5]\nseed = [0, 1]\n[measure]\ncka = \"all\"\nmean = true\n";
    fs::write(&plan, PLAN.split("[[family]]").next().unwrap().to_owned() + family).unwrap();
    let out = dir.path().join("out");
    succeeds(["study", plan.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    let picture = image::open(out.join(studies::FIGURE)).unwrap();
    // Mean and variance within the networks fill a row of three with the sheet, which is less than 700 pixels high below a heading
    // of less than 200; the map between the two has a row of its own.
    assert!(picture.height() > 1100, "{} pixels high", picture.height());
}

/// Without maps of networks with themselves the figure shows those between networks.
#[test]
fn networks_that_are_only_compared_with_each_other_have_a_figure() {
    let dir = tempfile::tempdir().unwrap();
    let plan = dir.path().join("across.toml");
    let family = "[[family]]\ndepth = [8]\nwidth = [0.25]\n[[family]]\ndepth = [8]\nwidth = [0.5]\n[measure]\ncka = \"across\"\n";
    fs::write(&plan, PLAN.split("[[family]]").next().unwrap().to_owned() + family).unwrap();
    let out = dir.path().join("out");
    let said = succeeds(["study", plan.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    assert!(said.contains("figure.png"), "{said}");
    let map = image::open(out.join("cka/resnet8-w0.25-s0__resnet8-w0.5-s0").join(pair::PICTURE)).unwrap();
    let figure = image::open(out.join(studies::FIGURE)).unwrap();
    assert!(figure.width() > map.width() / 2 && figure.height() > map.height() / 2);
}

#[test]
fn shipped_studies_are_listed() {
    let output = gramscope(["study"]);
    assert!(output.status.success());
    let listed = text(&output.stdout);
    for plan in studies::StudyPlan::shipped() {
        assert!(listed.contains(&plan.name) && listed.contains(&plan.title), "{} is missing from {listed}", plan.name);
    }
}
