//! A profiler in the pod, ready to be exec'ed: one that lives there already, or a new container.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::{EphemeralContainer, Pod};
use kube::api::{LogParams, Patch, PatchParams};
use tokio::time::{sleep, timeout};

use super::{
    Cluster, ClusterError, ClusterProps, ImageSource, PodTarget,
    access::{self, PATCH_EPHEMERAL},
    container::{self, ContainerError, Living, Progress},
    error::Doing,
    exec::{self, Place},
    pick,
    upload::Program,
};
use crate::strings::printable;

/// Who changes the pod, as its managed fields have it.
const FIELD_MANAGER: &str = "kubectl-aiprof";
/// A container whose image is on the node starts within so long.
const START: Duration = Duration::from_mins(1);
/// One whose image may have to be pulled.
const PULL: Duration = Duration::from_mins(3);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(150);
/// A container that lives answers within so long.
const PROBE: Duration = Duration::from_secs(5);
/// Its last lines are waited for so long.
const LOG: Duration = Duration::from_secs(5);
/// How many of them.
const LOG_LINES: i64 = 5;

/// A profiler that can be run in the pod.
#[derive(Debug)]
pub struct Profiler {
    /// Where.
    pub place: Place,
    /// Its path there.
    pub program: &'static str,
    /// Beside whom.
    pub target: PodTarget,
    /// Whether its container was there before: it may end at any moment, or serve somebody else.
    pub reused: bool,
}

/// Brings a profiler into the pod, or takes one that is there if `reuse` says so, and gives it; `say` takes a sentence for the user.
///
/// # Errors
/// The pod is no target, the API refuses, the container does not start, or the profiler does not get there.
pub async fn prepare(
    cluster: &Cluster,
    props: &ClusterProps,
    reuse: bool,
    say: &mut dyn FnMut(&str),
) -> Result<Profiler, ClusterError> {
    let prepared = async {
        let (pod, target) = pick::pick(cluster, props).await?;
        // A second try has told it before.
        if reuse {
            say(&chosen(&target));
        }
        prepare_in(cluster, props, &pod, target, reuse, say).await
    };
    match prepared.await {
        // Who lacks one right may lack others: all that are missing are told at once.
        Err(ClusterError::Rbac { doing, message, .. }) => {
            let role = access::missing_role(cluster, &props.target).await;
            Err(ClusterError::Rbac { doing, message, role })
        }
        prepared => prepared,
    }
}

/// The same for a pod that was picked already.
///
/// # Errors
/// As for [`prepare`].
pub async fn prepare_in(
    cluster: &Cluster,
    props: &ClusterProps,
    pod: &Pod,
    target: PodTarget,
    reuse: bool,
    say: &mut dyn FnMut(&str),
) -> Result<Profiler, ClusterError> {
    let program = match props.image {
        ImageSource::Auto => Some(Program::load(props.profiler.as_deref())?),
        ImageSource::Image(_) => None,
    };
    let place = |name: &str| Place { cluster: cluster.clone(), pod: target.pod.clone(), container: name.to_owned() };
    let living = if reuse { container::living(pod, &target, props) } else { Vec::new() };
    for living in living {
        let place = place(&living.name);
        // Another version's program is left to its own plugin; a container that has just ended runs nothing.
        let same = match (&program, living.uploaded) {
            (Some(program), true) => program.is_there(&place).await,
            (None, true) => false,
            (_, false) => {
                let command = [living.program(), "--version"].map(str::to_owned);
                exec::run(&place, &command, &[], PROBE).await.is_ok()
            }
        };
        if same {
            say(&format!("using container {} again", living.name));
            return Ok(Profiler { place, program: living.program(), target, reused: true });
        }
    }
    if let Some(program) = &program {
        program.fits(target.storage_bytes)?;
    }
    let name = container::new_name()?;
    add(cluster, &target, &container::describe(&name, &target, props), false).await?;
    let patience = if program.is_some() { START } else { PULL };
    wait(cluster, &target, &name, patience).await?;
    let place = place(&name);
    if let Some(program) = &program {
        program.upload(&place).await?;
    }
    let living = Living { name, uploaded: program.is_some() };
    Ok(Profiler { place, program: living.program(), target, reused: false })
}

/// Which pod and container it is, for the user.
#[must_use]
pub fn chosen(target: &PodTarget) -> String {
    let mut text = format!("pod {} in namespace {}, container {}", target.pod, target.namespace, target.container);
    if !target.passed_over.is_empty() {
        let _ = write!(text, " (choose another of {} with -c)", target.passed_over.join(", "));
    }
    text
}

