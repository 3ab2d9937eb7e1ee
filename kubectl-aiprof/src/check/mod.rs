//! `check`: what would work in a pod, dimension by dimension, and why not. First what the API alone says, then what a profiler sees
//! inside. `ps` shows the processes that the profiler sees.
//!
//! [`verdict`] judges (pure), [`show`] prints, [`ps`] is the other command. This file asks.

pub mod ps;
pub mod show;
pub mod verdict;

use std::{
    io::{self, Write as _},
    time::Duration,
};

use aiprof_capture::inspect::Inspection;
use k8s_openapi::api::core::v1::Pod;
use thiserror::Error;

use self::{
    show::Report,
    verdict::{Row, worst},
};
use crate::{
    cluster::{
        Cluster, ClusterError, ClusterProps, PodTarget, Profiler,
        access::{self, Grant},
        container, exec, pick,
        start::{self, chosen},
    },
    format::{OutputFormat, json},
    strings::printable,
};

/// Loading the in-kernel programs to try them takes some seconds on a busy node.
const INSPECT: Duration = Duration::from_mins(1);

/// Which pod, and how to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckProps {
    /// Which pod.
    pub cluster: ClusterProps,
    /// Form of the answer.
    pub format: OutputFormat,
}

/// Why there is no answer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CheckError {
    /// The cluster or the pod says no before anything could be judged.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// This machine refuses what every program needs.
    #[error("cannot begin: {0}")]
    Machine(#[source] io::Error),
}

/// Checks and gives the exit code: 0 if all that is recorded by default works, 3 if some is degraded, 1 if some is refused.
///
/// # Errors
/// Nothing could be judged.
pub fn run(props: &CheckProps) -> Result<u8, CheckError> {
    let report = runtime()?.block_on(check(&props.cluster))?;
    let text = match props.format {
        OutputFormat::Text => report.text(),
        OutputFormat::Json => json(&report),
    };
    // Nobody may read it; the exit code says it too.
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(worst(&report.checks).exit_code())
}

fn runtime() -> Result<tokio::runtime::Runtime, CheckError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CheckError::Machine)
}

async fn check(props: &ClusterProps) -> Result<Report, ClusterError> {
    let cluster = Cluster::find(props).await?;
    let mut report = Report { namespace: cluster.namespace.clone(), ..Report::default() };
    let needed = access::needed(&props.target);
    let answers = access::review(&cluster, &props.target, &needed).await?;
    let refused = access::refused(&needed, &answers);
    if !refused.is_empty() {
        report.role = Some(access::role_yaml(&cluster.namespace, &refused));
    }
    report.checks.push(verdict::rights(&answers));
    if refused.iter().any(may_not_read) {
        report.checks.extend(verdict::not_tried("the pod may not be read"));
        return Ok(report);
    }
    let (pod, target) = match pick::pick(&cluster, props).await {
        Ok(picked) => picked,
        Err(ClusterError::Target(error)) => {
            report.checks.push(Row::refused("pod", &error.to_string(), ""));
            report.checks.extend(verdict::not_tried("the pod is no target"));
            return Ok(report);
        }
        Err(other) => return Err(other),
    };
    eprintln!("{}", chosen(&target));
    report.pod.clone_from(&target.pod);
    report.container.clone_from(&target.container);
    report.node.clone_from(&target.node);
    report.checks.push(Row::works("pod", &format!("Running, image {}", printable(&target.image))));
    report.checks.push(Row::works("node", target.platform.as_deref().unwrap_or("not known: it may not be read")));
    let admitted = admission(&cluster, props, &target).await?;
    let may_go_on = admitted.verdict == verdict::Verdict::Works && refused.is_empty();
    report.checks.push(admitted);
    if !may_go_on {
        report.checks.extend(verdict::not_tried("the profiler's container may not be added and used"));
        return Ok(report);
    }
    match inside(&cluster, props, &pod, target).await {
        Ok(inspection) => {
            report.checks.extend(verdict::inside(&inspection));
            report.inspection = Some(inspection);
        }
        Err(error) => {
            report.checks.push(Row::refused("profiler", &error.to_string(), ""));
            report.checks.extend(verdict::not_tried("the profiler does not run in the pod"));
        }
    }
    Ok(report)
}

fn may_not_read(grant: &Grant) -> bool {
    grant.resource != access::PATCH_EPHEMERAL.resource && grant.resource != access::EXEC.resource
}

/// Whether the API would take the container: rights and Pod Security, by a dry run.
async fn admission(cluster: &Cluster, props: &ClusterProps, target: &PodTarget) -> Result<Row, ClusterError> {
    let container = container::describe(&container::new_name()?, target, props);
    match start::add(cluster, target, &container, true).await {
        Ok(()) => Ok(Row::works("admission", "the API takes the profiler's container (dry run)")),
        Err(ClusterError::PodSecurity { level, fields, .. }) => Ok(Row::refused(
            "admission",
            &format!("Pod Security level \"{level}\" refuses {fields}"),
            "a namespace labelled pod-security.kubernetes.io/enforce=privileged, or an exemption",
        )),
        // The Role is told once, by the rights.
        Err(ClusterError::Rbac { message, .. }) => Ok(Row::refused("admission", &message, "the Role below")),
        Err(error @ (ClusterError::Api { .. } | ClusterError::NoEphemeralContainers { .. })) => {
            Ok(Row::refused("admission", &error.to_string(), ""))
        }
        Err(other) => Err(other),
    }
}

async fn inside(
    cluster: &Cluster,
    props: &ClusterProps,
    pod: &Pod,
    target: PodTarget,
) -> Result<Inspection, ClusterError> {
    let profiler =
        start::prepare_in(cluster, props, pod, target, true, &mut |sentence| eprintln!("{sentence}")).await?;
    inspect(&profiler).await
}

/// What the profiler sees where it is.
async fn inspect(profiler: &Profiler) -> Result<Inspection, ClusterError> {
    let doing = || "look around in the pod".to_owned();
    let failed = |why: String| ClusterError::Command { doing: doing(), why };
    let of_container = profiler.target.container_id.iter().flat_map(|id| ["--container", id.as_str()]);
    let command: Vec<_> = [profiler.program, "inspect"].into_iter().chain(of_container).map(str::to_owned).collect();
    let output = exec::run(&profiler.place, &command, &[], INSPECT).await?;
    if output.code != 0 {
        return Err(failed(format!(
            "the profiler ended with exit status {}: {}",
            output.code,
            printable(&output.stderr)
        )));
    }
    serde_json::from_slice(output.stdout.trim_ascii()).map_err(|error| {
        failed(format!("the profiler's answer cannot be read ({error}): plugin and image must be of one version"))
    })
}

#[cfg(test)]
mod tests;
