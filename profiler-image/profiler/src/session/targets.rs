//! Which processes a request means.

use std::{collections::HashSet, fs, os::unix::fs::MetadataExt, process::id};

use aiprof_capture::{progress::Progress, request::Request};

use super::Failure;
use crate::{container::Members, memory::ProcessMemory, process, python};

/// Inode of this process's PID namespace.
pub(super) fn own_pid_namespace() -> Result<u32, Failure> {
    let path = "/proc/self/ns/pid";
    let metadata = fs::metadata(path).map_err(|error| {
        Failure::new(format!("{path} cannot be read: {error}"), "mount /proc of the target's PID namespace")
    })?;
    Ok(metadata.ino() as u32)
}

/// The processes to begin with.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) pids: Vec<u32>,
    /// What is to be known of the choice.
    pub(super) said: Option<Progress>,
}

/// Chooses the processes.
pub(super) fn choose(request: &Request) -> Result<Chosen, Failure> {
    if request.pids.is_empty() { by_kind(request) } else { by_id(request) }
}

fn by_id(request: &Request) -> Result<Chosen, Failure> {
    if let Some(missing) = request.pids.iter().find(|pid| !process::is_alive(**pid)) {
        return Err(Failure::new(
            format!("there is no process {missing}"),
            "list the processes with `ps -e`; an id from inside a container differs from the one outside",
        ));
    }
    let listed = if request.processes.is_empty() { Vec::new() } else { process::list() };
    let kept = request.pids.iter().filter(|pid| {
        request.processes.is_empty() || listed.iter().any(|each| each.pid == **pid && matches(request, each))
    });
    let pids = some_or(kept.copied().collect(), "none of the given processes matches the given pattern")?;
    // The user has said so, but may not know.
    let members = request.container_id.as_ref().map(|id| Members::of(id, pids.iter().copied()));
    let foreign = pids.iter().find(|pid| members.as_ref().is_some_and(|members| !members.may_have(**pid)));
    let said = foreign.map(|pid| Progress::Note { message: format!("process {pid} is not of the target's container") });
    Ok(Chosen { pids, said })
}

fn by_kind(request: &Request) -> Result<Chosen, Failure> {
    let (own, parent) = (id(), process::parent(id()));
    let mut others = process::list();
    others.retain(|listed| listed.pid != own && listed.pid != parent);
    let members = request.container_id.as_ref().map(|id| Members::of(id, others.iter().map(|listed| listed.pid)));
    if let Some(members) = &members {
        others.retain(|listed| members.may_have(listed.pid));
    }
    let place = if matches!(members, Some(Members::Told(_))) { " in the target's container" } else { "" };
    let pids: Vec<u32> = if request.processes.is_empty() {
        let is_python = |pid: u32| !matches!(python::detect(pid, &ProcessMemory::open(pid)), Ok(None));
        let python = others.iter().map(|listed| listed.pid).filter(|pid| is_python(*pid));
        some_or(python.collect(), &format!("no process that runs CPython can be seen{place}"))?
    } else {
        let matching = others.iter().filter(|listed| matches(request, listed)).map(|listed| listed.pid);
        some_or(matching.collect(), &format!("no process{place} matches {}", request.processes.join(" or ")))?
    };
    let doubtful = members == Some(Members::Untold) && has_several_roots(&pids);
    let said = doubtful.then(|| Progress::Warning {
        message: "which processes are of the target's container cannot be told here: those of others may be recorded, \
                  too; choose with --pid or --process"
            .to_owned(),
    });
    Ok(Chosen { pids, said })
}

fn matches(request: &Request, listed: &process::Listed) -> bool {
    request.processes.iter().any(|pattern| listed.name.contains(pattern) || listed.command_line.contains(pattern))
}

/// Whether these processes see different file systems, as those of different containers do.
fn has_several_roots(pids: &[u32]) -> bool {
    let roots: HashSet<_> = pids.iter().filter_map(|pid| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok()).collect();
    roots.len() > 1
}

fn some_or(pids: Vec<u32>, message: &str) -> Result<Vec<u32>, Failure> {
    if pids.is_empty() {
        return Err(Failure::new(message, "name a process with --pid, or see `ps -e` for what runs"));
    }
    Ok(pids)
}
