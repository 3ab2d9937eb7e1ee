//! Pods as the API gives them, and what they are good for.

use serde_json::{Value, json};

use super::*;

fn pod(value: Value) -> Pod {
    serde_json::from_value(value).unwrap()
}

fn running(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "prod", "uid": "u1"},
        "spec": {"nodeName": "n1", "containers": [{"name": "proxy", "image": "envoy:1"}, {"name": "server", "image": "vllm:2"}]},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [
                {"name": "proxy", "restartCount": 0, "state": {"running": {}}},
                {"name": "server", "restartCount": 4, "state": {"running": {}}, "containerID": "containerd://0a1b"},
            ],
        },
    })
}

#[test]
fn names_are_read_as_kubectl_has_them() {
    let deployment = TargetName::Workload(Workload::Deployment, "vllm".to_owned());
    for text in ["deploy/vllm", "deployment/vllm", "deployments.apps/vllm"] {
        assert_eq!(text.parse(), Ok(deployment.clone()), "{text}");
    }
    assert_eq!("vllm-0".parse(), Ok(TargetName::Pod("vllm-0".to_owned())));
    assert_eq!("pod/vllm-0".parse(), Ok(TargetName::Pod("vllm-0".to_owned())));
    assert_eq!("job/x".parse::<TargetName>().unwrap().to_string(), "job/x");
    for text in ["", "pod/", "pod/a/b", "svc/vllm", "Pod", "a b", "../secrets", "a?watch=1"] {
        assert!(text.parse::<TargetName>().is_err(), "{text}");
    }
}

#[test]
fn the_first_container_is_taken_unless_one_is_named() {
    let mut value = running("vllm-0");
    let target = extract(&pod(value.clone()), None).unwrap();
    assert_eq!((target.container.as_str(), target.passed_over.len()), ("proxy", 1));
    value["metadata"]["annotations"] = json!({DEFAULT_CONTAINER: "server"});
    let target = extract(&pod(value.clone()), None).unwrap();
    assert_eq!((target.container.as_str(), target.image.as_str(), target.restarts), ("server", "vllm:2", 4));
    assert!(target.passed_over.is_empty());
    assert_eq!(target.container_id.as_deref(), Some("0a1b"));
    let proxy = extract(&pod(value.clone()), Some("proxy")).unwrap();
    assert_eq!((proxy.container.as_str(), proxy.container_id), ("proxy", None));
    let error = extract(&pod(value), Some("x")).unwrap_err();
    assert_eq!(error.to_string(), "pod vllm-0 has no container x: it has proxy, server");
}

#[test]
fn a_pod_that_cannot_be_profiled_says_why() {
    let with = |change: fn(&mut Value)| {
        let mut value = running("a");
        change(&mut value);
        extract(&pod(value), None).unwrap_err().to_string()
    };
    assert!(with(|pod| pod["spec"]["os"] = json!({"name": "windows"})).contains("runs on windows"));
    let text = with(|pod| {
        pod["status"]["phase"] = json!("Failed");
        pod["status"]["message"] = json!("Evicted");
    });
    assert!(text.starts_with("pod a is Failed (Evicted), not Running"), "{text}");
    let text = with(|pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
    assert!(text.contains("being deleted"), "{text}");
    let text = with(|pod| {
        pod["status"]["containerStatuses"][0]["state"] =
            json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
    });
    assert_eq!(text, "container proxy of pod a does not run: it has ended (OOMKilled, exit code 137)");
    let text = with(|pod| {
        pod["status"]["containerStatuses"][0]["state"] = json!({"waiting": {"reason": "CrashLoopBackOff"}});
    });
    assert!(text.ends_with("does not run: CrashLoopBackOff"), "{text}");
}

#[test]
fn a_ready_pod_is_chosen_or_all_are_named() {
    let target = TargetName::Workload(Workload::Deployment, "vllm".to_owned());
    let unready = |name: &str| {
        let mut value = running(name);
        value["status"]["conditions"][0]["status"] = json!("False");
        pod(value)
    };
    let pods = vec![pod(running("c")), pod(running("b")), unready("a")];
    assert_eq!(choose_pod(pods, &target, "prod").unwrap().metadata.name.as_deref(), Some("b"));
    let error = choose_pod(["d", "c", "b", "a"].map(unready).to_vec(), &target, "prod").unwrap_err();
    let states = "a is not ready, b is not ready, c is not ready, and 1 more";
    assert!(error.to_string().contains(states), "{error}");
    assert!(matches!(choose_pod(vec![], &target, "prod"), Err(TargetError::NoPods { .. })));
}

#[test]
fn only_a_node_that_says_so_runs_something_else() {
    let node = |labels: Value| serde_json::from_value(json!({"metadata": {"labels": labels}})).unwrap();
    let platform = |labels: Value| platform(&node(labels), "a").map_err(|error| error.to_string());
    assert_eq!(platform(json!({})).as_deref(), Ok("linux/amd64"));
    assert_eq!(platform(json!({OS_LABEL: "linux", ARCH_LABEL: "amd64"})).as_deref(), Ok("linux/amd64"));
    let windows = platform(json!({OS_LABEL: "windows"})).unwrap_err();
    assert_eq!(windows, "pod a runs on windows: only Linux can be profiled");
    let arm = platform(json!({OS_LABEL: "linux", ARCH_LABEL: "arm64"})).unwrap_err();
    assert_eq!(arm, "pod a runs on a node of architecture arm64: only amd64 can be profiled");
}
