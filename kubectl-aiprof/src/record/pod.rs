//! A capture in a pod: a profiler is brought there, or one that is there is used; if that one is busy or about to end, a new one.

use std::time::SystemTime;

use aiprof_capture::request::Request;

use super::{
    RecordError,
    capture::{self, Captured, Ends, Signals},
    output::Spool,
    progress::Display,
};
use crate::{
    cluster::{self, Cluster, ClusterProps, Profiler},
    transport::{self, way::PodWay},
};

/// Runs a capture to its end; `started_at` becomes when the profiler was asked.
pub(super) async fn capture(
    props: &ClusterProps,
    request: &Request,
    started_at: &mut SystemTime,
    spool: &mut Spool,
    display: &mut Display,
    signals: &mut Signals,
) -> Result<Captured, RecordError> {
    let mut reuse = true;
    loop {
        let profiler = tokio::select! {
            profiler = bring(props, reuse, display) => profiler?,
            // A container that was added ends by itself.
            () = signals.next() => return Ok(Captured::GivenUp),
        };
        let again = profiler.reused;
        let request = Request { container_id: profiler.target.container_id.clone(), ..request.clone() };
        let connection = transport::cluster::connect(PodWay::new(profiler)).map_err(RecordError::Machine)?;
        *started_at = SystemTime::now();
        let ends = Ends { spool: &mut *spool, display: &mut *display, signals: &mut *signals, command: None, again };
        match capture::capture(connection, &request, ends).await? {
            Captured::Again(why) => {
                display.say(&format!("that one cannot be used ({why}); adding another"));
                reuse = false;
            }
            captured => return Ok(captured),
        }
    }
}

async fn bring(props: &ClusterProps, reuse: bool, display: &Display) -> Result<Profiler, RecordError> {
    let found = Cluster::find(props).await?;
    Ok(cluster::prepare(&found, props, reuse, &mut |sentence| display.say(sentence)).await?)
}
