//! Every wrong input gives one clear message and the right exit code, and overwrites nothing.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;

use gramscope_study::Saved;
use gramscope_study::pair::PairResult;
use support::{TINY, fails, files, gramscope, noise, succeeds, text, train_tiny, write_activations};

fn path(dir: &Path, name: &str) -> String {
    dir.join(name).to_str().unwrap().to_owned()
}

#[test]
fn help_shows_every_command_with_an_example() {
    let help = succeeds(["--help"]);
    for command in [
        "quickstart",
        "train",
        "sweep",
        "cka",
        "blocks",
        "mean",
        "activations",
        "report",
        "verify",
        "doctor",
        "bench",
        "data",
        "pcs",
        "cosine",
        "dominant",
        "sparsity",
        "probe",
        "ablate",
    ] {
        assert!(help.contains(command), "{command} is missing from --help");
        assert!(succeeds([command, "--help"]).contains("Usage"), "{command} --help");
    }
    assert!(help.contains("Examples:"));
}

#[test]
fn wrong_usage_exits_2() {
    for arguments in [
        vec!["no-such-command"],
        vec!["train", "--depth", "8"],
        vec!["train", "--depth", "eight", "--out", "x"],
        vec!["cka", "--out", "x"],
        vec!["cka", "run", "--out", "x", "--estimator", "best"],
        vec!["cka", "run", "--out", "x", "--kernel", "rbf:-1"],
        vec!["cka", "run", "--out", "x", "--layers", "("],
        vec!["cka", "run", "--activations", "file", "--out", "x"],
        // With stored activations no network computes anything.
        vec!["cka", "--activations", "file", "--out", "x", "--precision", "bf16"],
        vec!["pcs", "--activations", "file", "--out", "x", "--convolutions", "cudnn"],
        vec!["cosine", "--activations", "file", "--out", "x", "--precision", "f32"],
        vec!["cka", "run", "--out", "x", "--dominant-layer", "pool"],
        vec!["bench", "train", "--batch-size", "0"],
    ] {
        let output = gramscope(&arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", text(&output.stderr));
    }
}

#[test]
fn paths_that_are_not_there_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (out, missing) = (path(dir.path(), "out"), path(dir.path(), "missing"));
    fails(["cka", &missing, "--out", &out], 1, &[&missing]);
    fails(["cka", "--activations", &missing, "--out", &out], 1, &[&missing]);
    fails(["activations", &missing, "--out", &out], 1, &[&missing]);
    fails(["report", &missing], 1, &[&missing]);
    fails(["sweep", &missing, "--out", &out], 1, &[&missing]);
    fails(["train", "--data", &missing, "--depth", "8", "--out", &out], 1, &["--data", &missing]);
    fails(["data", "info", &missing], 1, &[&missing]);
    assert!(files(dir.path()).is_empty(), "a failed command left {:?}", files(dir.path()));
}

#[test]
fn settings_that_make_no_network_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    let out = path(dir.path(), "run");
    fails(["train", "--depth", "15", "--out", &out], 1, &["15", "14", "20"]);
    fails(["train", "--depth", "8", "--width", "0", "--out", &out], 1, &["width"]);
    fails(["train", "--depth", "8", "--fraction", "1.5", "--out", &out], 1, &["fraction", "1.5"]);
    fails(["train", "--depth", "8", "--epochs", "0", "--out", &out], 1, &["epochs"]);
    fails(["train", "--depth", "8", "--train-images", "50", "--out", &out], 1, &["batch", "50"]);
    fails(["train", "--depth", "8", "--device", "cuda:0", "--out", &out], 1, &["--device cuda:0", "the CPU"]);
    fails(["bench", "train", "--depth", "15"], 1, &["15", "14", "20"]);
    let padded = ["train", "--depth", "8", "--image-side", "8", "--crop-padding", "8", "--out", &out];
    fails(padded, 1, &["crop_padding", "--crop-padding", "smaller than the images' side"]);
    assert!(files(dir.path()).is_empty(), "a failed command left {:?}", files(dir.path()));
}

