//! The scripts for machines with a GPU, as far as one without can run them.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use regex::Regex;
use support::text;

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name)
}

/// Writes a script that can be run.
fn executable(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
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
        "--page details",
        "--launch-skip 8 ",
    ] {
        assert!(command.contains(part), "{part} is missing from: {command}");
    }
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

/// Without a shape, the rows that launch the kernel are among those that are measured; a naive twin has four launches.
#[test]
fn profile_knows_the_rows_of_a_kernel() {
    let folder = tempfile::tempdir().unwrap();
    // Prints the expression, which is the last but one of its arguments.
    executable(&folder.path().join("ncu"), "#!/bin/bash\necho \"only=${*: -2:1} $*\"\n");
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    for (kernel, row, skipped) in [
        ("gs_gram_fused_exact_f32", "gram fused exact f32 [256, 10]", 8),
        ("gs_gram_naive_f16", "gram double f16 [256, 10]", 2),
        ("gs_gram_distances_f32", "rbf distances f32 [256, 65536]", 8),
        ("gs_ucenter_pack", "ucenter rows and pack f32 [1, 256, 16384]", 8),
        ("gs_hsic_accumulate", "hsic mma f32 [60, 32640]", 8),
        ("gs_convolution_input_gradient_tile64_tf32", "convolution input gradient tf32 [128, 8, 64, 64, 3, 1, 1]", 8),
        ("gs_convolution_forward_naive_bf16", "convolution forward bf16 [128, 8, 64, 64, 3, 1, 1]", 2),
        ("gs_batch_norm_moments_bf16", "batch norm statistics bf16 [131072, 16]", 8),
        ("gs_batch_norm_naive_backward_f32", "batch norm backward f32 [131072, 16]", 2),
        ("gs_pooling_max_backward_f32", "max pooling backward f32 [64, 112, 64]", 8),
        ("gs_first_component_gradient_f32", "first component gradient f32 [128, 16384]", 8),
        ("gs_augment_crop_f32", "augmentation crop and flip f32 [128, 50000, 32]", 8),
        ("gs_sgd_step", "sgd momentum f32 [270000]", 8),
    ] {
        let said = text(&profile(&path, &["--gramscope", "/bin/true", kernel]).stdout);
        let only = said.strip_prefix("only=").unwrap().split(" --target-processes").next().unwrap();
        assert!(Regex::new(only).unwrap().is_match(row), "{kernel}: {only:?} does not match {row:?}");
        assert!(said.contains(&format!("--launch-skip {skipped} ")), "{said}");
        // What is one more letter: f32 is no tf32, nor f16 bf16.
        let other = row.replace("f32 [", "xf32 [").replace("f16 [", "xf16 [");
        let typed = kernel.ends_with("f32") || kernel.ends_with("f16");
        assert!(!typed || !Regex::new(only).unwrap().is_match(&other), "{kernel}: {only:?} matches {other:?}");
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
        executable(&ncu, &format!("#!/bin/sh\n{report}"));
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
    executable(&binary, &format!("#!/bin/sh\necho \"$*\" >> {}\ntest \"$2\" != cka\n", asked.display()));
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
        assert!(text(&output.stderr).contains("doctor cka kernels"), "{}", text(&output.stderr));
    }
}

/// A made-up binary that hangs.
#[test]
fn gpu_check_stops_what_hangs_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let binary = folder.path().join("gramscope");
    executable(&binary, "#!/bin/sh\ntest \"$2\" != cka || exec sleep 600\n");
    let mut check = Command::new("bash");
    check.arg(script("gpu-check.sh")).args(["--part", "cka", "--part", "probe"]).args([&binary, folder.path()]);
    let output = check.env("GPU_CHECK_SECONDS", "1").output().unwrap();
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in ["stopped after 1 s", "== bench probe", "failed: bench cka, ResNet-20x1;"] {
        assert!(said.contains(part), "{part:?} is missing from: {said}");
    }
}

