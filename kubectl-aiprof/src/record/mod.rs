//! `record`: from what the user asked to an archive.
//!
//! [`session`] puts together what a profiler sends, [`capture`] moves the bytes, [`pod`] records in a pod, [`output`] says where things go, [`progress`] and [`summary`] tell the user. This file joins them.

pub mod capture;
pub mod output;
pub mod pod;
pub mod progress;
pub mod session;
pub mod summary;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use aiprof_capture::{
    archive::{self, ArchiveError},
    manifest::{Clocks, Cost, Host, Manifest, Outcome as DimensionOutcome, ProcessOutcome, SCHEMA_VERSION},
    progress::{EndReason, Progress},
    request::{Dimension, PROTOCOL_VERSION, Request},
};
use thiserror::Error;

pub use self::progress::ProgressMode;
use self::{
    capture::{Captured, Ends, Signals},
    output::Spool,
    progress::Display,
    session::{Outcome, Torn},
};
use crate::{
    EXIT_FAILED, EXIT_GIVEN_UP, EXIT_PARTIAL,
    advice::advice,
    cluster::{ClusterError, ClusterProps},
    local::{self, HeldCommand, LocalError},
    open, platform,
    strings::printable,
};

/// A program that outlives its window has so long to end by itself.
const COMMAND_GRACE: Duration = Duration::from_secs(5);

/// What to record and how.
#[derive(Clone, Debug)]
pub struct RecordProps {
    /// Whose doings.
    pub target: Target,
    /// How long; none: until the target ends.
    pub duration: Option<Duration>,
    /// Samples a second of each busy CPU.
    pub frequency_hz: u32,
    /// Dimensions that are wanted, each once.
    pub collect: Vec<Dimension>,
    /// System calls from this length on are told one by one.
    pub syscall_min: Duration,
    /// Where to write the archive; none: a name made from the target's.
    pub output: Option<PathBuf>,
    /// Whether to show the result in the UI.
    pub open: bool,
    /// How to show progress.
    pub progress: ProgressMode,
    /// The profiler to run; none: the embedded one.
    pub profiler: Option<PathBuf>,
}

/// Whose doings are recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Processes that run already.
    Running {
        /// By id.
        pids: Vec<u32>,
        /// By a part of the name or command line.
        processes: Vec<String>,
    },
    /// Processes of a pod.
    Pod {
        /// Which pod.
        cluster: Box<ClusterProps>,
        /// By id, as the pod numbers them; with no `processes` either: all that run Python.
        pids: Vec<u32>,
        /// By a part of the name or command line.
        processes: Vec<String>,
    },
    /// A program to start.
    Command {
        /// Its name or path.
        program: OsString,
        /// What it is called with.
        arguments: Vec<OsString>,
    },
}