#[test]
fn how_many_runs_go_at_once_is_checked() {
    let sweep = |flags: &[&'static str]| ["sweep", "no-plan.toml", "--out", "out"].into_iter().chain(flags.to_vec());
    fails(sweep(&["--jobs", "0"]), 2, &["--jobs"]);
    fails(sweep(&["--device", "cuda:0,0"]), 2, &["--device", "twice", "--jobs"]);
    fails(sweep(&["--device", "cuda:0,cpu"]), 2, &["--device", "cpu", "cuda:0,1"]);
    fails(sweep(&["--device", "cpu", "--jobs", "2"]), 1, &["--jobs is for GPUs", "no-plan.toml"]);
}

#[test]
fn a_directory_that_holds_another_run_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    train_tiny(&run, 0);
    let contents =
        |run: &Path| -> Vec<Vec<u8>> { files(run).iter().map(|file| fs::read(run.join(file)).unwrap()).collect() };
    let before = contents(&run);
    let out = run.to_str().unwrap();
    fails(["train"].into_iter().chain(TINY).chain(["--out", out]), 1, &[out, "--resume"]);
    fails(["train"].into_iter().chain(TINY).chain(["--seed", "1", "--resume", "--out", out]), 1, &["seed"]);
    assert_eq!(before, contents(&run));
    succeeds(["train"].into_iter().chain(TINY).chain(["--resume", "--out", out]));
    assert_eq!(before, contents(&run), "resuming a finished run changed it");
    // The run says itself what it is of, unless somebody says some of it.
    assert_eq!(
        succeeds(["train", "--resume", "--out", out]),
        succeeds(["train"].into_iter().chain(TINY).chain(["--resume", "--out", out]))
    );
    for some in [&["--seed", "0"][..], &["--train-images", "8"]] {
        fails(["train", "--resume", "--out", out].into_iter().chain(some.iter().copied()), 1, &["--depth is missing"]);
    }
    let none = dir.path().join("none");
    fails(["train", "--resume", "--out", none.to_str().unwrap()], 1, &["--depth", "none is not a run directory"]);
    fails(["train", "--out", out], 2, &["--depth"]);
    assert_eq!(before, contents(&run));

    // A line that is lost is not passed over, whatever checkpoints say.
    let metrics = run.join("metrics.jsonl");
    let lines = fs::read_to_string(&metrics).unwrap();
    for rest in [&lines[..lines.find('\n').unwrap() + 1], ""] {
        fs::write(&metrics, rest).unwrap();
        fails(["train", "--resume", "--out", out], 1, &["metrics.jsonl", "but the last checkpoint is of epoch"]);
        fails(["verify", out], 1, &["metrics.jsonl"]);
    }
    // Another run begins with its weights, which are whole.
    let next = dir.path().join("next");
    succeeds(["train"].into_iter().chain(TINY).chain(["--init-from", out, "--out", next.to_str().unwrap()]));
}

/// Nothing is begun that could not be read again.
#[test]
fn numbers_that_no_config_holds_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let arguments = ["--checkpoint-every", "9223372036854775808", "--out", out.to_str().unwrap()];
    fails(
        ["train"].into_iter().chain(TINY).chain(arguments),
        1,
        &["checkpoint_every is 9223372036854775808", "--checkpoint-every"],
    );
    assert!(!out.exists() || files(&out).is_empty());
}

#[test]
fn a_foreign_directory_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.txt"), "irreplaceable").unwrap();
    let out = dir.path().to_str().unwrap();
    fails(["train"].into_iter().chain(TINY).chain(["--out", out]), 1, &[out]);
    assert_eq!(files(dir.path()), [Path::new("thesis.txt")]);
}

#[test]
fn an_unknown_key_in_a_plan_is_answered_with_the_nearest() {
    let dir = tempfile::tempdir().unwrap();
    let (plan, out) = (path(dir.path(), "plan.toml"), path(dir.path(), "out"));
    for (text, wrong, nearest) in [
        ("[train]\nepoch = 3\n[family]\ndepth = [8]\n", "epoch", "epochs"),
        ("[famly]\ndepth = [8]\n", "famly", "family"),
        ("[data]\nnmae = \"builtin\"\n[family]\ndepth = [8]\n", "nmae", "name"),
        ("[family]\ndepth = [8]\nsede = [1]\n", "sede", "seed"),
    ] {
        fs::write(&plan, text).unwrap();
        fails(["sweep", &plan, "--out", &out], 1, &[&plan, wrong, nearest]);
    }
    assert!(!Path::new(&out).exists());
}

