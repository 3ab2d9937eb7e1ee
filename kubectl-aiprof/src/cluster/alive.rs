//! Whether pod, target and profiler are still what they were when a capture began. Takes objects of the API; no I/O.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::{
    PodTarget,
    container::{ContainerError, Progress, judge},
    target::why_phase,
};

/// Why nothing more will come, each a sentence without its full stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gone {
    /// The pod or the target's container is not what it was.
    Target(String),
    /// The profiler's container has ended, and nothing is said of the target: it may follow, since both end with the first process of
    /// the target's PID namespace.
    Profiler(String),
}

impl Gone {
    /// The sentence.
    #[must_use]
    pub fn why(self) -> String {
        match self {
            Self::Target(why) | Self::Profiler(why) => why,
        }
    }
}

/// Why nothing more will come; none while all live.
#[must_use]
pub fn why_gone(pod: &Pod, target: &PodTarget, profiler: &str) -> Option<Gone> {
    if let Some(why) = why_target_gone(pod, target) {
        return Some(Gone::Target(why));
    }
    let Progress::Failed(error) = judge(pod, profiler) else { return None };
    if pod.metadata.deletion_timestamp.is_some() {
        return Some(Gone::Target(format!("pod {} was deleted while it was recorded", target.pod)));
    }
    let why = match error {
        ContainerError::Terminated { reason, code, .. } => {
            let oom = if reason == "OOMKilled" { ": the pod has no memory left" } else { "" };
            format!("the profiler's container {profiler} ended ({reason}, exit code {code}){oom}")
        }
        other => other.to_string(),
    };
    Some(Gone::Profiler(why))
}

fn why_target_gone(pod: &Pod, target: &PodTarget) -> Option<String> {
    let name = &target.pod;
    if pod.metadata.uid.as_deref().is_some_and(|uid| uid != target.uid) {
        return Some(format!("pod {name} was deleted and made anew while it was recorded"));
    }
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or_default();
    if matches!(phase, "Failed" | "Succeeded") {
        return Some(format!("pod {name} ended while it was recorded: {phase}{}", why_phase(pod)));
    }
    let statuses = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    let why = statuses.iter().find(|one| one.name == target.container).and_then(|one| why_restarted(one, target))?;
    Some(format!("container {} of pod {name} {why} while it was recorded", target.container))
}

fn why_restarted(status: &ContainerStatus, target: &PodTarget) -> Option<String> {
    let now = status.state.as_ref().and_then(|state| state.terminated.as_ref());
    let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let how = |verb: &str, ended: Option<&k8s_openapi::api::core::v1::ContainerStateTerminated>| match ended {
        Some(ended) => {
            let reason = ended.reason.as_deref().unwrap_or("Terminated");
            format!("{verb} ({reason}, exit code {})", ended.exit_code)
        }
        None => verb.to_owned(),
    };
    if status.restart_count > target.restarts {
        return Some(how("was restarted", last));
    }
    now.map(|ended| how("ended", Some(ended)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::cluster::client::tests::target;

    fn why(change: impl Fn(&mut Value)) -> Option<String> {
        let mut pod = json!({
            "metadata": {"name": "vllm-0", "uid": "u1"},
            "spec": {"containers": []},
            "status": {
                "phase": "Running",
                "containerStatuses": [{"name": "server", "restartCount": 4, "state": {"running": {}}}],
                "ephemeralContainerStatuses": [{"name": "aiprof-abcde", "state": {"running": {}}}],
            },
        });
        change(&mut pod);
        let target = PodTarget { restarts: 4, ..target() };
        why_gone(&serde_json::from_value(pod).unwrap(), &target, "aiprof-abcde").map(Gone::why)
    }

    #[test]
    fn a_pod_that_lives_is_not_gone() {
        assert_eq!(why(|_| ()), None);
        // The kubelet gives it time to end by itself.
        assert_eq!(why(|pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z")), None);
    }

    #[test]
    fn what_happened_to_it_is_said() {
        let text = why(|pod| pod["metadata"]["uid"] = json!("u2")).unwrap();
        assert_eq!(text, "pod vllm-0 was deleted and made anew while it was recorded");
        let text = why(|pod| {
            pod["status"]["phase"] = json!("Failed");
            pod["status"]["reason"] = json!("Evicted");
        });
        assert_eq!(text.unwrap(), "pod vllm-0 ended while it was recorded: Failed (Evicted)");
        let text = why(|pod| {
            let status = &mut pod["status"]["containerStatuses"][0];
            status["restartCount"] = json!(5);
            status["lastState"] = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
        });
        let expected = "container server of pod vllm-0 was restarted (OOMKilled, exit code 137) while it was recorded";
        assert_eq!(text.unwrap(), expected);
        let text = why(|pod| {
            pod["status"]["ephemeralContainerStatuses"][0]["state"] =
                json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
        });
        let expected =
            "the profiler's container aiprof-abcde ended (OOMKilled, exit code 137): the pod has no memory left";
        assert_eq!(text.unwrap(), expected);
    }
}
