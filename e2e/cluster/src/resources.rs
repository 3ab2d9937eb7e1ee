//! Reading objects of any kind: get, list, watch; and the small requests beside them: reviews, tokens, patches.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{StatusCode, header},
    response::Response,
};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    api::Asked,
    discovery,
    node::text,
    rbac::{self, Attributes, allowed},
    server::App,
    status::{Refusal, json_response},
    store::{Key, Store, matches_fields, matches_labels, now},
};

/// Key of the object that is asked for.
pub(crate) fn key(asked: &Asked) -> Key {
    let attributes = &asked.attributes;
    let namespace = if attributes.resource == "namespaces" { String::new() } else { attributes.namespace.clone() };
    (attributes.resource.clone(), namespace, attributes.name.clone())
}

/// `deployments.apps`, as refusals name it.
pub(crate) fn qualified(asked: &Asked) -> String {
    let Attributes { group, resource, .. } = &asked.attributes;
    if group.is_empty() { resource.clone() } else { format!("{resource}.{group}") }
}

/// Adds kind and version, which the store does not keep.
pub(crate) fn typed(asked: &Asked, mut object: Value) -> Value {
    let Attributes { group, resource, .. } = &asked.attributes;
    object["kind"] = json!(discovery::kind_of(group, resource));
    object["apiVersion"] = json!(api_version(asked));
    object
}

fn api_version(asked: &Asked) -> String {
    let group = &asked.attributes.group;
    if group.is_empty() { asked.version.clone() } else { format!("{group}/{}", asked.version) }
}

/// Makes a namespace.
pub(crate) fn put_namespace(store: &Store, name: &str, object: &Value) -> Option<Value> {
    let mut object = object.clone();
    object["metadata"]["labels"]["kubernetes.io/metadata.name"] = json!(name);
    object["status"]["phase"] = json!("Active");
    let made = store.create(("namespaces".into(), String::new(), name.into()), object);
    store.create(("serviceaccounts".into(), name.into(), "default".into()), json!({}));
    made
}

/// One object.
pub(crate) fn get(app: &App, asked: &Asked) -> Result<Response, Refusal> {
    let found =
        app.store.get(&key(asked)).ok_or_else(|| Refusal::not_found(&qualified(asked), &asked.attributes.name))?;
    Ok(json_response(StatusCode::OK, &typed(asked, found)))
}

fn selects(asked: &Asked, object: &Value) -> bool {
    asked.parameter("labelSelector").is_none_or(|selector| matches_labels(selector, object))
        && asked.parameter("fieldSelector").is_none_or(|selector| matches_fields(selector, object))
}

/// All that the selectors pick.
pub(crate) fn list(app: &App, asked: &Asked) -> Response {
    let (resource, namespace, _) = key(asked);
    let (objects, revision) = app.store.list(&resource, &namespace);
    let items: Vec<Value> =
        objects.into_iter().filter(|object| selects(asked, object)).map(|object| typed(asked, object)).collect();
    let kind = discovery::kind_of(&asked.attributes.group, &resource).unwrap_or_default();
    let metadata = json!({"resourceVersion": revision.to_string()});
    let list =
        json!({"kind": format!("{kind}List"), "apiVersion": api_version(asked), "metadata": metadata, "items": items});
    json_response(StatusCode::OK, &list)
}

/// Changes as they come, one JSON line each.
pub(crate) fn watch(app: &Arc<App>, asked: &Asked) -> Response {
    let (resource, namespace, _) = key(asked);
    let version = asked.parameter("resourceVersion").unwrap_or_default();
    let from_now = asked.is_on("sendInitialEvents") || version.is_empty() || version == "0";
    let mut revision = version.parse().unwrap_or(0);
    let mut first = Vec::new();
    if from_now {
        let (objects, at) = app.store.list(&resource, &namespace);
        revision = at;
        first.extend(
            objects
                .into_iter()
                .filter(|object| selects(asked, object))
                .map(|object| event("ADDED", &typed(asked, object))),
        );
        if asked.is_on("sendInitialEvents") {
            let annotations = json!({"k8s.io/initial-events-end": "true"});
            let metadata =
                json!({"resourceVersion": at.to_string(), "annotations": annotations, "creationTimestamp": null});
            first.push(event("BOOKMARK", &typed(asked, json!({"metadata": metadata}))));
        }
    }
    let limit = asked.parameter("timeoutSeconds").and_then(|text| text.parse().ok()).unwrap_or(1800);
    let (sender, receiver) = mpsc::channel::<Bytes>(16);
    let asked = Asked {
        attributes: asked.attributes.clone(),
        version: asked.version.clone(),
        query: asked.query.clone(),
        content_type: String::new(),
        user: asked.user.clone(),
    };
    let store = app.store.clone();
    tokio::spawn(async move {
        let follow = follow(&store, &asked, (&resource, &namespace), first, revision, &sender);
        let _ = tokio::time::timeout(Duration::from_secs(limit), follow).await;
    });
    streamed("application/json", receiver)
}

