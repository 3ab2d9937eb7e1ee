//! The plugin within the cluster.

use std::fs;

use serde_json::json;

use crate::harness::{Namespace, plugin::binary, pods::recording_rules, stderr, stdout};

#[test]
fn in_a_pod_it_speaks_as_the_pods_own_account() {
    let namespace = Namespace::with_busy_pod();
    namespace.user("profiling", &recording_rules());
    let tool = namespace.python("tool", "import time\ntime.sleep(10000)");
    namespace.pod("tool", &json!({"containers": [tool], "serviceAccountName": "profiling"}));
    let program = fs::read(binary()).expect("the plugin is read");
    let receive = "cat >/tmp/kubectl-aiprof && chmod 755 /tmp/kubectl-aiprof";
    let output = namespace.kubectl_with(["exec", "-i", "tool", "--", "sh", "-c", receive], &program);
    assert!(output.status.success(), "{}", stderr(&output));

    let output = namespace.kubectl(["exec", "tool", "--", "/tmp/kubectl-aiprof", "ps", "x"]);
    assert!(output.status.success() && stdout(&output).contains("python"), "{}", stderr(&output));
    assert!(stderr(&output).contains(&format!("in namespace {}", namespace.name)), "{}", stderr(&output));
    let output = namespace.kubectl(["exec", "tool", "--", "/tmp/kubectl-aiprof", "ps", "deploy/x"]);
    let user = format!("User \"system:serviceaccount:{}:profiling\" cannot get", namespace.name);
    assert!(!output.status.success() && stderr(&output).contains(&user), "{}", stderr(&output));
}
