//! What the user may do: the rights that each step takes, the question to the API, and the Role that grants what is missing.

use std::{collections::BTreeMap, fmt::Write as _};

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SubjectAccessReviewStatus,
};
use kube::api::{Api, PostParams};

use super::{
    Cluster, TargetName,
    error::{ClusterError, Doing},
};

/// Verbs on a resource, as a rule of a Role has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// API group; empty for the core.
    pub group: &'static str,
    /// Resource, with its subresource after a slash.
    pub resource: &'static str,
    /// Verbs.
    pub verbs: &'static [&'static str],
}

impl Grant {
    /// A grant.
    #[must_use]
    pub const fn new(group: &'static str, resource: &'static str, verbs: &'static [&'static str]) -> Self {
        Self { group, resource, verbs }
    }
}

/// Reading the pod.
pub const GET_PODS: Grant = Grant::new("", "pods", &["get"]);
/// Finding the pods of a workload.
pub const LIST_PODS: Grant = Grant::new("", "pods", &["get", "list"]);
/// Adding the profiler's container.
pub const PATCH_EPHEMERAL: Grant = Grant::new("", "pods/ephemeralcontainers", &["patch"]);
/// Running a command in it. Older API servers take an exec over WebSocket for a `get`, newer ones for a `create`.
pub const EXEC: Grant = Grant::new("", "pods/exec", &["create", "get"]);
/// Reading why it ended.
pub const LOGS: Grant = Grant::new("", "pods/log", &["get"]);

/// All that a command takes on this target.
#[must_use]
pub fn needed(target: &TargetName) -> Vec<Grant> {
    let pods = match target {
        TargetName::Pod(_) => GET_PODS,
        TargetName::Workload(..) | TargetName::Selector(_) => LIST_PODS,
    };
    let mut grants = vec![pods, PATCH_EPHEMERAL, EXEC];
    if let TargetName::Workload(workload, _) = target {
        let (group, resource) = workload.resource();
        grants.push(Grant { group, resource, verbs: &["get"] });
    }
    grants
}

/// A Role that grants so much, as YAML that `kubectl apply -f -` takes.
#[must_use]
pub fn role_yaml(namespace: &str, grants: &[Grant]) -> String {
    let mut yaml = format!(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata:\n  name: aiprof\n  namespace: {namespace}\nrules:"
    );
    for Grant { group, resource, verbs } in grants {
        let _ =
            write!(yaml, "\n- apiGroups: [\"{group}\"]\n  resources: [{resource}]\n  verbs: [{}]", verbs.join(", "));
    }
    yaml
}

/// What the API says about one verb.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// `patch pods/ephemeralcontainers`.
    pub right: String,
    /// Whether it is granted.
    pub allowed: bool,
    /// The API's reason; may be empty.
    pub reason: String,
}

/// Asks the API for each verb of `grants`, of the very objects where `target` names them: a Role may be for these alone.
///
/// # Errors
/// It does not answer.
pub async fn review(cluster: &Cluster, target: &TargetName, grants: &[Grant]) -> Result<Vec<Answer>, ClusterError> {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(cluster.client.clone());
    let mut answers = Vec::new();
    for grant in grants {
        for verb in grant.verbs {
            let right = format!("{verb} {}", grant.resource);
            let doing = Doing { words: format!("ask whether you may {right}"), grants: vec![] };
            let asked = question(&cluster.namespace, target, grant, verb);
            let answered = cluster.call(&doing, reviews.create(&PostParams::default(), &asked)).await?;
            answers.push(answer(right, answered.status));
        }
    }
    Ok(answers)
}

/// Those of `grants` of which a verb was refused, once each.
#[must_use]
pub fn refused(grants: &[Grant], answers: &[Answer]) -> Vec<Grant> {
    let allowed: BTreeMap<&str, bool> = answers.iter().map(|answer| (answer.right.as_str(), answer.allowed)).collect();
    let missing = |grant: &&Grant| {
        grant.verbs.iter().any(|verb| allowed.get(format!("{verb} {}", grant.resource).as_str()) == Some(&false))
    };
    grants.iter().filter(missing).cloned().collect()
}

