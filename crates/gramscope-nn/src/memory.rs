//! How much of the host's memory there is, and whether that is enough.
//!
//! Where it is not, an allocation aborts the process, or the system kills it later on: what grows with a user's numbers is looked at
//! before it is allocated.

use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::{Error, Result};

/// The bytes that this process could take: those that are free, or what its control groups allow where that is less; none where the
/// system does not say.
pub fn available() -> Option<u64> {
    available_below(Path::new("/"))
}

/// [`available`], with the system's files below `root`.
fn available_below(root: &Path) -> Option<u64> {
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

/// Fails where `what` takes `needed` bytes at least and there are fewer; `lower` names the settings that make it less.
pub(crate) fn check(what: impl FnOnce() -> String, needed: u64, lower: &'static str) -> Result<()> {
    match available() {
        Some(available) if needed > available => Err(Error::Memory { what: what(), needed, available, lower }),
        _ => Ok(()),
    }
}

/// So many bytes, for people; rounded up.
pub fn in_words(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    if bytes < 10 * MIB { format!("{} KiB", bytes.div_ceil(1 << 10)) } else { format!("{} MiB", bytes.div_ceil(MIB)) }
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
        assert_eq!(available_below(root.path()), None);
        write("proc/meminfo", "MemTotal:  99 kB\nMemAvailable:    1000 kB\nBuffers: 1 kB\n");
        assert_eq!(available_below(root.path()), Some(1000 << 10));
        write("proc/self/cgroup", "0::/a/b\n");
        write("sys/fs/cgroup/a/b/memory.max", "max\n");
        assert_eq!(available_below(root.path()), Some(1000 << 10));
        write("sys/fs/cgroup/a/memory.max", "7000\n");
        assert_eq!(available_below(root.path()), Some(7000));
        // A container sees its own group as the top one, and the host's path.
        write("sys/fs/cgroup/memory.max", "6000\n");
        write("proc/self/cgroup", "0::/../elsewhere\n");
        assert_eq!(available_below(root.path()), Some(6000));
        write("proc/self/cgroup", "5:cpu,cpuacct:/x\n3:memory:/job\n");
        write("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "5000\n");
        assert_eq!(available_below(root.path()), Some(5000));
        write("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(available_below(root.path()), Some(1000 << 10));
    }

    #[test]
    fn what_there_is_no_room_for_says_how_much_it_takes() {
        let what = || "a network".to_owned();
        check(what, 1, "depth").unwrap();
        if available().is_some() {
            let message = check(what, u64::MAX, "depth").unwrap_err().to_string();
            assert!(
                message.starts_with("a network takes at least 17592186044416 MiB") && message.ends_with("lower depth")
            );
        }
    }
}
