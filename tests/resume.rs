//! A run or a family that was killed (SIGKILL) or asked to stop (SIGINT, SIGTERM) and taken up again ends with the same bits
//! as one that was left alone, whoever takes it up.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;
use support::{TINY, command, fails, files, gramscope, succeeds, text, train_tiny};
use tempfile::TempDir;

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

/// A directory of its own for each `case`, all of one name, because pictures show it.
fn place(root: &TempDir, case: &str) -> PathBuf {
    root.path().join(case).join("out")
}

/// Starts `arguments` and waits until `delay` after it has said that `epochs` of its epochs are done.
fn start(arguments: &[&str], epochs: usize, delay: Duration) -> Child {
    let mut child = command(arguments).arg("--json").stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let ended = |line: &String| serde_json::from_str::<Value>(line).is_ok_and(|event| event["event"] == "epoch");
    lines.map_while(Result::ok).filter(ended).take(epochs).for_each(drop);
    sleep(delay);
    child
}

/// Kills what [`start`] has started, if it is still running; true if it was.
fn kill_after(arguments: &[&str], epochs: usize, delay: Duration) -> bool {
    let mut child = start(arguments, epochs, delay);
    let running = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    running
}

/// Every file below `dir` with what it holds, but for the times that metrics.jsonl and the report tell.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let content = |file: PathBuf| {
        let bytes = fs::read(dir.join(&file)).unwrap();
        let bytes = match file.file_name().and_then(|name| name.to_str()) {
            Some("metrics.jsonl") => without_times(&bytes),
            Some("report.html") => page_without_times(&bytes),
            _ => bytes,
        };
        (file, bytes)
    };
    files(dir).into_iter().map(content).collect()
}

fn page_without_times(page: &[u8]) -> Vec<u8> {
    let times = regex::bytes::Regex::new(r#""(seconds|images_per_second)":[0-9.eE+-]+"#).unwrap();
    times.replace_all(page, &b""[..]).into_owned()
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
    let (whole, killed) = (place(&root, "whole"), place(&root, "killed"));
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

/// The exit code is the one that a shell reports, and what the step at work came to is kept.
#[test]
fn a_run_that_is_asked_to_stop_writes_a_checkpoint_and_says_so() {
    let root = tempfile::tempdir().unwrap();
    let (whole, stopped) = (place(&root, "whole"), place(&root, "stopped"));
    succeeds(RUN.into_iter().chain(["--out", whole.to_str().unwrap()]));
    let resumed: Vec<&str> = RUN.into_iter().chain(["--resume", "--out", stopped.to_str().unwrap()]).collect();
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let mut child = start(&resumed, 0, Duration::from_millis(300));
        send(&child, signal);
        assert_eq!(child.wait().unwrap().code(), Some(code));
        // At an epoch's end its own checkpoint is all there is to keep.
        let kept = |name: &str| stopped.join("checkpoints").join(format!("{name}.safetensors")).is_file();
        assert!(kept("interrupted") || kept("latest"));
    }
    succeeds(&resumed);
    assert!(contents(&whole) == contents(&stopped), "the runs differ");
}

/// Sends `child` the signal of this name.
fn send(child: &Child, signal: &str) {
    let sent = Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status().unwrap();
    assert!(sent.success(), "the process ended before it could be stopped");
}

/// `timeout` sends its signal twice, which is one request. A step of this network takes seconds, and is all of its only epoch: were it
/// over before the last signal, there would be a checkpoint.
#[test]
fn signals_at_once_are_one_request_and_a_later_one_ends_the_process() {
    let root = tempfile::tempdir().unwrap();
    let out = place(&root, "stopped");
    let run = "train --train-images 256 --test-images 10 --batch-size 256 --depth 38 --width 4 --epochs 1 --out";
    let arguments: Vec<&str> = run.split(' ').chain([out.to_str().unwrap()]).collect();
    let checkpoint = out.join("checkpoints").join("latest.safetensors");
    let mut child = command(&arguments).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    sleep(Duration::from_millis(1500));
    send(&child, "INT");
    send(&child, "INT");
    // It says so once another one counts.
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("another signal")), "the command ended first");
    send(&child, "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(!checkpoint.exists(), "the step was finished first");
}