/// Why there is no archive.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The archive cannot be written where it should go.
    #[error("cannot write {path}: {source}; choose another place with -o FILE")]
    Output {
        /// The archive.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The trace cannot be kept while it arrives.
    #[error(
        "cannot keep the capture in {folder}: {source}; free some space there or choose another place with -o FILE"
    )]
    Spool {
        /// The folder.
        folder: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The archive cannot be made of what arrived.
    #[error("{0}{advice}", advice = advice(.0))]
    Archive(#[from] ArchiveError),
    /// No profiler on this machine, or not the user's program.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// No profiler in the pod.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The profiler said why it cannot, or ended with nothing.
    #[error("{message}{}{hint}", if hint.is_empty() { "" } else { "; " })]
    Profiler {
        /// What and why.
        message: String,
        /// What to do next; may be empty.
        hint: String,
    },
    /// This machine refuses what every program needs.
    #[error("cannot begin: {0}")]
    Machine(#[source] io::Error),
}

/// Records and gives the exit code.
///
/// # Errors
/// No archive was written. With `--progress json` the error is told as a JSON line, and the exit code is given instead.
pub fn run(props: &RecordProps) -> Result<u8, RecordError> {
    let mut display = Display::new(props.progress);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RecordError::Machine)?;
    let result = runtime.block_on(record(props, &mut display));
    display.clear();
    let (path, code) = match result {
        Ok(Recorded::Archive { path, code }) => (path, code),
        Ok(Recorded::GivenUp) => {
            display.say("given up: no archive was written");
            return Ok(EXIT_GIVEN_UP);
        }
        Err(error) if props.progress == ProgressMode::Json => {
            // The profiler's own error was passed on when it came.
            if !matches!(&error, RecordError::Profiler { hint, .. } if !hint.is_empty()) {
                progress::write_json(&Progress::Error { message: error.to_string(), hint: String::new() });
            }
            return Ok(EXIT_FAILED);
        }
        Err(error) => return Err(error),
    };
    if props.open {
        let shown =
            open::OpenProps { archive: path, port: open::DEFAULT_PORT, ui: open::UiSource::default(), browser: true };
        if let Err(error) = open::run(&shown) {
            eprintln!("error: the archive is written, but {error}");
            return Ok(EXIT_FAILED);
        }
    }
    Ok(code)
}

enum Recorded {
    Archive { path: PathBuf, code: u8 },
    GivenUp,
}

async fn record(props: &RecordProps, display: &mut Display) -> Result<Recorded, RecordError> {
    let path = output::archive_path(props.output.as_deref(), &props.target)?;
    let mut spool = Spool::create(&path)?;
    let mut signals = Signals::listen().map_err(RecordError::Machine)?;
    let mut command = match &props.target {
        Target::Command { program, arguments } => Some(HeldCommand::spawn(program, arguments)?),
        Target::Running { .. } | Target::Pod { .. } => None,
    };
    let request = request(props, command.as_ref().map(HeldCommand::pid));
    let mut started_at = SystemTime::now();
    let captured = match &props.target {
        Target::Pod { cluster, .. } => {
            pod::capture(cluster, &request, &mut started_at, &mut spool, display, &mut signals).await
        }
        Target::Running { .. } | Target::Command { .. } => {
            let connection = local::start(props.profiler.as_deref())?;
            let (spool, signals) = (&mut spool, &mut signals);
            let ends = Ends { spool, display, signals, command: command.as_mut(), again: false };
            capture::capture(connection, &request, ends).await
        }
    };
    let recorded = keep(captured, &request, started_at, &path, &mut spool, display);
    if let Some(command) = &mut command {
        end_command(command, &mut signals, display).await;
    }
    recorded
}

fn request(props: &RecordProps, started: Option<u32>) -> Request {
    let (pids, processes) = match &props.target {
        Target::Running { pids, processes } | Target::Pod { pids, processes, .. } => (pids.clone(), processes.clone()),
        Target::Command { .. } => (started.into_iter().collect(), Vec::new()),
    };
    Request {
        protocol: PROTOCOL_VERSION,
        pids,
        container_id: None,
        processes,
        duration_ms: props.duration.map(|duration| duration.as_millis() as u64),
        frequency_hz: props.frequency_hz,
        collect: props.collect.clone(),
        syscall_min_ns: props.syscall_min.as_nanos() as u64,
    }
}

/// Writes the archive of what was captured and tells what is in it.
fn keep(
    captured: Result<Captured, RecordError>,
    request: &Request,
    started_at: SystemTime,
    path: &Path,
    spool: &mut Spool,
    display: &Display,
) -> Result<Recorded, RecordError> {
    let (manifest, torn) = match captured? {
        Captured::GivenUp => return Ok(Recorded::GivenUp),
        Captured::Again(message) => return Err(RecordError::Profiler { message, hint: String::new() }),
        Captured::Ended(Outcome::Failed { message, hint }) => {
            return Err(RecordError::Profiler {
                message: printable(&message).trim_end_matches('.').to_owned(),
                hint: printable(&hint),
            });
        }
        Captured::Ended(Outcome::Whole(manifest)) => (*manifest, None),
        Captured::Ended(Outcome::Torn(torn)) => {
            let why = torn.why.clone();
            (torn_manifest(torn, request, started_at), Some(why))
        }
    };
    archive::write(path, &manifest, spool.file())?;
    if let Err(error) = platform::give_to_sudo_user(path) {
        display.warn(&format!("{} stays root's: {error}", path.display()));
    }
    let bytes = path.metadata().map_or(0, |metadata| metadata.len());
    display.clear();
    let missing = match torn {
        Some(why) => vec![why],
        None => summary::missing(&manifest, spool.bytes()),
    };
    for sentence in &missing {
        tell(display, sentence);
    }
    // Nobody may read it; the archive is written all the same.
    let _ = io::stdout().write_all(summary::summary(path, bytes, &manifest).as_bytes());
    Ok(Recorded::Archive { path: path.to_owned(), code: if missing.is_empty() { 0 } else { EXIT_PARTIAL } })
}

/// Says on standard error that something is missing: always, since the exit code says so too.
fn tell(display: &Display, sentence: &str) {
    match display {
        Display::Json => display.warn(sentence),
        _ => eprintln!("warning: {sentence}"),
    }
}

/// The manifest of a capture whose end is missing: what arrived of the profiler's own, else what is known here.
fn torn_manifest(torn: Torn, request: &Request, started_at: SystemTime) -> Manifest {
    let partial = DimensionOutcome::Partial { reasons: vec![torn.why.clone()] };
    let dimensions: BTreeMap<_, _> = request.collect.iter().map(|&dimension| (dimension, partial.clone())).collect();
    if let Some(manifest) = torn.manifest {
        let mut manifest = *manifest;
        manifest.dimensions = dimensions;
        manifest.end_reason = EndReason::ProfilerDied;
        manifest.notes.push(format!("The trace may not be whole: {}.", torn.why));
        return manifest;
    }
    let processes = torn.processes.into_iter().map(|process| ProcessOutcome {
        pid: process.pid,
        name: process.name,
        python: process.python,
        exited_after_ms: None,
        dimensions: dimensions.clone(),
    });
    Manifest {
        schema: SCHEMA_VERSION,
        profiler_version: "unknown".to_owned(),
        request: request.clone(),
        end_reason: EndReason::ProfilerDied,
        started_at: humantime::format_rfc3339_seconds(started_at).to_string(),
        duration_ms: torn.elapsed_ms,
        clock: Clocks::default(),
        host: Host::default(),
        processes: processes.collect(),
        dimensions,
        streams: BTreeMap::new(),
        cost: Cost::default(),
        notes: vec![
            format!("The trace ends early: {}.", torn.why),
            "This manifest was made by the plugin; host, clocks, losses and cost are not known.".to_owned(),
        ],
    }
}

/// Ends the user's program if it still runs; a signal to the plugin ends it at once.
async fn end_command(command: &mut HeldCommand, signals: &mut Signals, display: &Display) {
    let killed = tokio::select! {
        killed = command.end(COMMAND_GRACE) => killed,
        () = signals.next() => command.end(Duration::ZERO).await,
    };
    match (killed, command.status()) {
        (Some(true), _) => display.say("the program did not end on SIGTERM within 5 s of its recording and was killed"),
        (Some(false), _) => display.say("the program was still running after its recording and was ended (SIGTERM)"),
        (None, Some(status)) if !status.success() => display.say(&format!("the program ended with {status}")),
        (None, _) => {}
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A manifest of a capture in which nothing is missing.
    pub(crate) fn manifest() -> Manifest {
        let collect = vec![Dimension::Python, Dimension::Cpu];
        let complete: BTreeMap<_, _> =
            collect.iter().map(|&dimension| (dimension, DimensionOutcome::Complete)).collect();
        Manifest {
            schema: SCHEMA_VERSION,
            profiler_version: "0.1.0".to_owned(),
            request: Request {
                protocol: PROTOCOL_VERSION,
                pids: vec![42],
                container_id: None,
                processes: vec![],
                duration_ms: Some(1_000),
                frequency_hz: 100,
                collect,
                syscall_min_ns: 0,
            },
            end_reason: EndReason::Duration,
            started_at: "2026-01-01T00:00:00Z".to_owned(),
            duration_ms: 1_000,
            clock: Clocks::default(),
            host: Host::default(),
            dimensions: complete.clone(),
            processes: vec![ProcessOutcome {
                pid: 42,
                name: "server.py".to_owned(),
                python: Some("CPython 3.12.1".to_owned()),
                exited_after_ms: None,
                dimensions: complete,
            }],
            streams: BTreeMap::new(),
            cost: Cost::default(),
            notes: vec![],
        }
    }

    #[test]
    fn a_torn_capture_is_partial_in_every_dimension() {
        let request = manifest().request;
        let torn = Torn { why: "it died".into(), manifest: None, processes: vec![], elapsed_ms: 250 };
        let made = torn_manifest(torn, &request, SystemTime::UNIX_EPOCH);
        assert_eq!(made.end_reason, EndReason::ProfilerDied);
        assert_eq!(made.started_at, "1970-01-01T00:00:00Z");
        assert_eq!(made.duration_ms, 250);
        for dimension in &request.collect {
            assert!(matches!(&made.dimensions[dimension], DimensionOutcome::Partial { .. }));
        }
    }

    #[test]
    fn errors_are_one_sentence_with_the_hint() {
        let error = RecordError::Profiler { message: "no process 9".into(), hint: "see `ps`".into() };
        assert_eq!(error.to_string(), "no process 9; see `ps`");
    }
}
