//! What the user named and what a pod is good for. Takes objects of the API and gives values; fetches nothing.

use std::{fmt, str::FromStr};

use k8s_openapi::api::core::v1::{Container, ContainerState, ContainerStatus, Node, Pod};
use thiserror::Error;

use super::storage;
use crate::strings::printable;

/// Says which container kubectl takes when nobody names one.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// Says what a node runs.
const OS_LABEL: &str = "kubernetes.io/os";
/// Says on what.
const ARCH_LABEL: &str = "kubernetes.io/arch";
/// The one architecture for which there is a profiler.
const ARCH: &str = "amd64";
/// The longest name of an object, in bytes.
const MAX_NAME_BYTES: usize = 253;

/// What the user named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetName {
    /// One pod.
    Pod(String),
    /// A ready pod of this workload.
    Workload(Workload, String),
    /// A ready pod with these labels, as `-l` has them.
    Selector(String),
}

/// What owns pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// `deployments.apps`.
    Deployment,
    /// `statefulsets.apps`.
    StatefulSet,
    /// `daemonsets.apps`.
    DaemonSet,
    /// `jobs.batch`.
    Job,
}

impl Workload {
    /// As it is written before a name.
    #[must_use]
    pub const fn short(self) -> &'static str {
        match self {
            Self::Deployment => "deploy",
            Self::StatefulSet => "sts",
            Self::DaemonSet => "ds",
            Self::Job => "job",
        }
    }

    /// Group and resource, as a Role names them.
    #[must_use]
    pub const fn resource(self) -> (&'static str, &'static str) {
        match self {
            Self::Deployment => ("apps", "deployments"),
            Self::StatefulSet => ("apps", "statefulsets"),
            Self::DaemonSet => ("apps", "daemonsets"),
            Self::Job => ("batch", "jobs"),
        }
    }
}

impl fmt::Display for TargetName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(name) => write!(formatter, "pod/{name}"),
            Self::Workload(workload, name) => write!(formatter, "{}/{name}", workload.short()),
            Self::Selector(selector) => write!(formatter, "-l {selector}"),
        }
    }
}

impl FromStr for TargetName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, name) = text.split_once('/').unwrap_or(("pod", text));
        let name_char = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
        if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(name_char) {
            return Err(format!("\"{name}\" is no name of a {kind}: lower-case letters, digits, '-' and '.' only"));
        }
        let workload = match kind {
            "pod" | "pods" | "po" => return Ok(Self::Pod(name.to_owned())),
            "deploy" | "deployment" | "deployments" | "deployment.apps" | "deployments.apps" => Workload::Deployment,
            "sts" | "statefulset" | "statefulsets" | "statefulset.apps" | "statefulsets.apps" => Workload::StatefulSet,
            "ds" | "daemonset" | "daemonsets" | "daemonset.apps" | "daemonsets.apps" => Workload::DaemonSet,
            "job" | "jobs" | "job.batch" | "jobs.batch" => Workload::Job,
            _ => {
                return Err(format!(
                    "\"{kind}\" has no pods that can be found: give pod/NAME, deploy/NAME, sts/NAME, ds/NAME or job/NAME"
                ));
            }
        };
        Ok(Self::Workload(workload, name.to_owned()))
    }
}

/// The container that is profiled, and what must still be true of it later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodTarget {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's uid: a later pod of the same name has another.
    pub uid: String,
    /// The container.
    pub container: String,
    /// The runtime's id of it, without the runtime's name.
    pub container_id: Option<String>,
    /// Its image.
    pub image: String,
    /// Bytes of ephemeral storage that the pod may use; none without a limit.
    pub storage_bytes: Option<u64>,
    /// How often it had been restarted.
    pub restarts: i32,
    /// The node it runs on.
    pub node: Option<String>,
    /// System and architecture of the node, such as `linux/amd64`; none if the node may not be read.
    pub platform: Option<String>,
    /// Other containers that could have been meant, if nobody named one.
    pub passed_over: Vec<String>,
}

