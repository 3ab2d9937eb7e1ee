//! `aiprof-profiler attach`: the bridge between the standard streams of an exec session and the socket of a server.
//!
//! It ends when the server says so, and when either side has gone: standard input at its end, standard output or error without a
//! reader, the socket closed.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    net::Shutdown,
    os::{fd::AsFd, unix::net::UnixStream},
    path::Path,
    process, thread,
    time::{Duration, Instant},
};

use aiprof_capture::progress::Progress;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::packet::{self, Kind};
use crate::output::progress;

/// The socket may take so long to appear.
const APPEAR: Duration = Duration::from_secs(10);
/// How often to look for it.
const LOOK: Duration = Duration::from_millis(50);
/// After the end of standard input, what the server still says has so long to leave.
const LEAVE: Duration = Duration::from_secs(1);

/// Exit status without a server.
const FAILED: u8 = 1;
/// Exit status when the way broke.
pub const BROKEN: u8 = 3;

/// Bridges until the end; gives the exit status. Ends the process itself where a stream has gone.
#[must_use]
pub fn bridge(socket: &Path) -> u8 {
    let stream = match connect(socket) {
        Ok(stream) => stream,
        Err(error) => {
            progress(&Progress::Error {
                message: format!("no profiler serves at {}: {error}", socket.display()),
                hint: "see the log of the profiler's container".to_owned(),
            });
            return FAILED;
        }
    };
    pump(stream).unwrap_or(BROKEN)
}

fn connect(socket: &Path) -> io::Result<UnixStream> {
    let until = Instant::now() + APPEAR;
    loop {
        match UnixStream::connect(socket) {
            // Not there yet, or not listening yet.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
                    && Instant::now() < until =>
            {
                thread::sleep(LOOK);
            }
            result => return result,
        }
    }
}

fn pump(mut from: UnixStream) -> io::Result<u8> {
    let to = from.try_clone()?;
    thread::Builder::new().name("input".to_owned()).spawn(move || feed(&to))?;
    thread::Builder::new().name("readers".to_owned()).spawn(watch_readers)?;
    // Without the buffer of the library's handles.
    let mut frames = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut lines = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let mut payload = Vec::new();
    while let Some(kind) = packet::read(&mut from, &mut payload)? {
        match kind {
            Kind::Stream => frames.write_all(&payload)?,
            Kind::Progress => {
                payload.push(b'\n');
                lines.write_all(&payload)?;
            }
            Kind::Status => return Ok(payload.first().copied().unwrap_or(BROKEN)),
        }
    }
    Ok(BROKEN)
}

/// Passes standard input on; its end ends the process.
fn feed(mut socket: &UnixStream) {
    let mut buffer = [0; 4096];
    let mut input = io::stdin().lock();
    loop {
        match input.read(&mut buffer) {
            Ok(read @ 1..) if socket.write_all(&buffer[..read]).is_ok() => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => break,
        }
    }
    // The server takes what was said before, says good-bye where it has a reason to, and closes.
    let _ = socket.shutdown(Shutdown::Write);
    thread::sleep(LEAVE);
    process::exit(i32::from(BROKEN));
}

/// Ends the process once nobody reads what it writes, also while there is nothing to write.
fn watch_readers() {
    let (output, error) = (io::stdout(), io::stderr());
    let mut streams = [output.as_fd(), error.as_fd()].map(|stream| PollFd::new(stream, PollFlags::empty()));
    loop {
        match poll(&mut streams, PollTimeout::NONE) {
            Ok(1..) => process::exit(i32::from(BROKEN)),
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}
