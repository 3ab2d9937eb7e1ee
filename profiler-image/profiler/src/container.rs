//! Which processes are of the target's container. Where a pod shares its PID namespace, or has the node's, others can be seen as well.
//!
//! What tells them apart is the path of the control group: every runtime puts the container's id into it, as in
//! `/kubepods.slice/…/cri-containerd-ID.scope` or `/libpod-ID`; from another control-group namespace it begins with `/..`.
//! A child is of its parent's container.

use std::{collections::HashSet, fs};

/// Digits of a container's id.
const ID_DIGITS: usize = 64;

/// What the control groups say of some processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Members {
    /// These are of the container.
    Told(HashSet<u32>),
    /// They name no container at all.
    Untold,
}

impl Members {
    /// Of these processes, those of the container `id`.
    #[must_use]
    pub fn of(id: &str, pids: impl IntoIterator<Item = u32>) -> Self {
        Self::among(id, pids.into_iter().map(|pid| (pid, groups(pid))))
    }

    fn among(id: &str, groups: impl IntoIterator<Item = (u32, String)>) -> Self {
        let (mut members, mut told) = (HashSet::new(), false);
        for (pid, groups) in groups {
            let is_member = names(&groups, id);
            told |= is_member || names_some(&groups);
            if is_member {
                members.insert(pid);
            }
        }
        if told { Self::Told(members) } else { Self::Untold }
    }

    /// Whether this process may be of the container.
    #[must_use]
    pub fn may_have(&self, pid: u32) -> bool {
        match self {
            Self::Told(members) => members.contains(&pid),
            Self::Untold => true,
        }
    }
}

/// Text of `/proc/PID/cgroup`; empty for a process that has gone.
fn groups(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default()
}

/// Whether the path of any control group names this container.
fn names(groups: &str, id: &str) -> bool {
    !id.is_empty() && groups.lines().any(|line| line.contains(id))
}

/// Whether the path of any control group names a container.
fn names_some(groups: &str) -> bool {
    groups.split(|letter: char| !letter.is_ascii_hexdigit()).any(|word| word.len() == ID_DIGITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(digit: char) -> String {
        digit.to_string().repeat(ID_DIGITS)
    }

    fn among(groups: &[&str]) -> Members {
        Members::among(&id('a'), groups.iter().zip(1..).map(|(groups, pid)| (pid, (*groups).to_owned())))
    }

    fn told(pids: &[u32]) -> Members {
        Members::Told(pids.iter().copied().collect())
    }

    #[test]
    fn every_runtimes_path_names_its_container() {
        let (own, other) = (id('a'), id('b'));
        let pod = "kubepods-burstable-pod0b2e3f6a_1c1d_4b4e_8f5a_6d7c8e9f0a1b.slice";
        for path in [
            format!("/kubepods.slice/kubepods-burstable.slice/{pod}/cri-containerd-ID.scope"),
            "/../cri-containerd-ID.scope".to_owned(),
            "/../ID".to_owned(),
            "/kubepods/besteffort/pod0b2e3f6a-1c1d-4b4e-8f5a-6d7c8e9f0a1b/ID".to_owned(),
            format!("/kubepods.slice/{pod}/crio-ID.scope/container"),
            "/machine.slice/libpod-ID.scope".to_owned(),
            "/system.slice/docker-ID.scope".to_owned(),
            format!("/docker/{}/kubelet/kubepods/ID", id('c')),
        ] {
            // Version 1 has a line for each controller, and not all may name it.
            for line in ["0::PATH", "12:memory:PATH\n11:cpu,cpuacct:/\n0::/", "1:name=systemd:PATH"] {
                let groups = |id: &str| line.replace("PATH", &path).replace("ID", id);
                assert_eq!(among(&[&groups(&own), &groups(&other), "0::/"]), told(&[1]), "{line} {path}");
            }
        }
    }

    #[test]
    fn where_no_path_names_a_container_all_may_be_of_it() {
        let hidden = among(&["0::/", "0::/../..", "", "0::/user.slice/user-1000.slice/session-2.scope"]);
        assert_eq!(hidden, Members::Untold);
        assert!(hidden.may_have(7));
    }

    #[test]
    fn where_only_others_are_named_none_is_of_it() {
        let other = format!("0::/../{}", id('b'));
        assert_eq!(among(&[&other, "0::/"]), told(&[]));
        // An id that is not as long as usual is believed all the same.
        assert_eq!(Members::among("mock-1", [(1, "0::/pod/mock-1".to_owned()), (2, "0::/".to_owned())]), told(&[1]));
        assert_eq!(Members::among("", [(1, "0::/".to_owned())]), Members::Untold);
    }

    #[test]
    fn this_process_has_control_groups_and_one_that_has_gone_has_none() {
        assert!(groups(std::process::id()).contains(':'));
        assert_eq!(groups(u32::MAX), "");
    }
}
