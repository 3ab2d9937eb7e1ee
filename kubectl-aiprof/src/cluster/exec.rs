//! A command in a container, over the WebSocket of an exec session: its input, what it says and how it ends.

use std::time::Duration;

use futures_util::{FutureExt as _, future::BoxFuture};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Status};
use kube::api::{AttachParams, AttachedProcess};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::timeout,
};

use super::{
    Cluster,
    access::EXEC,
    container::says_no_program,
    error::{ClusterError, Doing},
};
use crate::strings::printable;

/// Output of a command that is read at most; what is more ends it.
const MAX_OUTPUT_BYTES: u64 = 16 << 20;
/// Bytes in flight each way.
pub const PIPE_BYTES: usize = 256 << 10;

/// How a command ended and what it said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Exit status.
    pub code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error, as text.
    pub stderr: String,
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SessionEnd {
    /// The command ended with this status.
    #[error("exit status {0}")]
    Exited(i32),
    /// It was never run, in the runtime's words.
    #[error("{0}")]
    NotRun(String),
    /// The way broke.
    #[error("the connection broke")]
    Broken,
}

/// Which container of which pod.
#[derive(Clone, Debug)]
pub struct Place {
    /// The cluster.
    pub cluster: Cluster,
    /// The pod.
    pub pod: String,
    /// The container.
    pub container: String,
}

/// What the status at the end of a session says; none if it never came.
#[must_use]
pub fn session_end(status: Option<Status>) -> SessionEnd {
    let Some(status) = status else { return SessionEnd::Broken };
    if status.status.as_deref() == Some("Success") {
        return SessionEnd::Exited(0);
    }
    let causes = status.details.and_then(|details| details.causes).unwrap_or_default();
    let code = causes.into_iter().find(|cause| cause.reason.as_deref() == Some("ExitCode"));
    let code = code.and_then(|cause| cause.message?.trim().parse().ok());
    let message = status.message.unwrap_or_default();
    match code {
        // What the runtime gives when there is nothing to run is no status of the command's own.
        Some(code) if !says_no_program(&message) => SessionEnd::Exited(code),
        _ => SessionEnd::NotRun(printable(&message)),
    }
}

/// Begins a command with all three streams.
///
/// # Errors
/// The API refuses it or does not answer.
pub async fn begin(place: &Place, command: &[String]) -> Result<AttachedProcess, ClusterError> {
    let params = AttachParams {
        container: Some(place.container.clone()),
        stdin: true,
        stdout: true,
        stderr: true,
        tty: false,
        max_stdin_buf_size: Some(PIPE_BYTES),
        max_stdout_buf_size: Some(PIPE_BYTES),
        max_stderr_buf_size: Some(PIPE_BYTES),
    };
    let program = command.first().map(String::as_str).unwrap_or_default();
    let doing = Doing {
        words: format!("run {program} in container {} of pod {}", place.container, place.pod),
        grants: vec![EXEC],
    };
    place.cluster.call(&doing, place.cluster.api::<Pod>().exec(&place.pod, command, &params)).await
}

/// What is said when a session lacks one.
pub const NO_STREAM: &str = "a stream is missing";

/// The streams of a session, and its end.
pub struct Streams {
    /// To the command.
    pub stdin: Box<dyn AsyncWrite + Send + Unpin>,
    /// What it writes.
    pub stdout: Box<dyn AsyncRead + Send + Unpin>,
    /// What it writes beside that.
    pub stderr: Box<dyn AsyncRead + Send + Unpin>,
    /// How it ended, once.
    pub end: BoxFuture<'static, SessionEnd>,
}

/// Takes them, once; none if one is missing.
pub fn streams(process: &mut AttachedProcess) -> Option<Streams> {
    Some(Streams {
        stdin: Box::new(process.stdin()?),
        stdout: Box::new(process.stdout()?),
        stderr: Box::new(process.stderr()?),
        end: process.take_status()?.map(session_end).boxed(),
    })
}

/// Runs a command to its end with `input` on standard input, which stays open: not every server passes its end on.
///
/// # Errors
/// It cannot be begun, the way breaks, or it lasts longer than `patience`.
pub async fn run(place: &Place, command: &[String], input: &[u8], patience: Duration) -> Result<Output, ClusterError> {
    let doing = || format!("run {} in the pod", command.first().map(String::as_str).unwrap_or_default());
    let failed = |why: String| ClusterError::Command { doing: doing(), why };
    let mut process = begin(place, command).await?;
    let exchange = async {
        let Streams { mut stdin, stdout, stderr, end } =
            streams(&mut process).ok_or_else(|| failed(NO_STREAM.to_owned()))?;
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let end = {
            let write = async {
                // A command that ends early says why by its status.
                let _ = stdin.write_all(input).await;
                let _ = stdin.flush().await;
                std::future::pending::<()>().await;
            };
            let read = async { tokio::join!(read_all(stdout, &mut out), read_all(stderr, &mut err)) };
            let mut read = std::pin::pin!(read);
            let mut status = end;
            tokio::select! {
                () = write => SessionEnd::Broken,
                // All was said; the status comes with it.
                _ = &mut read => status.await,
                end = &mut status => {
                    if end != SessionEnd::Broken {
                        read.await;
                    }
                    end
                }
            }
        };
        let stderr = String::from_utf8_lossy(&err).trim().to_owned();
        match end {
            SessionEnd::Exited(code) => Ok(Output { code, stdout: out, stderr }),
            other => Err(failed(other.to_string())),
        }
    };
    match timeout(patience, exchange).await {
        Ok(result) => result,
        Err(_) => Err(failed(format!("it did not end within {} s", patience.as_secs()))),
    }
}

async fn read_all(stream: impl AsyncRead + Unpin, into: &mut Vec<u8>) {
    // An error is an end: the status says which.
    let _ = stream.take(MAX_OUTPUT_BYTES).read_to_end(into).await;
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn end(status: Value) -> SessionEnd {
        session_end(Some(serde_json::from_value(status).unwrap()))
    }

    #[test]
    fn the_exit_status_is_read_from_the_last_message() {
        assert_eq!(end(json!({"status": "Success"})), SessionEnd::Exited(0));
        let failure = |message: &str, code: &str| {
            json!({
                "status": "Failure", "reason": "NonZeroExitCode", "message": message,
                "details": {"causes": [{"reason": "ExitCode", "message": code}]},
            })
        };
        assert_eq!(end(failure("command terminated with non-zero exit code", "3")), SessionEnd::Exited(3));
        let missing = "exec: \"sh\": executable file not found in $PATH";
        assert_eq!(end(failure(missing, "127")), SessionEnd::NotRun(missing.to_owned()));
        assert_eq!(
            end(json!({"status": "Failure", "reason": "InternalError", "message": "boom"})),
            SessionEnd::NotRun("boom".to_owned())
        );
        assert_eq!(session_end(None), SessionEnd::Broken);
    }
}
