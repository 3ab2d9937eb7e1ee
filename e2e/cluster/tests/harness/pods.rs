//! What a test asks about a pod.

use serde_json::{Value, json};

use super::{Namespace, stderr, stdout, wait_for};

/// Rules of a Role that is enough to record a pod by its name.
pub fn recording_rules() -> Value {
    json!([
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["pods/ephemeralcontainers"], "verbs": ["patch"]},
        {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create", "get"]},
    ])
}

impl Namespace {
    /// State of an ephemeral container; null before it has one.
    pub fn ephemeral_state(&self, pod: &str, container: &str) -> Value {
        let all = self.ephemeral_statuses(pod);
        all.into_iter().find(|one| one["name"] == container).map(|one| one["state"].clone()).unwrap_or_default()
    }

    fn ephemeral_statuses(&self, pod: &str) -> Vec<Value> {
        self.get(&format!("pod/{pod}"))["status"]["ephemeralContainerStatuses"].as_array().cloned().unwrap_or_default()
    }

    /// The profiler's containers of a pod, as its spec has them.
    pub fn profilers(&self, pod: &str) -> Vec<Value> {
        let all =
            self.get(&format!("pod/{pod}"))["spec"]["ephemeralContainers"].as_array().cloned().unwrap_or_default();
        all.into_iter().filter(is_ours).collect()
    }

    /// Whether the profiler's containers of a pod have all ended, and there is one.
    pub fn profilers_have_ended(&self, pod: &str) -> bool {
        let all: Vec<Value> = self.ephemeral_statuses(pod).into_iter().filter(is_ours).collect();
        !all.is_empty() && all.iter().all(|one| !one["state"]["terminated"].is_null())
    }

    /// How often a container was restarted.
    pub fn restarts(&self, pod: &str, container: &str) -> u64 {
        let pod = self.get(&format!("pod/{pod}"));
        let all = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        let found = all.iter().find(|one| one["name"] == container);
        found.and_then(|one| one["restartCount"].as_u64()).unwrap_or_else(|| panic!("no container {container}: {pod}"))
    }

    /// Runs a shell command in a container and gives what it prints.
    pub fn shell(&self, pod: &str, container: &str, command: &str) -> String {
        let output = self.kubectl(["exec", pod, "-c", container, "--", "sh", "-c", command]);
        assert!(output.status.success(), "{command}: {}", stderr(&output));
        stdout(&output)
    }

    /// Clock ticks that process 1 of a container has had on a CPU.
    pub fn cpu_ticks(&self, pod: &str, container: &str) -> u64 {
        let stat = self.shell(pod, container, "cat /proc/1/stat");
        let after_name = stat.rsplit(") ").next().unwrap_or_default();
        let fields: Vec<&str> = after_name.split(' ').collect();
        fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime")
    }

    /// That a container is as it was before anybody looked: no process of ours is in it, it works, and it was not restarted.
    pub fn assert_unharmed(&self, pod: &str, container: &str) {
        wait_for("the end of the profiler's containers", || self.profilers_have_ended(pod));
        for status in self.ephemeral_statuses(pod).iter().filter(|status| is_ours(status)) {
            assert_eq!(status["state"]["terminated"]["exitCode"], 0, "{status}");
        }
        // What an exec runs may itself be listed.
        let names = self.shell(pod, container, "cat /proc/[0-9]*/comm");
        assert!(!names.contains("aiprof"), "{names}");
        assert_eq!(self.restarts(pod, container), 0);
        let before = self.cpu_ticks(pod, container);
        wait_for("the target to go on", || self.cpu_ticks(pod, container) > before);
    }
}

fn is_ours(container: &Value) -> bool {
    container["name"].as_str().is_some_and(|name| name.starts_with("aiprof-"))
}
