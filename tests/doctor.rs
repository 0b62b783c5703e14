//! `gramscope doctor` on the CPU, whatever the build: it passes, names what it checked, and says why no GPU was.
#![allow(clippy::unwrap_used)]

mod support;

use support::{fails, gramscope, succeeds, text};

#[test]
fn the_cpu_is_checked_and_passes() {
    let report = succeeds(["doctor", "--device", "cpu"]);
    for part in ["CPU", "memory", "GPU", "not checked: --device cpu", "exact, batches of 257", "RBF", "200000 features"]
    {
        assert!(report.contains(part), "{part:?} is missing from: {report}");
    }
    let verdicts = |verdict: &str| report.lines().filter(|line| line.trim_start().starts_with(verdict)).count();
    assert!(verdicts("pass") >= 15 && verdicts("FAIL") == 0, "{report}");
    assert!(report.contains("convolution") && report.contains("batch norm"), "{report}");
}

#[test]
fn only_what_is_asked_for_is_checked() {
    let report = succeeds(["doctor", "--device", "cpu", "--only", "^convolution, gradient"]);
    let lines: Vec<&str> = report.lines().filter(|line| line.contains("pass  ")).collect();
    assert!(lines.len() == 2 && lines.iter().all(|line| line.contains("convolution, gradient")), "{report}");
    fails(["doctor", "--device", "cpu", "--only", "no such check"], 1, &["--only no such check", "none"]);
}

#[test]
fn a_build_without_cuda_says_so() {
    if cfg!(feature = "cuda") {
        println!("skipped: this build has CUDA");
        return;
    }
    fails(["doctor", "--device", "cuda:0"], 1, &["--device cuda:0", "built without CUDA", "--features cuda"]);
    assert!(text(&gramscope(["doctor", "--help"]).stdout).contains("doctor --device cuda:0"));
}