#[test]
fn activation_files_that_cannot_be_compared_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b, out) = (path(dir.path(), "a.safetensors"), path(dir.path(), "b.safetensors"), path(dir.path(), "out"));
    write_activations(Path::new(&a), &[("layer", 8, 3, noise(1, 24))]);
    fails(["cka", "--activations", &a, "--out", &out], 1, &[&a, "--batch-size", "--keep-partial", "8"]);
    fails(["cka", "--activations", &a, &a, &a, "--out", &out], 1, &["--activations", "3 files"]);
    fails(
        ["cka", "--activations", &a, "--examples", "9", "--out", &out],
        1,
        &[&a, "9 examples", "--examples", "1 to 8"],
    );
    fails(["cka", &a, "--out", &out], 1, &[&a, "is not a run directory: it is a file"]);
    fails(["cka", "--activations", &a, "--out", &out, "--batch-size", "3"], 1, &["3", "4"]);

    write_activations(Path::new(&b), &[("layer", 12, 3, noise(1, 36))]);
    fails(["cka", "--activations", &a, &b, "--out", &out, "--batch-size", "4"], 1, &["8", "12"]);

    write_activations(Path::new(&b), &[("empty", 8, 0, vec![])]);
    fails(["cka", "--activations", &b, "--out", &out, "--batch-size", "8"], 1, &["empty", "features"]);

    for wrong in [f32::NAN, f32::INFINITY] {
        let mut values = noise(1, 24);
        values[13] = wrong;
        write_activations(Path::new(&b), &[("first", 8, 3, noise(2, 24)), ("second", 8, 3, values)]);
        fails(
            ["cka", "--activations", &b, "--out", &out, "--batch-size", "4"],
            1,
            &["second", "example 5 of the file"],
        );
    }

    let whole = fs::read(&a).unwrap();
    fs::write(&b, &whole[..whole.len() - 1]).unwrap();
    fails(["cka", "--activations", &b, "--out", &out, "--batch-size", "4"], 1, &[&b]);
    let mut lying = whole.clone();
    lying[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    fs::write(&b, &lying).unwrap();
    fails(["cka", "--activations", &b, "--out", &out, "--batch-size", "4"], 1, &[&b]);
    assert!(!Path::new(&out).join("cka.npz").exists());
}

/// What other tools keep arrays in is named with the way out.
#[test]
fn other_formats_of_activations_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (path(dir.path(), "activations"), path(dir.path(), "out"));
    for (start, name) in
        [(&b"\x93NUMPY\x01\0"[..], ".npy"), (b"PK\x03\x04\x2d\0\0\0", ".npz"), (b"\x89HDF\r\n\x1a\n", "HDF5")]
    {
        fs::write(&file, [start, &[0; 64]].concat()).unwrap();
        for command in ["cka", "pcs", "cosine"] {
            fails([command, "--activations", &file, "--out", &out], 1, &[&file, name, "save_file"]);
        }
    }
}

/// Nobody writes to the pipe: whoever opened it would wait for ever.
#[cfg(unix)]
#[test]
fn a_pipe_is_no_file_of_activations() {
    let dir = tempfile::tempdir().unwrap();
    let (pipe, out) = (path(dir.path(), "pipe"), path(dir.path(), "out"));
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    fails(["cka", "--activations", &pipe, "--out", &out], 1, &[&pipe, "not a file"]);
}

/// A result names its files in JSON. Nothing is computed that could not be written down.
#[cfg(unix)]
#[test]
fn names_that_are_not_unicode_are_refused_at_once() {
    use std::os::unix::ffi::OsStringExt;
    let dir = tempfile::tempdir().unwrap();
    let out = path(dir.path(), "out");
    let name = std::ffi::OsString::from_vec(b"\xff.safetensors".to_vec());
    fails(
        ["cka".as_ref(), "--activations".as_ref(), name.as_os_str(), "--out".as_ref(), out.as_ref()],
        1,
        &["Unicode"],
    );
    assert!(!Path::new(&out).exists());
}

#[cfg(target_os = "linux")]
#[test]
fn results_that_do_not_fit_on_stdout_are_an_error() {
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = support::command(["data", "list"]).stdout(full()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        support::text(&output.stderr).contains("error: cannot write to stdout"),
        "{}",
        support::text(&output.stderr)
    );
}

/// Whoever compares a run that still trains is told, and told nothing once it is done.
#[test]
fn a_run_whose_training_is_not_over_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (run, out) = (path(dir.path(), "run"), path(dir.path(), "out"));
    train_tiny(Path::new(&run), 0);
    let said = || {
        let output = gramscope(["cka", &run, "--passes", "1", "--batch-size", "20", "--out", &out]);
        assert!(output.status.success());
        text(&output.stderr)
    };
    assert!(!said().contains("not over"));
    let config = Path::new(&run).join("config.toml");
    let settings = fs::read_to_string(&config).unwrap();
    assert!(settings.contains("epochs = 2\n"), "{settings}");
    fs::write(&config, settings.replace("epochs = 2\n", "epochs = 7\n")).unwrap();
    let said = said();
    assert!(said.contains(&run) && said.contains("2 of 7 epochs"), "{said}");
}

