//! The profiler's ephemeral container: how it is described, and what its state means. Takes and gives objects of the API; no I/O.

use aiprof_capture::attach::{SOCKET, UPLOADED};
use k8s_openapi::api::core::v1::{
    Capabilities, ContainerState, ContainerStatus, EphemeralContainer, Pod, SecurityContext,
};
use serde_json::{Value, json};
use thiserror::Error;

use super::{ClusterProps, ImageSource, PodTarget, storage, target::why_not_running};

/// What the names of our containers begin with.
pub const NAME_PREFIX: &str = "aiprof-";
/// Where an image of ours holds it.
pub const IN_IMAGE: &str = "/aiprof-profiler";
/// A profiler ends by itself when nobody was attached for so long, in seconds.
const LEASE_S: &str = "60";
/// What a capture needs; `DAC_OVERRIDE` and `DAC_READ_SEARCH` since the target's files belong to its own user.
const CAPABILITIES: [&str; 5] = ["SYS_ADMIN", "SYS_PTRACE", "SYSLOG", "DAC_READ_SEARCH", "DAC_OVERRIDE"];
/// Waits a minute at most for the upload of its first argument, then becomes that. A `sleep` that knows no fractions waits whole seconds.
const WAIT_FOR_UPLOAD: &str = "umask 077; mkdir -p \"${1%/*}\" || exit 120; n=0; \
while [ ! -x \"$1\" ]; do [ $n -lt 600 ] || exit 121; \
if sleep 0.1 2>/dev/null; then n=$((n+1)); else sleep 1 || exit 122; n=$((n+10)); fi; done; \
exec \"$@\"";

/// Why the container does not run.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ContainerError {
    /// The kubelet cannot start it.
    #[error("the profiler's container {name} does not start: {reason}{message}{hint}")]
    Waiting {
        /// The container.
        name: String,
        /// The kubelet's reason.
        reason: String,
        /// The kubelet's message, with what joins it; may be empty.
        message: String,
        /// What to do, with what joins it; may be empty.
        hint: &'static str,
    },
    /// It has ended.
    #[error("the profiler's container {name} ended: {reason}, exit code {code}{message}{log}{hint}")]
    Terminated {
        /// The container.
        name: String,
        /// Why.
        reason: String,
        /// How.
        code: i32,
        /// The runtime's message, with what joins it; may be empty.
        message: String,
        /// Its last lines, with what joins them; may be empty.
        log: String,
        /// What to do, with what joins it; may be empty.
        hint: &'static str,
    },
    /// Nothing happened.
    #[error("the profiler's container {name} did not start within {seconds} s: {state}; see `kubectl describe pod`")]
    TooSlow {
        /// The container.
        name: String,
        /// How long was waited.
        seconds: u64,
        /// What the kubelet said last.
        state: String,
    },
}

/// A container of ours that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Living {
    /// Its name.
    pub name: String,
    /// Whether its profiler comes by upload.
    pub uploaded: bool,
}

impl Living {
    /// The profiler's path in it.
    #[must_use]
    pub const fn program(&self) -> &'static str {
        if self.uploaded { UPLOADED } else { IN_IMAGE }
    }
}

/// How far a container has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It runs.
    Running,
    /// Not yet, for this reason.
    Starting(String),
    /// It never will, or no longer.
    Failed(ContainerError),
}

/// A name nobody has yet.
///
/// # Errors
/// The system gives no random bytes.
pub fn new_name() -> Result<String, getrandom::Error> {
    const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut bytes = [0; 5];
    getrandom::fill(&mut bytes)?;
    let letters = bytes.iter().map(|&byte| char::from(LETTERS[usize::from(byte) % LETTERS.len()]));
    Ok(NAME_PREFIX.chars().chain(letters).collect())
}