/// What has been compared, or learned by probes, is kept long before it would be written anyway, and gone on from.
#[test]
fn comparisons_and_probes_that_are_asked_to_stop_go_on_later() {
    let root = tempfile::tempdir().unwrap();
    let run = root.path().join("run");
    train_tiny(&run, 0);
    for (name, work) in [
        ("cka", &["cka", "--batch-size", "8", "--passes", "1000000"][..]),
        ("probe", &["probe", "--epochs", "1000000"]),
    ] {
        let out = place(&root, name);
        let arguments: Vec<&str> =
            work.iter().copied().chain([run.to_str().unwrap(), "--out", out.to_str().unwrap()]).collect();
        for (signal, code) in [("INT", 130), ("TERM", 143)] {
            let child = command(&arguments).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
            sleep(Duration::from_millis(500));
            send(&child, signal);
            let output = child.wait_with_output().unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(code), "{stderr}");
            assert!(stderr.contains("give the same command again"), "{stderr}");
            assert_eq!(stderr.contains("goes on with batch"), signal == "TERM", "{stderr}");
            let left = files(&out);
            assert!(left.len() == 1 && left[0].to_str().unwrap().starts_with("unfinished-"), "left {left:?}");
        }
    }
}

/// A plan of four runs in `dir`.
fn write_plan(dir: &Path) -> PathBuf {
    let plan = dir.join("plan.toml");
    fs::write(
        &plan,
        "[data]\nname = \"builtin\"\ntrain_images = 320\ntest_images = 40\n[train]\nepochs = 2\nbatch_size = 16\nwidth = \
         0.5\n[family]\ndepth = [8, 14]\nseed = [0, 1]\n",
    )
    .unwrap();
    plan
}

/// Epochs that `child`, started with `--json`, trained.
fn epochs_trained(child: Child) -> usize {
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    let events = stderr.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.filter(|event| event["event"] == "epoch").count()
}

#[test]
fn two_processes_share_a_family_and_train_no_run_twice() {
    let root = tempfile::tempdir().unwrap();
    let plan = write_plan(root.path());
    let (alone, shared) = (place(&root, "alone"), place(&root, "shared"));
    succeeds(["sweep", plan.to_str().unwrap(), "--out", alone.to_str().unwrap()]);
    let worker = || {
        command(["--json", "sweep", plan.to_str().unwrap(), "--out", shared.to_str().unwrap()])
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    };
    let workers = [worker(), worker(), worker()];
    let epochs: Vec<usize> = workers.into_iter().map(epochs_trained).collect();
    assert_eq!(epochs.iter().sum::<usize>(), 4 * 2, "{epochs:?}");
    assert!(contents(&alone) == contents(&shared), "the families differ");
}

/// A process that leaves a run to another leaves the family's pictures to it too.
#[test]
fn only_a_whole_family_is_drawn() {
    let root = tempfile::tempdir().unwrap();
    let (plan, out) = (write_plan(root.path()), place(&root, "family"));
    let sweep = ["sweep", plan.to_str().unwrap(), "--out", out.to_str().unwrap()];
    succeeds(sweep);
    let before = contents(&out);
    let pictures = [out.join("accuracy.png"), out.join("curves.png")];
    pictures.iter().for_each(|picture| fs::remove_file(picture).unwrap());
    // One run has begun, elsewhere.
    let run = out.join("resnet14-w0.5-s0");
    files(&run)
        .iter()
        .filter(|file| !file.ends_with("config.toml"))
        .for_each(|file| fs::remove_file(run.join(file)).unwrap());
    let held = fs::File::open(run.join("config.toml")).unwrap();
    held.lock().unwrap();
    succeeds(sweep);
    assert!(pictures.iter().all(|picture| !picture.exists()));
    drop(held);
    succeeds(sweep);
    assert!(contents(&out) == before, "the family differs");
}

/// Leaves of the run in `dir` what one leaves that fails before its first checkpoint.
fn unstart(dir: &Path) {
    let left = |file: &PathBuf| file != Path::new("config.toml");
    files(dir).iter().filter(|file| left(file)).for_each(|file| fs::remove_file(dir.join(file)).unwrap());
}