/// A report does not pass over a result in silence whose numbers, or whose description, are gone.
#[test]
fn a_result_of_which_a_file_is_gone_is_named_by_the_report() {
    let dir = tempfile::tempdir().unwrap();
    let (file, results) = (path(dir.path(), "a.safetensors"), path(dir.path(), "results"));
    write_activations(Path::new(&file), &[("one", 8, 5, noise(1, 40)), ("two", 8, 3, noise(2, 24))]);
    for lost in ["cka.npz", "cka.json"] {
        for result in ["whole", "part"] {
            let out = path(Path::new(&results), result);
            succeeds(["cka", "--activations", &file, "--batch-size", "8", "--out", &out]);
        }
        let lost = Path::new(&results).join("part").join(lost);
        fs::remove_file(&lost).unwrap();
        let output = gramscope(["report", &results]);
        let said = text(&output.stderr);
        assert!(output.status.success() && said.contains(lost.to_str().unwrap()), "{said}");
    }
}

#[test]
fn undefined_layers_are_named_and_not_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (path(dir.path(), "a.safetensors"), path(dir.path(), "out"));
    let mut single = vec![0.0; 32 * 5];
    single[3 * 5..4 * 5].copy_from_slice(&noise(3, 5));
    write_activations(
        Path::new(&file),
        &[("alive", 32, 5, noise(1, 160)), ("dead", 32, 5, vec![1.5; 160]), ("single", 32, 5, single)],
    );
    let output = gramscope(["cka", "--activations", &file, "--out", &out, "--batch-size", "16"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let stderr = text(&output.stderr);
    assert!(stderr.contains("dead") && stderr.contains("single"), "{stderr}");
    let json = fs::read_to_string(Path::new(&out).join("cka.json")).unwrap();
    assert!(json.contains("undefined") && json.contains("dead") && json.contains("single"));
    let cka = PairResult::load(Path::new(&out)).unwrap().similarity.cka;
    for (index, value) in cka.iter().enumerate() {
        assert_eq!(value.is_nan(), index != 0, "entry {index} is {value}");
    }
}

#[test]
fn truncated_cifar_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    for number in 1..=5 {
        fs::write(dir.path().join(format!("data_batch_{number}.bin")), vec![0; 100]).unwrap();
    }
    fs::write(dir.path().join("test_batch.bin"), vec![0; 100]).unwrap();
    fails(["data", "info", dir.path().to_str().unwrap()], 1, &["data_batch_1.bin", "100"]);
}

#[test]
fn json_progress_is_json() {
    let dir = tempfile::tempdir().unwrap();
    let run = path(dir.path(), "run");
    let output = gramscope(["--json", "train"].into_iter().chain(TINY).chain(["--out", &run]));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let stderr = text(&output.stderr);
    let events: Vec<serde_json::Value> = stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.iter().filter(|event| event["event"] == "epoch").count(), 2, "{stderr}");
    // Warnings are lines of the same form: one run has no spread.
    let output = gramscope(["--json", "predict", &run, "--out", &path(dir.path(), "predict")]);
    let stderr = text(&output.stderr);
    let lines: Vec<serde_json::Value> = stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let warns =
        |line: &serde_json::Value| line["event"] == "warning" && line["message"].as_str().unwrap().contains("one run");
    assert!(lines.iter().any(warns), "{stderr}");
}

/// What would fail at the end fails before anything is computed: these would take hours, or train ten networks.
#[test]
fn a_place_that_takes_no_results_is_named_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (run, file, out) = (path(dir.path(), "run"), path(dir.path(), "file"), path(dir.path(), "out"));
    train_tiny(Path::new(&run), 0);
    fs::write(&file, "").unwrap();
    let passes = ["--batch-size", "8", "--passes", "1000000000"];
    let compare =
        |out: &str| ["cka", &run, &run, "--out", out].into_iter().chain(passes).map(str::to_owned).collect::<Vec<_>>();
    fails(compare(&format!("{file}/below")), 1, &[&file, "not a directory"]);
    let foreign = Path::new(&out).join("run__run-2");
    fs::create_dir_all(&foreign).unwrap();
    fs::write(foreign.join("cka.json"), "{}").unwrap();
    fails(compare(&out), 1, &["run__run-2", "cka.json", "--out"]);
    let quickstart = |out: &str, images: &str| {
        ["quickstart", "--out", out, "--epochs", "100000000", "--test-images", images].map(str::to_owned)
    };
    fails(quickstart(&path(dir.path(), "quick"), "3"), 1, &["3 test images", "--test-images", "at least 4"]);
    fs::create_dir_all(Path::new(&out).join("cka")).unwrap();
    fs::write(Path::new(&out).join("cka").join("cka.json"), "{}").unwrap();
    fails(quickstart(&out, "40"), 1, &["cka.json", "--out"]);
}

#[test]
fn quiet_says_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let output = gramscope(["--quiet", "train"].into_iter().chain(TINY).chain(["--out", &path(dir.path(), "run")]));
    assert!(output.status.success());
    assert_eq!((text(&output.stdout), text(&output.stderr)), (String::new(), String::new()));
}
