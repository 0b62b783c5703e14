//! Disks that are full, read-only or gone: one message, nothing half-written under a final name, and the same bits in the end.
//!
//! File systems of a few hundred kilobytes are mounted for this, which only the superuser of a Linux machine may.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::{TINY, command, fails, files, gramscope, noise, succeeds, text, write_activations};
use tempfile::TempDir;

/// A file system in memory, mounted as long as this lives.
struct Disk {
    dir: TempDir,
}

impl Disk {
    /// None, and a line that says so, where this process may not mount one.
    fn mount(options: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(dir.path()).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self { dir });
        }
        println!("SKIPPED: no tmpfs can be mounted here, which needs Linux and the superuser");
        None
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        assert!(Command::new("mount").args(["-o", &options]).arg(self.path()).status().unwrap().success());
    }

    /// Fills the disk but for about so many KiB.
    fn fill_but(&self, kib: u64) {
        let fill = self.path().join("fill");
        let _ = fs::remove_file(&fill);
        let free = Command::new("df").args(["--output=avail", "-k"]).arg(self.path()).output().unwrap();
        let free: u64 = text(&free.stdout).lines().nth(1).unwrap().trim().parse().unwrap();
        fs::write(fill, vec![1; (free.saturating_sub(kib) << 10) as usize]).unwrap();
    }

    fn clear(&self) {
        fs::remove_file(self.path().join("fill")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.path()).status();
        assert!(unmounted.unwrap().success(), "{} stays mounted", self.path().display());
    }
}

/// Every file below `dir` with what it holds, but for the times that metrics.jsonl tells.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let content = |file: PathBuf| {
        let bytes = fs::read(dir.join(&file)).unwrap();
        let timed = file.ends_with("metrics.jsonl");
        let without_times = || {
            let epochs = text(&bytes);
            let epochs = epochs.lines().map(|line| {
                let mut epoch: serde_json::Value = serde_json::from_str(line).unwrap();
                epoch.as_object_mut().unwrap().retain(|key, _| key != "seconds" && key != "images_per_second");
                epoch.to_string()
            });
            epochs.collect::<String>().into_bytes()
        };
        let bytes = if timed { without_times() } else { bytes };
        (file, bytes)
    };
    files(dir).into_iter().map(content).collect()
}

/// A run of several epochs in `out`, which goes on where it was.
fn run(out: &Path) -> Vec<String> {
    let out = out.to_str().unwrap();
    let arguments = ["train"].into_iter().chain(TINY).chain(["--checkpoint-every", "1", "--resume", "--out", out]);
    arguments.map(str::to_owned).collect()
}

/// The run as it is on a disk with room; pictures show the directory's name, so that all have one.
fn whole() -> (TempDir, Vec<(PathBuf, Vec<u8>)>) {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    succeeds(run(&out));
    let found = contents(&out);
    (dir, found)
}

/// What lies in `dir` is whole, as far as it is there.
fn assert_nothing_half_written(dir: &Path) {
    if !dir.exists() {
        return;
    }
    let temporary = |file: &PathBuf| file.to_string_lossy().contains("gramscope-tmp");
    assert!(!files(dir).iter().any(temporary), "{:?}", files(dir));
    let output = gramscope(["verify", dir.to_str().unwrap()]);
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(!said.contains("damaged") || said.contains(" 0 damaged"), "{said}");
}

#[test]
fn a_run_on_a_full_disk_goes_on_once_there_is_room() {
    let Some(disk) = Disk::mount("size=2m") else { return };
    let (_dir, expected) = whole();
    let out = disk.path().join("run");
    let mut refused = 0;
    for kib in [0, 4, 12, 40, 80, 160] {
        disk.fill_but(kib);
        let output = gramscope(run(&out));
        if !output.status.success() {
            refused += 1;
            fails(run(&out), 1, &["No space left", disk.path().to_str().unwrap()]);
        }
        assert_nothing_half_written(&out);
        disk.clear();
    }
    assert!(refused >= 3, "only {refused} of the disks were full");
    succeeds(run(&out));
    assert!(contents(&out) == expected, "the runs differ: {:?}", files(&out));
}

/// One message, and not one a run: none could be kept.
#[test]
fn a_family_on_a_full_disk_ends_and_goes_on_once_there_is_room() {
    let Some(disk) = Disk::mount("size=4m") else { return };
    let dir = tempfile::tempdir().unwrap();
    let plan = dir.path().join("plan.toml");
    let text_of_plan = "[data]\nname = \"builtin\"\ntrain_images = 40\ntest_images = 20\n[train]\nepochs = 1\nbatch_size = 16\n\
                        depth = 8\n[family]\nwidth = [0.25]\nseed = [0, 1, 2]\n";
    fs::write(&plan, text_of_plan).unwrap();
    let out = disk.path().join("family");
    let sweep = || ["sweep", plan.to_str().unwrap(), "--out", out.to_str().unwrap()].map(str::to_owned);
    for kib in [0, 40] {
        disk.fill_but(kib);
        let output = gramscope(sweep());
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert_eq!(said.matches("No space left").count(), 1, "{said}");
        assert!(said.contains("make room") && said.contains(out.to_str().unwrap()), "{said}");
        assert_nothing_half_written(&out);
        disk.clear();
    }
    succeeds(sweep());
}

