//! A recording from pods of every shape, and what is left of it in the pod: nothing.

use serde_json::{Value, json};

use crate::harness::{
    BUSY, Namespace, left_out,
    plugin::{Recording, share},
};

/// A program like [`BUSY`] that spends its time in another function.
fn other() -> String {
    BUSY.replace("spin", "whirl")
}

/// Records a pod for two seconds, which must be complete and leave nothing behind.
fn record(namespace: &Namespace, flags: &[&str]) -> Recording {
    let recording = namespace.record(&[&["x", "-d", "2s"], flags].concat());
    recording.assert_complete();
    let recorded = recording.manifest()["processes"].as_array().map(Vec::len);
    assert_eq!(recorded, Some(1), "{}", recording.manifest());
    assert!(recording.self_share("spin") > 0.8, "{}", recording.report()["functions"]);
    namespace.assert_unharmed("x", "app");
    recording
}

#[test]
fn a_pod_that_may_not_run_as_root() {
    let namespace = Namespace::new();
    let security = json!({"runAsUser": 1000, "runAsGroup": 1000, "runAsNonRoot": true});
    namespace.pod("x", &json!({"containers": [namespace.python("app", BUSY)], "securityContext": security}));
    record(&namespace, &[]);
}

#[test]
fn a_container_with_a_read_only_root() {
    let namespace = Namespace::new();
    let mut app = namespace.python("app", BUSY);
    app["securityContext"] =
        json!({"readOnlyRootFilesystem": true, "runAsUser": 1000, "capabilities": {"drop": ["ALL"]}});
    namespace.pod("x", &json!({"containers": [app]}));
    record(&namespace, &[]);
}

#[test]
fn of_two_containers_only_the_target_is_recorded() {
    let namespace = Namespace::new();
    let containers = json!([namespace.python("app", BUSY), namespace.python("side", &other())]);
    namespace.pod("x", &json!({"containers": containers}));
    let recording = record(&namespace, &[]);
    assert_eq!(share(&recording.report(), "whirl"), None);
    assert_eq!(namespace.restarts("x", "side"), 0);
    let recording = namespace.record(&["x", "-c", "side", "-d", "1s"]);
    recording.assert_complete();
    assert_eq!(share(&recording.report(), "spin"), None);
    assert!(recording.self_share("whirl") > 0.8, "{}", recording.report()["functions"]);
}

#[test]
fn in_a_shared_process_namespace_only_the_target_is_recorded() {
    let namespace = Namespace::new();
    let containers = json!([namespace.python("side", &other()), namespace.python("app", BUSY)]);
    namespace.pod("x", &json!({"containers": containers, "shareProcessNamespace": true}));
    let recording = namespace.record(&["x", "-c", "app", "-d", "2s"]);
    recording.assert_complete();
    assert!(recording.self_share("spin") > 0.8, "{}", recording.report()["functions"]);
    assert_eq!(share(&recording.report(), "whirl"), None, "{}", recording.manifest());
    assert_eq!((namespace.restarts("x", "app"), namespace.restarts("x", "side")), (0, 0));
}

#[test]
fn a_pod_in_the_nodes_network() {
    let namespace = Namespace::new();
    namespace.pod("x", &json!({"containers": [namespace.python("app", BUSY)], "hostNetwork": true}));
    record(&namespace, &[]);
}

#[test]
fn privileges_are_five_capabilities_or_all_on_request() {
    let namespace = Namespace::with_busy_pod();
    record(&namespace, &[]);
    record(&namespace, &["--privileged"]);
    let all = namespace.profilers("x");
    assert_eq!(all.len(), 2, "{all:#?}");
    let capabilities =
        json!({"drop": ["ALL"], "add": ["SYS_ADMIN", "SYS_PTRACE", "SYSLOG", "DAC_READ_SEARCH", "DAC_OVERRIDE"]});
    let security = &all[0]["securityContext"];
    assert_eq!((&security["capabilities"], &security["privileged"]), (&capabilities, &Value::Null));
    assert_eq!(all[1]["securityContext"]["privileged"], true);
    for one in &all {
        assert_eq!(
            (&one["securityContext"]["runAsUser"], &one["securityContext"]["runAsNonRoot"]),
            (&json!(0), &json!(false))
        );
        // The target's own image is on the node: nothing is pulled.
        assert_eq!((&one["image"], &one["imagePullPolicy"]), (&json!(namespace.cluster.image), &json!("IfNotPresent")));
    }
}

#[test]
fn an_image_of_the_profiler_is_used_on_request() {
    let namespace = Namespace::new();
    let Some(image) = namespace.cluster.profiler_image() else {
        return left_out("AIPROF_E2E_PROFILER_IMAGE names no image of the profiler");
    };
    namespace.python_pod("x", BUSY);
    record(&namespace, &["--image", image]);
    assert_eq!(namespace.profilers("x")[0]["image"], image);
}

#[test]
fn a_target_without_a_shell_gets_the_hint_to_name_an_image() {
    let namespace = Namespace::new();
    let Some(image) = namespace.cluster.profiler_image() else {
        return left_out("AIPROF_E2E_PROFILER_IMAGE names no image of the profiler");
    };
    // An image that holds one program and nothing else; it waits.
    let command = json!(["/aiprof-profiler", "serve", "--socket", "/tmp/waits", "--lease", "3600"]);
    let app = json!({"name": "app", "image": image, "imagePullPolicy": "IfNotPresent", "command": command});
    namespace.pod("x", &json!({"containers": [app]}));
    let text = namespace.refusal(&["record", "x", "-d", "1s"]);
    assert!(text.contains("this image has no shell") && text.contains("give --image REF"), "{text}");
}
