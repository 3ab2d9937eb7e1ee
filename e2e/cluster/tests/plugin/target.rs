//! Which pod and which container is meant.

use std::{fs, os::unix::fs::symlink};

use serde_json::{Value, json};

use crate::harness::{
    BUSY, Namespace,
    plugin::{binary, bounded},
    stderr, stdout, wait_for,
};

#[test]
fn a_pod_is_named_as_kubectl_names_it() {
    let namespace = Namespace::with_busy_pod();
    for target in ["x", "pod/x", "pods/x"] {
        let output = namespace.aiprof(&["ps", target]);
        assert!(output.status.success() && stdout(&output).contains("python"), "{target}: {}", stderr(&output));
        assert!(stderr(&output).contains(&format!("pod x in namespace {}, container app", namespace.name)));
    }
    assert_eq!(namespace.profilers("x").len(), 1, "the living container is used again");
}

#[test]
fn kubectl_runs_it_as_a_plugin() {
    let namespace = Namespace::with_busy_pod();
    let folder = tempfile::tempdir().expect("a folder");
    symlink(binary(), folder.path().join("kubectl-aiprof")).expect("a link");
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").expect("a PATH"));
    let kubectl = |arguments: &[&str]| {
        let mut command = namespace.cluster.kubectl_alone();
        bounded(command.env("PATH", &path).arg("aiprof").args(arguments).args(["--namespace", &namespace.name]))
    };
    let output = kubectl(&["ps", "pod/x"]);
    assert!(output.status.success() && stdout(&output).contains("python"), "{}", stderr(&output));
    // Its exit codes pass through.
    assert_eq!(kubectl(&["ps", "pod/y"]).status.code(), Some(1));
    assert_eq!(kubectl(&["ps", "nothing/y"]).status.code(), Some(2));
}

#[test]
fn of_a_workload_a_ready_pod_is_taken_and_named() {
    let namespace = Namespace::new();
    let template = |name: &str| {
        json!({"metadata": {"labels": {"app": name}},
            "spec": {"containers": [namespace.python("app", BUSY)], "terminationGracePeriodSeconds": 1}})
    };
    let kinds = [("deploy", "Deployment"), ("sts", "StatefulSet"), ("ds", "DaemonSet")];
    for (name, kind) in kinds {
        let mut spec = json!({"selector": {"matchLabels": {"app": name}}, "template": template(name)});
        if kind == "StatefulSet" {
            spec["serviceName"] = json!(name);
        }
        namespace.create(&json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}));
    }
    let mut job = template("job");
    job["spec"]["restartPolicy"] = json!("Never");
    let object =
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"}, "spec": {"template": job}});
    namespace.create(&object);
    // Of the same labels, before the others by name, and never ready.
    let mut broken = namespace.python("app", BUSY);
    broken["image"] = json!("localhost/nowhere:1");
    namespace.create(
        &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a-broken", "labels": {"app": "deploy"}},
        "spec": {"containers": [broken], "terminationGracePeriodSeconds": 1}}),
    );

    for name in ["deploy", "sts", "ds", "job"] {
        wait_for("a ready pod", || {
            let pods = namespace.kubectl(["get", "pods", "-l", &format!("app={name}"), "-o", "json"]);
            let pods: Value = serde_json::from_slice(&pods.stdout).expect("JSON");
            let is_ready = |pod: &Value| {
                let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
                conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
            };
            pods["items"].as_array().is_some_and(|all| all.iter().any(is_ready))
        });
        let output = namespace.aiprof(&["ps", &format!("{name}/{name}")]);
        assert!(output.status.success() && stdout(&output).contains("python"), "{name}: {}", stderr(&output));
        assert!(stderr(&output).starts_with(&format!("pod {name}-")), "{}", stderr(&output));
    }
    let output = namespace.aiprof(&["ps", "-l", "app=deploy"]);
    assert!(output.status.success() && stderr(&output).starts_with("pod deploy-"), "{}", stderr(&output));
}

#[test]
fn namespace_context_and_kubeconfig_are_taken_as_kubectl_takes_them() {
    let namespace = Namespace::with_busy_pod();
    let view = namespace.kubectl(["config", "view", "--raw", "--minify", "--flatten", "-o", "json"]);
    let mut here: Value = serde_json::from_slice(&view.stdout).expect("kubectl prints JSON");
    let context = json!({"cluster": here["clusters"][0]["name"], "user": here["users"][0]["name"]});
    let mut local = context.clone();
    local["namespace"] = json!(namespace.name);
    here["contexts"] = json!([{"name": "here", "context": local}, {"name": "elsewhere", "context": context}]);
    here["current-context"] = json!("elsewhere");
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, config: &Value| {
        let path = folder.path().join(name);
        fs::write(&path, config.to_string()).expect("a kubeconfig");
        path.to_str().expect("a path").to_owned()
    };
    let whole = write("whole", &here);
    // In two files, as KUBECONFIG may name them: where to, and who.
    let users = here["users"].take();
    let cluster = write("cluster", &here);
    let user = write("user", &json!({"apiVersion": "v1", "kind": "Config", "users": users}));

    let merged = format!("{user}:{cluster}");
    let found = |environment: &str, flags: &[&str]| {
        let mut command = namespace.plugin();
        let output = bounded(command.env("KUBECONFIG", environment).args(["ps", "x"]).args(flags));
        (output.status.success(), stderr(&output))
    };
    for (environment, flags) in [
        (whole.as_str(), &["--context", "here"][..]),
        (&whole, &["--namespace", &namespace.name]),
        ("/nowhere", &["--kubeconfig", &whole, "--context", "here"]),
        (&merged, &["--context", "here"]),
    ] {
        let (success, text) = found(environment, flags);
        assert!(success, "KUBECONFIG={environment} {flags:?}: {text}");
    }
    let (success, text) = found(&whole, &[]);
    assert!(!success && text.contains("pods \"x\" not found") && text.contains("-n default"), "{text}");
}

#[test]
fn the_container_is_the_annotated_one_else_the_first_else_the_named_one() {
    let namespace = Namespace::new();
    let containers = json!([namespace.python("side", BUSY), namespace.python("app", BUSY)]);
    namespace.pod("x", &json!({"containers": containers}));
    let metadata = json!({"name": "y", "annotations": {"kubectl.kubernetes.io/default-container": "app"}});
    namespace.pod_with(&metadata, &json!({"containers": containers}));
    let chosen = |arguments: &[&str]| {
        let output = namespace.aiprof(arguments);
        assert!(output.status.success(), "{}", stderr(&output));
        stderr(&output).lines().next().unwrap_or_default().to_owned()
    };
    let place = |pod: &str| format!("pod {pod} in namespace {}, container ", namespace.name);
    assert_eq!(chosen(&["ps", "x"]), place("x") + "side (choose another of app with -c)");
    assert_eq!(chosen(&["ps", "x", "-c", "app"]), place("x") + "app");
    assert_eq!(chosen(&["ps", "y"]), place("y") + "app");
    assert_eq!(chosen(&["ps", "y", "-c", "side"]), place("y") + "side");
    // Each of them has a profiler of its own beside it.
    let beside: Vec<Value> = namespace.profilers("x").iter().map(|one| one["targetContainerName"].clone()).collect();
    assert_eq!(beside, ["side", "app"]);
}
