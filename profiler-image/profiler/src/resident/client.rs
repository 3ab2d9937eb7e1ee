//! One connection to the server: lines in, packets out.

use std::{
    io::{self, BufRead as _, BufReader, Read as _},
    net::Shutdown,
    os::{fd::AsFd as _, unix::net::UnixStream},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use aiprof_capture::{
    attach::{Attach, AttachControl},
    progress::Progress,
};

use nix::{
    libc::POLLRDHUP,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::{
    capture::Phase,
    held::{Admission, Shared},
    packet::{self, Kind},
};
use crate::session::Failure;

/// A client has so long to say what it wants.
const GREETING: Duration = Duration::from_secs(10);
/// A client that has the whole stream has so long to say so.
const FAREWELL: Duration = Duration::from_secs(2);
/// A client that waits for another's capture looks so often whether that has gone,
const LOOK: Duration = Duration::from_millis(100);
/// and is given a sign of life so often.
const LIFE: Duration = Duration::from_secs(1);
/// A capture that makes room has so long to undo what it did.
const UNDO: Duration = Duration::from_secs(10);
/// Longest first line, in bytes.
const MAX_ATTACH: u64 = 1 << 20;
/// Longest other line.
const MAX_LINE: u64 = 1 << 10;
/// Most frame bytes of one packet.
const STREAM_BYTES: usize = 64 << 10;

/// Exit status of a bridge after the end of the stream.
const COMPLETE: u8 = 0;
/// After an error line.
const FAILED: u8 = 1;

/// Serves a connection to its end.
pub(super) fn attend(shared: &Arc<Shared>, stream: &UnixStream) {
    let refused = match greet(shared, stream) {
        Ok((serial, from, lines)) => {
            let reader = Arc::clone(shared);
            let listening =
                thread::Builder::new().name("client".to_owned()).spawn(move || listen(&reader, serial, lines));
            if listening.is_ok() {
                // What went wrong with a client is its own concern: it attaches again.
                let _ = send(shared, stream, serial, from);
            }
            shared.detach(serial);
            None
        }
        Err(failure) => failure,
    };
    if let Some(Failure { message, hint }) = refused {
        let _ = send_line(stream, &Progress::Error { message, hint })
            .and_then(|()| packet::write(stream, Kind::Status, &[FAILED]));
    }
    let _ = stream.shutdown(Shutdown::Both);
}

type Greeted = (u64, u64, BufReader<UnixStream>);

/// Reads the first line and lets the client in. An error without a failure: it has gone.
fn greet(shared: &Arc<Shared>, stream: &UnixStream) -> Result<Greeted, Option<Failure>> {
    let gone = |_: io::Error| None;
    stream.set_read_timeout(Some(GREETING)).map_err(gone)?;
    let mut lines = BufReader::new(stream.try_clone().map_err(gone)?);
    let mut line = String::new();
    (&mut lines).take(MAX_ATTACH).read_line(&mut line).map_err(gone)?;
    if line.is_empty() {
        return Err(None);
    }
    let attach: Attach = serde_json::from_str(&line).map_err(|error| Failure {
        message: format!("the request cannot be read: {error}"),
        hint: "use plugin and profiler of the same version".to_owned(),
    })?;
    // Also for the copies.
    stream.set_read_timeout(None).map_err(gone)?;
    Ok((enter(shared, stream, &attach)?, attach.from, lines))
}

/// Lets the client in, once no other capture is in the way. An error without a failure: it has gone.
fn enter(shared: &Arc<Shared>, stream: &UnixStream, attach: &Attach) -> Result<u64, Option<Failure>> {
    let begun = Instant::now();
    let mut told: Option<Instant> = None;
    loop {
        let left = match shared.admit(attach, stream)? {
            Admission::In(serial) => return Ok(serial),
            Admission::Wait(left) => left,
        };
        if begun.elapsed() > shared.unattended + UNDO {
            return Err(Some(Failure {
                message: "the profiler does not get rid of the capture before".to_owned(),
                hint: "see the log of the profiler's container".to_owned(),
            }));
        }
        let said = match told {
            None if left.is_zero() => Ok(()),
            None => {
                told = Some(Instant::now());
                let seconds = left.as_millis().div_ceil(1_000);
                let message = format!("waiting {seconds} s for a capture whose plugin has gone");
                send_line(stream, &Progress::Note { message })
            }
            Some(at) if at.elapsed() < LIFE => Ok(()),
            Some(_) => {
                told = Some(Instant::now());
                packet::write(stream, Kind::Progress, b"")
            }
        };
        said.map_err(|_| None)?;
        thread::sleep(LOOK);
        // It must not take the place of one that lives.
        if has_gone(stream) {
            return Err(None);
        }
    }
}

/// Whether the other side will say nothing more, whatever of its lines has not been read yet.
fn has_gone(stream: &UnixStream) -> bool {
    let mut polled = [PollFd::new(stream.as_fd(), PollFlags::from_bits_retain(POLLRDHUP))];
    // An error is as good as an end.
    poll(&mut polled, PollTimeout::ZERO) != Ok(0)
}

/// Follows control lines until the client has gone or another has come.
fn listen(shared: &Shared, serial: u64, mut lines: BufReader<UnixStream>) {
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut lines).take(MAX_LINE).read_until(b'\n', &mut line);
        if !matches!(read, Ok(1..)) || !line.ends_with(b"\n") {
            break;
        }
        // A line that this version does not know is a sign of life all the same, but not worth more.
        if let Ok(control) = serde_json::from_slice::<AttachControl>(&line)
            && !shared.obey(serial, control)
        {
            return;
        }
    }
    shared.detach(serial);
}

