//! From a request to its answer: path and verb as Kubernetes reads them, who asks, whether they may, and who answers.

use std::sync::Arc;

use axum::{
    body::to_bytes,
    extract::{FromRequestParts, Request, WebSocketUpgrade},
    http::{Method, StatusCode, header},
    response::Response,
};
use serde_json::Value;

use crate::{
    control, discovery, ephemeral, logs,
    rbac::{Attributes, User, authorize},
    resources,
    server::App,
    status::{Refusal, json_response},
    streams, workloads,
};

/// Bytes of a request's body, as much as a real API server takes.
const MAX_BODY_BYTES: usize = 3 << 20;

/// A request that has been read.
pub(crate) struct Asked {
    pub(crate) attributes: Attributes,
    pub(crate) version: String,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) content_type: String,
    pub(crate) user: User,
}

impl Asked {
    /// The first value of a query parameter.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether a query parameter is on.
    pub(crate) fn is_on(&self, name: &str) -> bool {
        self.parameter(name).is_some_and(|value| matches!(value, "true" | "1"))
    }

    /// Whether nothing is to be changed.
    pub(crate) fn is_dry_run(&self) -> bool {
        self.parameter("dryRun") == Some("All")
    }
}

/// Answers a request.
pub(crate) async fn answer(app: &Arc<App>, request: Request) -> Result<Response, Refusal> {
    let authorization = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let user = app.tokens.user(authorization)?;
    let path = request.uri().path().to_owned();
    if let Some(found) = discovery::answer(&path) {
        return Ok(json_response(StatusCode::OK, &found));
    }
    if let Some(order) = path.strip_prefix("/standin/") {
        let order = order.to_owned();
        if !user.groups.iter().any(|group| group == "system:masters") {
            return Err(Refusal::unauthorized());
        }
        let body = body_of(request).await?;
        return control::answer(app, &order, body).await;
    }
    let content_type = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let query = parse_query(request.uri().query().unwrap_or_default());
    let mut asked = read_path(&path).ok_or_else(Refusal::no_such_resource)?;
    asked.user = user;
    asked.query = query;
    asked.content_type = content_type;
    asked.attributes.verb = verb(request.method(), &asked).to_owned();
    authorize(&app.store, &asked.user, &asked.attributes)?;

    let attributes = &asked.attributes;
    match (attributes.resource.as_str(), attributes.subresource.as_str(), attributes.verb.as_str()) {
        ("pods", "exec" | "attach", "get" | "create") => {
            // Since 1.35 a WebSocket's GET needs `create` too.
            let create = Attributes { verb: "create".into(), ..attributes.clone() };
            authorize(&app.store, &asked.user, &create)?;
            let (mut parts, _) = request.into_parts();
            let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await;
            let upgrade = upgrade.map_err(|why| Refusal::bad_request(format!("Upgrade request required: {why}")))?;
            streams::answer(app, &asked, upgrade)
        }
        ("pods", "log", "get") => logs::answer(app, &asked),
        ("pods", "ephemeralcontainers", "patch") => {
            let body = body_of(request).await?;
            ephemeral::patch(app, &asked, &body)
        }
        ("selfsubjectaccessreviews" | "selfsubjectrulesreviews", "", "create") => {
            let body = body_of(request).await?;
            resources::review(app, &asked, body)
        }
        ("serviceaccounts", "token", "create") => resources::token(app, &asked),
        ("pods" | "deployments" | "statefulsets" | "daemonsets" | "jobs", "status", "get") => {
            resources::get(app, &asked)
        }
        (_, "", "create") => {
            let body = body_of(request).await?;
            workloads::create(app, &asked, body)
        }
        (_, "", "get") => resources::get(app, &asked),
        (_, "", "list") => Ok(resources::list(app, &asked)),
        (_, "", "watch") => Ok(resources::watch(app, &asked)),
        (_, "", "patch") => {
            let body = body_of(request).await?;
            resources::patch(app, &asked, &body)
        }
        (_, "", "delete" | "deletecollection") => workloads::delete(app, &asked).await,
        (_, "", _) => Err(Refusal::method_not_allowed()),
        _ => Err(Refusal::no_such_resource()),
    }
}

