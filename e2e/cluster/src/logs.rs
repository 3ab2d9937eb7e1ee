//! `GET pods/NAME/log`, and which container a request means.

use std::{process::Stdio, sync::Arc};

use axum::{body::Bytes, response::Response};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::mpsc,
};

use crate::{
    api::Asked,
    node::{list, text},
    podman, resources,
    server::App,
    status::Refusal,
};

/// The pod of a request and the name of the container in it.
pub(crate) fn container(app: &App, asked: &Asked) -> Result<(Value, String), Refusal> {
    let key = resources::key(asked);
    let pod = app.store.get(&key).ok_or_else(|| Refusal::not_found("pods", &key.2))?;
    let names =
        |field: &str| -> Vec<String> { list(&pod["spec"][field]).iter().map(|one| text(&one["name"])).collect() };
    let (regular, initial, ephemeral) = (names("containers"), names("initContainers"), names("ephemeralContainers"));
    let wanted = asked.parameter("container").unwrap_or_default().to_owned();
    if wanted.is_empty() {
        if let [only] = regular.as_slice() {
            let only = only.clone();
            return Ok((pod, only));
        }
        let choice = regular.join(" ");
        return Err(Refusal::bad_request(format!(
            "a container name must be specified for pod {}, choose one of: [{choice}]",
            key.2
        )));
    }
    if regular.iter().chain(&initial).chain(&ephemeral).any(|one| *one == wanted) {
        return Ok((pod, wanted));
    }
    Err(Refusal::bad_request(format!("container {wanted} is not valid for pod {}", key.2)))
}

/// Status of a container.
pub(crate) fn status_of(pod: &Value, container: &str) -> Value {
    let fields = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    fields
        .iter()
        .flat_map(|field| list(&pod["status"][*field]))
        .find(|one| one["name"] == *container)
        .unwrap_or_default()
}

/// Sends a log.
pub(crate) fn answer(app: &Arc<App>, asked: &Asked) -> Result<Response, Refusal> {
    let (pod, container) = container(app, asked)?;
    let Some(name) = app.node.container(&text(&pod["metadata"]["uid"]), &container) else {
        let reason = status_of(&pod, &container)["state"]["waiting"]["reason"]
            .as_str()
            .unwrap_or("ContainerCreating")
            .to_owned();
        let pod_name = text(&pod["metadata"]["name"]);
        return Err(Refusal::bad_request(format!(
            "container \"{container}\" in pod \"{pod_name}\" is waiting to start: {reason}"
        )));
    };
    let mut command = podman::podman();
    command.arg("logs");
    if asked.is_on("follow") {
        command.arg("--follow");
    }
    if asked.is_on("timestamps") {
        command.arg("--timestamps");
    }
    if let Some(lines) = asked.parameter("tailLines") {
        command.args(["--tail", lines]);
    }
    let child = command.arg(name).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.map_err(|why| Refusal::internal(why.to_string()))?;
    let (sender, receiver) = mpsc::channel(16);
    let (output, errors) = (child.stdout.take(), child.stderr.take());
    tokio::spawn(async move {
        let both = async { tokio::join!(copy(output, &sender), copy(errors, &sender)) };
        tokio::select! {
            _ = both => {}
            () = sender.closed() => {}
        }
        drop(child);
    });
    Ok(resources::streamed("text/plain", receiver))
}

async fn copy(from: Option<impl AsyncRead + Unpin>, to: &mpsc::Sender<Bytes>) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; 32 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if to.send(Bytes::copy_from_slice(&buffer[..length])).await.is_err() {
            return;
        }
    }
}
