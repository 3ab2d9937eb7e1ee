//! The `status` of a pod, kept as a kubelet keeps it.

use serde_json::{Value, json};

use crate::{
    node::{NODE, list, text},
    store::now,
};

/// State of one container.
pub(crate) struct State {
    state: Value,
    id: String,
}

impl State {
    /// Not started.
    pub(crate) fn waiting(reason: &str, message: &str) -> Self {
        let mut state = json!({"waiting": {"reason": reason}});
        if !message.is_empty() {
            state["waiting"]["message"] = json!(message);
        }
        Self { state, id: String::new() }
    }

    /// Runs since `begun_at`.
    pub(crate) fn running(id: &str, begun_at: &str) -> Self {
        Self { state: json!({"running": {"startedAt": begun_at}}), id: container_id(id) }
    }

    /// Is over.
    pub(crate) fn terminated(id: &str, exit_code: i64, reason: &str, message: &str, begun_at: &str) -> Self {
        let id = container_id(id);
        let mut ended = json!({"exitCode": exit_code, "reason": reason, "startedAt": begun_at, "finishedAt": now(), "containerID": id});
        if !message.is_empty() {
            ended["message"] = json!(message);
        }
        Self { state: json!({"terminated": ended}), id }
    }
}

fn container_id(id: &str) -> String {
    if id.is_empty() { String::new() } else { format!("containerd://{id}") }
}

/// Marks a pod as placed on the node, with nothing started.
pub(crate) fn scheduled(pod: &mut Value) {
    pod["spec"]["nodeName"] = json!(NODE);
    let placed = json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": now()});
    pod["status"] = json!({
        "phase": "Pending", "qosClass": "BestEffort", "startTime": now(), "hostIP": "127.0.0.1", "podIP": "127.0.0.1",
        "podIPs": [{"ip": "127.0.0.1"}], "conditions": [placed],
    });
    for field in ["initContainers", "containers"] {
        let statuses = format!("{}Statuses", field.trim_end_matches('s'));
        for container in list(&pod["spec"][field]) {
            note(pod, &statuses, &container, &State::waiting("ContainerCreating", ""), 0);
        }
    }
}

/// Sets the state of one container, and what follows from it for the pod.
pub(crate) fn note(pod: &mut Value, statuses: &str, container: &Value, state: &State, restarts: u32) {
    let name = text(&container["name"]);
    let before = list(&pod["status"][statuses]).into_iter().find(|status| status["name"] == name);
    let old = before.as_ref().map_or(Value::Null, |status| status["state"].clone());
    let last = if !old["terminated"].is_null() && state.state["terminated"].is_null() {
        old
    } else {
        before.as_ref().map_or_else(|| json!({}), |status| status["lastState"].clone())
    };
    let running = !state.state["running"].is_null();
    let status = json!({
        "name": name, "image": container["image"], "imageID": container["image"], "containerID": state.id,
        "ready": running && statuses == "containerStatuses", "started": running, "restartCount": restarts,
        "state": state.state, "lastState": last,
    });
    let place = list(&pod["status"][statuses]).iter().position(|one| one["name"] == name);
    match (place, pod["status"][statuses].as_array_mut()) {
        (Some(index), Some(all)) => all[index] = status,
        (None, Some(all)) => all.push(status),
        _ => pod["status"][statuses] = json!([status]),
    }
    conclude(pod);
}

/// Phase and conditions from the containers' states.
fn conclude(pod: &mut Value) {
    let all = list(&pod["status"]["containerStatuses"]);
    let wanted = list(&pod["spec"]["containers"]).len();
    let policy = pod["spec"]["restartPolicy"].as_str().unwrap_or("Always").to_owned();
    let over = |status: &Value| !status["state"]["terminated"].is_null();
    let failed = |status: &Value| over(status) && status["state"]["terminated"]["exitCode"] != 0;
    let begun = |status: &Value| !status["state"]["running"].is_null() || over(status) || status["restartCount"] != 0;
    let phase = if policy != "Always" && all.len() == wanted && all.iter().all(over) {
        if all.iter().any(failed) { "Failed" } else { "Succeeded" }
    } else if all.len() == wanted && all.iter().all(begun) {
        "Running"
    } else {
        "Pending"
    };
    pod["status"]["phase"] = json!(phase);
    let ready = all.len() == wanted && all.iter().all(|status| status["ready"] == true);
    let ready = if ready { "True" } else { "False" };
    let old = list(&pod["status"]["conditions"]);
    let condition = |kind: &str, is: &str| {
        let same = old.iter().find(|one| one["type"] == kind && one["status"] == is);
        same.cloned().unwrap_or_else(|| json!({"type": kind, "status": is, "lastTransitionTime": now()}))
    };
    pod["status"]["conditions"] = json!([
        condition("PodScheduled", "True"),
        condition("Initialized", "True"),
        condition("ContainersReady", ready),
        condition("Ready", ready),
    ]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_runs_when_all_its_containers_do_and_remembers_the_last_end() {
        let mut pod = json!({"spec": {"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]}});
        scheduled(&mut pod);
        let (a, b) = (json!({"name": "a", "image": "i"}), json!({"name": "b", "image": "i"}));
        note(&mut pod, "containerStatuses", &a, &State::running("1", "t"), 0);
        assert_eq!(pod["status"]["phase"], "Pending");
        note(&mut pod, "containerStatuses", &b, &State::running("2", "t"), 0);
        assert_eq!(pod["status"]["phase"], "Running");
        assert_eq!(
            pod["status"]["conditions"][3],
            json!({"type": "Ready", "status": "True",
            "lastTransitionTime": pod["status"]["conditions"][3]["lastTransitionTime"]})
        );
        note(&mut pod, "containerStatuses", &a, &State::terminated("1", 137, "Error", "", "t"), 0);
        note(&mut pod, "containerStatuses", &a, &State::running("3", "t"), 1);
        let status = &pod["status"]["containerStatuses"][0];
        assert_eq!((&status["restartCount"], &status["lastState"]["terminated"]["exitCode"]), (&json!(1), &json!(137)));
        assert_eq!(status["containerID"], "containerd://3");
    }

    #[test]
    fn a_pod_that_is_not_restarted_ends() {
        let mut pod = json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "i"}]}});
        scheduled(&mut pod);
        let container = json!({"name": "a", "image": "i"});
        note(&mut pod, "containerStatuses", &container, &State::terminated("1", 0, "Completed", "", "t"), 0);
        assert_eq!(pod["status"]["phase"], "Succeeded");
        note(&mut pod, "containerStatuses", &container, &State::terminated("1", 3, "Error", "", "t"), 0);
        assert_eq!(pod["status"]["phase"], "Failed");
    }
}