async fn follow(
    store: &Store,
    asked: &Asked,
    of: (&str, &str),
    first: Vec<Bytes>,
    mut revision: u64,
    sender: &mpsc::Sender<Bytes>,
) {
    let mut news = store.subscribe();
    for line in first {
        if sender.send(line).await.is_err() {
            return;
        }
    }
    loop {
        news.mark_unchanged();
        for change in store.changes_after(revision) {
            revision = change.revision;
            let ours = change.key.0 == of.0 && (of.1.is_empty() || change.key.1 == of.1);
            if ours
                && selects(asked, &change.object)
                && sender.send(event(change.kind, &typed(asked, change.object))).await.is_err()
            {
                return;
            }
        }
        tokio::select! {
            changed = news.changed() => if changed.is_err() { return },
            () = sender.closed() => return,
        }
    }
}

fn event(kind: &str, object: &Value) -> Bytes {
    Bytes::from(json!({"type": kind, "object": object}).to_string() + "\n")
}

/// A body that is written as it comes.
pub(crate) fn streamed(content_type: &'static str, receiver: mpsc::Receiver<Bytes>) -> Response {
    let chunks = stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|chunk| (Ok::<_, Infallible>(chunk), receiver))
    });
    let mut response = Response::new(Body::from_stream(chunks));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

/// JSON merge patch of any object; a strategic one is taken as that, which is the same where no lists are patched.
pub(crate) fn patch(app: &App, asked: &Asked, body: &Value) -> Result<Response, Refusal> {
    if !asked.content_type.contains("merge-patch+json") {
        return Err(Refusal::unsupported_media_type("the stand-in takes merge patches only"));
    }
    let patched = app.store.update(&key(asked), |object| json_patch::merge(object, body));
    let patched = patched.ok_or_else(|| Refusal::not_found(&qualified(asked), &asked.attributes.name))?;
    Ok(json_response(StatusCode::OK, &typed(asked, patched)))
}

/// What the asking user may do.
pub(crate) fn review(app: &App, asked: &Asked, mut body: Value) -> Result<Response, Refusal> {
    if asked.attributes.resource == "selfsubjectrulesreviews" {
        let rules = rbac::rules(&app.store, &asked.user, &text(&body["spec"]["namespace"]));
        body["status"] = json!({"resourceRules": rules, "nonResourceRules": [], "incomplete": false});
        return Ok(json_response(StatusCode::CREATED, &typed(asked, body)));
    }
    let of = &body["spec"]["resourceAttributes"];
    if of.is_null() {
        let why = "spec.resourceAttributes: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified";
        return Err(Refusal::bad_request(why));
    }
    let wanted = Attributes {
        verb: text(&of["verb"]),
        group: text(&of["group"]),
        resource: text(&of["resource"]),
        subresource: text(&of["subresource"]),
        namespace: text(&of["namespace"]),
        name: text(&of["name"]),
    };
    body["status"] = json!({"allowed": allowed(&app.store, &asked.user, &wanted)});
    Ok(json_response(StatusCode::CREATED, &typed(asked, body)))
}

/// A token of a service account.
pub(crate) fn token(app: &App, asked: &Asked) -> Result<Response, Refusal> {
    app.store.get(&key(asked)).ok_or_else(|| Refusal::not_found("serviceaccounts", &asked.attributes.name))?;
    let token = app.tokens.issue(rbac::service_account(&asked.attributes.namespace, &asked.attributes.name));
    let body = json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "metadata": {"creationTimestamp": now()},
        "spec": {"audiences": []}, "status": {"token": token, "expirationTimestamp": "2100-01-01T00:00:00Z"}});
    Ok(json_response(StatusCode::CREATED, &body))
}
