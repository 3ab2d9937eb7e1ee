//! How much memory a capture may take before the limit of its control group is reached.
//!
//! What counts is the group of this process, those above it that can be seen, and the group of process 1 where that lives in another
//! container: beside a target, this process's memory is its pod's, but the pod's own group cannot be seen from inside. Caches of
//! files are no loss: the kernel gives them up first.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aiprof_capture::inspect::LEAST_MEMORY_BYTES;

/// Values from here on mean "no limit" (`PAGE_COUNTER_MAX` in bytes is just below 2^63).
const NO_LIMIT: u64 = 1 << 60;

/// Deepest group looked at.
const MAX_DEPTH: usize = 32;

/// Names of the files of one version of control groups.
struct Version {
    limit: &'static str,
    used: &'static str,
    /// Keys of `memory.stat` that count what can be reclaimed.
    caches: [&'static str; 2],
}

const V2: Version = Version { limit: "memory.max", used: "memory.current", caches: ["inactive_file", "active_file"] };
const V1: Version = Version {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    caches: ["total_inactive_file", "total_active_file"],
};

/// Bytes that may still be taken; none without a limit.
#[must_use]
pub fn bytes() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = of_process(Path::new("/sys/fs/cgroup"), &groups);
    let mounts = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let other = mounts("1").filter(|first| Some(first) != mounts("self").as_ref());
    // Inside a container the mount shows its own group as the root.
    let target = other.and_then(|_| of_process(Path::new("/proc/1/root/sys/fs/cgroup"), "0::/\n0:memory:/"));
    own.into_iter().chain(target).min()
}

/// Why there is too little for a capture, one sentence; none if there is enough.
#[must_use]
pub fn shortage() -> Option<String> {
    let left = bytes().filter(|left| *left < LEAST_MEMORY_BYTES)?;
    let (left, needed) = (left >> 20, LEAST_MEMORY_BYTES >> 20);
    Some(format!("the memory limit leaves {left} MiB, and a capture needs {needed} MiB of the target's own"))
}

/// The least that is left in the groups of `groups` (text of `/proc/PID/cgroup`), which are mounted at `mount`.
fn of_process(mount: &Path, groups: &str) -> Option<u64> {
    let each = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        if controllers.is_empty() {
            return chain(mount, path, &V2);
        }
        let is_memory = controllers.split(',').any(|name| name == "memory");
        is_memory.then(|| chain(&mount.join("memory"), path, &V1)).flatten()
    });
    each.min()
}

/// The least that is left in a group and those above it.
fn chain(mount: &Path, group: &str, version: &Version) -> Option<u64> {
    let relative = PathBuf::from(group.trim_start_matches('/'));
    // A group outside the mount (`/../x`) or not shown in it leaves the root.
    let groups = relative.ancestors().take(MAX_DEPTH).filter(|each| !each.to_string_lossy().contains(".."));
    groups.filter_map(|each| left(&mount.join(each), version)).min()
}

/// What is left in one group.
fn left(group: &Path, version: &Version) -> Option<u64> {
    let number = |name: &str| fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
    let limit = number(version.limit).filter(|limit| *limit < NO_LIMIT)?;
    let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let cached = version.caches.iter().filter_map(|key| {
        stat.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse::<u64>().ok())
    });
    let used = number(version.used)?.saturating_sub(cached.fold(0, u64::saturating_add));
    Some(limit.saturating_sub(used))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(at: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(at).unwrap();
        for (name, text) in files {
            fs::write(at.join(name), text).unwrap();
        }
    }

    #[test]
    fn version_2_gives_the_least_of_the_group_and_those_above_it() {
        let mount = tempfile::tempdir().unwrap();
        let stat = "anon 5\nfile 40\ninactive_file 10\nactive_file 20\n";
        group(mount.path(), &[]);
        group(&mount.path().join("pod"), &[("memory.max", "100\n"), ("memory.current", "90\n"), ("memory.stat", stat)]);
        group(&mount.path().join("pod/one"), &[("memory.max", "max\n"), ("memory.current", "7\n")]);
        assert_eq!(of_process(mount.path(), "0::/pod/one\n"), Some(40));
        assert_eq!(of_process(mount.path(), "0::/\n"), None);
        assert_eq!(of_process(mount.path(), "0::/../other\n"), None);
        group(&mount.path().join("pod/one"), &[("memory.max", "10\n")]);
        assert_eq!(of_process(mount.path(), "0::/pod/one\n"), Some(3));
        group(&mount.path().join("pod/one"), &[("memory.max", "5\n")]);
        assert_eq!(of_process(mount.path(), "0::/pod/one\n"), Some(0));
    }

    #[test]
    fn version_1_is_read_from_the_memory_controller() {
        let mount = tempfile::tempdir().unwrap();
        let files = [
            ("memory.limit_in_bytes", "1000\n"),
            ("memory.usage_in_bytes", "900\n"),
            ("memory.stat", "inactive_file 7\ntotal_inactive_file 50\n"),
        ];
        group(&mount.path().join("memory/a"), &files);
        group(
            &mount.path().join("memory"),
            &[("memory.limit_in_bytes", "9223372036854771712\n"), ("memory.usage_in_bytes", "1")],
        );
        assert_eq!(of_process(mount.path(), "4:cpu,memory:/a\n0::/\n"), Some(150));
        assert_eq!(of_process(mount.path(), "4:memory:/elsewhere\n3:cpu:/a\n"), None);
        assert_eq!(of_process(mount.path(), "torn\n4:\n\n"), None);
    }
}
