//! What the server says it can do: versions, groups and resources, as far as `kubectl` asks.

use serde_json::{Value, json};

use crate::server::VERSION;

/// Group, resource, kind, whether namespaced, short names.
const RESOURCES: [(&str, &str, &str, bool, &[&str]); 18] = [
    ("", "namespaces", "Namespace", false, &["ns"]),
    ("", "nodes", "Node", false, &["no"]),
    ("", "pods", "Pod", true, &["po"]),
    ("", "serviceaccounts", "ServiceAccount", true, &["sa"]),
    ("", "events", "Event", true, &["ev"]),
    ("", "configmaps", "ConfigMap", true, &["cm"]),
    ("apps", "deployments", "Deployment", true, &["deploy"]),
    ("apps", "replicasets", "ReplicaSet", true, &["rs"]),
    ("apps", "statefulsets", "StatefulSet", true, &["sts"]),
    ("apps", "daemonsets", "DaemonSet", true, &["ds"]),
    ("batch", "jobs", "Job", true, &[]),
    ("batch", "cronjobs", "CronJob", true, &["cj"]),
    ("authorization.k8s.io", "selfsubjectaccessreviews", "SelfSubjectAccessReview", false, &[]),
    ("authorization.k8s.io", "selfsubjectrulesreviews", "SelfSubjectRulesReview", false, &[]),
    ("rbac.authorization.k8s.io", "roles", "Role", true, &[]),
    ("rbac.authorization.k8s.io", "rolebindings", "RoleBinding", true, &[]),
    ("rbac.authorization.k8s.io", "clusterroles", "ClusterRole", false, &[]),
    ("rbac.authorization.k8s.io", "clusterrolebindings", "ClusterRoleBinding", false, &[]),
];
/// Subresource, its kind, its verb.
const POD_SUBRESOURCES: [(&str, &str, &str); 4] = [
    ("attach", "PodAttachOptions", "create"),
    ("ephemeralcontainers", "Pod", "patch"),
    ("exec", "PodExecOptions", "create"),
    ("log", "Pod", "get"),
];
const GROUPS: [&str; 4] = ["apps", "batch", "authorization.k8s.io", "rbac.authorization.k8s.io"];

/// Kind of a resource, if the server knows it.
pub(crate) fn kind_of(group: &str, resource: &str) -> Option<&'static str> {
    RESOURCES.iter().find(|(of, name, ..)| *of == group && *name == resource).map(|(_, _, kind, ..)| *kind)
}

/// The answer to a discovery path; none if it is not one.
pub(crate) fn answer(path: &str) -> Option<Value> {
    match path.trim_end_matches('/') {
        "/version" => Some(version()),
        "/api" => Some(json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})),
        "/apis" => {
            let groups: Vec<Value> = GROUPS.iter().map(|name| group(name)).collect();
            Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        "/api/v1" => Some(resources("", "v1")),
        "/healthz" | "/readyz" | "/livez" => Some(json!("ok")),
        path => {
            let of = path.strip_prefix("/apis/")?;
            let (name, version) = of.split_once('/').unwrap_or((of, ""));
            let name = GROUPS.into_iter().find(|one| *one == name)?;
            match version {
                "" => Some(group(name)),
                "v1" => Some(resources(name, &format!("{name}/v1"))),
                _ => None,
            }
        }
    }
}

fn version() -> Value {
    let (major, minor) = VERSION.trim_start_matches('v').split_once('.').unwrap_or(("1", "0"));
    let minor = minor.split('.').next().unwrap_or_default();
    let platform = if cfg!(target_arch = "x86_64") { "linux/amd64" } else { "linux/arm64" };
    json!({"major": major, "minor": minor, "gitVersion": VERSION, "gitCommit": "", "gitTreeState": "clean", "buildDate": "",
        "goVersion": "", "compiler": "", "platform": platform})
}

fn group(name: &str) -> Value {
    let version = json!({"groupVersion": format!("{name}/v1"), "version": "v1"});
    json!({"kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": [version], "preferredVersion": version})
}

fn resources(group: &str, group_version: &str) -> Value {
    let verbs = ["create", "delete", "deletecollection", "get", "list", "patch", "watch"];
    let mut all: Vec<Value> = RESOURCES
        .iter()
        .filter(|(of, ..)| *of == group)
        .map(|(_, name, kind, namespaced, short)| {
            let verbs: &[&str] = if name.starts_with("selfsubject") { &["create"] } else { &verbs };
            json!({"name": name, "singularName": kind.to_lowercase(), "namespaced": namespaced, "kind": kind, "verbs": verbs,
                "shortNames": short})
        })
        .collect();
    if group.is_empty() {
        all.extend(POD_SUBRESOURCES.iter().map(|(name, kind, verb)| {
            json!({"name": format!("pods/{name}"), "singularName": "", "namespaced": true, "kind": kind, "verbs": [verb]})
        }));
    }
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": all})
}