/// Why a pod cannot be a target.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TargetError {
    /// The workload or the labels have no pods.
    #[error("{target} has no pods in namespace {namespace}; check the name with `kubectl get pods -n {namespace}`")]
    NoPods {
        /// What was named.
        target: String,
        /// Where.
        namespace: String,
    },
    /// There are pods, but none is ready.
    #[error("no pod of {target} is ready ({states}); name one with pod/NAME to try it all the same")]
    NoneReady {
        /// What was named.
        target: String,
        /// The pods and their states.
        states: String,
    },
    /// The pod does not run.
    #[error("pod {pod} is {phase}{why}, not Running: nothing in it can be profiled; see `kubectl describe pod`")]
    NotRunning {
        /// The pod.
        pod: String,
        /// Its phase.
        phase: String,
        /// What the API says, in brackets, if it says something.
        why: String,
    },
    /// The pod is on its way out.
    #[error("pod {pod} is being deleted: choose another")]
    Deleting {
        /// The pod.
        pod: String,
    },
    /// The pod does not run on Linux.
    #[error("pod {pod} runs on {os}: only Linux can be profiled")]
    NotLinux {
        /// The pod.
        pod: String,
        /// What it runs on.
        os: String,
    },
    /// The pod runs on a processor for which there is no profiler.
    #[error("pod {pod} runs on a node of architecture {architecture}: only {ARCH} can be profiled")]
    OtherArchitecture {
        /// The pod.
        pod: String,
        /// What it runs on.
        architecture: String,
    },
    /// The pod has no such container.
    #[error("pod {pod} has no container {container}: it has {containers}")]
    NoContainer {
        /// The pod.
        pod: String,
        /// What was asked for.
        container: String,
        /// What there is.
        containers: String,
    },
    /// The container does not run.
    #[error("container {container} of pod {pod} does not run: {why}")]
    ContainerNotRunning {
        /// The pod.
        pod: String,
        /// The container.
        container: String,
        /// Its state.
        why: String,
    },
}

/// The pod to take of several: the first by name that is ready and not being deleted.
///
/// # Errors
/// There is none.
pub fn choose_pod(mut pods: Vec<Pod>, target: &TargetName, namespace: &str) -> Result<Pod, TargetError> {
    if pods.is_empty() {
        return Err(TargetError::NoPods { target: target.to_string(), namespace: namespace.to_owned() });
    }
    pods.sort_by(|one, other| one.metadata.name.cmp(&other.metadata.name));
    let ready = pods.iter().position(|pod| is_ready(pod) && pod.metadata.deletion_timestamp.is_none());
    if let Some(ready) = ready {
        return Ok(pods.swap_remove(ready));
    }
    let mut states: Vec<String> = pods.iter().take(3).map(|pod| format!("{} is {}", name(pod), state(pod))).collect();
    if pods.len() > states.len() {
        states.push(format!("and {} more", pods.len() - states.len()));
    }
    Err(TargetError::NoneReady { target: target.to_string(), states: states.join(", ") })
}

/// What a pod is good for.
///
/// # Errors
/// It cannot be profiled.
pub fn extract(pod: &Pod, container: Option<&str>) -> Result<PodTarget, TargetError> {
    let pod_name = name(pod);
    let spec = pod.spec.as_ref();
    if let Some(os) = spec.and_then(|spec| spec.os.as_ref()).filter(|os| os.name != "linux") {
        return Err(TargetError::NotLinux { pod: pod_name, os: os.name.clone() });
    }
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.clone()).unwrap_or_else(|| "Pending".to_owned());
    if phase != "Running" {
        return Err(TargetError::NotRunning { pod: pod_name, phase, why: why_phase(pod) });
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return Err(TargetError::Deleting { pod: pod_name });
    }
    let chosen = choose_container(pod, container)?;
    let statuses = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    let init_statuses = status.and_then(|status| status.init_container_statuses.as_deref()).unwrap_or_default();
    let found = statuses.iter().chain(init_statuses).find(|status| status.name == chosen.name);
    if let Some(why) = why_not_running(found) {
        return Err(TargetError::ContainerNotRunning { pod: pod_name, container: chosen.name.clone(), why });
    }
    let named = container.is_some() || annotated(pod).is_some();
    let others = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default().iter();
    Ok(PodTarget {
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        pod: pod_name,
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        container: chosen.name.clone(),
        container_id: found.and_then(|status| container_id(status.container_id.as_deref()?)),
        image: chosen.image.clone().unwrap_or_default(),
        storage_bytes: storage::limit_bytes(pod),
        restarts: found.map_or(0, |status| status.restart_count),
        node: spec.and_then(|spec| spec.node_name.clone()),
        platform: None,
        passed_over: others.map(|other| other.name.clone()).filter(|other| !named && *other != chosen.name).collect(),
    })
}

