//! The scripts for machines with a GPU, as far as one without can run them.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use support::text;

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name)
}

fn profile(path: &str, arguments: &[&str]) -> Output {
    Command::new("bash").arg(script("profile.sh")).args(arguments).env("PATH", path).output().unwrap()
}

#[test]
fn scripts_are_scripts() {
    let linted = Command::new("shellcheck").arg("--version").output().is_ok();
    if !linted {
        println!("skipped: no shellcheck on this machine, so scripts are only parsed");
    }
    for entry in fs::read_dir(script("")).unwrap() {
        let path = entry.unwrap().path();
        let parsed = Command::new("bash").arg("-n").arg(&path).output().unwrap();
        assert!(parsed.status.success(), "{}: {}", path.display(), text(&parsed.stderr));
        if linted {
            let output = Command::new("shellcheck").arg("--severity=warning").arg(&path).output().unwrap();
            assert!(output.status.success(), "{}", text(&output.stdout));
        }
    }
}

#[test]
fn profile_says_what_it_would_run_and_what_is_wrong() {
    let path = std::env::var("PATH").unwrap();
    let dry =
        profile(&path, &["--dry-run", "--gramscope", "/g", "gs_hsic_mma_f32", "hsic mma f32 .60,", "--", "-o", "kept"]);
    let command = text(&dry.stdout);
    for part in [
        "ncu",
        "--kernel-name gs_hsic_mma_f32",
        "-o kept /g bench kernels",
        r"--only hsic\ mma\ f32\ .60\,",
        "SpeedOfLight",
    ] {
        assert!(command.contains(part), "{part} is missing from: {command}");
    }
    // Without a shape, the kernel's own words.
    let command = text(&profile(&path, &["--dry-run", "gs_gram_fused_exact_f32"]).stdout);
    assert!(command.contains(r"--only \^gram\ fused\ exact\ f32\ "), "{command}");
    let help = profile(&path, &["--help"]);
    assert!(
        help.status.success() && text(&help.stdout).contains("scripts/profile.sh [--dry-run]"),
        "{}",
        text(&help.stdout)
    );
    for (arguments, part) in [
        (vec![], "KERNEL"),
        (vec!["gram"], "not the name of a kernel"),
        (vec!["--frobnicate", "gs_hsic_mma_f32"], "no option --frobnicate"),
        (vec!["gs_hsic_mma_f32", "hsic", "more"], "after --"),
    ] {
        let output = profile(&path, &arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(text(&output.stderr).contains(part), "{arguments:?}: {}", text(&output.stderr));
    }
}

/// A made-up ncu that prints what the real one would of these shares.
#[test]
fn profile_says_what_limits_a_kernel() {
    let folder = tempfile::tempdir().unwrap();
    let ncu = folder.path().join("ncu");
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let run = |memory: &str, compute: &str| {
        let report = format!(
            "cat <<'END'\n    Memory Throughput     Tbyte/s   2.10\n    Memory Throughput           %  {memory}\n    Compute (SM) Throughput     %  {compute}\nEND\n"
        );
        fs::write(&ncu, format!("#!/bin/sh\n{report}")).unwrap();
        fs::set_permissions(&ncu, fs::Permissions::from_mode(0o755)).unwrap();
        profile(&path, &["--gramscope", "/bin/true", "gs_hsic_mma_f32"])
    };
    for (memory, compute, verdict) in [
        ("81.35", "40.15", "81% of the memory's speed, 40% of the multiprocessors'; what limits it is memory"),
        ("40.00", "75.90", "what limits it is computing"),
        ("12.00", "59.90", "what limits it is neither"),
    ] {
        let output = run(memory, compute);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(text(&output.stdout).contains(verdict), "{}", text(&output.stdout));
    }
    fs::write(&ncu, "#!/bin/sh\necho '==WARNING== No kernels were profiled.'\n").unwrap();
    let output = profile(&path, &["--gramscope", "/bin/true", "gs_hsic_mma_f32"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no launch of gs_hsic_mma_f32"), "{}", text(&output.stderr));
}

/// A made-up binary, whose `bench cka` fails.
#[test]
fn gpu_check_runs_the_parts_that_are_named_all_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let (binary, asked) = (folder.path().join("gramscope"), folder.path().join("asked"));
    fs::write(&binary, format!("#!/bin/sh\necho \"$*\" >> {}\ntest \"$2\" != cka\n", asked.display())).unwrap();
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
    let check = |arguments: &[&str]| {
        let out = folder.path().join("out");
        Command::new("bash").arg(script("gpu-check.sh")).args(arguments).args([&binary, &out]).output().unwrap()
    };
    let output = check(&["--part", "cka", "--part", "probe"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let failed =
        "failed: bench cka, ResNet-20x1;bench cka, ResNet-56x1;bench cka, ResNet-110x1;bench cka, ResNet-38x10\n";
    assert!(text(&output.stdout).contains(failed), "{}", text(&output.stdout));
    let lines = || fs::read_to_string(&asked).unwrap().lines().map(str::to_owned).collect::<Vec<_>>();
    let all = lines();
    let [ckas @ .., probe] = &all[..] else { panic!("{all:?}") };
    assert_eq!(ckas.len(), 4, "{all:?}");
    for (cka, [depth, width]) in ckas.iter().zip([["20", "1"], ["56", "1"], ["110", "1"], ["38", "10"]]) {
        let begins = format!("bench cka --depth {depth} --width {width} --device cuda:0 --json ");
        // Each has a file of its own.
        assert!(cka.starts_with(&begins) && cka.ends_with(&format!("/cka-{depth}x{width}.jsonl")), "{cka}");
    }
    assert!(probe.starts_with("bench probe "), "{probe}");

    fs::remove_file(&asked).unwrap();
    let output = check(&["--part", "doctor"]);
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    let doctors = lines();
    assert!(doctors.len() >= 6 && doctors.iter().all(|line| line.starts_with("doctor --device cuda:0 --only ^")));
    for wrong in [&["--part", "everything"][..], &["--parts", "doctor"]] {
        let output = check(wrong);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("doctor memcheck racecheck"), "{}", text(&output.stderr));
    }
}

/// A made-up binary that hangs.
#[test]
fn gpu_check_stops_what_hangs_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let binary = folder.path().join("gramscope");
    fs::write(&binary, "#!/bin/sh\ntest \"$2\" != cka || exec sleep 600\n").unwrap();
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
    let mut check = Command::new("bash");
    check.arg(script("gpu-check.sh")).args(["--part", "cka", "--part", "probe"]).args([&binary, folder.path()]);
    let output = check.env("GPU_CHECK_SECONDS", "1").output().unwrap();
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in ["stopped after 1 s", "== bench probe", "failed: bench cka, ResNet-20x1;"] {
        assert!(said.contains(part), "{part:?} is missing from: {said}");
    }
}
