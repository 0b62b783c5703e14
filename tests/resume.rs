//! A run or a family that was killed (SIGKILL) and taken up again ends with the same bits as one that was left alone.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;
use support::{command, files, succeeds};

/// Flags of a run of three epochs of a second or so each, so that a kill has a middle to hit.
const RUN: [&str; 17] = [
    "train",
    "--data",
    "builtin",
    "--train-images",
    "480",
    "--test-images",
    "40",
    "--depth",
    "14",
    "--width",
    "0.5",
    "--epochs",
    "3",
    "--batch-size",
    "16",
    "--seed",
    "5",
];

/// Starts `arguments` and kills it `delay` after it has said that `epochs` of its epochs are done, if it is still running
/// then; true if it was.
fn kill_after(arguments: &[&str], epochs: usize, delay: Duration) -> bool {
    let mut child = command(arguments).arg("--json").stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let ended = |line: &String| serde_json::from_str::<Value>(line).is_ok_and(|event| event["event"] == "epoch");
    lines.map_while(Result::ok).filter(ended).take(epochs).for_each(drop);
    sleep(delay);
    let running = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    running
}

/// Every file below `dir` with what it holds, but for the times that metrics.jsonl tells.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let content = |file: PathBuf| {
        let bytes = fs::read(dir.join(&file)).unwrap();
        let bytes = if file.ends_with("metrics.jsonl") { without_times(&bytes) } else { bytes };
        (file, bytes)
    };
    files(dir).into_iter().map(content).collect()
}

fn without_times(metrics: &[u8]) -> Vec<u8> {
    let lines = metrics.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).map(|line| {
        let mut epoch: Value = serde_json::from_slice(line).unwrap();
        for time in ["seconds", "images_per_second"] {
            epoch.as_object_mut().unwrap().remove(time).unwrap();
        }
        epoch.to_string()
    });
    lines.collect::<Vec<_>>().join("\n").into_bytes()
}

#[test]
fn a_killed_run_ends_with_the_same_bits() {
    let root = tempfile::tempdir().unwrap();
    let (whole, killed) = (root.path().join("whole"), root.path().join("killed"));
    succeeds(RUN.into_iter().chain(["--checkpoint-every", "2", "--out", whole.to_str().unwrap()]));
    let resumed: Vec<&str> =
        RUN.into_iter().chain(["--checkpoint-every", "2", "--resume", "--out", killed.to_str().unwrap()]).collect();
    // Before the first step, early in the first epoch, and in the middle of the second and of the third.
    let mut kills = 0;
    for (epochs, delay) in [(0, 5), (0, 150), (1, 100), (1, 60), (0, 90)] {
        kills += usize::from(kill_after(&resumed, epochs, Duration::from_millis(delay)));
    }
    assert!(kills >= 3, "only {kills} of 5 kills came before the run's end");
    succeeds(&resumed);
    assert!(contents(&whole) == contents(&killed), "the runs differ: {:?} and {:?}", files(&whole), files(&killed));
}

#[test]
fn a_killed_family_goes_on_where_it_was() {
    let root = tempfile::tempdir().unwrap();
    let plan = root.path().join("plan.toml");
    fs::write(
        &plan,
        "[data]\nname = \"builtin\"\ntrain_images = 320\ntest_images = 40\n[train]\nepochs = 2\nbatch_size = 16\nwidth = \
         0.5\n[family]\ndepth = [8, 14]\nseed = [0, 1]\n",
    )
    .unwrap();
    let (whole, killed) = (root.path().join("whole"), root.path().join("killed"));
    let sweep = |out: &Path| ["sweep", plan.to_str().unwrap(), "--out", out.to_str().unwrap()].map(str::to_owned);
    let left_alone = succeeds(sweep(&whole));
    let arguments = sweep(&killed);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let kills = [(1, 30), (2, 50), (3, 20)]
        .map(|(epochs, delay)| kill_after(&arguments, epochs, Duration::from_millis(delay)))
        .into_iter()
        .filter(|&running| running)
        .count();
    assert!(kills >= 2, "only {kills} of 3 kills came before the family's end");
    assert_eq!(succeeds(&arguments), left_alone, "the table of the family");
    assert!(contents(&whole) == contents(&killed), "the families differ");
}
