//! Making and ending objects: pods, the pods of deployments and the like (once, when the workload is made), namespaces with all in them.

use std::sync::Arc;

use axum::{http::StatusCode, response::Response};
use serde_json::{Value, json};

use crate::{
    api::Asked,
    node::{key_of, list, text},
    pod_security, resources,
    server::App,
    status::{Refusal, json_response},
    store::{Key, now, suffix, uid},
};

/// Makes an object.
pub(crate) fn create(app: &Arc<App>, asked: &Asked, mut object: Value) -> Result<Response, Refusal> {
    let mut name = text(&object["metadata"]["name"]);
    if name.is_empty() {
        name = text(&object["metadata"]["generateName"]) + &suffix(5);
    }
    let (resource, namespace, _) = resources::key(asked);
    let taken = || Refusal::already_exists(&resources::qualified(asked), &name);
    if resource == "namespaces" {
        let made = resources::put_namespace(&app.store, &name, &object).ok_or_else(taken)?;
        return Ok(json_response(StatusCode::CREATED, &resources::typed(asked, made)));
    }
    if !namespace.is_empty() && app.store.get(&("namespaces".into(), String::new(), namespace.clone())).is_none() {
        return Err(Refusal::not_found("namespaces", &namespace));
    }
    let key: Key = (resource.clone(), namespace, name.clone());
    let made = if resource == "pods" {
        create_pod(app, key, object, asked.is_dry_run())?
    } else {
        let own = uid();
        if resource == "jobs" {
            let labels = [
                ("job-name", &name),
                ("batch.kubernetes.io/job-name", &name),
                ("batch.kubernetes.io/controller-uid", &own),
            ];
            for (label, value) in labels {
                object["spec"]["template"]["metadata"]["labels"][label] = json!(value);
            }
            object["spec"]["selector"]["matchLabels"] = json!({"batch.kubernetes.io/controller-uid": own});
        }
        let made = app.store.create(key.clone(), object).ok_or_else(taken)?;
        make_pods(app, &key, &made)?;
        app.store.get(&key).unwrap_or(made)
    };
    Ok(json_response(StatusCode::CREATED, &resources::typed(asked, made)))
}

fn create_pod(app: &Arc<App>, key: Key, mut pod: Value, dry_run: bool) -> Result<Value, Refusal> {
    complete(&mut pod);
    let namespace = app.store.get(&("namespaces".into(), String::new(), key.1.clone())).unwrap_or_default();
    if let Some(violation) = pod_security::violation(&namespace, &pod["spec"]) {
        return Err(Refusal::forbidden("pods", &key.2, &violation));
    }
    if dry_run {
        return Ok(pod);
    }
    let made = app.store.create(key.clone(), pod).ok_or_else(|| Refusal::already_exists("pods", &key.2))?;
    app.node.begin(key);
    Ok(made)
}

/// The pods of a workload.
fn make_pods(app: &Arc<App>, key: &Key, workload: &Value) -> Result<(), Refusal> {
    let (kind, count) = match key.0.as_str() {
        "deployments" => return make_replica_set(app, key, workload),
        "replicasets" => ("ReplicaSet", workload["spec"]["replicas"].as_u64().unwrap_or(1)),
        "statefulsets" => ("StatefulSet", workload["spec"]["replicas"].as_u64().unwrap_or(1)),
        "daemonsets" => ("DaemonSet", 1),
        "jobs" => ("Job", workload["spec"]["parallelism"].as_u64().unwrap_or(1)),
        _ => return Ok(()),
    };
    for index in 0..count {
        let end = if kind == "StatefulSet" { index.to_string() } else { suffix(5) };
        let mut pod = workload["spec"]["template"].clone();
        pod["metadata"]["ownerReferences"] = json!([owner(kind, key, workload)]);
        create_pod(app, ("pods".into(), key.1.clone(), format!("{}-{end}", key.2)), pod, false)?;
    }
    Ok(())
}

fn make_replica_set(app: &Arc<App>, key: &Key, deployment: &Value) -> Result<(), Refusal> {
    let hash = suffix(9);
    let mut set = json!({"spec": deployment["spec"]});
    for place in ["/spec/template/metadata/labels", "/spec/selector/matchLabels"] {
        if let Some(labels) = set.pointer_mut(place) {
            labels["pod-template-hash"] = json!(hash);
        }
    }
    set["metadata"]["labels"] = set["spec"]["template"]["metadata"]["labels"].clone();
    set["metadata"]["ownerReferences"] = json!([owner("Deployment", key, deployment)]);
    let set_key: Key = ("replicasets".into(), key.1.clone(), format!("{}-{hash}", key.2));
    let name = set_key.2.clone();
    let made =
        app.store.create(set_key.clone(), set).ok_or_else(|| Refusal::already_exists("replicasets.apps", &name))?;
    make_pods(app, &set_key, &made)?;
    Ok(())
}

