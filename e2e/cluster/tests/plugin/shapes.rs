//! A recording from pods of every shape, and what is left of it in the pod: nothing.

use std::collections::BTreeSet;

use rustix::process::geteuid;
use serde_json::{Value, json};

use crate::harness::{
    BUSY, Namespace, left_out,
    plugin::{Live, Recording, binary, share},
};

/// Two functions that are busy in the proportion 3:1, and a thread that waits.
const SHARES: &str = "
import threading, time
def count(to):
    total = 0
    for number in range(to):
        total += number
def heavy():
    total = 0
    for number in range(60000):
        total += number
def light():
    total = 0
    for number in range(20000):
        total += number
def pause():
    while True:
        time.sleep(0.02)
threading.Thread(target=pause, name='pause', daemon=True).start()
print('up', flush=True)
while True:
    heavy()
    light()
";

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
fn a_recording_from_a_pod_equals_a_local_one() {
    let namespace = Namespace::new();
    namespace.python_pod("x", SHARES);
    let remote = namespace.record(&["pod/x", "-d", "5s"]);
    remote.assert_complete();
    namespace.assert_unharmed("x", "app");
    if !geteuid().is_root() {
        left_out("the comparison with a local recording, which takes root");
        return;
    }
    let mut command = std::process::Command::new(binary());
    command.args(["record", "--local", "-d", "5s"]);
    let local = Live::begin_with(&mut command, &["python3", "-c", SHARES]).finish();
    local.assert_complete();

    let (ours, theirs) = (remote.report(), local.report());
    for function in ["heavy", "light", "<module>"] {
        let (here, there) = (share(&ours, function), share(&theirs, function));
        let (here, there) = (here.unwrap_or_default(), there.unwrap_or_default());
        assert!((here - there).abs() < 0.08, "{function}: {here} in the pod, {there} locally");
    }
    assert!(share(&ours, "heavy") > Some(0.6) && share(&ours, "light") > Some(0.15), "{}", ours["functions"]);
    // The waiting thread is told alike.
    let waits = |report: &Value| {
        let rows = report["processes"][0]["waits"].as_array().cloned().unwrap_or_default();
        rows.iter()
            .any(|row| row["stack"].as_array().is_some_and(|stack| stack.iter().any(|one| one["function"] == "pause")))
    };
    assert!(waits(&ours) && waits(&theirs), "{}", ours["processes"][0]["waits"]);

    let (ours, theirs) = (remote.manifest(), local.manifest());
    assert_eq!(fields("", &ours), fields("", &theirs));
    assert_eq!((&ours["dimensions"], &ours["end_reason"]), (&theirs["dimensions"], &theirs["end_reason"]));
    assert_eq!(ours["request"]["collect"], theirs["request"]["collect"]);
}

/// Paths of all fields of a JSON object.
fn fields(at: &str, value: &Value) -> BTreeSet<String> {
    match value {
        Value::Object(object) => object.iter().flat_map(|(key, value)| fields(&format!("{at}.{key}"), value)).collect(),
        Value::Array(list) => list.iter().take(1).flat_map(|value| fields(&format!("{at}[]"), value)).collect(),
        _ => BTreeSet::from([at.to_owned()]),
    }
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
    let namespace = Namespace::new();
    namespace.python_pod("x", BUSY);
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
