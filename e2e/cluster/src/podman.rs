//! podman's command line: what starts, enters, ends and judges the containers of a pod.

use std::{
    os::fd::OwnedFd,
    path::PathBuf,
    process::{Output, Stdio},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::Value;
use tokio::{io::unix::AsyncFd, process::Command};

/// What containerd gives a container that asks for nothing.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// podman with the options that are the same for all.
pub(crate) fn podman() -> Command {
    let mut command = Command::new("podman");
    command.args(["--runtime", "runc", "--cgroup-manager", "cgroupfs"]).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Runs podman to its end.
pub(crate) async fn run(arguments: &[&str]) -> Result<Output> {
    podman().args(arguments).output().await.context("podman cannot be run; is it installed?")
}

/// Whether an image is on this machine.
pub(crate) async fn has_image(image: &str) -> Result<bool> {
    Ok(run(&["image", "exists", image]).await?.status.success())
}

/// Removes containers with all that depends on them; they have so many seconds to end by themselves.
pub(crate) async fn remove(names: &[String], grace_s: u64) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let grace = grace_s.to_string();
    let mut arguments = vec!["rm", "--force", "--depend", "--ignore", "--time", &grace];
    arguments.extend(names.iter().map(String::as_str));
    let output = run(&arguments).await?;
    if !output.status.success() {
        bail!("podman rm: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// A started container: waits for its first process.
pub(crate) struct Started {
    /// Id of the container.
    pub(crate) id: String,
    first: Option<AsyncFd<OwnedFd>>,
    /// Where conmon runs; it leaves a file there when the container meets its memory limit.
    folder: PathBuf,
}

/// How a container ended.
pub(crate) struct Ended {
    /// Exit status of its first process.
    pub(crate) exit_code: i64,
    /// Whether it met its memory limit.
    pub(crate) out_of_memory: bool,
}

impl Started {
    /// Waits for the end of the container called `name`.
    pub(crate) async fn ended(&self, name: &str) -> Result<Ended> {
        if let Some(first) = &self.first {
            let _ready = first.readable().await.context("waiting for a container")?;
        }
        let output = run(&["wait", name]).await?;
        let exit_code = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or(255);
        Ok(Ended { exit_code, out_of_memory: self.folder.join("oom").exists() })
    }
}

/// Starts a container, with a new folder for what the runtime writes beside it; the error is the runtime's own sentence.
pub(crate) async fn start(arguments: &[String], folder: PathBuf) -> Result<Started> {
    tokio::fs::create_dir_all(&folder).await.with_context(|| format!("cannot make {}", folder.display()))?;
    let pid_file = folder.join("pid");
    let output = podman()
        .current_dir(&folder)
        .args(["run", "--detach", "--pull", "never", "--network", "host", "--ulimit", "nofile=10000:10000"])
        .args(["--ulimit", "nproc=10000:10000", "--pidfile"])
        .arg(&pid_file)
        .args(arguments)
        .output()
        .await
        .context("podman cannot be run; is it installed?")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim().trim_start_matches("Error: "));
    }
    let pid = tokio::fs::read_to_string(pid_file)
        .await
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .and_then(Pid::from_raw);
    // A container that is over already has no process to wait for.
    let first = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::NONBLOCK).ok()).and_then(|fd| {
        // SAFETY: an OwnedFd names the same open descriptor for as long as it lives, and the AsyncFd owns it.
        unsafe { AsyncFd::register(fd) }.ok()
    });
    Ok(Started { id: String::from_utf8_lossy(&output.stdout).trim().to_owned(), first, folder })
}

/// The user of a container: its own, or else its pod's.
pub(crate) fn user_of(pod: &Value, container: &Value) -> Option<i64> {
    let of = |context: &Value| context["runAsUser"].as_i64();
    of(&container["securityContext"]).or_else(|| of(&pod["spec"]["securityContext"]))
}

/// Options of `podman run` that stand for the security contexts of a pod and a container.
pub(crate) fn security(pod: &Value, container: &Value) -> Vec<String> {
    let own = &container["securityContext"];
    let pods = &pod["spec"]["securityContext"];
    let either = |field: &str| if own[field].is_null() { &pods[field] } else { &own[field] };
    let mut options = Vec::new();
    let mut option = |name: &str, value: String| options.extend([name.to_owned(), value]);
    let user = user_of(pod, container);
    if let Some(user) = user {
        let group = either("runAsGroup").as_i64().unwrap_or(0);
        option("--user", format!("{user}:{group}"));
    }
    if own["allowPrivilegeEscalation"] == false {
        option("--security-opt", "no-new-privileges".into());
    }
    if either("seccompProfile")["type"] != "RuntimeDefault" && own["privileged"] != true {
        option("--security-opt", "seccomp=unconfined".into());
    }
    if own["readOnlyRootFilesystem"] == true {
        options.extend(["--read-only".into(), "--read-only-tmpfs=false".into()]);
    }
    if own["privileged"] == true {
        options.push("--privileged".into());
    } else {
        options.extend(capabilities(&own["capabilities"], user.unwrap_or(0) == 0));
    }
    options
}

/// For root exactly these. Another user gets none in effect; podman would put added ones into the ambient set, Kubernetes does not.
fn capabilities(of: &Value, root: bool) -> Vec<String> {
    let list = |field: &str| -> Vec<String> {
        let names = of[field].as_array().into_iter().flatten().filter_map(Value::as_str);
        names.map(|name| name.trim_start_matches("CAP_").to_owned()).collect()
    };
    let (add, dropped) = (list("add"), list("drop"));
    let mut options = vec!["--cap-drop".to_owned(), "ALL".to_owned()];
    if !root {
        return options;
    }
    let kept = DEFAULT_CAPABILITIES
        .iter()
        .map(|name| (*name).to_owned())
        .filter(|name| !dropped.iter().any(|one| one == "ALL" || one == name));
    let mut all: Vec<String> = kept.chain(add).collect();
    all.sort();
    all.dedup();
    options.extend(all.into_iter().flat_map(|name| ["--cap-add".to_owned(), name]));
    options
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_container_gets_the_capabilities_and_the_user_that_it_asks_for() {
        let pod = json!({"spec": {"securityContext": {"runAsUser": 1000, "runAsNonRoot": true}}});
        assert_eq!(
            security(&pod, &json!({})),
            ["--user", "1000:0", "--security-opt", "seccomp=unconfined", "--cap-drop", "ALL"]
        );
        let ours = json!({"securityContext": {"runAsUser": 0, "capabilities": {"drop": ["ALL"], "add": ["SYS_PTRACE", "SYS_ADMIN"]}}});
        assert_eq!(
            security(&pod, &ours)[2..],
            [
                "--security-opt",
                "seccomp=unconfined",
                "--cap-drop",
                "ALL",
                "--cap-add",
                "SYS_ADMIN",
                "--cap-add",
                "SYS_PTRACE"
            ]
        );
        let plain = security(&json!({}), &json!({"securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}}));
        assert_eq!(plain.iter().filter(|one| *one == "--cap-add").count(), DEFAULT_CAPABILITIES.len());
        assert_eq!(security(&json!({}), &json!({"securityContext": {"privileged": true}})), ["--privileged"]);
    }
}