/// Whatever begins runs begins those anew that failed before their first checkpoint, without being told to; with other settings they
/// are somebody's.
#[test]
fn a_run_that_failed_before_its_first_checkpoint_is_begun_anew() {
    let root = tempfile::tempdir().unwrap();
    let out = |case: &str| place(&root, case).to_str().unwrap().to_owned();
    let run = |seed: &str| {
        let settings = ["--train-images", "40", "--test-images", "20", "--image-side", "8", "--depth", "8", "--width"];
        let rest = ["0.25", "--epochs", "1", "--batch-size", "20", "--seed", seed, "--out", &out("train")];
        ["train"].iter().chain(&settings).chain(&rest).map(|&text| text.to_owned()).collect::<Vec<_>>()
    };
    let head = "[data]\ntrain_images = 40\ntest_images = 20\nimage_side = 8\n[train]\nepochs = 1\nbatch_size = 20\n";
    let (family, study) = (root.path().join("family.toml"), root.path().join("study.toml"));
    fs::write(&family, format!("{head}[family]\ndepth = [8]\nwidth = [0.25]\n")).unwrap();
    let rest = "[[family]]\ndepth = [8]\nwidth = [0.25]\n[measure]\nsparsity = true\n";
    fs::write(&study, format!("title = \"t\"\n{head}{rest}")).unwrap();
    let texts = |arguments: &[&str]| arguments.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    let quick = ["--train-images", "40", "--test-images", "20", "--epochs", "1"];
    for (arguments, dir) in [
        (run("1"), PathBuf::from(out("train"))),
        (texts(&["sweep", family.to_str().unwrap(), "--out", &out("sweep")]), place(&root, "sweep")),
        (texts(&["study", study.to_str().unwrap(), "--out", &out("study")]), place(&root, "study")),
        ([texts(&["quickstart", "--out", &out("quickstart")]), texts(&quick)].concat(), place(&root, "quickstart")),
    ] {
        succeeds(&arguments);
        let before = contents(&dir);
        let runs: Vec<PathBuf> = files(&dir).into_iter().filter(|file| file.ends_with("config.toml")).collect();
        assert!(!runs.is_empty());
        runs.iter().for_each(|config| unstart(dir.join(config).parent().unwrap()));
        succeeds(&arguments);
        assert!(contents(&dir) == before, "{arguments:?}");
    }
    unstart(&place(&root, "train"));
    fails(run("2"), 1, &["seed is 1 there and 2 here", "(--seed, --out)"]);
}

#[test]
fn verify_names_what_was_damaged_and_resuming_mends_it() {
    let root = tempfile::tempdir().unwrap();
    let run = root.path().join("run");
    let arguments: Vec<&str> = RUN.into_iter().chain(["--resume", "--out", run.to_str().unwrap()]).collect();
    succeeds(&arguments);
    let before = contents(&run);
    assert!(succeeds(["verify", root.path().to_str().unwrap()]).contains("5 files as they were written, 0 damaged"));
    for name in ["checkpoints/latest.safetensors", "predictions.safetensors"] {
        let path = run.join(name);
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 0x40;
        fs::write(&path, &bytes).unwrap();
        fails(["verify", root.path().to_str().unwrap()], 1, &["1 of 5", path.to_str().unwrap()]);
        succeeds(&arguments);
        assert!(contents(&run) == before, "{name} was not mended");
    }
}

/// A tiny run in `dir` with checkpoints as `flags` say, which goes on where it was.
fn tiny(dir: &Path, flags: &[&str]) {
    let out = ["--resume", "--out", dir.to_str().unwrap()];
    succeeds(["train"].into_iter().chain(TINY).chain(flags.iter().copied()).chain(out));
}

