//! What a recording loses its pod to, and that what had arrived is kept.

use aiprof_e2e::Faults;
use serde_json::json;

use crate::harness::{BUSY, Namespace, left_out, plugin::Live, pods::recording_rules};

/// A program like [`BUSY`] that ends once there is a file `/tmp/end`.
fn ends_on_request() -> String {
    BUSY.replace("while True:", "import os\nwhile not os.path.exists('/tmp/end'):")
}

/// Asks it to; the command may go down with the container.
fn end(namespace: &Namespace) {
    let _ = namespace.kubectl(["exec", "x", "--", "touch", "/tmp/end"]);
}

/// Begins a long recording and lets some of it arrive.
fn begin(namespace: &Namespace) -> Live {
    let mut live = namespace.begin_record(&["x", "-d", "10m"]);
    live.let_arrive(10);
    live
}

#[test]
fn a_pod_that_is_deleted() {
    let namespace = Namespace::with_busy_pod();
    let live = begin(&namespace);
    assert!(namespace.kubectl(["delete", "pod", "x", "--wait=false"]).status.success());
    let recording = live.finish();
    // Whether the profiler was told in time or not: there is an archive that says why it is short.
    assert_eq!(recording.code, Some(3), "{}", recording.text());
    assert!(recording.text().contains("deleted"), "{}", recording.text());
    assert!(recording.report()["samples"].as_u64() > Some(0), "{}", recording.text());
}

#[test]
fn a_pod_that_is_deleted_and_has_time_to_end() {
    let namespace = Namespace::new();
    // Its first process has no handler for SIGTERM, and so it lives until its time is over.
    let spec = json!({"containers": [namespace.python("app", BUSY)], "terminationGracePeriodSeconds": 8});
    namespace.pod("x", &spec);
    let live = begin(&namespace);
    assert!(namespace.kubectl(["delete", "pod", "x", "--wait=false"]).status.success());
    let recording = live.finish();
    assert_eq!(recording.code, Some(3), "{}", recording.text());
    assert!(recording.text().contains("the window was closed after "), "{}", recording.text());
    let report = recording.report();
    assert_eq!(
        (&report["capture"]["end_reason"], &report["quality"]["complete"]),
        (&json!("terminated"), &json!(true))
    );
}

#[test]
fn a_container_that_is_restarted() {
    let namespace = Namespace::new();
    namespace.python_pod("x", &ends_on_request());
    let live = begin(&namespace);
    end(&namespace);
    let recording = live.finish();
    let report = recording.assert_torn(&["container app of pod x ", " (Completed, exit code 0) while it was recorded"]);
    assert!(report["functions"]["python_by_self"].as_array().is_some_and(|rows| !rows.is_empty()), "{report}");
}

#[test]
fn a_container_that_is_killed() {
    let namespace = Namespace::new();
    let Some(stand_in) = namespace.cluster.stand_in() else {
        return left_out("a real cluster kills no container on order");
    };
    namespace.python_pod("x", BUSY);
    let live = begin(&namespace);
    namespace.cluster.block_on(stand_in.kill(&namespace.name, "x", "app")).expect("the container is killed");
    live.finish().assert_torn(&["container app of pod x ", " (Error, exit code 137) while it was recorded"]);
}

#[test]
fn a_container_that_ends_for_good() {
    let namespace = Namespace::new();
    let spec = json!({"containers": [namespace.python("app", &ends_on_request())], "restartPolicy": "Never"});
    namespace.pod("x", &spec);
    let live = begin(&namespace);
    end(&namespace);
    live.finish().assert_torn(&["while it was recorded"]);
}

#[test]
fn an_api_that_no_longer_lets_the_user_in() {
    let namespace = Namespace::new();
    let Some(stand_in) = namespace.cluster.stand_in() else {
        return left_out("a real cluster cuts no connection on order");
    };
    namespace.python_pod("x", BUSY);
    let kubeconfig = namespace.user("dev", &recording_rules());
    let mut command = namespace.plugin();
    command.env("KUBECONFIG", kubeconfig).args(["record", "x", "-d", "10m", "--namespace", &namespace.name]);
    let mut live = Live::begin(&mut command);
    live.let_arrive(10);
    assert!(namespace.kubectl(["delete", "rolebinding", "dev"]).status.success());
    stand_in.cut_now(&namespace.name);
    live.finish().assert_torn(&["cannot get resource \"pods/exec\""]);
    stand_in.set_faults(&namespace.name, Faults::default());
}
