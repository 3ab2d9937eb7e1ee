//! Fetches what the user named: the pod, by its name, by the workload that owns it or by labels.

use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment, StatefulSet},
        batch::v1::Job,
        core::v1::{Node, Pod},
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::{
    api::{Api, ListParams},
    core::Selector,
};

use super::{
    Cluster, ClusterProps,
    access::{GET_PODS, Grant, LIST_PODS},
    error::{ClusterError, Doing},
    target::{self, PodTarget, TargetName, Workload},
};

/// Pods listed at most; a workload of more has a ready one among them.
const MAX_PODS: u32 = 500;

/// The pod and container to profile.
///
/// # Errors
/// There is none that can be.
pub async fn pick(cluster: &Cluster, props: &ClusterProps) -> Result<(Pod, PodTarget), ClusterError> {
    let pod = match &props.target {
        TargetName::Pod(name) => get_pod(cluster, name).await?,
        TargetName::Workload(workload, name) => {
            let selector = selector(cluster, *workload, name).await?;
            let labels = Selector::try_from(selector).map_err(|error| ClusterError::Api {
                doing: format!("find the pods of {}", props.target),
                message: error.to_string(),
            })?;
            ready_pod(cluster, ListParams::default().labels_from(&labels), &props.target).await?
        }
        TargetName::Selector(selector) => {
            ready_pod(cluster, ListParams::default().labels(selector), &props.target).await?
        }
    };
    let mut target = target::extract(&pod, props.container.as_deref())?;
    if let Some(node) = get_node(cluster, target.node.as_deref()).await {
        target.platform = Some(target::platform(&node, &target.pod)?);
    }
    Ok((pod, target))
}

/// One pod.
///
/// # Errors
/// It cannot be read.
pub async fn get_pod(cluster: &Cluster, name: &str) -> Result<Pod, ClusterError> {
    let doing = Doing { words: format!("read pod {name}"), grants: vec![GET_PODS] };
    cluster.call(&doing, cluster.api::<Pod>().get(name)).await
}

async fn ready_pod(cluster: &Cluster, params: ListParams, target: &TargetName) -> Result<Pod, ClusterError> {
    let doing = Doing { words: format!("list the pods of {target}"), grants: vec![LIST_PODS] };
    let pods = cluster.call(&doing, cluster.api::<Pod>().list(&params.limit(MAX_PODS))).await?;
    Ok(target::choose_pod(pods.items, target, &cluster.namespace)?)
}

/// The labels by which a workload knows its pods.
async fn selector(cluster: &Cluster, workload: Workload, name: &str) -> Result<LabelSelector, ClusterError> {
    let (group, resource) = workload.resource();
    let doing = Doing {
        words: format!("read {}/{name}", workload.short()),
        grants: vec![Grant { group, resource, verbs: &["get"] }, LIST_PODS],
    };
    let selector = match workload {
        Workload::Deployment => {
            let found = cluster.call(&doing, cluster.api::<Deployment>().get(name)).await?;
            found.spec.map(|spec| spec.selector)
        }
        Workload::StatefulSet => {
            let found = cluster.call(&doing, cluster.api::<StatefulSet>().get(name)).await?;
            found.spec.map(|spec| spec.selector)
        }
        Workload::DaemonSet => {
            let found = cluster.call(&doing, cluster.api::<DaemonSet>().get(name)).await?;
            found.spec.map(|spec| spec.selector)
        }
        Workload::Job => {
            let found = cluster.call(&doing, cluster.api::<Job>().get(name)).await?;
            found.spec.and_then(|spec| spec.selector)
        }
    };
    let empty = |selector: &LabelSelector| {
        selector.match_labels.as_ref().is_none_or(std::collections::BTreeMap::is_empty)
            && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
    };
    // An empty selector would list every pod of the namespace.
    selector.filter(|selector| !empty(selector)).ok_or_else(|| ClusterError::Api {
        doing: doing.words,
        message: "it selects no pods by labels; name the pod itself".to_owned(),
    })
}

/// The node. Few users may read nodes, and then nothing is known.
async fn get_node(cluster: &Cluster, node: Option<&str>) -> Option<Node> {
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let doing = Doing { words: "read the node".to_owned(), grants: vec![] };
    cluster.call(&doing, nodes.get(node?)).await.ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::cluster::client::tests::{Asked, cluster_that_answers, props};

    fn pod(name: &str) -> Value {
        json!({
            "metadata": {"name": name, "namespace": "prod", "uid": "u1"},
            "spec": {"nodeName": "n1", "containers": [{"name": "server", "image": "vllm:2"}]},
            "status": {
                "phase": "Running",
                "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [{"name": "server", "restartCount": 0, "state": {"running": {}}}],
            },
        })
    }

    fn answer(asked: &Asked) -> (u16, Value) {
        match asked.path.as_str() {
            "/api/v1/namespaces/prod/pods/vllm-0" => (200, pod("vllm-0")),
            "/api/v1/namespaces/prod/pods" => {
                assert!(asked.query.contains("labelSelector=app%3Dvllm"), "{asked:?}");
                (
                    200,
                    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [pod("vllm-b"), pod("vllm-a")]}),
                )
            }
            "/apis/apps/v1/namespaces/prod/deployments/vllm" => (
                200,
                json!({"metadata": {"name": "vllm"}, "spec": {"selector": {"matchLabels": {"app": "vllm"}}, "template": {}}}),
            ),
            "/apis/batch/v1/namespaces/prod/jobs/bare" => {
                (200, json!({"metadata": {"name": "bare"}, "spec": {"template": {}}}))
            }
            "/api/v1/nodes/n1" => (
                403,
                json!({"kind": "Status", "code": 403, "message": "nodes \"n1\" is forbidden: User \"u\" cannot get"}),
            ),
            path => (
                404,
                json!({"kind": "Status", "code": 404, "reason": "NotFound", "message": format!("{path} not found")}),
            ),
        }
    }

    async fn picked(target: &str) -> Result<String, String> {
        let props = ClusterProps { target: target.parse().unwrap(), ..props() };
        pick(&cluster_that_answers(answer), &props)
            .await
            .map(|(_, target)| target.pod)
            .map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_pod_is_found_by_name_and_by_workload() {
        assert_eq!(picked("pod/vllm-0").await.as_deref(), Ok("vllm-0"));
        assert_eq!(picked("deploy/vllm").await.as_deref(), Ok("vllm-a"));
        let text = picked("pod/other").await.unwrap_err();
        assert!(text.starts_with("cannot read pod other: ") && text.contains("kubectl get pods -n prod"), "{text}");
        assert!(picked("job/bare").await.unwrap_err().contains("selects no pods"));
    }

    #[tokio::test]
    async fn a_windows_node_is_refused() {
        let cluster = cluster_that_answers(|asked| match asked.path.as_str() {
            "/api/v1/nodes/n1" => (200, json!({"metadata": {"name": "n1", "labels": {"kubernetes.io/os": "windows"}}})),
            _ => answer(asked),
        });
        let error = pick(&cluster, &props()).await.unwrap_err();
        assert_eq!(error.to_string(), "pod vllm-0 runs on windows: only Linux can be profiled");
    }
}