#[test]
fn verify_names_what_a_finished_run_lacks_and_resuming_mends_it() {
    let root = tempfile::tempdir().unwrap();
    let run = root.path().join("run");
    tiny(&run, &[]);
    let before = contents(&run);
    let (predictions, latest) = ("predictions.safetensors", "checkpoints/latest.safetensors");
    for missing in [vec![predictions], vec![latest], vec![latest, "checkpoints/previous.safetensors"]] {
        missing.iter().for_each(|name| fs::remove_file(run.join(name)).unwrap());
        let path = run.join(missing[0]);
        let said = gramscope(["verify", run.to_str().unwrap()]);
        let lines = format!("damaged or missing: {}\n  it is missing", path.display());
        assert!(said.status.code() == Some(1) && text(&said.stdout).contains(&lines), "{}", text(&said.stdout));
        assert!(text(&said.stdout).contains(" 1 damaged or missing"), "{}", text(&said.stdout));
        if missing == [latest] {
            // Of another network than the one that was trained nothing is told.
            let (run, out) = (run.to_str().unwrap(), root.path().join("sparsity"));
            fails(
                ["sparsity", run, "--out", out.to_str().unwrap()],
                1,
                &["all 2 epochs", "of epoch 1", "train --resume"],
            );
        }
        tiny(&run, &[]);
        assert!(contents(&run) == before, "{missing:?} are not mended");
        succeeds(["verify", run.to_str().unwrap()]);
    }
    // Without both, a run of more than one epoch has lost them; after one it may have had no room for the first checkpoint.
    for name in [predictions, latest, "checkpoints/previous.safetensors"] {
        fs::remove_file(run.join(name)).unwrap();
    }
    fails(["verify", run.to_str().unwrap()], 1, &["1 of 3", latest]);
    let metrics = run.join("metrics.jsonl");
    let lines = fs::read_to_string(&metrics).unwrap();
    fs::write(&metrics, &lines[..=lines.find('\n').unwrap()]).unwrap();
    succeeds(["verify", run.to_str().unwrap()]);
}

/// Without weights, with another checkpoint of the last epoch, or with nothing but a kept epoch.
#[test]
fn copies_of_parts_of_a_run_are_well() {
    let root = tempfile::tempdir().unwrap();
    let checkpoint = |name: &str| format!("checkpoints/{name}.safetensors");
    let (latest, previous, last) = (checkpoint("latest"), checkpoint("previous"), checkpoint("epoch-0002"));
    let predictions = "predictions.safetensors".to_owned();
    for left_out in [vec!["checkpoints".to_owned()], vec![latest.clone()], vec![latest, previous, last, predictions]] {
        let run = root.path().join(left_out.len().to_string());
        tiny(&run, &["--checkpoint-every", "1"]);
        for path in left_out.iter().map(|name| run.join(name)) {
            if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
        }
        assert!(succeeds(["verify", run.to_str().unwrap()]).contains(" 0 damaged or missing"), "{left_out:?}");
        fs::remove_dir_all(run).unwrap();
    }
}

