//! How exec sessions into a pod come about, and what their ends mean.

use std::{fmt, future::Future};

use aiprof_capture::attach::SOCKET;
use kube::api::AttachedProcess;

use super::resume::{Break, Look};
use crate::cluster::{
    ClusterError, PodTarget, Profiler,
    alive::why_gone,
    container::says_no_program,
    exec::{self, Place, SessionEnd, Streams},
    pick,
};

/// An open session.
pub struct Session {
    /// The capture is its standard output, the progress its standard error.
    pub streams: Streams,
    /// Ends the session when it is dropped.
    pub process: Option<AttachedProcess>,
}

impl fmt::Debug for Session {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Session").finish_non_exhaustive()
    }
}

/// How sessions come about.
pub trait Way: Send + Sync + 'static {
    /// Opens one.
    fn open(&self) -> impl Future<Output = Result<Session, Break>> + Send;
    /// Looks whether the other end still lives.
    fn look(&self) -> impl Future<Output = Look> + Send;
}

/// To a profiler in a pod.
#[derive(Debug)]
pub struct PodWay {
    place: Place,
    command: Vec<String>,
    target: PodTarget,
}

impl PodWay {
    /// To this one.
    #[must_use]
    pub fn new(profiler: Profiler) -> Self {
        let command = [profiler.program, "attach", "--socket", SOCKET].map(str::to_owned).to_vec();
        Self { place: profiler.place, command, target: profiler.target }
    }
}

impl Way for PodWay {
    async fn open(&self) -> Result<Session, Break> {
        let mut process = exec::begin(&self.place, &self.command).await.map_err(judge)?;
        let streams = exec::streams(&mut process).ok_or_else(|| Break::Broken(exec::NO_STREAM.to_owned()))?;
        Ok(Session { streams, process: Some(process) })
    }

    async fn look(&self) -> Look {
        match pick::get_pod(&self.place.cluster, &self.place.pod).await {
            Ok(pod) => match why_gone(&pod, &self.target, &self.place.container) {
                Some(why) => Look::Gone(why),
                None => Look::Alive,
            },
            Err(ClusterError::NotFound { .. }) => {
                Look::Gone(format!("pod {} was deleted while it was recorded", self.place.pod))
            }
            Err(error) => Look::Unknown(error.to_string()),
        }
    }
}

/// Whether an error is for good.
fn judge(error: ClusterError) -> Break {
    match error {
        ClusterError::Rbac { .. }
        | ClusterError::PodSecurity { .. }
        | ClusterError::Unauthorized { .. }
        | ClusterError::Login { .. } => Break::Refused(error.to_string()),
        other => Break::Broken(other.to_string()),
    }
}

/// What the end of a session means for the next one.
pub(super) fn session_break(how: Option<SessionEnd>) -> Break {
    match how {
        Some(SessionEnd::Exited(code)) => Break::Exited(code),
        Some(SessionEnd::NotRun(why)) if says_no_program(&why) => {
            Break::Refused(format!("the image holds no profiler ({why}); give another --image"))
        }
        Some(SessionEnd::NotRun(why)) => Break::Broken(why),
        Some(SessionEnd::Broken) | None => Break::Broken("the connection broke".to_owned()),
    }
}