/// The Role of all that is missing for this target; of all that is needed where the API does not say what is missing.
pub async fn missing_role(cluster: &Cluster, target: &TargetName) -> String {
    let needed = needed(target);
    let missing = review(cluster, target, &needed).await.map(|answers| refused(&needed, &answers)).unwrap_or_default();
    role_yaml(&cluster.namespace, if missing.is_empty() { &needed } else { &missing })
}

fn question(namespace: &str, target: &TargetName, grant: &Grant, verb: &str) -> SelfSubjectAccessReview {
    let (resource, subresource) = match grant.resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
        None => (grant.resource, None),
    };
    let name = match target {
        TargetName::Pod(name) => Some(name),
        TargetName::Workload(workload, name) if workload.resource() == (grant.group, grant.resource) => Some(name),
        // Which pod it will be is not known yet.
        TargetName::Workload(..) | TargetName::Selector(_) => None,
    };
    let attributes = ResourceAttributes {
        name: name.cloned(),
        namespace: Some(namespace.to_owned()),
        group: Some(grant.group.to_owned()),
        resource: Some(resource.to_owned()),
        subresource,
        verb: Some(verb.to_owned()),
        ..ResourceAttributes::default()
    };
    SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), non_resource_attributes: None },
        ..SelfSubjectAccessReview::default()
    }
}

fn answer(right: String, status: Option<SubjectAccessReviewStatus>) -> Answer {
    let status = status.unwrap_or_default();
    let reason = status.reason.or(status.evaluation_error).unwrap_or_default();
    Answer { right, allowed: status.allowed, reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{client::tests::cluster_that_answers, target::Workload};

    #[test]
    fn a_workload_takes_more_rights_than_a_pod() {
        let pod = needed(&TargetName::Pod("a".to_owned()));
        assert_eq!(pod, [GET_PODS, PATCH_EPHEMERAL, EXEC]);
        let job = needed(&TargetName::Workload(Workload::Job, "a".to_owned()));
        assert_eq!(job.last(), Some(&Grant::new("batch", "jobs", &["get"])));
    }

    #[test]
    fn a_role_can_be_applied() {
        let yaml = role_yaml("prod", &[GET_PODS, EXEC]);
        assert!(yaml.contains("\n  namespace: prod\n"), "{yaml}");
        assert!(yaml.ends_with("- apiGroups: [\"\"]\n  resources: [pods/exec]\n  verbs: [create, get]"), "{yaml}");
    }

    #[tokio::test]
    async fn each_verb_is_asked_for_and_what_is_refused_is_named() {
        let cluster = cluster_that_answers(|request| {
            assert_eq!(request.path, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews");
            let mut review: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
            let wanted = &review["spec"]["resourceAttributes"];
            assert_eq!((&wanted["namespace"], &wanted["name"]), (&"prod".into(), &"a".into()));
            let allowed = wanted["subresource"] != "exec" || wanted["verb"] == "get";
            review["status"] = serde_json::json!({"allowed": allowed, "reason": "so"});
            (201, review)
        });
        let target = TargetName::Pod("a".to_owned());
        let grants = needed(&target);
        let answers = review(&cluster, &target, &grants).await.unwrap();
        let told: Vec<_> = answers.iter().map(|answer| (answer.right.as_str(), answer.allowed)).collect();
        let expected = [
            ("get pods", true),
            ("patch pods/ephemeralcontainers", true),
            ("create pods/exec", false),
            ("get pods/exec", true),
        ];
        assert_eq!(told, expected);
        assert_eq!(refused(&grants, &answers), [EXEC]);
    }

    #[test]
    fn only_what_the_user_names_is_asked_for_by_name() {
        let target = TargetName::Workload(Workload::Job, "a".to_owned());
        let name = |grant| question("prod", &target, &grant, "get").spec.resource_attributes.unwrap().name;
        assert_eq!(name(Grant::new("batch", "jobs", &["get"])).as_deref(), Some("a"));
        assert_eq!(name(EXEC), None);
    }
}
