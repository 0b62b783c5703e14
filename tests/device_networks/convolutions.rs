//! `--convolutions cudnn`, through the binary, on a stand-in for cuDNN.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use gramscope_nn::Backend;
use gramscope_study::Saved;
use gramscope_study::pair::PairResult;
use gramscope_train::Run;

use crate::support::driver::{assert_content, command_on, driver, driver_and_cudnn};
use crate::support::text;
use crate::{PLAN, difference, only_folder, state, train};

/// Sweeps of one plan, with a cache of their own.
struct Sweeps {
    dir: tempfile::TempDir,
    libraries: tempfile::TempDir,
}

impl Sweeps {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let plan = format!("{PLAN}[family]\ndepth = [8]\nwidth = [0.25]\nseed = [0]\n");
        fs::write(dir.path().join("plan.toml"), plan).unwrap();
        Self { dir, libraries: driver_and_cudnn() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn choices(&self) -> PathBuf {
        self.path("cache/gramscope/cudnn.json")
    }

    /// Runs a command; whether it succeeded, and what it said.
    fn run(&self, libraries: &Path, cudnn: &str, arguments: &[&str]) -> (bool, String) {
        let mut command = command_on(libraries, "", arguments);
        command.env("XDG_CACHE_HOME", self.path("cache"));
        let trace = self.path("trace");
        command.env("GRAMSCOPE_FAKE_CUDNN", format!("trace={},{cudnn}", trace.display()));
        let output = command.output().unwrap();
        assert_content(&output);
        (output.status.success(), text(&output.stdout) + &text(&output.stderr))
    }

    /// Trains into `name`.
    fn sweep(&self, name: &str, flags: &[&str]) -> (bool, String) {
        let (plan, out) = (self.path("plan.toml"), self.path(name));
        let arguments = [&["sweep", plan.to_str().unwrap(), "--out", out.to_str().unwrap()], flags].concat();
        self.run(self.libraries.path(), "", &arguments)
    }

    fn trained(&self, name: &str, flags: &[&str]) -> PathBuf {
        let (finished, said) = self.sweep(name, flags);
        assert!(finished, "{said}");
        only_folder(&self.path(name))
    }

    /// The engines that were run since this was asked for last.
    fn engines(&self) -> Vec<String> {
        let trace = fs::read_to_string(self.path("trace")).unwrap_or_default();
        let _ = fs::remove_file(self.path("trace"));
        trace.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }
}

const CUDNN: [&str; 4] = ["--device", "cuda", "--convolutions", "cudnn"];

/// Two epochs with cuDNN's convolutions and with ours differ by the order of sums, as those of CPU and GPU do, where the bound
/// is derived. The second run finds the engines chosen, and has the bits of the first.
#[test]
fn cudnn_trains_as_our_kernels_do() {
    let sweeps = Sweeps::new();
    let first = sweeps.trained("first", &CUDNN);
    let engines = sweeps.engines();
    // Not what varies from launch to launch, nor what rounds factors.
    let wanted = |engine: &String| ["0", "3"].contains(&engine.as_str());
    assert!(!engines.is_empty() && engines.iter().all(wanted), "{engines:?}");
    let kept = fs::read_to_string(sweeps.choices()).unwrap();
    let choices: BTreeMap<String, String> = serde_json::from_str(&kept).unwrap();
    assert!(choices.keys().all(|of| of.starts_with("Emulated GPU, cuDNN 9.21.1, ")), "{kept}");
    for product in ["forward", "input gradient", "input gradient added", "weight gradient"] {
        assert!(choices.keys().any(|of| of.contains(&format!(", {product}, f32, "))), "{product}: {kept}");
    }

    let again = sweeps.trained("again", &CUDNN);
    assert_eq!(state(&first), state(&again));
    assert_eq!(fs::read_to_string(sweeps.choices()).unwrap(), kept);
    // No engine was measured: each of the two epochs runs the chosen ones alone.
    assert!(sweeps.engines().len() < engines.len());

    let dir = tempfile::tempdir().unwrap();
    let plan = fs::read_to_string(sweeps.path("plan.toml")).unwrap();
    let own = train(dir.path(), "own", &plan, &["cuda"]);
    let found = difference(&own, &first);
    assert!(found <= 5e-5, "off by {found:e}");
    assert!(state(&own) != state(&first), "the bits of our kernels");
}

#[test]
fn tensor_cores_and_bf16_train_through_cudnn() {
    let sweeps = Sweeps::new();
    let last_loss = |run: &Path| Run::open(run).unwrap().metrics().unwrap()[1].train_loss;
    let exact = last_loss(&sweeps.trained("f32", &CUDNN));
    // As with our kernels.
    for (precision, allowed) in [("tf32", 0.01), ("bf16", 0.08)] {
        let found = last_loss(&sweeps.trained(precision, &[&CUDNN[..], &["--precision", precision]].concat()));
        assert!((found - exact).abs() <= allowed * exact, "{precision}: {found} instead of {exact}");
    }
    assert!(sweeps.engines().iter().all(|engine| ["0", "2", "3"].contains(&engine.as_str())));
}

/// Whose convolutions they are is on record, and is not mixed; the results of a comparison have it too.
#[test]
fn whose_convolutions_they_are_is_on_record() {
    let sweeps = Sweeps::new();
    let trained = sweeps.trained("runs", &CUDNN);
    let config = fs::read_to_string(trained.join("config.toml")).unwrap();
    assert!(config.contains("backend = \"cuda-f32-cudnn\""), "{config}");
    fs::remove_file(trained.join("predictions.safetensors")).unwrap();
    let (finished, said) = sweeps.sweep("runs", &["--device", "cuda"]);
    assert!(!finished && said.contains("(--device cuda --precision f32 --convolutions cudnn, --out)"), "{said}");
    assert!(sweeps.sweep("runs", &CUDNN).0);

    let out = sweeps.path("cka");
    let arguments =
        ["cka", trained.to_str().unwrap(), "--batch-size", "8", "--passes", "1", "--out", out.to_str().unwrap()];
    let (finished, said) = sweeps.run(sweeps.libraries.path(), "", &[&arguments, &CUDNN[..]].concat());
    assert!(finished, "{said}");
    assert_eq!(PairResult::load(&out).unwrap().info.versions.backend, Backend::CudaF32Cudnn);
}

#[test]
fn what_cudnn_cannot_do_is_said() {
    let sweeps = Sweeps::new();
    let (plan, out) = (sweeps.path("plan.toml"), sweeps.path("runs"));
    let fails = |libraries: &Path, cudnn: &str, flags: &[&str], parts: &[&str]| {
        let arguments = [&["sweep", plan.to_str().unwrap(), "--out", out.to_str().unwrap()], flags].concat();
        let (finished, said) = sweeps.run(libraries, cudnn, &arguments);
        assert!(!finished && !said.contains("panicked"), "{said}");
        for part in parts {
            assert!(said.contains(part), "{part:?} is missing from: {said}");
        }
        assert!(!out.exists());
    };
    let (without, with) = (driver(), sweeps.libraries.path());
    fails(without.path(), "", &CUDNN, &["--convolutions cudnn", "no cuDNN 9", "libcudnn.so.9", "library path"]);
    fails(with, "version=8907", &CUDNN, &["--convolutions cudnn", "cuDNN 9 or later", "8.9"]);
    fails(with, "", &["--device", "cpu", "--convolutions", "cudnn"], &["--convolutions", "leave the flag out"]);
}

/// A file of choices that cannot be read stops a run before it begins to depend on the minute.
#[test]
fn damaged_choices_are_named() {
    let sweeps = Sweeps::new();
    fs::create_dir_all(sweeps.choices().parent().unwrap()).unwrap();
    fs::write(sweeps.choices(), "{").unwrap();
    let (finished, said) = sweeps.sweep("runs", &CUDNN);
    assert!(!finished && said.contains("cudnn.json is damaged") && said.contains("remove it"), "{said}");
}