fn owner(kind: &str, key: &Key, object: &Value) -> Value {
    let version = if kind == "Job" { "batch/v1" } else { "apps/v1" };
    json!({"apiVersion": version, "kind": kind, "name": key.2, "uid": object["metadata"]["uid"], "controller": true})
}

/// Fills in what the API server fills in.
fn complete(pod: &mut Value) {
    let spec = &mut pod["spec"];
    let defaults = [
        ("restartPolicy", json!("Always")),
        ("terminationGracePeriodSeconds", json!(30)),
        ("dnsPolicy", json!("ClusterFirst")),
        ("serviceAccountName", json!("default")),
        ("securityContext", json!({})),
        ("enableServiceLinks", json!(true)),
    ];
    for (field, value) in defaults {
        if spec[field].is_null() {
            spec[field] = value;
        }
    }
    for field in ["containers", "initContainers"] {
        for container in spec[field].as_array_mut().into_iter().flatten() {
            complete_container(container);
        }
    }
}

/// Fills in what the API server fills in for a container.
pub(crate) fn complete_container(container: &mut Value) {
    let image = text(&container["image"]);
    let last = image.rsplit('/').next().unwrap_or_default();
    let moving = last.ends_with(":latest") || !last.contains(':') && !last.contains('@');
    let policy = if moving { "Always" } else { "IfNotPresent" };
    let defaults = [
        ("imagePullPolicy", policy),
        ("terminationMessagePath", "/dev/termination-log"),
        ("terminationMessagePolicy", "File"),
    ];
    for (field, value) in defaults {
        if container[field].is_null() {
            container[field] = json!(value);
        }
    }
}

/// Ends an object, or all of a collection that the selectors pick.
pub(crate) async fn delete(app: &Arc<App>, asked: &Asked) -> Result<Response, Refusal> {
    let key = resources::key(asked);
    let found = app.store.get(&key).ok_or_else(|| Refusal::not_found(&resources::qualified(asked), &key.2))?;
    match key.0.as_str() {
        "pods" => {
            let marked = app.store.update(&key, |pod| pod["metadata"]["deletionTimestamp"] = json!(now()));
            let node = app.node.clone();
            tokio::spawn(async move { node.end(&key).await });
            return Ok(json_response(StatusCode::OK, &resources::typed(asked, marked.unwrap_or(found))));
        }
        "namespaces" => {
            app.store.update(&key, |namespace| namespace["status"]["phase"] = json!("Terminating"));
            let app = app.clone();
            tokio::spawn(async move { end_namespace(&app, &key).await });
        }
        _ => {
            app.store.delete(&key);
            end_owned(app, &found).await;
        }
    }
    let details =
        json!({"name": asked.attributes.name, "kind": asked.attributes.resource, "uid": found["metadata"]["uid"]});
    Ok(json_response(
        StatusCode::OK,
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}),
    ))
}

async fn end_namespace(app: &Arc<App>, key: &Key) {
    for pod in app.store.list("pods", &key.2).0 {
        app.node.end(&key_of(&pod)).await;
    }
    let others = [
        "deployments",
        "replicasets",
        "statefulsets",
        "daemonsets",
        "jobs",
        "serviceaccounts",
        "roles",
        "rolebindings",
    ];
    for resource in others {
        for object in app.store.list(resource, &key.2).0 {
            app.store.delete(&(resource.into(), key.2.clone(), text(&object["metadata"]["name"])));
        }
    }
    app.store.delete(key);
}

/// Ends what an object owns: replica sets first, and then the pods of all of them.
async fn end_owned(app: &Arc<App>, owner: &Value) {
    let (sets, _) = app.store.list("replicasets", "");
    let owns = |owner: &Value, object: &Value| {
        list(&object["metadata"]["ownerReferences"]).iter().any(|one| one["uid"] == owner["metadata"]["uid"])
    };
    let mut owners = vec![owner.clone()];
    for set in sets.into_iter().filter(|set| owns(owner, set)) {
        app.store.delete(&("replicasets".into(), text(&set["metadata"]["namespace"]), text(&set["metadata"]["name"])));
        owners.push(set);
    }
    for pod in app.store.list("pods", "").0 {
        if owners.iter().any(|owner| owns(owner, &pod)) {
            app.node.end(&key_of(&pod)).await;
        }
    }
}
