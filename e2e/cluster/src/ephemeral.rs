//! `PATCH pods/NAME/ephemeralcontainers`: strategic merge, JSON merge and JSON patch; validation and Pod Security; dry run.

use std::sync::Arc;

use axum::{http::StatusCode, response::Response};
use serde_json::{Value, json};

use crate::{
    api::Asked,
    node::{list, text},
    pod_security, resources,
    server::App,
    status::{Refusal, json_response},
    workloads::complete_container,
};

/// Adds ephemeral containers.
pub(crate) fn patch(app: &Arc<App>, asked: &Asked, patch: &Value) -> Result<Response, Refusal> {
    if app.board.get(&asked.attributes.namespace).no_ephemeral_containers {
        return Err(Refusal::no_such_resource());
    }
    let key = resources::key(asked);
    let pod = app.store.get(&key).ok_or_else(|| Refusal::not_found("pods", &key.2))?;
    let before = list(&pod["spec"]["ephemeralContainers"]);
    let mut after = patched(asked, &pod, patch)?;
    for container in &mut after {
        complete_container(container);
    }
    validate(&pod, &before, &after)?;
    let mut changed = pod;
    changed["spec"]["ephemeralContainers"] = json!(after);
    let namespace = app.store.get(&("namespaces".into(), String::new(), key.1.clone())).unwrap_or_default();
    if let Some(violation) = pod_security::violation(&namespace, &changed["spec"]) {
        return Err(Refusal::forbidden("pods", &key.2, &violation));
    }
    if !asked.is_dry_run() {
        let stored = app.store.update(&key, |pod| pod["spec"]["ephemeralContainers"] = json!(after));
        changed = stored.ok_or_else(|| Refusal::not_found("pods", &key.2))?;
        app.node.begin_ephemeral(&key);
    }
    Ok(json_response(StatusCode::OK, &resources::typed(asked, changed)))
}

/// The list that a patch makes.
fn patched(asked: &Asked, pod: &Value, patch: &Value) -> Result<Vec<Value>, Refusal> {
    let mut object = pod.clone();
    match asked.content_type.split(';').next().unwrap_or_default().trim() {
        "application/strategic-merge-patch+json" => {
            return Ok(strategic(&list(&pod["spec"]["ephemeralContainers"]), patch));
        }
        "application/merge-patch+json" => json_patch::merge(&mut object, patch),
        "application/json-patch+json" => {
            let operations: json_patch::Patch =
                serde_json::from_value(patch.clone()).map_err(|why| Refusal::bad_request(why.to_string()))?;
            json_patch::patch(&mut object, &operations).map_err(|why| Refusal::bad_request(why.to_string()))?;
        }
        other => {
            let known =
                "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json";
            return Err(Refusal::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types include: {known}, not {other}"
            )));
        }
    }
    Ok(list(&object["spec"]["ephemeralContainers"]))
}

/// The list is merged by `name`, so what the patch does not name stays.
fn strategic(before: &[Value], patch: &Value) -> Vec<Value> {
    let mut merged = before.to_vec();
    for change in list(&patch["spec"]["ephemeralContainers"]) {
        let place = merged.iter().position(|one| one["name"] == change["name"]);
        match (place, change["$patch"] == "delete") {
            (Some(index), true) => drop(merged.remove(index)),
            (Some(index), false) => json_patch::merge(&mut merged[index], &change),
            (None, true) => {}
            (None, false) => merged.push(change),
        }
    }
    merged
}

fn validate(pod: &Value, before: &[Value], after: &[Value]) -> Result<(), Refusal> {
    const FIELD: &str = "spec.ephemeralContainers";
    let pod_name = text(&pod["metadata"]["name"]);
    let refuse = |field: &str, cause: &str| Err(Refusal::invalid_pod(&pod_name, field, cause));
    for old in before {
        let name = text(&old["name"]);
        match after.iter().find(|one| one["name"] == old["name"]) {
            None => {
                return refuse(
                    FIELD,
                    &format!("Forbidden: existing ephemeral containers \"{name}\" may not be removed\n"),
                );
            }
            Some(new) if new != old => {
                return refuse(
                    FIELD,
                    &format!("Forbidden: existing ephemeral containers \"{name}\" may not be changed\n"),
                );
            }
            Some(_) => {}
        }
    }
    let others: Vec<Value> =
        ["containers", "initContainers"].iter().flat_map(|field| list(&pod["spec"][*field])).collect();
    for (index, container) in after.iter().enumerate() {
        let name = text(&container["name"]);
        let field = format!("{FIELD}[{index}]");
        if name.is_empty() {
            return refuse(&format!("{field}.name"), "Required value");
        }
        if container["image"].as_str().is_none_or(str::is_empty) {
            return refuse(&format!("{field}.image"), "Required value");
        }
        let twice = after[..index].iter().chain(&others).any(|one| one["name"] == container["name"]);
        if twice {
            return refuse(&format!("{field}.name"), &format!("Duplicate value: \"{name}\""));
        }
        for forbidden in ["resources", "ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] {
            let given = &container[forbidden];
            if !given.is_null() && *given != json!({}) && *given != json!([]) {
                return refuse(&format!("{field}.{forbidden}"), "Forbidden: cannot be set for an Ephemeral Container");
            }
        }
        let target = text(&container["targetContainerName"]);
        if !target.is_empty() && !others.iter().any(|one| one["name"] == *target) {
            return refuse(&format!("{field}.targetContainerName"), &format!("Not found: \"{target}\""));
        }
        let context = &container["securityContext"];
        if context["privileged"] == true && context["allowPrivilegeEscalation"] == false {
            let cause = "Invalid value: false: cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            return refuse(&format!("{field}.securityContext"), cause);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strategic_patch_adds_and_keeps_and_existing_ones_stand() {
        let pod = json!({"metadata": {"name": "x"}, "spec": {"containers": [{"name": "app"}]}});
        let old = json!({"name": "a", "image": "i", "targetContainerName": "app"});
        let before = vec![old.clone()];
        let patch = |one: Value| json!({"spec": {"ephemeralContainers": [one]}});
        let after = strategic(&before, &patch(json!({"name": "b", "image": "i"})));
        assert_eq!(after.len(), 2);
        assert!(validate(&pod, &before, &after).is_ok());
        let message = |after: &[Value]| validate(&pod, &before, after).expect_err("invalid").message;
        assert!(message(&[]).contains("may not be removed"), "{}", message(&[]));
        let changed = strategic(&before, &patch(json!({"name": "a", "image": "other"})));
        assert!(message(&changed).contains("may not be changed"));
        let lost = [old.clone(), json!({"name": "c", "image": "i", "targetContainerName": "nope"})];
        assert_eq!(
            message(&lost),
            "Pod \"x\" is invalid: spec.ephemeralContainers[1].targetContainerName: Not found: \"nope\""
        );
        let clash = [old, json!({"name": "app", "image": "i"})];
        assert!(message(&clash).contains("Duplicate value: \"app\""));
    }
}
