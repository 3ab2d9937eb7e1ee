//! One capture over a [`Connection`]: moves bytes between profiler, [`Session`] and [`Spool`], and hears signals. Nothing here knows
//! where the profiler runs.

use std::{future::pending, time::Duration};

use aiprof_capture::{
    progress::Progress,
    request::{Control, Request},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::{Instant, sleep_until, timeout},
};

pub use crate::platform::Signals;

use super::{
    RecordError,
    output::Spool,
    progress::Display,
    session::{Outcome, Session},
};
use crate::{
    local::HeldCommand,
    strings::printable,
    transport::{Connection, Ended, Life},
};

/// Bytes read at once.
const READ_BYTES: usize = 256 << 10;
/// A profiler that says nothing for so long has failed: it ticks four times a second.
const SILENCE: Duration = Duration::from_mins(2);
/// After the program has ended, the profiler has so long to notice by itself.
const NOTICE: Duration = Duration::from_secs(1);
/// After the profiler has ended, what it wrote has so long to arrive.
const ARRIVAL: Duration = Duration::from_secs(2);

/// What became of a capture.
#[derive(Debug)]
pub enum Captured {
    /// The profiler has ended, by itself or since the stream broke.
    Ended(Outcome),
    /// It failed before its window opened, for this reason, and may be tried with another profiler.
    Again(String),
    /// The user gave up: nothing is to be kept.
    GivenUp,
}

/// Where a capture keeps and shows what arrives, and what it lets go.
#[derive(Debug)]
pub struct Ends<'a> {
    /// Takes the trace.
    pub spool: &'a mut Spool,
    /// Shows the progress.
    pub display: &'a mut Display,
    /// End it early.
    pub signals: &'a mut Signals,
    /// The program to let go once the window is open, and to wait for.
    pub command: Option<&'a mut HeldCommand>,
    /// Whether it is worth to try again with another profiler if this one does not open the window.
    pub again: bool,
}

/// Runs a capture to its end. On an error, and if the user gives up, the profiler is ended.
pub async fn capture(mut connection: Connection, request: &Request, ends: Ends<'_>) -> Result<Captured, RecordError> {
    let captured = exchange(&mut connection, request, ends).await;
    if !matches!(captured, Ok(Captured::Ended(_) | Captured::Again(_))) {
        kill(connection.life.as_mut()).await;
    }
    captured
}

async fn exchange(connection: &mut Connection, request: &Request, ends: Ends<'_>) -> Result<Captured, RecordError> {
    let Connection { requests, capture, progress, life } = connection;
    let Ends { spool, display, signals, mut command, again } = ends;
    send(requests, request).await;

    let mut session = Session::default();
    let (mut capture_bytes, mut progress_bytes) = (Vec::with_capacity(READ_BYTES), Vec::with_capacity(READ_BYTES));
    let (mut capture_open, mut progress_open) = (true, true);
    let mut trace = Vec::new();
    let (mut released, mut command_ended) = (false, false);
    let mut stop_at: Option<Instant> = None;
    let mut stopped = false;
    let mut heard = Instant::now();
    let mut ended: Option<(Ended, Instant)> = None;
    let mut broken: Option<String> = None;

    while broken.is_none() && (ended.is_none() || capture_open || progress_open) {
        tokio::select! {
            read = capture.read_buf(&mut capture_bytes), if capture_open => {
                heard = Instant::now();
                match read {
                    Ok(0) => capture_open = false,
                    Ok(_) => {
                        let damage = session.capture_bytes(&capture_bytes, &mut trace).err();
                        spool.write(&trace)?;
                        trace.clear();
                        capture_bytes.clear();
                        broken = damage.map(|damage| damage.to_string());
                    }
                    Err(error) => broken = Some(format!("its capture cannot be read: {error}")),
                }
            }
            read = progress.read_buf(&mut progress_bytes), if progress_open => {
                heard = Instant::now();
                progress_open = matches!(read, Ok(read) if read > 0);
                for line in session.progress_bytes(&progress_bytes) {
                    // A held command is not yet the program that the user knows; its name follows when it is.
                    let held = command.as_deref().filter(|_| !released).map(HeldCommand::pid);
                    let unnamed = matches!(line.progress, Progress::Process { pid, .. } if Some(pid) == held);
                    let held_back = again && !session.started() && matches!(line.progress, Progress::Error { .. });
                    if !held_back && (!unnamed || matches!(display, Display::Json)) {
                        display.show(&line);
                    }
                }
                progress_bytes.clear();
                if session.started() && !released {
                    released = true;
                    if let Some(command) = command.as_deref_mut() {
                        command.release().await?;
                    }
                }
            }
            () = signals.next() => {
                if stopped || !session.started() {
                    return Ok(Captured::GivenUp);
                }
                stopped = true;
                display.say("stopping; what was recorded is kept (Ctrl-C again gives it up)");
                send(requests, &Control::Stop).await;
            }
            () = command_end(command.as_deref_mut()), if released && !command_ended => {
                command_ended = true;
                if request.duration_ms.is_none() {
                    stop_at = Some(Instant::now() + NOTICE);
                }
            }
            () = at(stop_at) => {
                stop_at = None;
                if !session.finishing() {
                    send(requests, &Control::Stop).await;
                }
            }
            how = life.ended(), if ended.is_none() => ended = Some((how, Instant::now() + ARRIVAL)),
            () = at(ended.as_ref().map(|(_, until)| *until)) => break,
            () = sleep_until(heard + SILENCE) => {
                broken = Some(format!("it had said nothing for {} s", SILENCE.as_secs()));
            }
        }
    }
    let how = match ended {
        Some((how, _)) => how,
        None => kill(life.as_mut()).await,
    };
    let started = session.started();
    match session.finish(&how, broken.as_deref()) {
        Outcome::Failed { message, .. } if again && !started => Ok(Captured::Again(printable(&message))),
        outcome => Ok(Captured::Ended(outcome)),
    }
}

/// Sends one line. A failure is told by how the profiler ends.
async fn send(requests: &mut (impl AsyncWrite + Unpin), message: &impl serde::Serialize) {
    if let Ok(mut line) = serde_json::to_vec(message) {
        line.push(b'\n');
        let _ = requests.write_all(&line).await;
        let _ = requests.flush().await;
    }
}

async fn kill(life: &mut dyn Life) -> Ended {
    life.kill();
    match timeout(ARRIVAL, life.ended()).await {
        Ok(how) => how,
        Err(_) => Ended::Unknown("it does not end".to_owned()),
    }
}

async fn command_end(command: Option<&mut HeldCommand>) {
    match command {
        // An error means that it cannot be waited for: it is gone.
        Some(command) => drop(command.ended().await),
        None => pending().await,
    }
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => pending().await,
    }
}
