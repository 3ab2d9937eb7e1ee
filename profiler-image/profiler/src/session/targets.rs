//! Which processes a request means.

use std::{fs, os::unix::fs::MetadataExt, process::id};

use aiprof_capture::request::Request;

use super::Failure;
use crate::{memory::ProcessMemory, process, python};

/// Inode of this process's PID namespace.
pub(super) fn own_pid_namespace() -> Result<u32, Failure> {
    let path = "/proc/self/ns/pid";
    let metadata = fs::metadata(path).map_err(|error| {
        Failure::new(format!("{path} cannot be read: {error}"), "mount /proc of the target's PID namespace")
    })?;
    Ok(metadata.ino() as u32)
}

/// The processes to begin with.
pub(super) fn choose(request: &Request) -> Result<Vec<u32>, Failure> {
    if let Some(missing) = request.pids.iter().find(|pid| !process::is_alive(**pid)) {
        return Err(Failure::new(
            format!("there is no process {missing}"),
            "list the processes with `ps -e`; an id from inside a container differs from the one outside",
        ));
    }
    let matching = |listed: &process::Listed| {
        let matches = |pattern: &String| listed.name.contains(pattern) || listed.command_line.contains(pattern);
        request.processes.iter().any(matches)
    };
    if !request.pids.is_empty() {
        let listed = if request.processes.is_empty() { Vec::new() } else { process::list() };
        let kept = request.pids.iter().filter(|pid| {
            request.processes.is_empty() || listed.iter().any(|each| each.pid == **pid && matching(each))
        });
        return some_or(kept.copied().collect(), "none of the given processes matches the given pattern");
    }
    let parent = process::parent(id());
    let others = process::list().into_iter().filter(|listed| listed.pid != id() && listed.pid != parent);
    if request.processes.is_empty() {
        let python =
            others.filter(|listed| !matches!(python::detect(listed.pid, &ProcessMemory::open(listed.pid)), Ok(None)));
        return some_or(python.map(|listed| listed.pid).collect(), "no process that runs CPython can be seen");
    }
    some_or(
        others.filter(matching).map(|listed| listed.pid).collect(),
        &format!("no process matches {}", request.processes.join(" or ")),
    )
}

fn some_or(pids: Vec<u32>, message: &str) -> Result<Vec<u32>, Failure> {
    if pids.is_empty() {
        return Err(Failure::new(message, "name a process with --pid, or see `ps -e` for what runs"));
    }
    Ok(pids)
}
