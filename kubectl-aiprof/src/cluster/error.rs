//! What went wrong with the cluster, each as one sentence with the API's own reason and what to do.

use std::{fmt::Write as _, io, path::PathBuf};

use kube::core::Status;
use thiserror::Error;

use super::{
    access::{Grant, role_yaml},
    client::Cluster,
    container::ContainerError,
    target::TargetError,
};
use crate::strings::printable;

/// Why there is no profiler in the pod.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// No kubeconfig that can be used, and not in a pod.
    #[error("no cluster to speak to: {why}; give --kubeconfig FILE, or set KUBECONFIG")]
    NoConfig {
        /// What is wrong with it.
        why: String,
    },
    /// The kubeconfig's user cannot be used.
    #[error("cannot log in to {address}: {why}; check that `kubectl get pods` works with the same kubeconfig")]
    Login {
        /// The API server.
        address: String,
        /// Why not.
        why: String,
    },
    /// Nobody answers.
    #[error("cannot reach the API server {address}: {why}; check the kubeconfig's server, proxy and network")]
    Unreachable {
        /// Its address.
        address: String,
        /// Why not.
        why: String,
    },
    /// It does not answer in time.
    #[error("cannot {doing}: the API server {address} did not answer within {seconds} s; try again")]
    NoAnswer {
        /// Its address.
        address: String,
        /// How long was waited.
        seconds: u64,
        /// What was wanted.
        doing: String,
    },
    /// 401.
    #[error("the API server {address} does not know this user: {message}; log in again")]
    Unauthorized {
        /// Its address.
        address: String,
        /// Its words.
        message: String,
    },
    /// 403 of RBAC.
    #[error("cannot {doing}: {message}; somebody with the right to must grant this:\n{role}")]
    Rbac {
        /// What was wanted.
        doing: String,
        /// The API's words.
        message: String,
        /// The Role that is missing, as YAML.
        role: String,
    },
    /// 403 of Pod Security.
    #[error(
        "cannot {doing}: namespace {namespace} enforces the Pod Security level \"{level}\", which refuses {fields}; \
         profile in a namespace labelled pod-security.kubernetes.io/enforce=privileged, or ask for an exemption"
    )]
    PodSecurity {
        /// What was wanted.
        doing: String,
        /// Where.
        namespace: String,
        /// The level, such as `restricted:latest`.
        level: String,
        /// The fields that it refuses.
        fields: String,
    },
    /// 404 of an object.
    #[error("cannot {doing}: {message}{hint}")]
    NotFound {
        /// What was wanted.
        doing: String,
        /// The API's words.
        message: String,
        /// What to do, with what joins it.
        hint: String,
    },
    /// The API has no ephemeral containers.
    #[error(
        "this cluster has no ephemeral containers ({message}): Kubernetes 1.25 or newer is needed, with the feature on"
    )]
    NoEphemeralContainers {
        /// The API's words.
        message: String,
    },
    /// Any other answer.
    #[error("cannot {doing}: {message}")]
    Api {
        /// What was wanted.
        doing: String,
        /// The API's words.
        message: String,
    },
    /// The pod is no target.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The container does not run.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// The profiler does not get there.
    #[error("cannot bring the profiler into the pod: {why}")]
    Upload {
        /// Why not, and what to do.
        why: String,
    },
    /// This build carries none.
    #[error("this build carries no profiler for the pod; build it with `make build`, or give --image REF")]
    NoneEmbedded,
    /// The one that was named cannot be read.
    #[error("cannot read the profiler {path}: {source}; name another with the variable AIPROF_PROFILER, or unset it")]
    ReadProgram {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The embedded one cannot be unpacked.
    #[error("cannot unpack the profiler: {0}")]
    Unpack(#[source] io::Error),
    /// A command in the pod failed.
    #[error("cannot {doing}: {why}")]
    Command {
        /// What was wanted.
        doing: String,
        /// Why not.
        why: String,
    },
    /// The system gives no random bytes.
    #[error("cannot make a name for the container: {0}")]
    Random(#[from] getrandom::Error),
}

/// What is wanted of the API: words for the sentence, and the right that it takes.
#[derive(Clone, Debug)]
pub struct Doing {
    /// After "cannot".
    pub words: String,
    /// What a Role must grant.
    pub grants: Vec<Grant>,
}

/// An answer of the API as an error.
#[must_use]
pub fn api_error(error: kube::Error, doing: &Doing, cluster: &Cluster) -> ClusterError {
    match error {
        kube::Error::Api(status) => status_error(&status, doing, cluster),
        kube::Error::Auth(error) => ClusterError::Login { address: cluster.address.clone(), why: chain(&error) },
        kube::Error::Service(error) => {
            ClusterError::Unreachable { address: cluster.address.clone(), why: chain(error.as_ref()) }
        }
        kube::Error::HyperError(error) => {
            ClusterError::Unreachable { address: cluster.address.clone(), why: chain(&error) }
        }
        kube::Error::SerdeError(error) => ClusterError::Api {
            doing: doing.words.clone(),
            message: format!("{} sends what is no Kubernetes object: {error}", cluster.address),
        },
        other => ClusterError::Api { doing: doing.words.clone(), message: chain(&other) },
    }
}

fn status_error(status: &Status, doing: &Doing, cluster: &Cluster) -> ClusterError {
    let message = sentence(status);
    let words = doing.words.clone();
    match status.code {
        401 => ClusterError::Unauthorized { address: cluster.address.clone(), message },
        403 => {
            if let Some((level, fields)) = pod_security(&message) {
                return ClusterError::PodSecurity { doing: words, namespace: cluster.namespace.clone(), level, fields };
            }
            // What admission refuses is no right that a Role could grant.
            if message.contains("admission") || !message.contains(" cannot ") {
                return ClusterError::Api { doing: words, message };
            }
            ClusterError::Rbac { doing: words, message, role: role_yaml(&cluster.namespace, &doing.grants) }
        }
        404 | 405 if is_missing_resource(status, doing) => ClusterError::NoEphemeralContainers { message },
        404 => ClusterError::NotFound {
            doing: words,
            message,
            hint: format!("; see `kubectl get {} -n {}`", kind(doing), cluster.namespace),
        },
        _ => ClusterError::Api { doing: words, message },
    }
}

/// What to list when the object is not found.
fn kind(doing: &Doing) -> &'static str {
    let resource = doing.grants.first().map_or("pods", |grant| grant.resource);
    resource.split_once('/').map_or(resource, |(kind, _)| kind)
}

/// Whether the resource itself is unknown, not one object of it.
fn is_missing_resource(status: &Status, doing: &Doing) -> bool {
    let named = status.details.as_ref().is_some_and(|details| !details.name.is_empty());
    let ephemeral = doing.grants.iter().any(|grant| grant.resource == "pods/ephemeralcontainers");
    ephemeral && (status.code == 405 || !named && status.message.contains("could not find the requested resource"))
}

/// Level and fields of a refusal by Pod Security:
/// `pods "x" is forbidden: violates PodSecurity "restricted:latest": privileged (container "y" must not …), …`.
#[must_use]
pub fn pod_security(message: &str) -> Option<(String, String)> {
    let (_, rest) = message.split_once("violates PodSecurity \"")?;
    let (level, rest) = rest.split_once('"')?;
    let fields = rest.trim_start_matches(':').trim();
    let fields = if fields.is_empty() { "the container" } else { fields };
    Some((level.to_owned(), fields.to_owned()))
}

fn sentence(status: &Status) -> String {
    let words = [status.message.as_str(), status.reason.as_str()];
    let words = words.into_iter().map(str::trim).find(|words| !words.is_empty());
    let words = words.map_or_else(|| format!("HTTP status {}", status.code), str::to_owned);
    printable(words.trim_end_matches('.'))
}

/// An error and what caused it, each once.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            let _ = write!(text, ": {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::client::tests::cluster;

    fn error(code: u16, message: &str) -> ClusterError {
        let status = Status { code, message: message.to_owned(), ..Status::default() };
        let grants = vec![Grant::new("", "pods/ephemeralcontainers", &["patch"])];
        let doing = Doing { words: "add a container".to_owned(), grants };
        api_error(kube::Error::Api(Box::new(status)), &doing, &cluster())
    }

    #[tokio::test]
    async fn a_missing_right_prints_the_role() {
        let text = error(
            403,
            "pods \"a\" is forbidden: User \"eve\" cannot patch resource \"pods/ephemeralcontainers\" in API group \"\"",
        )
        .to_string();
        assert!(
            text.starts_with("cannot add a container: pods \"a\" is forbidden: User \"eve\" cannot patch"),
            "{text}"
        );
        assert!(text.contains("kind: Role") && text.contains("resources: [pods/ephemeralcontainers]"), "{text}");
    }

    #[tokio::test]
    async fn pod_security_names_level_and_fields() {
        let text = error(
            403,
            "pods \"a\" is forbidden: violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false \
             (container \"aiprof-x\" must set securityContext.allowPrivilegeEscalation=false), runAsUser=0",
        )
        .to_string();
        assert!(
            text.contains("level \"restricted:latest\", which refuses allowPrivilegeEscalation != false"),
            "{text}"
        );
        assert!(text.contains("runAsUser=0; profile in a namespace"), "{text}");
        assert!(!text.contains("kind: Role"));
    }

    #[tokio::test]
    async fn other_refusals_keep_the_words_of_the_api() {
        let webhook = error(403, "admission webhook \"policy\" denied the request: no debugging");
        assert!(matches!(&webhook, ClusterError::Api { .. }), "{webhook}");
        assert!(matches!(error(404, "pods \"a\" not found"), ClusterError::NotFound { .. }));
        let old = error(404, "the server could not find the requested resource");
        assert!(old.to_string().contains("1.25"), "{old}");
        assert!(matches!(error(401, "Unauthorized"), ClusterError::Unauthorized { .. }));
        assert_eq!(error(500, "boom").to_string(), "cannot add a container: boom");
        assert_eq!(error(503, "").to_string(), "cannot add a container: HTTP status 503");
    }
}
