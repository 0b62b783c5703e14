//! How much memory a command may take: what it is told, or else a safe share of what there is.

use std::fs;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use gramscope_study::compare::MemoryLimits;

/// The share of what there is that is taken unless something else is asked for, in quarters.
const QUARTERS: u64 = 3;

/// More bytes than any machine has: 8 PiB.
const MOST: f64 = (1u64 << 53) as f64;

/// A number of bytes, as `--memory-limit` takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemoryLimit(u64);

impl FromStr for MemoryLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("{text:?} is not a size; give a number with K, M, G or T, such as 4G or 1.5G");
        let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
        let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
            "" | "B" => 0,
            "K" | "KB" | "KIB" => 10,
            "M" | "MB" | "MIB" => 20,
            "G" | "GB" | "GIB" => 30,
            "T" | "TB" | "TIB" => 40,
            _ => return Err(wrong()),
        };
        if !digits.chars().all(|character| character.is_ascii_digit() || character == '.') {
            return Err(wrong());
        }
        let number: f64 = digits.parse().map_err(|_| wrong())?;
        // Whole bytes, of which float64 has every number below 2^53 (8 PiB).
        let bytes = (number * (1u64 << shift) as f64).floor();
        if (1.0..=MOST).contains(&bytes) { Ok(Self(bytes as u64)) } else { Err(wrong()) }
    }
}

/// The bytes that may be taken; none where nothing is asked for and the system does not say what it has.
fn limit(asked: Option<MemoryLimit>) -> Option<u64> {
    match asked {
        Some(MemoryLimit(bytes)) => Some(bytes),
        None => available(Path::new("/")).map(|bytes| bytes / 4 * QUARTERS),
    }
}

/// What may be taken of the host's memory and, where a GPU does the work, of its: what is asked for is meant for the one that
/// does it.
pub(crate) fn limits(asked: Option<MemoryLimit>, on_gpu: bool) -> MemoryLimits {
    match asked {
        Some(MemoryLimit(bytes)) if on_gpu => MemoryLimits { host: limit(None), device: Some(bytes) },
        _ => MemoryLimits { host: limit(asked), device: None },
    }
}

/// The bytes that this process could take: those that are free, or what its control groups allow where that is less. `root` is
/// where the system's files are.
fn available(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().flat_map(|line| group_limits(root, line));
    free(root).into_iter().chain(limits).min()
}

/// What Linux calls available.
fn free(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1 << 10)
}

/// The limits of one line of /proc/self/cgroup, `number:controllers:path`: of the group and of those around it. Version 2 has
/// no controllers in the line, version 1 a hierarchy for each.
fn group_limits(root: &Path, line: &str) -> Vec<u64> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { return Vec::new() };
    let (top, file) = match controllers {
        "" => (root.join("sys/fs/cgroup"), "memory.max"),
        _ if controllers.split(',').any(|name| name == "memory") => {
            (root.join("sys/fs/cgroup/memory"), "memory.limit_in_bytes")
        }
        _ => return Vec::new(),
    };
    // Within a container the path may be the host's: what is not there has no limit to tell.
    let inner: PathBuf = Path::new(path).components().filter(|part| matches!(part, Component::Normal(_))).collect();
    let limit = |group: &Path| fs::read_to_string(top.join(group).join(file)).ok()?.trim().parse().ok();
    inner.ancestors().filter_map(limit).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sizes_are_read_and_anything_else_is_refused() {
        for (text, bytes) in [
            ("4G", 4 << 30),
            ("512m", 512 << 20),
            ("1KiB", 1 << 10),
            ("2TB", 2 << 40),
            ("77", 77),
            ("1.5G", 3 << 29),
            (".5k", 512),
        ] {
            assert_eq!(text.parse(), Ok(MemoryLimit(bytes)));
        }
        for text in ["", "G", "4X", "-1G", "1.5.0G", "1e3", "inf", ".", "0.5", "0", "0M", "4 G", "99999999999T", "4GG"]
        {
            let message = text.parse::<MemoryLimit>().unwrap_err();
            assert!(message.contains("4G or 1.5G"), "{message}");
        }
    }

    #[test]
    fn what_is_asked_for_is_meant_for_what_does_the_work() {
        let asked = Some(MemoryLimit(77));
        assert_eq!(limits(asked, false), MemoryLimits { host: Some(77), device: None });
        assert_eq!(limits(asked, true).device, Some(77));
        assert_eq!(limits(None, true).device, None);
    }

    #[test]
    fn the_least_of_what_is_free_and_what_groups_allow_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(available(root.path()), None);
        write("proc/meminfo", "MemTotal:  99 kB\nMemAvailable:    1000 kB\nBuffers: 1 kB\n");
        assert_eq!(available(root.path()), Some(1000 << 10));
        write("proc/self/cgroup", "0::/a/b\n");
        write("sys/fs/cgroup/a/b/memory.max", "max\n");
        assert_eq!(available(root.path()), Some(1000 << 10));
        write("sys/fs/cgroup/a/memory.max", "7000\n");
        assert_eq!(available(root.path()), Some(7000));
        // A container sees its own group as the top one, and the host's path.
        write("sys/fs/cgroup/memory.max", "6000\n");
        write("proc/self/cgroup", "0::/../elsewhere\n");
        assert_eq!(available(root.path()), Some(6000));
        write("proc/self/cgroup", "5:cpu,cpuacct:/x\n3:memory:/job\n");
        write("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "5000\n");
        assert_eq!(available(root.path()), Some(5000));
        write("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(available(root.path()), Some(1000 << 10));
    }
}