#[test]
fn a_run_that_may_make_no_more_files_goes_on_once_it_may() {
    let Some(disk) = Disk::mount("size=4m,nr_inodes=5") else { return };
    let (_dir, expected) = whole();
    let out = disk.path().join("run");
    fails(run(&out), 1, &["No space left", disk.path().to_str().unwrap()]);
    assert_nothing_half_written(&out);
    disk.remount("nr_inodes=100");
    succeeds(run(&out));
    assert!(contents(&out) == expected, "the runs differ: {:?}", files(&out));
}

#[test]
fn a_read_only_disk_is_named_and_changes_nothing() {
    let Some(disk) = Disk::mount("size=4m") else { return };
    let (dir, expected) = whole();
    let out = disk.path().join("run");
    disk.remount("ro");
    fails(run(&out), 1, &["Read-only file system", out.to_str().unwrap()]);
    let finished = dir.path().join("run");
    let cka = |out: &Path| {
        ["cka", finished.to_str().unwrap(), "--batch-size", "8", "--passes", "1", "--out", out.to_str().unwrap()]
            .map(str::to_owned)
    };
    fails(cka(&disk.path().join("cka")), 1, &["Read-only file system", "cka"]);
    disk.remount("rw");
    succeeds(run(&out));
    assert!(contents(&out) == expected, "the runs differ: {:?}", files(&out));
    // A finished run that can only be read is compared like any other.
    disk.remount("ro");
    let elsewhere = dir.path().join("cka");
    succeeds([
        "cka",
        out.to_str().unwrap(),
        "--batch-size",
        "8",
        "--passes",
        "1",
        "--out",
        elsewhere.to_str().unwrap(),
    ]);
}

#[test]
fn a_comparison_on_a_full_disk_leaves_no_result() {
    let Some(disk) = Disk::mount("size=1m") else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.safetensors");
    let names: Vec<String> = (0..40).map(|layer| format!("layer{layer}")).collect();
    let layers: Vec<_> = names.iter().zip(0..).map(|(name, seed)| (name.as_str(), 8, 2, noise(seed, 16))).collect();
    write_activations(&file, &layers);
    let cka = |out: &Path| {
        ["cka", "--batch-size", "8", "--activations", file.to_str().unwrap(), "--out", out.to_str().unwrap()]
            .map(str::to_owned)
    };
    let (elsewhere, out) = (dir.path().join("cka"), disk.path().join("cka"));
    succeeds(cka(&elsewhere));
    // The arrays take 26 KB, the description 2 KB.
    for kib in [0, 8, 24] {
        disk.fill_but(kib);
        fails(cka(&out), 1, &["No space left", disk.path().to_str().unwrap()]);
        let left = if out.exists() { files(&out) } else { Vec::new() };
        assert!(left.is_empty(), "{kib} KiB: left {left:?}");
        disk.clear();
    }
    succeeds(cka(&out));
    assert!(fs::read(out.join("cka.npz")).unwrap() == fs::read(elsewhere.join("cka.npz")).unwrap());

    // What is there stays until another result is whole, its picture too.
    let before = contents(&out);
    assert_eq!(before.len(), 3, "{:?}", files(&out));
    for kib in [0, 8, 24] {
        disk.fill_but(kib);
        fails(cka(&out).into_iter().chain(["--estimator".to_owned(), "biased".to_owned()]), 1, &["No space left"]);
        assert!(contents(&out) == before, "{kib} KiB: {:?}", files(&out));
        disk.clear();
    }
    succeeds(cka(&out).into_iter().chain(["--estimator".to_owned(), "biased".to_owned()]));
    assert!(contents(&out) != before);
}

/// What a shell allows of a file's size is a limit like a disk's.
#[cfg(unix)]
#[test]
fn a_file_beyond_the_limit_of_a_shell_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let output = Command::new("sh")
        .args(["-c", "ulimit -f 8; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_gramscope")])
        .args(run(&out))
        .output()
        .unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("File too large") && said.contains(out.to_str().unwrap()), "{said}");
    assert_nothing_half_written(&out);
    succeeds(run(&out));
}

#[test]
fn a_directory_that_vanishes_during_a_run_is_named() {
    let (_dir, expected) = whole();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let mut child = command(run(&out)).arg("--json").stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("\"epoch\"")), "no epoch ended");
    fs::rename(&out, dir.path().join("away")).unwrap();
    let rest: Vec<String> = lines.collect();
    let code = child.wait().unwrap().code();
    // The last epoch may have ended first.
    if code != Some(0) {
        assert_eq!(code, Some(1), "{rest:?}");
        let errors: Vec<&String> = rest.iter().filter(|line| line.contains("No such file")).collect();
        assert!(errors.len() == 1 && errors[0].contains(out.to_str().unwrap()), "{rest:?}");
    }
    assert!(!out.exists(), "made again: {:?}", files(&out));
    succeeds(run(&out));
    assert!(contents(&out) == expected, "the runs differ: {:?}", files(&out));
}
