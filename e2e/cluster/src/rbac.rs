//! Who asks, and what they may: bearer tokens, and RBAC over the Roles and bindings in the store.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use serde_json::{Value, json};

use crate::{status::Refusal, store::Store};

/// A user, as a token names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    /// `system:serviceaccount:NAMESPACE:NAME`, or `kubernetes-admin`.
    pub(crate) name: String,
    /// Groups.
    pub(crate) groups: Vec<String>,
}

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// `get`, `list`, `watch`, `create`, `patch`, …
    pub(crate) verb: String,
    /// API group; empty for the core.
    pub(crate) group: String,
    /// `pods`.
    pub(crate) resource: String,
    /// `exec`, or empty.
    pub(crate) subresource: String,
    /// Empty at the cluster scope.
    pub(crate) namespace: String,
    /// Empty for a collection.
    pub(crate) name: String,
}

/// The tokens that were given out.
#[derive(Default)]
pub(crate) struct Tokens(Mutex<HashMap<String, User>>);

impl Tokens {
    /// A new token for a user.
    pub(crate) fn issue(&self, user: User) -> String {
        let token = format!("standin-{}", crate::store::uid());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(token.clone(), user);
        token
    }

    /// Who sent this `Authorization` header.
    pub(crate) fn user(&self, header: Option<&str>) -> Result<User, Refusal> {
        let Some(header) = header else {
            return Ok(User { name: "system:anonymous".into(), groups: vec!["system:unauthenticated".into()] });
        };
        let token = header.strip_prefix("Bearer ").unwrap_or_default();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(token).cloned().ok_or_else(Refusal::unauthorized)
    }
}

/// The user of a service account.
pub(crate) fn service_account(namespace: &str, name: &str) -> User {
    User {
        name: format!("system:serviceaccount:{namespace}:{name}"),
        groups: vec![
            "system:serviceaccounts".into(),
            format!("system:serviceaccounts:{namespace}"),
            "system:authenticated".into(),
        ],
    }
}

/// Who may do all.
pub(crate) fn administrator() -> User {
    User { name: "kubernetes-admin".into(), groups: vec!["system:masters".into(), "system:authenticated".into()] }
}

/// Whether a binding in the store allows this.
pub(crate) fn allowed(store: &Store, user: &User, asked: &Attributes) -> bool {
    if user.groups.iter().any(|group| group == "system:masters") {
        return true;
    }
    // Every user may ask what they may, as `system:basic-user` allows.
    if asked.group == "authorization.k8s.io" && asked.resource.starts_with("selfsubject") {
        return true;
    }
    rules(store, user, &asked.namespace).iter().any(|rule| permits(rule, asked))
}

/// Refuses what is not allowed, in the words of an API server.
pub(crate) fn authorize(store: &Store, user: &User, asked: &Attributes) -> Result<(), Refusal> {
    if allowed(store, user, asked) {
        return Ok(());
    }
    let resource = if asked.subresource.is_empty() {
        asked.resource.clone()
    } else {
        format!("{}/{}", asked.resource, asked.subresource)
    };
    let scope = if asked.namespace.is_empty() {
        "at the cluster scope".into()
    } else {
        format!("in the namespace \"{}\"", asked.namespace)
    };
    let why = format!(
        "User \"{}\" cannot {} resource \"{resource}\" in API group \"{}\" {scope}",
        user.name, asked.verb, asked.group
    );
    let qualified =
        if asked.group.is_empty() { asked.resource.clone() } else { format!("{}.{}", asked.resource, asked.group) };
    Err(Refusal::forbidden(&qualified, &asked.name, &why))
}

/// All rules that hold for a user in a namespace.
pub(crate) fn rules(store: &Store, user: &User, namespace: &str) -> Vec<Value> {
    let cluster = store.list("clusterrolebindings", "").0;
    let local = if namespace.is_empty() { Vec::new() } else { store.list("rolebindings", namespace).0 };
    let mut rules = Vec::new();
    for binding in cluster.iter().chain(&local) {
        let subjects = binding["subjects"].as_array().map(Vec::as_slice).unwrap_or_default();
        if !subjects.iter().any(|subject| names(subject, user)) {
            continue;
        }
        let (resource, within) = match binding["roleRef"]["kind"].as_str() {
            Some("Role") => ("roles", namespace),
            _ => ("clusterroles", ""),
        };
        let name = binding["roleRef"]["name"].as_str().unwrap_or_default();
        if let Some(role) = store.get(&(resource.into(), within.into(), name.into())) {
            rules.extend(role["rules"].as_array().cloned().unwrap_or_default());
        }
    }
    rules
}

fn names(subject: &Value, user: &User) -> bool {
    let name = subject["name"].as_str().unwrap_or_default();
    match subject["kind"].as_str() {
        Some("ServiceAccount") => {
            user.name == format!("system:serviceaccount:{}:{name}", subject["namespace"].as_str().unwrap_or_default())
        }
        Some("Group") => user.groups.iter().any(|group| group == name),
        _ => user.name == name,
    }
}

fn permits(rule: &Value, asked: &Attributes) -> bool {
    let has = |field: &str, wanted: &str| {
        rule[field].as_array().is_some_and(|list| list.iter().any(|one| *one == wanted || *one == "*"))
    };
    let resource = if asked.subresource.is_empty() {
        asked.resource.clone()
    } else {
        format!("{}/{}", asked.resource, asked.subresource)
    };
    let named =
        rule["resourceNames"].as_array().is_none_or(|list| list.is_empty() || list.contains(&json!(asked.name)));
    has("verbs", &asked.verb) && has("apiGroups", &asked.group) && has("resources", &resource) && named
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_allows_what_it_names_and_the_refusal_says_what_is_missing() {
        let store = Store::default();
        let rule = json!({"apiGroups": [""], "resources": ["pods", "pods/exec"], "verbs": ["get", "create"]});
        store.create(("roles".into(), "n".into(), "r".into()), json!({"rules": [rule]}));
        let subject = json!({"kind": "ServiceAccount", "name": "dev", "namespace": "n"});
        store.create(
            ("rolebindings".into(), "n".into(), "b".into()),
            json!({"subjects": [subject], "roleRef": {"kind": "Role", "name": "r"}}),
        );
        let user = service_account("n", "dev");
        let asked = |verb: &str, subresource: &str| Attributes {
            verb: verb.into(),
            resource: "pods".into(),
            subresource: subresource.into(),
            namespace: "n".into(),
            name: "x".into(),
            ..Attributes::default()
        };
        assert!(authorize(&store, &user, &asked("create", "exec")).is_ok());
        let refusal = authorize(&store, &user, &asked("patch", "ephemeralcontainers")).expect_err("not in the role");
        assert_eq!(
            refusal.message,
            "pods \"x\" is forbidden: User \"system:serviceaccount:n:dev\" cannot patch resource \"pods/ephemeralcontainers\" \
             in API group \"\" in the namespace \"n\""
        );
        assert!(!allowed(&store, &user, &Attributes { namespace: "other".into(), ..asked("get", "") }));
    }
}
