//! Why a container does not start, as a kubelet with containerd says it.

use serde_json::Value;

use crate::{
    faults::Waiting,
    node::{list, text},
    podman,
};

/// Why a container cannot be made at present: a reason and a sentence. `fault` is one that was ordered.
pub(crate) async fn obstacle(fault: Option<Waiting>, pod: &Value, container: &Value) -> Option<(String, String)> {
    if let Some(waiting) = fault {
        return Some((waiting.reason, waiting.message));
    }
    let image = text(&container["image"]);
    if image.contains(|letter: char| letter.is_uppercase() || letter.is_whitespace()) {
        let message = format!(
            "Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": invalid reference format"
        );
        return Some(("InvalidImageName".into(), message));
    }
    let policy = container["imagePullPolicy"].as_str().unwrap_or("IfNotPresent");
    let here = podman::has_image(&image).await.unwrap_or(false);
    if policy == "Never" && !here {
        let message = format!("Container image \"{image}\" is not present with pull policy of Never");
        return Some(("ErrImageNeverPull".into(), message));
    }
    // No registry stands behind this node.
    if policy == "Always" || !here {
        let message = format!(
            "failed to pull and unpack image \"{image}\": failed to resolve reference \"{image}\": failed to do request: \
             dial tcp: lookup registry: no such host"
        );
        return Some(("ErrImagePull".into(), message));
    }
    let own = &container["securityContext"]["runAsNonRoot"];
    let non_root = if own.is_null() { &pod["spec"]["securityContext"]["runAsNonRoot"] } else { own };
    let place = || {
        format!(
            "(pod: \"{}_{}({})\", container: {})",
            text(&pod["metadata"]["name"]),
            text(&pod["metadata"]["namespace"]),
            text(&pod["metadata"]["uid"]),
            text(&container["name"])
        )
    };
    match (non_root == true, podman::user_of(pod, container)) {
        (true, Some(0)) => Some((
            "CreateContainerConfigError".into(),
            format!("container's runAsUser breaks non-root policy {}", place()),
        )),
        (true, None) => {
            let message = format!("container has runAsNonRoot and image will run as root {}", place());
            Some(("CreateContainerConfigError".into(), message))
        }
        _ => missing_source(container).map(|message| ("CreateContainerConfigError".into(), message)),
    }
}

/// What containerd says of a start that failed, from what podman says.
pub(crate) fn start_error(why: &str) -> String {
    let cause = why.trim_start_matches("runc: ").trim_start_matches("runc create failed: ");
    format!(
        "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: {cause}: unknown"
    )
}

/// The first configuration that a container's environment needs; there are none on this node.
fn missing_source(container: &Value) -> Option<String> {
    let from = list(&container["env"]).into_iter().map(|variable| variable["valueFrom"].clone());
    let from = from.chain(list(&container["envFrom"])).find(|source| {
        ["configMapKeyRef", "configMapRef", "secretKeyRef", "secretRef"].iter().any(|kind| !source[*kind].is_null())
    })?;
    let named = |kinds: [&str; 2]| kinds.iter().find_map(|kind| from[*kind]["name"].as_str().map(str::to_owned));
    named(["configMapKeyRef", "configMapRef"])
        .map(|name| format!("configmap \"{name}\" not found"))
        .or_else(|| named(["secretKeyRef", "secretRef"]).map(|name| format!("secret \"{name}\" not found")))
}
