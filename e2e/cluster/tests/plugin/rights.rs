//! What the API forbids, and what it takes to be allowed.

use std::{path::Path, process::Output};

use serde_json::{Value, json};

use crate::harness::{BUSY, Namespace, feed, plugin::sentence, stderr, stdout};

/// Applies the Role in this text, from its `apiVersion` on, and binds it to the service account `dev`.
fn grant(namespace: &Namespace, text: &str) {
    let role = &text[text.find("apiVersion:").unwrap_or_else(|| panic!("no Role in: {text}"))..];
    let output = feed(&mut namespace.kubectl_command(["apply", "--validate=false", "-f", "-"]), role.as_bytes());
    assert!(output.status.success(), "kubectl apply: {}\n{role}", stderr(&output));
    let group = "rbac.authorization.k8s.io";
    namespace.create(&json!({
        "apiVersion": format!("{group}/v1"), "kind": "RoleBinding", "metadata": {"name": "granted"},
        "roleRef": {"apiGroup": group, "kind": "Role", "name": "aiprof"},
        "subjects": [{"kind": "ServiceAccount", "name": "dev", "namespace": namespace.name}],
    }));
}

fn as_dev(namespace: &Namespace, kubeconfig: &Path, arguments: &[&str]) -> Output {
    namespace.aiprof_as(kubeconfig, arguments)
}

#[test]
fn a_user_without_rights_is_told_the_role_that_makes_it_work() {
    let namespace = Namespace::with_busy_pod();
    let dev = namespace.user("dev", &json!([]));
    let folder = tempfile::tempdir().expect("a folder");
    let archive = folder.path().join("x.tar.gz");
    let record = ["record", "x", "-d", "1s", "-o", archive.to_str().expect("a path")];
    let text = sentence(&as_dev(&namespace, &dev, &record));
    let user = format!("User \"system:serviceaccount:{}:dev\" cannot get resource \"pods\"", namespace.name);
    assert!(text.starts_with("cannot read pod x: pods \"x\" is forbidden: ") && text.contains(&user), "{text}");
    grant(&namespace, &text);
    let output = as_dev(&namespace, &dev, &record);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(archive.exists());
}

#[test]
fn a_user_of_a_workload_is_told_only_what_is_missing() {
    let namespace = Namespace::new();
    let template = json!({"metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [namespace.python("app", BUSY)], "terminationGracePeriodSeconds": 1}});
    let spec = json!({"selector": {"matchLabels": {"app": "web"}}, "template": template});
    namespace
        .create(&json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec}));
    assert!(namespace.kubectl(["rollout", "status", "deployment/web", "--timeout=60s"]).status.success());
    let dev = namespace.user("dev", &json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]));
    let text = sentence(&as_dev(&namespace, &dev, &["ps", "deploy/web"]));
    assert!(text.contains("cannot get resource \"deployments\" in API group \"apps\""), "{text}");
    assert!(!text.contains("resources: [pods]"), "{text}");
    grant(&namespace, &text);
    let output = as_dev(&namespace, &dev, &["ps", "deploy/web"]);
    assert!(output.status.success() && stdout(&output).contains("python"), "{}", stderr(&output));
}

#[test]
fn check_tells_the_same_role() {
    let namespace = Namespace::with_busy_pod();
    let dev = namespace.user("dev", &json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]));
    let output = as_dev(&namespace, &dev, &["check", "x"]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(1), "{text}{}", stderr(&output));
    assert!(text.contains("may not patch pods/ephemeralcontainers, may not create pods/exec"), "{text}");
    assert!(namespace.profilers("x").is_empty(), "nothing is added to the pod");
    grant(&namespace, &text);
    let output = as_dev(&namespace, &dev, &["check", "x"]);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
}

#[test]
fn pod_security_is_told_with_its_level_and_the_fields() {
    for (level, field) in [("baseline", "SYS_ADMIN"), ("restricted", "runAsUser=0")] {
        let namespace = Namespace::enforcing(level);
        let mut app = namespace.python("app", BUSY);
        app["securityContext"] = json!({"runAsNonRoot": true, "runAsUser": 1000, "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}});
        namespace.pod("x", &json!({"containers": [app]}));
        let text = namespace.refusal(&["record", "x", "-d", "1s"]);
        let start = format!("namespace {} enforces the Pod Security level \"{level}:latest\"", namespace.name);
        assert!(text.contains(&start) && text.contains(field) && !text.contains("kind: Role"), "{text}");
        let output = namespace.aiprof(&["check", "x", "-o", "json"]);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let row = crate::check::row(&report, "admission");
        assert_eq!(row["verdict"], "refused");
        assert!(row["because"].as_str().is_some_and(|text| text.contains(level) && text.contains(field)), "{row}");
        assert!(namespace.profilers("x").is_empty());
    }
}

#[test]
fn an_unknown_user_is_told_to_log_in() {
    let namespace = Namespace::new();
    let path =
        namespace.kubeconfig("stranger", |config| config["users"][0]["user"] = json!({"token": "no-such-token"}));
    let text = sentence(&namespace.aiprof_as(&path, &["record", "x", "-d", "1s"]));
    assert!(text.contains("does not know this user: Unauthorized; log in again"), "{text}");
}
