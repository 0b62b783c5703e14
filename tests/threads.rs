//! Threads: as many compute as there are cores granted, whoever grants them.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::{self, available_parallelism};
use std::time::Duration;

use support::{command, text, train_tiny};

/// The most threads that `child` has at once until it ends well.
fn most_threads(child: &mut Command) -> usize {
    let mut child = child.stdin(Stdio::null()).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let tasks = format!("/proc/{}/task", child.id());
    let mut most = 0;
    while child.try_wait().unwrap().is_none() {
        most = most.max(fs::read_dir(&tasks).map_or(0, Iterator::count));
        thread::sleep(Duration::from_millis(2));
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    most
}

/// Commands that compute with all that there is: the network, CKA, probes; each may be run again.
fn commands(dir: &Path) -> [Vec<String>; 2] {
    let run = dir.join("run");
    train_tiny(&run, 0);
    ["cka --batch-size 8", "probe --epochs 2"].map(|command| {
        let mut words: Vec<String> = command.split(' ').map(str::to_owned).collect();
        let out = dir.join(&words[0]);
        words.extend([run.to_str().unwrap(), "--quiet", "--out", out.to_str().unwrap()].map(str::to_owned));
        words
    })
}

/// Of all threads but the first, which waits, and the one that minds signals.
fn workers(within: &[&str], arguments: &[String]) -> usize {
    let binary = command(arguments);
    let mut words = within.iter().copied();
    let mut child = match words.next() {
        Some(outer) => {
            let mut child = Command::new(outer);
            child.args(words).arg(binary.get_program()).args(arguments);
            child
        }
        None => binary,
    };
    most_threads(child.env_remove("RAYON_NUM_THREADS")) - 2
}

#[test]
fn an_affinity_mask_is_followed_and_the_environment_wins_over_it() {
    if !Command::new("taskset").arg("--version").output().is_ok_and(|output| output.status.success()) {
        println!("SKIPPED: there is no taskset here to set an affinity mask with");
        return;
    }
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim();
    let core = allowed.split([',', '-']).next().unwrap();
    let dir = tempfile::tempdir().unwrap();
    for arguments in commands(dir.path()) {
        let name = &arguments[0];
        assert_eq!(workers(&[], &arguments), available_parallelism().unwrap().get(), "{name}, all cores");
        assert_eq!(workers(&["taskset", "-c", core], &arguments), 1, "{name}, one core");
        let three = ["taskset", "-c", core, "env", "RAYON_NUM_THREADS=3"];
        assert_eq!(workers(&three, &arguments), 3, "{name}, RAYON_NUM_THREADS=3");
    }
}

/// A control group with one core's worth of time, as long as this lives.
struct Group(PathBuf);

impl Group {
    /// None where this process may not make one.
    fn of_one_core() -> Option<Self> {
        let name = format!("gramscope-test-{}", std::process::id());
        let at = |top: &str, file: &str, quota: &str| {
            let group = Self(Path::new(top).join(&name));
            // The directory of the hierarchy itself holds the file that processes are listed in; any other directory does not.
            let made = Path::new(top).join("cgroup.procs").exists() && fs::create_dir(&group.0).is_ok();
            (made && group.0.join(file).exists() && fs::write(group.0.join(file), quota).is_ok()).then_some(group)
        };
        at("/sys/fs/cgroup", "cpu.max", "100000 100000")
            .or_else(|| at("/sys/fs/cgroup/cpu", "cpu.cfs_quota_us", "100000"))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_quota_of_a_control_group_is_followed() {
    if available_parallelism().unwrap().get() == 1 {
        println!("SKIPPED: there is one core here, which a quota cannot make fewer");
        return;
    }
    let Some(group) = Group::of_one_core() else {
        println!("SKIPPED: no control group can be made here, which needs Linux and the superuser");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    for arguments in commands(dir.path()) {
        let join = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", group.0.display());
        assert_eq!(workers(&["sh", "-c", &join, "sh"], &arguments), 1, "{}", arguments[0]);
    }
}