/// A made-up binary, on a machine without Python and a home.
#[test]
fn gpu_check_says_what_it_skips_and_packs_what_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let (binary, asked, out) =
        (folder.path().join("gramscope"), folder.path().join("asked"), folder.path().join("out"));
    executable(&binary, &format!("#!/bin/sh\necho \"$*\" >> {}\necho checked\n", asked.display()));
    let check = |parts: &[&str], precisions: &str| {
        let mut check = Command::new("bash");
        check.arg(script("gpu-check.sh")).args(parts.iter().flat_map(|part| ["--part", part])).args([&binary, &out]);
        check.env("PYTHON", "/nowhere/python").env("GPU_CHECK_PRECISIONS", precisions).env_remove("HOME");
        check.output().unwrap()
    };
    let packed = || {
        let listed = Command::new("tar").arg("-tzf").arg(out.join("rows.tar.gz")).output().unwrap();
        assert!(listed.status.success(), "{}", text(&listed.stderr));
        text(&listed.stdout)
    };
    let output = check(&["doctor", "trained", "accuracy"], "");
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said}{}", text(&output.stderr));
    for part in ["skipped trained: ", "skipped accuracy: ", "/nowhere/python", "trained;accuracy; rows and reports"] {
        assert!(said.contains(part), "{part:?} is missing from: {said}");
    }
    assert_eq!(packed(), "./doctor.txt\n");
    // The pack is not packed.
    assert!(check(&["doctor"], "").status.success());
    assert_eq!(packed(), "./doctor.txt\n");

    fs::remove_file(&asked).unwrap();
    assert!(check(&["convolutions"], "bf16").status.success());
    let convolutions = fs::read_to_string(&asked).unwrap();
    assert!(convolutions.lines().count() == 1 && convolutions.contains("^convolution .* bf16 "), "{convolutions}");
    let output = check(&["convolutions"], "f16");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("GPU_CHECK_PRECISIONS has f16"), "{}", text(&output.stderr));
}

/// What the names of doctor's checks begin with, as its sources have them; names that are all made of parts begin with others here.
fn beginnings_of_checks() -> Vec<String> {
    let literal = Regex::new("\"([^\"]+)\"").unwrap();
    // Where such a beginning stands.
    let places = [
        r#"\.check\(\s*(&format!\()?\s*"[^"]+""#,
        r#"\b(line|over)\(\s*"[^"]+""#,
        r#"\b(check_on|cka::check)\([^;"()]*"[^"]+""#,
        r#"let name = (if naive \{ )?"[^"]+"( \} else \{ "[^"]+")?"#,
        r#"\("[^"]+", (false|true)\)"#,
        r"let names = \[[^\]]*\]",
    ]
    .map(|place| Regex::new(place).unwrap());
    let made_otherwise = Regex::new(r#"report\.check\(\s*(?:[^"n&\s]|n[^a]|&[^f])"#).unwrap();
    let mut names = Vec::new();
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/gramscope/src/doctor")).unwrap() {
        let path = entry.unwrap().path();
        let source = fs::read_to_string(&path).unwrap();
        assert!(!made_otherwise.is_match(&source), "{}: a name that this test cannot find", path.display());
        let found = places.iter().flat_map(|place| place.find_iter(&source));
        names.extend(found.flat_map(|found| literal.captures_iter(found.as_str())).map(|name| name[1].to_owned()));
    }
    names.retain(|name| !name.starts_with('{'));
    for known in ["gram shift", "probe naive", "cuDNN products", "batch norm naive", "CKA of layers together", "loss"] {
        assert!(names.iter().any(|name| name == known), "{known:?} is missing from: {names:?}");
    }
    names
}

/// Every check is run, and none twice; the sanitizers see the smallest of what has several layers in a launch, or captures.
#[test]
fn gpu_check_runs_every_check_of_doctor_once() {
    let folder = tempfile::tempdir().unwrap();
    let (binary, asked) = (folder.path().join("gramscope"), folder.path().join("asked"));
    let notes = format!("#!/bin/sh\necho \"$*\" >> {}\n", asked.display());
    executable(&binary, &notes);
    executable(&folder.path().join("compute-sanitizer"), &notes);
    fs::write(folder.path().join("libcudnn.so.9"), "").unwrap();
    let mut check = Command::new("bash");
    check.arg(script("gpu-check.sh")).args(["--part", "doctor", "--part", "memcheck"]).args([&binary, folder.path()]);
    check.env("LD_LIBRARY_PATH", folder.path());
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let output = check.env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    let asked = fs::read_to_string(&asked).unwrap();
    let patterns = asked.lines().map(|line| Regex::new(line.split_once(" --only ").unwrap().1).unwrap());
    let patterns: Vec<Regex> = patterns.collect();
    let [doctor @ .., sanitizer] = &patterns[..] else { panic!("{asked}") };
    for name in beginnings_of_checks() {
        let matching = doctor.iter().filter(|pattern| pattern.is_match(&name)).count();
        assert_eq!(matching, 1, "{name:?} is matched by so many of {doctor:?}");
    }
    for (name, is_seen) in [
        ("CKA of layers together, exact, batches of 33", true),
        ("CKA of layers together, fast, batches of 256", true),
        ("CKA of layers together, exact, 200000 features, batches of 33", false),
        ("CKA, exact, batches of 33", false),
        ("ten training steps, the same bits twice, bf16", true),
        ("ten training steps as on the CPU, f32", false),
        ("gram fused exact, f32", true),
    ] {
        assert_eq!(sanitizer.is_match(name), is_seen, "{name}");
    }
}
