//! The cluster that is spoken to: from flags, kubeconfig or the pod that this process runs in, as kubectl finds it.

use std::{future::Future, time::Duration};

use kube::{
    Client, Config,
    api::Api,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use tokio::time::timeout;

use super::{
    ClusterProps,
    error::{ClusterError, Doing, api_error, chain},
};

/// A connection must come about within so long.
const CONNECT: Duration = Duration::from_secs(10);
/// A plain call must be answered within so long.
const ANSWER: Duration = Duration::from_secs(30);

/// An API server, and where in it.
#[derive(Clone)]
pub struct Cluster {
    /// Speaks to it.
    pub client: Client,
    /// Its address, for messages.
    pub address: String,
    /// The namespace of the target.
    pub namespace: String,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Cluster({}, {})", self.address, self.namespace)
    }
}

impl Cluster {
    /// Finds it; speaks to nobody yet, but may run the kubeconfig's login helper.
    ///
    /// # Errors
    /// There is no kubeconfig that can be used.
    pub async fn find(props: &ClusterProps) -> Result<Self, ClusterError> {
        let mut config = config(props).await?;
        config.connect_timeout = Some(CONNECT);
        let address = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let namespace = props.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        match Client::try_from(config) {
            Ok(client) => Ok(Self { client, address, namespace }),
            Err(error) => Err(ClusterError::Login { address, why: chain(&error) }),
        }
    }