#[test]
fn a_killed_family_goes_on_where_it_was() {
    let root = tempfile::tempdir().unwrap();
    let plan = write_plan(root.path());
    let (whole, killed) = (place(&root, "whole"), place(&root, "killed"));
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

/// What is finished needs its data no more, neither alone nor in a family.
#[test]
fn what_is_finished_needs_no_data() {
    let root = TempDir::new().unwrap();
    let images = root.path().join("images");
    for (split, count) in [("train", 6), ("test", 2)] {
        for class in ["cat", "dog"] {
            let dir = images.join(split).join(class);
            fs::create_dir_all(&dir).unwrap();
            for number in 0..count {
                let shade = if class == "cat" { 40 * number } else { 255 - 40 * number };
                image::RgbImage::from_pixel(8, 8, image::Rgb([shade; 3]))
                    .save(dir.join(format!("{number}.png")))
                    .unwrap();
            }
        }
    }
    let data = images.to_str().unwrap();
    let at = |name: &str| root.path().join(name).to_str().unwrap().to_owned();
    let (run, family, plan) = (at("run"), at("family"), at("plan.toml"));
    let table = format!("[data]\nname = \"folder\"\ndir = \"{data}\"\nimage_side = 8\n");
    let rest = "[train]\nepochs = 1\nbatch_size = 4\nwidth = 0.25\n[family]\ndepth = [8]\n";
    fs::write(&plan, format!("{table}{rest}")).unwrap();
    let train: Vec<String> = ["train", "--data", data, "--image-side", "8", "--depth", "8", "--width", "0.25"]
        .into_iter()
        .chain(["--epochs", "1", "--batch-size", "4", "--resume", "--out", &run])
        .map(str::to_owned)
        .collect();
    let sweep = ["sweep", &plan, "--out", &family];
    succeeds(&train);
    succeeds(sweep);
    for split in ["train", "test"] {
        fs::remove_dir_all(images.join(split).join("cat")).unwrap();
        fs::remove_dir_all(images.join(split).join("dog")).unwrap();
    }
    succeeds(&train);
    succeeds(sweep);
    fs::remove_file(Path::new(&run).join("predictions.safetensors")).unwrap();
    fails(&train, 1, &["train", "images"]);
}

/// A study of four runs in `dir`, with most of what a study can measure.
fn write_study(dir: &Path) -> PathBuf {
    let plan = dir.join("study.toml");
    let text = "title = \"t\"\n[data]\ntrain_images = 160\ntest_images = 40\nimage_side = 16\n[train]\nepochs = 4\n\
                batch_size = 16\ncheckpoint_every = 2\n[[family]]\ndepth = [8, 14]\nwidth = [0.5]\nseed = [0, 1]\n\
                [measure]\ncka = \"all\"\nmean = true\nblocks = true\npcs = true\nepochs = true\nablate = true\nsparsity = true\n\
                predict = true\n[measure.probe]\nepochs = 6\n";
    fs::write(&plan, text).unwrap();
    plan
}

/// Trains, sweeps, compares and studies while it is killed at random moments, two hundred times in all: what comes out is what
/// comes out undisturbed, and nothing else is left. Takes minutes: `cargo test --release --test resume -- --ignored`.
#[test]
#[ignore = "takes minutes; run it with --ignored"]
fn two_hundred_kills_change_nothing() {
    let root = tempfile::tempdir().unwrap();
    let (plan, study) = (write_plan(root.path()), write_study(root.path()));
    // Results name the files they are made from, so that all rounds work in a directory of their own with the same names.
    let commands = {
        let text = |arguments: &[&str]| arguments.iter().map(|&argument| argument.to_owned()).collect::<Vec<_>>();
        [
            [text(&RUN), text(&["--resume", "--checkpoint-every", "2", "--out", "run"])].concat(),
            text(&["sweep", plan.to_str().unwrap(), "--out", "family"]),
            text(&["cka", "run", "--batch-size", "8", "--passes", "20", "--out", "cka"]),
            text(&["study", study.to_str().unwrap(), "--out", "study"]),
        ]
    };
    let complete = |dir: &Path, arguments: &[String]| {
        let output = command(arguments).current_dir(dir).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let made = |case: &str| {
        let dir = place(&root, case);
        fs::create_dir_all(&dir).unwrap();
        dir
    };
    let whole = made("whole");
    commands.iter().for_each(|arguments| complete(&whole, arguments));
    let expected = contents(&whole);
    let (mut kills, mut rounds) = (0, 0);
    while kills < 200 {
        let out = made(&format!("round-{rounds}"));
        for arguments in &commands {
            // Where even a little is more than the longest of these moments, killing it for ever would be none.
            for _ in 0..20 {
                // Uneven steps of the golden ratio: moments that neither repeat nor follow the work's own rhythm.
                let delay = Duration::from_millis(5 + ((f64::from(kills) * 0.618).fract() * 700.0) as u64);
                let mut child = command(arguments)
                    .arg("--quiet")
                    .current_dir(&out)
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap();
                sleep(delay);
                let running = child.try_wait().unwrap().is_none();
                child.kill().unwrap();
                child.wait().unwrap();
                if !running {
                    break;
                }
                kills += 1;
            }
            complete(&out, arguments);
        }
        let found = contents(&out);
        let differing: Vec<_> =
            found.iter().zip(&expected).filter(|(a, b)| a != b).map(|(a, b)| (&a.0, &b.0)).collect();
        assert!(found == expected, "round {rounds}: {:?}", differing.first());
        rounds += 1;
    }
    println!("{kills} kills in {rounds} rounds");
}