/// Adds the container to the pod, or only asks whether it could be.
///
/// # Errors
/// The API refuses it.
pub async fn add(
    cluster: &Cluster,
    target: &PodTarget,
    container: &EphemeralContainer,
    dry_run: bool,
) -> Result<(), ClusterError> {
    let params = PatchParams { dry_run, field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let patch = Patch::Strategic(container::patch(container));
    let doing =
        Doing { words: format!("add an ephemeral container to pod {}", target.pod), grants: vec![PATCH_EPHEMERAL] };
    let pods = cluster.api::<Pod>();
    cluster.call(&doing, pods.patch_ephemeral_containers(&target.pod, &params, &patch)).await?;
    Ok(())
}

/// Waits until the container runs.
///
/// # Errors
/// It does not, for a reason that does not pass, or not within `patience`.
pub async fn wait(cluster: &Cluster, target: &PodTarget, name: &str, patience: Duration) -> Result<(), ClusterError> {
    let until = Instant::now() + patience;
    loop {
        let pod = pick::get_pod(cluster, &target.pod).await?;
        let state = match container::judge(&pod, name) {
            Progress::Running => return Ok(()),
            Progress::Failed(error) => return Err(with_log(cluster, target, error).await.into()),
            Progress::Starting(state) => state,
        };
        if Instant::now() >= until {
            let seconds = patience.as_secs();
            return Err(ContainerError::TooSlow { name: name.to_owned(), seconds, state }.into());
        }
        sleep(LOOK).await;
    }
}

/// The error with the container's last lines, if they can be had.
async fn with_log(cluster: &Cluster, target: &PodTarget, mut error: ContainerError) -> ContainerError {
    if let ContainerError::Terminated { name, log, .. } = &mut error {
        let params = LogParams { container: Some(name.clone()), tail_lines: Some(LOG_LINES), ..LogParams::default() };
        let pods = cluster.api::<Pod>();
        if let Ok(Ok(text)) = timeout(LOG, pods.logs(&target.pod, &params)).await {
            let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
            if !lines.is_empty() {
                *log = format!(", saying: {}", printable(&lines.join(" / ")));
            }
        }
    }
    error
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use serde_json::{Value, json};

    use super::*;
    use crate::cluster::client::tests::{cluster_that_answers, props, target};

    fn pod(state: &Value) -> Value {
        json!({
            "metadata": {"name": "vllm-0"}, "spec": {"containers": []},
            "status": {"ephemeralContainerStatuses": [{"name": "aiprof-abcde", "state": state}]},
        })
    }

    #[tokio::test]
    async fn the_container_is_added_by_a_strategic_patch() {
        let cluster = cluster_that_answers(|asked| {
            assert_eq!(asked.method, "PATCH");
            assert_eq!(asked.path, "/api/v1/namespaces/prod/pods/vllm-0/ephemeralcontainers");
            assert!(asked.query.contains("fieldManager=kubectl-aiprof"), "{asked:?}");
            assert!(asked.query.contains("dryRun=All"), "{asked:?}");
            let body: Value = serde_json::from_slice(&asked.body).unwrap();
            assert_eq!(body["spec"]["ephemeralContainers"][0]["name"], "aiprof-abcde");
            (200, pod(&json!({})))
        });
        let container = container::describe("aiprof-abcde", &target(), &props());
        add(&cluster, &target(), &container, true).await.unwrap();
    }

    #[tokio::test]
    async fn it_is_waited_for_until_it_runs() {
        let looks = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&looks);
        let cluster = cluster_that_answers(move |_| {
            let state = match seen.fetch_add(1, Ordering::Relaxed) {
                0 => json!({"waiting": {"reason": "ContainerCreating"}}),
                _ => json!({"running": {}}),
            };
            (200, pod(&state))
        });
        wait(&cluster, &target(), "aiprof-abcde", START).await.unwrap();
        assert_eq!(looks.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn no_wait_is_endless() {
        let cluster = cluster_that_answers(|_| (200, pod(&json!({"waiting": {"reason": "ContainerCreating"}}))));
        let error = wait(&cluster, &target(), "aiprof-abcde", Duration::ZERO).await.unwrap_err();
        assert!(error.to_string().contains("within 0 s: ContainerCreating"), "{error}");
    }

    #[tokio::test]
    async fn a_container_that_ended_is_told_with_its_last_lines() {
        let cluster = cluster_that_answers(|asked| {
            if asked.path.ends_with("/log") {
                assert!(asked.query.contains("tailLines=5") && asked.query.contains("container=aiprof-abcde"));
                return (200, json!("mkdir: read-only file system"));
            }
            (200, pod(&json!({"terminated": {"exitCode": 120, "reason": "Error"}})))
        });
        let text = wait(&cluster, &target(), "aiprof-abcde", START).await.unwrap_err().to_string();
        assert!(text.contains("ended: Error, exit code 120, saying: \"mkdir: read-only file system\""), "{text}");
    }

    #[test]
    fn the_user_is_told_which_container_was_chosen() {
        let target = PodTarget { passed_over: vec!["proxy".to_owned()], ..target() };
        let text = chosen(&target);
        assert_eq!(text, "pod vllm-0 in namespace prod, container server (choose another of proxy with -c)");
    }
}
