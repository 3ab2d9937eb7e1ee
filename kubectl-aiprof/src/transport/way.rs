//! How exec sessions into a pod come about, and what their ends mean.

use std::{fmt, future::Future, time::Duration};

use aiprof_capture::attach::SOCKET;
use kube::api::AttachedProcess;
use tokio::time::sleep;

use super::resume::{Break, Look};
use crate::cluster::{
    ClusterError, PodTarget, Profiler,
    alive::{Gone, why_gone},
    container::says_no_program,
    exec::{self, Place, SessionEnd, Streams},
    pick,
};

/// The ends of two containers that ended together may be told one after the other: how often, and when, to look for the second.
const FURTHER_LOOKS: usize = 8;
const LOOK_AGAIN: Duration = Duration::from_millis(500);

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
        match self.look_once().await {
            Ok(None) => Look::Alive,
            Ok(Some(Gone::Target(why))) => Look::Gone(why),
            Ok(Some(Gone::Profiler(why))) => Look::Gone(self.why_target_gone().await.unwrap_or(why)),
            Err(error) => Look::Unknown(error.to_string()),
        }
    }
}

impl PodWay {
    /// What has become of the target, once the profiler is known to have ended; none if the target lives on.
    async fn why_target_gone(&self) -> Option<String> {
        for _ in 0..FURTHER_LOOKS {
            sleep(LOOK_AGAIN).await;
            if let Ok(Some(Gone::Target(why))) = self.look_once().await {
                return Some(why);
            }
        }
        None
    }

    async fn look_once(&self) -> Result<Option<Gone>, ClusterError> {
        match pick::get_pod(&self.place.cluster, &self.place.pod).await {
            Ok(pod) => Ok(why_gone(&pod, &self.target, &self.place.container)),
            Err(ClusterError::NotFound { .. }) => {
                Ok(Some(Gone::Target(format!("pod {} was deleted while it was recorded", self.place.pod))))
            }
            Err(error) => Err(error),
        }
    }
}

/// Whether an error is for good.
fn judge(error: ClusterError) -> Break {
    match error {
        // The Role was no help to whoever had these rights when the capture began.
        ClusterError::Rbac { doing, message, .. } => Break::Refused(format!("cannot {doing}: {message}")),
        ClusterError::PodSecurity { .. } | ClusterError::Unauthorized { .. } | ClusterError::Login { .. } => {
            Break::Refused(error.to_string())
        }
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