async fn body_of(request: Request) -> Result<Value, Refusal> {
    let content_type =
        request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if content_type.contains("protobuf") {
        // A client that prefers protobuf turns to JSON at this answer.
        let why = "the body of the request was in an unknown format - accepted media types include: application/json";
        return Err(Refusal::unsupported_media_type(why));
    }
    let bytes =
        to_bytes(request.into_body(), MAX_BODY_BYTES).await.map_err(|why| Refusal::bad_request(why.to_string()))?;
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&bytes).map_err(|why| Refusal::bad_request(format!("the body is not JSON: {why}")))
}

fn verb(method: &Method, asked: &Asked) -> &'static str {
    let collection = asked.attributes.name.is_empty();
    match *method {
        Method::GET if collection && asked.is_on("watch") => "watch",
        Method::GET if collection => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if collection => "deletecollection",
        Method::DELETE => "delete",
        _ => "get",
    }
}

/// `/api/v1/namespaces/NS/pods/NAME/exec` and the like.
fn read_path(path: &str) -> Option<Asked> {
    let mut parts = path.trim_matches('/').split('/').map(str::to_owned);
    let (group, version) = match parts.next()?.as_str() {
        "api" => (String::new(), parts.next()?),
        "apis" => (parts.next()?, parts.next()?),
        _ => return None,
    };
    let rest: Vec<String> = parts.collect();
    let mut attributes = Attributes { group, ..Attributes::default() };
    let rest = match rest.as_slice() {
        [namespaces, namespace, further @ ..] if namespaces == "namespaces" && !further.is_empty() => {
            attributes.namespace.clone_from(namespace);
            further
        }
        [namespaces, namespace] if namespaces == "namespaces" => {
            attributes.namespace.clone_from(namespace);
            &rest[..]
        }
        all => all,
    };
    match rest {
        [resource] => attributes.resource.clone_from(resource),
        [resource, name] => (attributes.resource, attributes.name) = (resource.clone(), name.clone()),
        [resource, name, subresource] => {
            (attributes.resource, attributes.name, attributes.subresource) =
                (resource.clone(), name.clone(), subresource.clone());
        }
        _ => return None,
    }
    discovery::kind_of(&attributes.group, &attributes.resource)?;
    let user = User { name: String::new(), groups: Vec::new() };
    Some(Asked { attributes, version, query: Vec::new(), content_type: String::new(), user })
}

fn parse_query(query: &str) -> Vec<(String, String)> {
    let decode =
        |text: &str| percent_encoding::percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            pair.split_once('=')
                .map_or_else(|| (decode(pair), String::new()), |(key, value)| (decode(key), decode(value)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_verbs_are_read_as_kubernetes_reads_them() {
        let asked = read_path("/api/v1/namespaces/n/pods/x/ephemeralcontainers").expect("a path");
        let attributes = &asked.attributes;
        assert_eq!(
            [&attributes.namespace, &attributes.resource, &attributes.name, &attributes.subresource],
            ["n", "pods", "x", "ephemeralcontainers"]
        );
        assert_eq!(verb(&Method::PATCH, &asked), "patch");
        let mut asked = read_path("/apis/apps/v1/namespaces/n/deployments").expect("a path");
        assert_eq!((asked.attributes.group.as_str(), verb(&Method::GET, &asked)), ("apps", "list"));
        asked.query = parse_query("watch=true&labelSelector=a%3Db%2Cc+in+%28d%29");
        assert_eq!((verb(&Method::GET, &asked), asked.parameter("labelSelector")), ("watch", Some("a=b,c in (d)")));
        let asked = read_path("/api/v1/namespaces/n").expect("a path");
        assert_eq!((asked.attributes.resource.as_str(), asked.attributes.name.as_str()), ("namespaces", "n"));
        assert!(read_path("/api/v1/unicorns").is_none());
    }
}
