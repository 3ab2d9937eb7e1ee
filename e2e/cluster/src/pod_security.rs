//! Pod Security admission: the checks of the levels `baseline` and `restricted` that a pod of the suite can fail, in the words of
//! Kubernetes' own plugin (`k8s.io/pod-security-admission/policy`, 1.34).

use std::collections::BTreeSet;

use serde_json::Value;

const BASELINE_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Why a namespace with these labels refuses a pod of this spec; none if it takes it.
pub(crate) fn violation(namespace: &Value, spec: &Value) -> Option<String> {
    let labels = &namespace["metadata"]["labels"];
    let level = labels["pod-security.kubernetes.io/enforce"].as_str().filter(|level| *level != "privileged")?;
    let version = labels["pod-security.kubernetes.io/enforce-version"].as_str().unwrap_or("latest");
    let pod = Pod::new(spec);
    let checks = if level == "restricted" {
        vec![
            pod.host_namespaces(),
            pod.privileged(),
            pod.privilege_escalation(),
            pod.restricted_capabilities(),
            pod.run_as_non_root(),
            pod.run_as_user(),
            pod.seccomp(),
        ]
    } else {
        vec![pod.baseline_capabilities(), pod.host_namespaces(), pod.privileged()]
    };
    let failed: Vec<String> = checks.into_iter().flatten().collect();
    (!failed.is_empty()).then(|| format!("violates PodSecurity \"{level}:{version}\": {}", failed.join(", ")))
}

struct Pod<'a> {
    spec: &'a Value,
    containers: Vec<&'a Value>,
}

impl<'a> Pod<'a> {
    fn new(spec: &'a Value) -> Self {
        let lists = ["initContainers", "containers", "ephemeralContainers"];
        Self { spec, containers: lists.iter().filter_map(|list| spec[*list].as_array()).flatten().collect() }
    }

