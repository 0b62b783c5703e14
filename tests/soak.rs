//! Long use: a family of hundreds of runs takes no more memory and no more open files at its end than at its beginning.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use support::{command, text};

const RUNS: usize = 500;

/// The state of a process after so many runs.
#[derive(Clone, Copy, Debug)]
struct Sample {
    runs: usize,
    resident_kib: u64,
    open_files: usize,
}

fn sample(process: u32, out: &Path) -> Option<Sample> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(Sample {
        runs: fs::read_dir(out).ok()?.filter(|entry| entry.as_ref().is_ok_and(|entry| entry.path().is_dir())).count(),
        resident_kib: resident.trim().trim_end_matches(" kB").parse().ok()?,
        open_files: fs::read_dir(format!("/proc/{process}/fd")).ok()?.count(),
    })
}

#[test]
#[ignore = "trains 500 networks, the smallest there are; takes minutes"]
fn a_family_of_500_runs_keeps_memory_and_open_files_flat() {
    let dir = tempfile::tempdir().unwrap();
    let (plan, out) = (dir.path().join("plan.toml"), dir.path().join("family"));
    let seeds: Vec<String> = (0..RUNS).map(|seed| seed.to_string()).collect();
    let head = "[data]\ntrain_images = 20\ntest_images = 10\nimage_side = 8\n[train]\nepochs = 2\nbatch_size = 10\n";
    let family = format!("{head}[family]\ndepth = [8]\nwidth = [0.06]\nseed = [{}]\n", seeds.join(", "));
    fs::write(&plan, family).unwrap();
    let arguments = ["sweep", plan.to_str().unwrap(), "--quiet", "--out", out.to_str().unwrap()];
    let mut child = command(arguments).stderr(Stdio::piped()).spawn().unwrap();
    let mut samples: Vec<Sample> = Vec::new();
    while child.try_wait().unwrap().is_none() {
        samples.extend(sample(child.id(), &out));
        sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    for hundred in 0..5 {
        let runs = hundred * 100 + 1..hundred * 100 + 101;
        let within: Vec<&Sample> = samples.iter().filter(|sample| runs.contains(&sample.runs)).collect();
        let resident = within.iter().map(|sample| sample.resident_kib).max();
        let open = within.iter().map(|sample| sample.open_files).max();
        println!("runs {runs:?}: {} samples, at most {resident:?} KiB, {open:?} open files", within.len());
    }
    // At the very end the family's pictures are drawn, in some 40 MiB, whatever the number of runs.
    let of = |runs: std::ops::Range<usize>| samples.iter().filter(move |sample| runs.contains(&sample.runs));
    let resident = |runs| of(runs).map(|sample| sample.resident_kib).max().unwrap();
    let open = |runs| of(runs).map(|sample| sample.open_files).max().unwrap();
    // The allocator keeps what it was given back for a while; a leak of 20 KiB a run would be seen.
    let (early, late) = (resident(50..150), resident(350..RUNS));
    assert!(late <= early + 6 * 1024, "{early} KiB early, {late} KiB late");
    assert!(open(350..RUNS) <= open(50..150), "more open files late than early");
}
