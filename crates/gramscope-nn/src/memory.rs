//! How much of the host's memory there is, and whether that is enough.
//!
//! Where it is not, an allocation aborts the process, or the system kills it later on: what grows with a user's numbers is looked at
//! before it is allocated.

use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::{Error, Result};

/// The bytes that this process could take now: those that are free, or what its control groups allow where that is less; none
/// where the system does not say.
pub fn available() -> Option<u64> {
    available_below(Path::new("/"))
}

/// The bytes that this process could ever take: all memory and swap of the machine, or what its control groups allow where that is
/// less; none where the system does not say.
pub fn total() -> Option<u64> {
    total_below(Path::new("/"))
}

/// [`available`], with the system's files below `root`.
fn available_below(root: &Path) -> Option<u64> {
    let limits = group_limits(root).into_iter().map(|limit| limit.memory);
    of_machine(root, "MemAvailable:").into_iter().chain(limits).min()
}

/// [`total`], with the system's files below `root`.
fn total_below(root: &Path) -> Option<u64> {
    let swap = of_machine(root, "SwapTotal:").unwrap_or(0);
    let whole = of_machine(root, "MemTotal:").map(|memory| memory.saturating_add(swap));
    let limits = group_limits(root).into_iter();
    let limits = limits.map(|limit| limit.memory.saturating_add(limit.swap.map_or(swap, |allowed| allowed.min(swap))));
    whole.into_iter().chain(limits).min()
}

/// What Linux says of the machine under `key`.
fn of_machine(root: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1 << 10)
}

/// What a control group allows.
struct GroupLimit {
    memory: u64,
    /// Beside the memory; none where it may have all there is.
    swap: Option<u64>,
}

/// The limits of this process's groups and of those around them.
fn group_limits(root: &Path) -> Vec<GroupLimit> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    groups.lines().flat_map(|line| limits_of_line(root, line)).collect()
}

/// Those of one line of /proc/self/cgroup, `number:controllers:path`. Version 2 has no controllers in the line, version 1 a
/// hierarchy for each.
fn limits_of_line(root: &Path, line: &str) -> Vec<GroupLimit> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { return Vec::new() };
    let is_second = controllers.is_empty();
    let top = match is_second {
        true => root.join("sys/fs/cgroup"),
        false if controllers.split(',').any(|name| name == "memory") => root.join("sys/fs/cgroup/memory"),
        false => return Vec::new(),
    };
    // Within a container the path may be the host's: what is not there has no limit to tell.
    let inner: PathBuf = Path::new(path).components().filter(|part| matches!(part, Component::Normal(_))).collect();
    let read = |group: &Path, file: &str| -> Option<u64> {
        fs::read_to_string(top.join(group).join(file)).ok()?.trim().parse().ok()
    };
    let limit = |group: &Path| {
        if is_second {
            return Some(GroupLimit { memory: read(group, "memory.max")?, swap: read(group, "memory.swap.max") });
        }
        let memory = read(group, "memory.limit_in_bytes")?;
        // Version 1 counts both together.
        let both = read(group, "memory.memsw.limit_in_bytes");
        Some(GroupLimit { memory, swap: both.map(|both| both.saturating_sub(memory)) })
    };
    inner.ancestors().filter_map(limit).collect()
}

/// Fails where `what`, with so many images in a batch, takes `needed` bytes at least and this machine never has as many. That there
/// are fewer now says little: a run that has just ended may still hold its memory, and caches and swap make room.
pub(crate) fn check(what: impl FnOnce() -> String, needed: u64, images: usize) -> Result<()> {
    match total() {
        Some(total) if needed > total => Err(Error::Memory { what: what(), needed, total, images }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_least_of_what_is_free_and_what_groups_allow_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let assert_both = |available: Option<u64>, total: Option<u64>| {
            assert_eq!((available_below(root.path()), total_below(root.path())), (available, total));
        };
        assert_both(None, None);
        write("proc/meminfo", "MemTotal:  9000 kB\nMemAvailable:    1000 kB\nBuffers: 1 kB\n");
        assert_both(Some(1000 << 10), Some(9000 << 10));
        write("proc/meminfo", "MemTotal:  9000 kB\nMemAvailable:    1000 kB\nSwapTotal: 100 kB\n");
        assert_both(Some(1000 << 10), Some(9100 << 10));
        write("proc/self/cgroup", "0::/a/b\n");
        write("sys/fs/cgroup/a/b/memory.max", "max\n");
        assert_both(Some(1000 << 10), Some(9100 << 10));
        write("sys/fs/cgroup/a/memory.max", "7000\n");
        assert_both(Some(7000), Some(7000 + (100 << 10)));
        for (swap, total) in [("max", 7000 + (100 << 10)), ("0", 7000), ("11", 7011), ("999999999", 7000 + (100 << 10))]
        {
            write("sys/fs/cgroup/a/memory.swap.max", swap);
            assert_both(Some(7000), Some(total));
        }
        // A container sees its own group as the top one, and the host's path.
        write("sys/fs/cgroup/memory.max", "6000\n");
        write("sys/fs/cgroup/memory.swap.max", "0\n");
        write("proc/self/cgroup", "0::/../elsewhere\n");
        assert_both(Some(6000), Some(6000));
        write("proc/self/cgroup", "5:cpu,cpuacct:/x\n3:memory:/job\n");
        write("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "5000\n");
        assert_both(Some(5000), Some(5000 + (100 << 10)));
        write("sys/fs/cgroup/memory/job/memory.memsw.limit_in_bytes", "5500\n");
        assert_both(Some(5000), Some(5500));
        for file in ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"] {
            write(&format!("sys/fs/cgroup/memory/job/{file}"), "9223372036854771712\n");
        }
        assert_both(Some(1000 << 10), Some(9100 << 10));
    }

    #[test]
    fn what_there_is_no_room_for_says_how_much_it_takes() {
        let what = || "a network".to_owned();
        check(what, 1, 0).unwrap();
        if let Some(total) = total() {
            check(what, total, 0).unwrap();
            for (images, lower) in [(0, "lower width or depth"), (1, "lower width, depth or the batch size")] {
                let message = check(what, u64::MAX, images).unwrap_err().to_string();
                assert!(message.starts_with("a network takes at least 17179869184.0 GiB"), "{message}");
                assert!(message.contains("and this machine has") && message.ends_with(lower), "{message}");
            }
        }
    }
}