/// What there is to send.
struct Batch {
    lines: Vec<Progress>,
    /// Bytes read from the stream.
    read: usize,
    then: Then,
}

/// What follows a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// Another.
    Next,
    /// The exit status of the bridge, and no more.
    Status(u8),
    /// Nothing: the bridge is to see the way broken.
    Nothing,
}

/// Sends lines and bytes until the client is served, gone, or another has come.
fn send(shared: &Shared, stream: &UnixStream, serial: u64, mut position: u64) -> io::Result<()> {
    let mut buffer = vec![0; STREAM_BYTES];
    while let Some(batch) = next(shared, serial, &mut position, &mut buffer)? {
        for line in &batch.lines {
            send_line(stream, line)?;
        }
        if batch.read > 0 {
            packet::write(stream, Kind::Stream, &buffer[..batch.read])?;
            position += batch.read as u64;
        }
        match batch.then {
            Then::Next => {}
            Then::Status(status) => return packet::write(stream, Kind::Status, &[status]),
            Then::Nothing => return Ok(()),
        }
    }
    Ok(())
}

/// Waits for something to send; none once the client is not attached any more.
fn next(shared: &Shared, serial: u64, position: &mut u64, buffer: &mut [u8]) -> io::Result<Option<Batch>> {
    let mut complete_since: Option<Instant> = None;
    let mut state = shared.lock();
    loop {
        let (is_attached, ends) = (state.is_attached(serial), state.left || state.closed);
        let Some(capture) = state.capture.as_mut().filter(|_| is_attached) else { return Ok(None) };
        // What the client says it holds need not be sent.
        *position = (*position).max(capture.spool.start());
        let mut batch = Batch { lines: Vec::new(), read: capture.spool.read(*position, buffer)?, then: Then::Next };
        if !capture.lines.is_empty() {
            batch.lines.extend(std::iter::from_fn(|| capture.lines.take()));
        }
        let is_at_end = batch.read == 0;
        let is_complete = is_at_end && capture.phase == Phase::Complete;
        let waited = complete_since.is_some_and(|since| since.elapsed() >= FAREWELL);
        if is_at_end && capture.phase == Phase::Failed {
            batch.then = Then::Status(FAILED);
        } else if is_complete && (ends || waited) {
            batch.then = Then::Status(COMPLETE);
        } else if ends {
            batch.then = Then::Nothing;
        }
        if batch.then != Then::Next || batch.read > 0 || !batch.lines.is_empty() {
            return Ok(Some(batch));
        }
        if is_complete {
            let since = *complete_since.get_or_insert_with(Instant::now);
            state = shared.wait_for(state, FAREWELL.saturating_sub(since.elapsed()));
        } else {
            state = shared.wait(state);
        }
    }
}

fn send_line(stream: &UnixStream, line: &Progress) -> io::Result<()> {
    let json = serde_json::to_vec(line)?;
    packet::write(stream, Kind::Progress, &json[..json.len().min(packet::MAX_PAYLOAD)])
}
