//! The cgroup of a pod that has a memory limit: its containers live below it and share the limit, as on a real node.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::node::list;

const ROOT: &str = "/sys/fs/cgroup";
/// Before the process id of the stand-in and the uid of the pod.
const PREFIX: &str = "aiprof-e2e-";

/// The sum of the containers' memory limits in bytes, if each has one.
pub(crate) fn pod_limit(pod: &Value) -> Option<u64> {
    let limits: Option<Vec<u64>> =
        list(&pod["spec"]["containers"]).iter().map(|one| bytes(&one["resources"]["limits"]["memory"])).collect();
    limits.map(|all| all.iter().sum()).filter(|sum| *sum > 0)
}

/// Bytes of a quantity such as `64Mi`.
pub(crate) fn bytes(quantity: &Value) -> Option<u64> {
    let text = quantity.as_str()?;
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// Path below each controller.
pub(crate) fn path(pod_uid: &str) -> String {
    format!("/{PREFIX}{}-{pod_uid}", std::process::id())
}

/// The root of each controller, and of the unified hierarchy.
fn controllers() -> Vec<PathBuf> {
    let below = fs::read_dir(ROOT).into_iter().flatten().flatten().map(|entry| entry.path());
    below.chain([PathBuf::from(ROOT)]).collect()
}

/// Makes the cgroup with its limit.
pub(crate) fn create(pod_uid: &str, limit_bytes: u64) -> Result<()> {
    let unified = PathBuf::from(ROOT).join("cgroup.controllers").exists();
    let (folder, file) =
        if unified { (ROOT.to_owned(), "memory.max") } else { (format!("{ROOT}/memory"), "memory.limit_in_bytes") };
    let folder = PathBuf::from(folder).join(path(pod_uid).trim_start_matches('/'));
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    fs::write(folder.join(file), limit_bytes.to_string())
        .with_context(|| format!("cannot set {file} of {}", folder.display()))
}

/// Removes it; its containers must be gone.
pub(crate) fn remove(pod_uid: &str) {
    for controller in controllers() {
        remove_folder(&controller.join(path(pod_uid).trim_start_matches('/')));
    }
}

/// Removes those of stand-ins that are no more.
pub(crate) fn remove_orphans() {
    for entry in controllers().iter().filter_map(|controller| fs::read_dir(controller).ok()).flatten().flatten() {
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX))
            .and_then(|rest| rest.split_once('-'))
            .map(|(owner, _)| owner);
        if owner.is_some_and(|owner| owner.parse::<u32>().is_ok() && !PathBuf::from(format!("/proc/{owner}")).exists())
        {
            remove_folder(&entry.path());
        }
    }
}

/// A folder and the empty ones that the runtime may leave in it.
fn remove_folder(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let _ = fs::remove_dir(entry.path());
    }
    let _ = fs::remove_dir(folder);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_limited_when_each_of_its_containers_is() {
        let with = |memory: &str| json!({"resources": {"limits": {"memory": memory}}});
        assert_eq!(
            pod_limit(&json!({"spec": {"containers": [with("64Mi"), with("1G")]}})),
            Some((64 << 20) + 1_000_000_000)
        );
        assert_eq!(pod_limit(&json!({"spec": {"containers": [with("64Mi"), {}]}})), None);
        assert_eq!(bytes(&json!("3Q")), None);
    }
}