/// The container to add.
#[must_use]
pub fn describe(name: &str, target: &PodTarget, props: &ClusterProps) -> EphemeralContainer {
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    let spool_bytes = storage::spool_bytes(target.storage_bytes, props.image == ImageSource::Auto).to_string();
    let serve = ["serve", "--socket", SOCKET, "--lease", LEASE_S, "--spool-bytes", &spool_bytes];
    let (image, before) = match &props.image {
        ImageSource::Auto => (&target.image, &["/bin/sh", "-c", WAIT_FOR_UPLOAD, "sh", UPLOADED][..]),
        ImageSource::Image(image) => (image, &[IN_IMAGE][..]),
    };
    let mut security = SecurityContext {
        run_as_user: Some(0),
        run_as_non_root: Some(false),
        allow_privilege_escalation: Some(true),
        read_only_root_filesystem: Some(false),
        ..SecurityContext::default()
    };
    if props.privileged {
        security.privileged = Some(true);
    } else {
        security.capabilities = Some(Capabilities { drop: Some(words(&["ALL"])), add: Some(words(&CAPABILITIES)) });
    }
    EphemeralContainer {
        name: name.to_owned(),
        image: Some(image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(words(&[before, &serve].concat())),
        target_container_name: Some(target.container.clone()),
        security_context: Some(security),
        ..EphemeralContainer::default()
    }
}

/// The strategic merge patch of `pods/ephemeralcontainers` that adds it.
#[must_use]
pub fn patch(container: &EphemeralContainer) -> Value {
    json!({"spec": {"ephemeralContainers": [container]}})
}

/// A container of ours that runs beside the target and is privileged enough, the newest first.
#[must_use]
pub fn living(pod: &Pod, target: &PodTarget, props: &ClusterProps) -> Vec<Living> {
    let specs = pod.spec.as_ref().and_then(|spec| spec.ephemeral_containers.as_deref()).unwrap_or_default();
    let fits = |spec: &&EphemeralContainer| {
        let privileged = spec.security_context.as_ref().and_then(|security| security.privileged).unwrap_or(false);
        spec.name.starts_with(NAME_PREFIX)
            && spec.target_container_name.as_deref() == Some(&target.container)
            && (privileged || !props.privileged)
            && status(pod, &spec.name)
                .and_then(|status| status.state.as_ref())
                .is_some_and(|state| state.running.is_some())
    };
    let describe = |spec: &EphemeralContainer| Living {
        name: spec.name.clone(),
        uploaded: spec.command.as_deref().and_then(<[_]>::first).is_none_or(|program| program != IN_IMAGE),
    };
    specs.iter().rev().filter(fits).map(describe).collect()
}

/// How far the container of this name has come.
#[must_use]
pub fn judge(pod: &Pod, name: &str) -> Progress {
    let status = status(pod, name);
    match status.and_then(|status| status.state.as_ref()) {
        Some(ContainerState { running: Some(_), .. }) => Progress::Running,
        Some(ContainerState { terminated: Some(terminated), .. }) => {
            let message = terminated.message.as_deref().map(str::trim).unwrap_or_default();
            Progress::Failed(ContainerError::Terminated {
                name: name.to_owned(),
                reason: terminated.reason.clone().unwrap_or_else(|| "Terminated".to_owned()),
                code: terminated.exit_code,
                message: joined(message),
                log: String::new(),
                hint: hint_of_exit(terminated.exit_code, message),
            })
        }
        Some(ContainerState { waiting: Some(waiting), .. }) => {
            let reason = waiting.reason.clone().unwrap_or_default();
            let message = waiting.message.as_deref().map(str::trim).unwrap_or_default();
            match hint_of_reason(&reason, message) {
                Some(hint) => Progress::Failed(ContainerError::Waiting {
                    name: name.to_owned(),
                    reason,
                    message: joined(message),
                    hint,
                }),
                None => Progress::Starting(why_not_running(status).unwrap_or_default()),
            }
        }
        _ => Progress::Starting("the kubelet has not seen it yet".to_owned()),
    }
}

/// The status of our container of this name.
#[must_use]
pub fn status<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let statuses = pod.status.as_ref()?.ephemeral_container_statuses.as_deref()?;
    statuses.iter().find(|status| status.name == name)
}

/// Whether a message of the runtime says that there is no such program in the image.
#[must_use]
pub fn says_no_program(message: &str) -> bool {
    message.contains("executable file not found")
        || message.contains("exec: \"/bin/sh\": stat")
        || (message.contains("no such file or directory")
            && (message.contains("exec:") || message.contains("exec format")))
}

const NO_SHELL: &str =
    "; this image has no shell to bring the profiler in by: give --image REF, an image that holds the profiler";
const NO_PROFILER: &str = "; this image does not hold /aiprof-profiler: give another --image, or leave it out";
const NO_TOOLS: &str = "; this image lacks mkdir or sleep: give --image REF, an image that holds the profiler";
const CHECK_IMAGE: &str = "; check --image, and that the pod's pull secrets reach it";
const PRELOAD: &str = "; load the image on the node, or let the kubelet pull it";
const SEE_POD: &str = "; see `kubectl describe pod`";

/// What to do about a reason for which a container waits for ever; none for one that passes.
fn hint_of_reason(reason: &str, message: &str) -> Option<&'static str> {
    match reason {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ImageInspectError" | "RegistryUnavailable" => {
            Some(CHECK_IMAGE)
        }
        "ErrImageNeverPull" => Some(PRELOAD),
        "RunContainerError" | "StartError" | "CreateContainerError" if says_no_program(message) => {
            Some(no_program(message))
        }
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" | "StartError" => Some(SEE_POD),
        _ => None,
    }
}

fn hint_of_exit(code: i32, message: &str) -> &'static str {
    match code {
        _ if says_no_program(message) => no_program(message),
        120 | 122 => NO_TOOLS,
        121 => "; the profiler did not arrive within a minute: try again",
        _ => "",
    }
}

/// What to do where there is no such program: the one of an image of ours, or the shell of the target's.
fn no_program(message: &str) -> &'static str {
    if message.contains(IN_IMAGE) { NO_PROFILER } else { NO_SHELL }
}

fn joined(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

#[cfg(test)]
mod tests;