/// What the API says of a pod's phase, in brackets with a space before; empty if it says nothing.
#[must_use]
pub fn why_phase(pod: &Pod) -> String {
    let words = pod.status.as_ref().and_then(|status| status.message.as_ref().or(status.reason.as_ref()));
    words.map(|words| format!(" ({})", printable(words))).unwrap_or_default()
}

/// System and architecture of the node of a pod, such as `linux/amd64`; what the node does not say is taken for right.
///
/// # Errors
/// It is another one than what can be profiled.
pub fn platform(node: &Node, pod: &str) -> Result<String, TargetError> {
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(key)).cloned();
    let (os, architecture) = (label(OS_LABEL), label(ARCH_LABEL));
    if let Some(os) = os.filter(|os| os != "linux") {
        return Err(TargetError::NotLinux { pod: pod.to_owned(), os });
    }
    match architecture.unwrap_or_else(|| ARCH.to_owned()) {
        architecture if architecture == ARCH => Ok(format!("linux/{architecture}")),
        architecture => Err(TargetError::OtherArchitecture { pod: pod.to_owned(), architecture }),
    }
}

/// A state of a container in words, and none if it runs.
#[must_use]
pub fn why_not_running(status: Option<&ContainerStatus>) -> Option<String> {
    let Some(state) = status.and_then(|status| status.state.as_ref()) else {
        return Some("it has not been started yet".to_owned());
    };
    match state {
        ContainerState { running: Some(_), .. } => None,
        ContainerState { terminated: Some(terminated), .. } => {
            let reason = terminated.reason.as_deref().unwrap_or("Terminated");
            Some(format!("it has ended ({reason}, exit code {})", terminated.exit_code))
        }
        ContainerState { waiting: Some(waiting), .. } => {
            let reason = waiting.reason.as_deref().unwrap_or("Waiting");
            Some(match waiting.message.as_deref() {
                Some(message) => format!("{reason}: {}", printable(message)),
                None => reason.to_owned(),
            })
        }
        ContainerState { .. } => Some("it has not been started yet".to_owned()),
    }
}

/// `ID` of `containerd://ID`.
fn container_id(text: &str) -> Option<String> {
    text.split_once("://").map(|(_, id)| id.to_owned()).filter(|id| !id.is_empty())
}

fn choose_container<'a>(pod: &'a Pod, container: Option<&str>) -> Result<&'a Container, TargetError> {
    let spec = pod.spec.as_ref();
    let containers = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let init = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
    let wanted = container.or_else(|| annotated(pod).filter(|name| containers.iter().any(|one| one.name == *name)));
    let chosen = match wanted {
        Some(wanted) => containers.iter().chain(init).find(|one| one.name == wanted),
        None => containers.first(),
    };
    chosen.ok_or_else(|| TargetError::NoContainer {
        pod: name(pod),
        container: wanted.unwrap_or_default().to_owned(),
        containers: containers.iter().map(|one| one.name.as_str()).collect::<Vec<_>>().join(", "),
    })
}

fn annotated(pod: &Pod) -> Option<&str> {
    pod.metadata.annotations.as_ref()?.get(DEFAULT_CONTAINER).map(String::as_str)
}

fn name(pod: &Pod) -> String {
    pod.metadata.name.clone().unwrap_or_default()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// What `kubectl get pods` would show, nearly.
fn state(pod: &Pod) -> String {
    if pod.metadata.deletion_timestamp.is_some() {
        return "Terminating".to_owned();
    }
    let status = pod.status.as_ref();
    let statuses = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    let waiting = statuses.iter().find_map(|one| one.state.as_ref()?.waiting.as_ref()?.reason.clone());
    let phase = || status.and_then(|status| status.phase.clone()).unwrap_or_else(|| "Pending".to_owned());
    match waiting.unwrap_or_else(phase).as_str() {
        "Running" => "not ready".to_owned(),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests;
