//! Keeps the `status` of workloads in step with their pods, so that `kubectl rollout status` and `kubectl wait` can be used.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{
    node::{list, text},
    store::{Key, Store},
};

/// Follows the pods for as long as the store lives.
pub(crate) async fn run(store: Arc<Store>) {
    let mut news = store.subscribe();
    let mut revision = 0;
    loop {
        news.mark_unchanged();
        for change in store.changes_after(revision) {
            revision = change.revision;
            if matches!(change.key.0.as_str(), "pods" | "replicasets") {
                update_owners(&store, &change.object);
            }
        }
        if news.changed().await.is_err() {
            return;
        }
    }
}

fn update_owners(store: &Store, object: &Value) {
    let namespace = text(&object["metadata"]["namespace"]);
    for owner in list(&object["metadata"]["ownerReferences"]) {
        let resource = text(&owner["kind"]).to_lowercase() + "s";
        let key: Key = (resource.clone(), namespace.clone(), text(&owner["name"]));
        let Some(workload) = store.get(&key) else { continue };
        let status = if resource == "deployments" {
            set_status(&workload, &object["status"])
        } else {
            let of =
                |pod: &Value| list(&pod["metadata"]["ownerReferences"]).iter().any(|one| one["uid"] == owner["uid"]);
            let pods: Vec<Value> = store.list("pods", &namespace).0.into_iter().filter(of).collect();
            pod_status(&workload, &resource, &pods)
        };
        store.update(&key, |workload| workload["status"] = status);
    }
}

fn ready(pod: &Value) -> bool {
    list(&pod["status"]["conditions"]).iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
}

fn pod_status(workload: &Value, resource: &str, pods: &[Value]) -> Value {
    let in_phase = |phase: &str| pods.iter().filter(|pod| pod["status"]["phase"] == phase).count();
    let (all, ready) = (pods.len(), pods.iter().filter(|pod| ready(pod)).count());
    let generation = &workload["metadata"]["generation"];
    match resource {
        "jobs" => {
            let done = in_phase("Succeeded") > 0;
            let conditions = if done { json!([{"type": "Complete", "status": "True"}]) } else { json!([]) };
            let active = in_phase("Running") + in_phase("Pending");
            json!({"active": active, "succeeded": in_phase("Succeeded"), "failed": in_phase("Failed"), "conditions": conditions})
        }
        "daemonsets" => json!({
            "desiredNumberScheduled": 1, "currentNumberScheduled": all, "updatedNumberScheduled": all, "numberReady": ready,
            "numberAvailable": ready, "numberMisscheduled": 0, "observedGeneration": generation,
        }),
        "statefulsets" => json!({
            "replicas": all, "currentReplicas": all, "updatedReplicas": all, "readyReplicas": ready, "availableReplicas": ready,
            "currentRevision": "1", "updateRevision": "1", "observedGeneration": generation,
        }),
        _ => {
            json!({"replicas": all, "readyReplicas": ready, "availableReplicas": ready, "observedGeneration": generation})
        }
    }
}

/// Status of a deployment, from that of its one replica set.
fn set_status(workload: &Value, of_set: &Value) -> Value {
    let mut status = of_set.clone();
    status["updatedReplicas"] = of_set["replicas"].clone();
    let wanted = workload["spec"]["replicas"].as_u64().unwrap_or(1);
    let available = of_set["availableReplicas"].as_u64().unwrap_or(0) >= wanted;
    let condition = json!({"type": "Available", "status": if available { "True" } else { "False" }});
    status["conditions"] = json!([condition]);
    status["observedGeneration"] = workload["metadata"]["generation"].clone();
    status
}
