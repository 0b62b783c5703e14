//! Runs that are stopped and gone on with, what is on record of them, and several at once.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use gramscope_nn::Backend;
use gramscope_study::Saved;
use gramscope_study::pair::PairResult;
use gramscope_study::studies::StudyInfo;
use gramscope_train::{EpochMetrics, Run};

use crate::support::driver::{assert_content, command_on, driver, run};
use crate::support::text;
use crate::{PLAN, only_folder, state, train};

#[test]
fn the_same_bits_again_and_after_an_interruption() {
    ["", "shake_shake = true\n"].into_iter().for_each(interrupt);
}

fn interrupt(rest: &str) {
    let dir = tempfile::tempdir().unwrap();
    let plan = PLAN.replace("epochs = 2", "epochs = 12");
    let plan = format!("{plan}{rest}[family]\ndepth = [8]\nwidth = [0.25]\nseed = [0]\n");
    let whole = train(dir.path(), "whole", &plan, &["cuda"]);
    let again = train(dir.path(), "again", &plan, &["cuda"]);
    assert_eq!(state(&whole), state(&again));

    let (path, out) = (dir.path().join("whole.toml"), dir.path().join("stopped"));
    let driver = driver();
    let arguments = ["sweep", path.to_str().unwrap(), "--out", out.to_str().unwrap(), "--device", "cuda"];
    let mut child = command_on(driver.path(), "", &arguments).spawn().unwrap();
    let started = || {
        let lines = |run: &Path| fs::read_to_string(run.join("metrics.jsonl")).map_or(0, |text| text.lines().count());
        out.is_dir() && fs::read_dir(&out).unwrap().any(|entry| lines(&entry.unwrap().path()) > 0)
    };
    while !started() && child.try_wait().unwrap().is_none() {
        sleep(Duration::from_millis(5));
    }
    let signal = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let code = child.wait().unwrap().code();
    if !signal.success() || code != Some(130) {
        println!("skipped in part: training ended before the signal came ({code:?})");
    }
    let output = run(driver.path(), "", &arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(state(&whole), state(&only_folder(&out)));
    let losses = |run: &Path| -> Vec<[f64; 4]> {
        let metrics = Run::open(run).unwrap().metrics().unwrap();
        metrics.iter().map(|e| [e.train_loss, e.train_accuracy, e.test_loss, e.test_accuracy]).collect()
    };
    assert_eq!(losses(&whole), losses(&only_folder(&out)));
}

/// A run goes on as it was begun or not at all; what it was begun with is on record, and so is what compared it.
#[test]
fn what_computed_is_on_record_and_is_not_mixed() {
    let dir = tempfile::tempdir().unwrap();
    let plan = format!("{PLAN}[family]\ndepth = [8]\nwidth = [0.25]\nseed = [0]\n");
    let trained = train(dir.path(), "runs", &plan, &["cuda", "--precision", "bf16"]);
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    assert!(read(&trained.join("config.toml")).contains("backend = \"cuda-bf16\""));
    for line in read(&trained.join("metrics.jsonl")).lines() {
        assert!(line.contains("\"gpu\":\"Emulated GPU\""), "{line}");
    }

    let (path, out) = (dir.path().join("runs.toml"), dir.path().join("runs"));
    let again = |device: &[&str]| {
        let arguments = ["sweep", path.to_str().unwrap(), "--out", out.to_str().unwrap(), "--device"];
        let output = run(driver().path(), "", &[&arguments, device].concat());
        (output.status.success(), text(&output.stdout) + &text(&output.stderr))
    };
    let (finished, _) = again(&["cpu"]);
    assert!(finished, "a finished run is not to go on, so that nothing would be mixed");
    let predictions = trained.join("predictions.safetensors");
    fs::remove_file(&predictions).unwrap();
    for device in [["cpu", "--precision", "f32"], ["cuda", "--precision", "tf32"]] {
        let (finished, said) = again(&device);
        assert!(!finished && said.contains("(--device cuda --precision bf16, --out)"), "{said}");
        assert!(!predictions.exists());
    }
    assert!(again(&["cuda", "--precision", "bf16"]).0 && predictions.exists());

    let out = dir.path().join("cka");
    for (device, backend) in [("cpu", Backend::Cpu), ("cuda", Backend::CudaF32)] {
        let arguments = ["cka", trained.to_str().unwrap(), "--batch-size", "8", "--passes", "1", "--device", device];
        let output = run(driver().path(), "", &[&arguments[..], &["--out", out.to_str().unwrap()]].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        let versions = PairResult::load(&out).unwrap().info.versions;
        assert_eq!(versions.backend, backend);
        assert_eq!(versions.gpu.as_deref(), (device == "cuda").then_some("Emulated GPU"));
    }
}

/// What a finished run has learnt, and how.
#[derive(PartialEq)]
struct Finished {
    name: String,
    state: BTreeMap<String, Vec<f32>>,
    losses_and_accuracies: Vec<[f64; 4]>,
}

/// The finished runs of a sweep.
fn family(dir: &Path) -> Vec<Finished> {
    let mut folders: Vec<PathBuf> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    let run = |folder: &PathBuf| {
        let run = Run::open(folder).unwrap();
        assert!(run.is_finished(), "{}", folder.display());
        let epochs = run.metrics().unwrap();
        let of = |epoch: &EpochMetrics| [epoch.train_loss, epoch.train_accuracy, epoch.test_loss, epoch.test_accuracy];
        Finished { name: run.name(), state: state(folder), losses_and_accuracies: epochs.iter().map(of).collect() }
    };
    folders.iter().map(run).collect()
}

/// A study's networks, trained at once on two GPUs: what is found is what one of them finds.
#[test]
fn a_study_that_several_gpus_share_finds_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (driver, plan) = (driver(), dir.path().join("plan.toml"));
    let families = "[[family]]\ndepth = [8]\nwidth = [0.25]\nseed = [0, 1]\n[[family]]\ndepth = [8]\nwidth = [0.5]\n";
    let measure = "[measure]\ncka = \"within\"\nblocks = true\n";
    fs::write(&plan, format!("title = \"Shared\"\n{}{families}{measure}", PLAN)).unwrap();
    let study = |name: &str, flags: &[&str]| {
        let out = dir.path().join(name);
        let mut arguments = vec!["study", plan.to_str().unwrap(), "--out", out.to_str().unwrap()];
        arguments.extend(flags);
        let output = run(driver.path(), "devices=2", &arguments);
        assert!(output.status.success(), "{}", text(&output.stderr));
        (family(&out.join("runs")), StudyInfo::load(&out).unwrap())
    };
    let (alone, one) = study("alone", &["--device", "cuda"]);
    let (shared, several) = study("shared", &["--device", "cuda:0,1", "--jobs", "2"]);
    assert_eq!(alone.len(), 3);
    assert!(alone == shared, "other bits");
    assert_eq!(one.findings, several.findings);
}

/// Two runs at once on each of two GPUs, stopped in the middle and gone on with: what one after the other gives.
#[test]
fn several_gpus_and_several_runs_on_each_give_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let (driver, plan) = (driver(), dir.path().join("plan.toml"));
    let rest = "[family]\ndepth = [8]\nwidth = [0.25]\nseed = [0, 1, 2]\ncolour_distortion = [0.0, 0.5]\n";
    fs::write(&plan, format!("{}{rest}", PLAN.replace("epochs = 2", "epochs = 6"))).unwrap();
    let (whole, several) = (dir.path().join("whole"), dir.path().join("several"));
    let sweep = |out: &Path, flags: &[&str]| {
        let mut arguments = vec!["sweep", plan.to_str().unwrap(), "--out", out.to_str().unwrap()];
        arguments.extend(flags);
        command_on(driver.path(), "devices=2", &arguments)
    };
    let output = sweep(&whole, &["--device", "cuda"]).output().unwrap();
    assert_content(&output);
    assert!(output.status.success(), "{}", text(&output.stderr));

    let flags = ["--device", "cuda:0,1", "--jobs", "2"];
    let mut child = sweep(&several, &flags).stderr(Stdio::null()).spawn().unwrap();
    let begun = || {
        let Ok(entries) = fs::read_dir(&several) else { return 0 };
        entries.filter(|entry| entry.as_ref().unwrap().path().join("metrics.jsonl").is_file()).count()
    };
    while begun() < 4 && child.try_wait().unwrap().is_none() {
        sleep(Duration::from_millis(5));
    }
    let signal = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let code = child.wait().unwrap().code();
    match signal.success() && code == Some(130) {
        true => assert!((4..6).contains(&begun()), "{} runs were begun", begun()),
        false => println!("skipped in part: training ended before the signal came ({code:?})"),
    }
    let output = sweep(&several, &flags).output().unwrap();
    assert_content(&output);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let (whole, several) = (family(&whole), family(&several));
    assert_eq!(whole.len(), 6);
    assert!(whole == several, "other bits");
}