    /// Names of the containers whose security context is so.
    fn those(&self, is: impl Fn(&Value) -> bool) -> Vec<&'a str> {
        self.containers
            .iter()
            .filter(|one| is(&one["securityContext"]))
            .filter_map(|one| one["name"].as_str())
            .collect()
    }

    fn host_namespaces(&self) -> Option<String> {
        let on: Vec<_> =
            ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|field| self.spec[*field] == true).collect();
        let all: Vec<_> = on.iter().map(|field| format!("{field}=true")).collect();
        (!all.is_empty()).then(|| format!("host namespaces ({})", all.join(", ")))
    }

    fn privileged(&self) -> Option<String> {
        let bad = self.those(|context| context["privileged"] == true);
        (!bad.is_empty())
            .then(|| format!("privileged ({} must not set securityContext.privileged=true)", containers(&bad)))
    }

    fn baseline_capabilities(&self) -> Option<String> {
        let (bad, added) = self.adders(&BASELINE_CAPABILITIES);
        let what =
            || format!("{} must not include {} in securityContext.capabilities.add", containers(&bad), quoted(added));
        (!bad.is_empty()).then(|| format!("non-default capabilities ({})", what()))
    }

    fn restricted_capabilities(&self) -> Option<String> {
        let dropped = |context: &Value| {
            context["capabilities"]["drop"].as_array().is_some_and(|list| list.iter().any(|one| one == "ALL"))
        };
        let keep = self.those(|context| !dropped(context));
        let (bad, added) = self.adders(&["NET_BIND_SERVICE"]);
        let mut details = Vec::new();
        if !keep.is_empty() {
            details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&keep)));
        }
        if !bad.is_empty() {
            details.push(format!(
                "{} must not include {} in securityContext.capabilities.add",
                containers(&bad),
                quoted(added)
            ));
        }
        (!details.is_empty()).then(|| format!("unrestricted capabilities ({})", details.join("; ")))
    }

    /// Containers that add a capability beyond these, and what they add.
    fn adders(&self, fine: &[&str]) -> (Vec<&'a str>, BTreeSet<&'a str>) {
        let mut added = BTreeSet::new();
        let mut bad = Vec::new();
        for container in &self.containers {
            let list = container["securityContext"]["capabilities"]["add"].as_array();
            let more: Vec<_> =
                list.into_iter().flatten().filter_map(Value::as_str).filter(|one| !fine.contains(one)).collect();
            if !more.is_empty() {
                added.extend(more);
                bad.extend(container["name"].as_str());
            }
        }
        (bad, added)
    }

    fn privilege_escalation(&self) -> Option<String> {
        let bad = self.those(|context| context["allowPrivilegeEscalation"] != false);
        let what = || format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&bad));
        (!bad.is_empty()).then(|| format!("allowPrivilegeEscalation != false ({})", what()))
    }

    fn run_as_non_root(&self) -> Option<String> {
        let of_pod = self.spec["securityContext"]["runAsNonRoot"].as_bool();
        let mut setters: Vec<String> = if of_pod == Some(false) { vec!["pod".into()] } else { Vec::new() };
        let explicit = self.those(|context| context["runAsNonRoot"] == false);
        if !explicit.is_empty() {
            setters.push(containers(&explicit));
        }
        if !setters.is_empty() {
            return Some(format!(
                "runAsNonRoot != true ({} must not set securityContext.runAsNonRoot=false)",
                setters.join(" and ")
            ));
        }
        let silent = self.those(|context| context["runAsNonRoot"].is_null());
        (of_pod != Some(true) && !silent.is_empty()).then(|| {
            format!("runAsNonRoot != true (pod or {} must set securityContext.runAsNonRoot=true)", containers(&silent))
        })
    }

    fn run_as_user(&self) -> Option<String> {
        let mut setters: Vec<String> =
            if self.spec["securityContext"]["runAsUser"] == 0 { vec!["pod".into()] } else { Vec::new() };
        let explicit = self.those(|context| context["runAsUser"] == 0);
        if !explicit.is_empty() {
            setters.push(containers(&explicit));
        }
        (!setters.is_empty()).then(|| format!("runAsUser=0 ({} must not set runAsUser=0)", setters.join(" and ")))
    }

    fn seccomp(&self) -> Option<String> {
        if !self.spec["securityContext"]["seccompProfile"].is_null() {
            return None;
        }
        let silent = self.those(|context| context["seccompProfile"].is_null());
        let kinds = "securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"";
        (!silent.is_empty()).then(|| format!("seccompProfile (pod or {} must set {kinds})", containers(&silent)))
    }
}

fn containers(names: &[&str]) -> String {
    format!("{} {}", if names.len() == 1 { "container" } else { "containers" }, quoted(names.iter().copied()))
}

fn quoted<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_profiler_container_is_refused_as_kubernetes_refuses_it() {
        let restricted = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
        let baseline = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}});
        let good = json!({"runAsNonRoot": true, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"}});
        let mut spec = json!({"containers": [{"name": "app", "securityContext": good}]});
        assert_eq!(violation(&restricted, &spec), None);
        let ours = json!({"runAsUser": 0, "runAsNonRoot": false, "allowPrivilegeEscalation": true,
            "capabilities": {"drop": ["ALL"], "add": ["SYS_PTRACE", "SYS_ADMIN"]}});
        spec["ephemeralContainers"] = json!([{"name": "p", "securityContext": ours}]);
        assert_eq!(violation(&json!({}), &spec), None);
        assert_eq!(
            violation(&baseline, &spec).expect("refused"),
            "violates PodSecurity \"baseline:latest\": non-default capabilities (container \"p\" must not include \"SYS_ADMIN\", \
             \"SYS_PTRACE\" in securityContext.capabilities.add)"
        );
        assert_eq!(
            violation(&restricted, &spec).expect("refused"),
            "violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false (container \"p\" must set \
             securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"p\" must not include \"SYS_ADMIN\", \
             \"SYS_PTRACE\" in securityContext.capabilities.add), runAsNonRoot != true (container \"p\" must not set \
             securityContext.runAsNonRoot=false), runAsUser=0 (container \"p\" must not set runAsUser=0), seccompProfile (pod or \
             container \"p\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
        );
    }
}