    /// Objects of the target's namespace.
    #[must_use]
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Waits for an answer, but not for ever.
    ///
    /// # Errors
    /// None came, or one that says no.
    pub async fn call<T>(
        &self,
        doing: &Doing,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, ClusterError> {
        match timeout(ANSWER, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(api_error(error, doing, self)),
            Err(_) => Err(ClusterError::NoAnswer {
                address: self.address.clone(),
                seconds: ANSWER.as_secs(),
                doing: doing.words.clone(),
            }),
        }
    }
}

async fn config(props: &ClusterProps) -> Result<Config, ClusterError> {
    let options = KubeConfigOptions { context: props.context.clone(), ..KubeConfigOptions::default() };
    let read = match &props.kubeconfig {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    };
    let found = match read {
        Ok(kubeconfig) => Config::from_custom_kubeconfig(kubeconfig, &options).await,
        Err(error) => Err(error),
    };
    let error = match found {
        Ok(config) => return Ok(config),
        Err(error) => error,
    };
    // kubectl takes the pod's own account where there is no kubeconfig, and so do we; never against a flag.
    if props.kubeconfig.is_none()
        && props.context.is_none()
        && says_none(&error)
        && let Ok(config) = Config::incluster()
    {
        return Ok(config);
    }
    Err(ClusterError::NoConfig { why: why_no_config(&error, props) })
}

/// Whether there is no kubeconfig, as opposed to one that is wrong.
fn says_none(error: &KubeconfigError) -> bool {
    matches!(error, KubeconfigError::FindPath | KubeconfigError::ReadConfig(..) | KubeconfigError::CurrentContextNotSet)
}

fn why_no_config(error: &KubeconfigError, props: &ClusterProps) -> String {
    match error {
        KubeconfigError::FindPath => "there is no kubeconfig".to_owned(),
        KubeconfigError::ReadConfig(source, path) => {
            format!("the kubeconfig {} cannot be read: {source}", path.display())
        }
        KubeconfigError::CurrentContextNotSet => "the kubeconfig has no current context".to_owned(),
        KubeconfigError::LoadContext(_) if props.context.is_some() => {
            format!(
                "the kubeconfig has no context \"{}\" (see `kubectl config get-contexts`)",
                props.context.as_deref().unwrap_or_default()
            )
        }
        // What cannot be parsed is shown on the lines below the first.
        other => format!("the kubeconfig cannot be used: {}", chain(other).lines().next().unwrap_or_default()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::convert::Infallible;

    use http::{Request, Response};
    use http_body_util::BodyExt as _;
    use kube::client::Body;
    use serde_json::Value;

    use super::*;
    use crate::cluster::{ImageSource, PodTarget, TargetName};

    /// A request as the API server gets it.
    #[derive(Debug)]
    pub(crate) struct Asked {
        pub(crate) method: String,
        pub(crate) path: String,
        pub(crate) query: String,
        pub(crate) body: Vec<u8>,
    }

    /// A cluster whose API server is a function from a request to a status and an object.
    pub(crate) fn cluster_that_answers(
        answer: impl Fn(&Asked) -> (u16, Value) + Clone + Send + Sync + 'static,
    ) -> Cluster {
        let service = tower::service_fn(move |request: Request<Body>| {
            let answer = answer.clone();
            async move {
                let (parts, body) = request.into_parts();
                let asked = Asked {
                    method: parts.method.to_string(),
                    path: parts.uri.path().to_owned(),
                    query: parts.uri.query().unwrap_or_default().to_owned(),
                    body: body.collect().await.unwrap().to_bytes().to_vec(),
                };
                let (status, object) = answer(&asked);
                let body = Body::from(serde_json::to_vec(&object).unwrap());
                Ok::<_, Infallible>(Response::builder().status(status).body(body).unwrap())
            }
        });
        Cluster {
            client: Client::new(service, "prod"),
            address: "https://cluster:6443".to_owned(),
            namespace: "prod".to_owned(),
        }
    }

    /// A cluster that is asked nothing.
    pub(crate) fn cluster() -> Cluster {
        cluster_that_answers(|asked| panic!("{asked:?}"))
    }

    /// What a user asks for with nothing but a pod's name.
    pub(crate) fn props() -> ClusterProps {
        ClusterProps {
            target: TargetName::Pod("vllm-0".to_owned()),
            namespace: None,
            context: None,
            kubeconfig: None,
            container: None,
            image: ImageSource::Auto,
            privileged: false,
            profiler: None,
        }
    }

    /// The container that it leads to.
    pub(crate) fn target() -> PodTarget {
        PodTarget {
            namespace: "prod".to_owned(),
            pod: "vllm-0".to_owned(),
            uid: "u1".to_owned(),
            container: "server".to_owned(),
            container_id: Some("0a1b".to_owned()),
            image: "vllm:2".to_owned(),
            storage_bytes: None,
            restarts: 0,
            node: None,
            platform: None,
            passed_over: vec![],
        }
    }

    fn kubeconfig(folder: &std::path::Path) -> std::path::PathBuf {
        let path = folder.join("config");
        let text = "apiVersion: v1\nkind: Config\ncurrent-context: a\n\
            clusters: [{name: c, cluster: {server: 'http://127.0.0.1:9'}}]\n\
            users: [{name: u, user: {token: t}}]\n\
            contexts: [{name: a, context: {cluster: c, user: u}}, {name: b, context: {cluster: c, user: u, namespace: n}}]\n";
        std::fs::write(&path, text).unwrap();
        path
    }

    #[tokio::test]
    async fn the_namespace_is_the_flags_else_the_contexts() {
        let folder = tempfile::tempdir().unwrap();
        let mut props = ClusterProps { kubeconfig: Some(kubeconfig(folder.path())), ..props() };
        assert_eq!(Cluster::find(&props).await.unwrap().namespace, "default");
        props.context = Some("b".to_owned());
        assert_eq!(Cluster::find(&props).await.unwrap().namespace, "n");
        props.namespace = Some("m".to_owned());
        let cluster = Cluster::find(&props).await.unwrap();
        assert_eq!((cluster.namespace.as_str(), cluster.address.as_str()), ("m", "http://127.0.0.1:9"));
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_kubeconfig_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let mut props = ClusterProps { kubeconfig: Some(folder.path().join("missing")), ..props() };
        let text = Cluster::find(&props).await.unwrap_err().to_string();
        assert!(text.contains("missing cannot be read: ") && text.contains("--kubeconfig"), "{text}");
        props.kubeconfig = Some(kubeconfig(folder.path()));
        props.context = Some("z".to_owned());
        let text = Cluster::find(&props).await.unwrap_err().to_string();
        assert!(text.contains("has no context \"z\""), "{text}");
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let props = ClusterProps { kubeconfig: Some(kubeconfig(folder.path())), ..props() };
        let cluster = Cluster::find(&props).await.unwrap();
        let pods: Api<k8s_openapi::api::core::v1::Pod> = cluster.api();
        let doing = Doing { words: "read pod a".to_owned(), grants: vec![] };
        let text = cluster.call(&doing, pods.get("a")).await.unwrap_err().to_string();
        assert!(text.starts_with("cannot reach the API server http://127.0.0.1:9: "), "{text}");
        assert!(text.contains("refused"), "{text}");
    }
}
