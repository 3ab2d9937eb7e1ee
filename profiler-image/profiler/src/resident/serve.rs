//! `aiprof-profiler serve`: a Unix socket behind which one capture is held.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::{
        fs::{DirBuilderExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{Arc, mpsc::Receiver},
    thread,
    time::{Duration, Instant},
};

use aiprof_capture::{progress::EndReason, request::Request};

use super::{
    client,
    held::{Asked, Shared},
    lease::{Due, Lease},
    spool::Limits,
};
use crate::{output::Output, session::Failure};

/// Bytes of a stream that are kept in memory.
const MEMORY_BYTES: usize = 4 << 20;
/// Bytes that are kept on disk, if nothing else is said.
pub const DEFAULT_SPOOL_BYTES: u64 = 256 << 20;
/// How long a capture may be unattended before it makes room, if nothing else is said.
pub const DEFAULT_UNATTENDED: Duration = Duration::from_secs(15);
/// Connections at a time; more are closed at once.
const MAX_CONNECTIONS: usize = 16;
/// After it was asked to end, what was recorded may be fetched for so long; a pod usually has 30 s to end.
const DELIVER: Duration = Duration::from_secs(8);
/// At the end, a capture has so long to detach from the kernel by itself.
const DETACH: Duration = Duration::from_secs(3);
/// And clients to be told.
const TELL: Duration = Duration::from_secs(1);

/// What makes a capture of a request: [`crate::session::run`], or what stands in for it in a test.
pub type Run = fn(&Request, &Receiver<EndReason>, Output) -> Result<(), Failure>;

/// How to serve.
#[derive(Clone, Debug)]
pub struct Options {
    /// Path of the socket. Its folder is made if it is missing, for this user only.
    pub socket: PathBuf,
    /// The server ends when nobody was attached for so long. A client that says nothing for half of it is taken for gone.
    pub lease: Duration,
    /// A capture that nobody has attended for so long makes room for another client's. A client that has said nothing for half of it
    /// may be gone, for this purpose.
    pub unattended: Duration,
    /// Bytes of the stream that may wait on disk, in a file without a name in the socket's folder.
    pub spool_bytes: u64,
}

/// Why a server has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// A client said that all is done.
    Left,
    /// Nobody was attached for the length of the lease.
    Lease,
    /// This process was asked to.
    Asked,
}

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    socket: SocketFile,
    shared: Arc<Shared>,
}

/// Asks a server to end.
#[derive(Clone, Debug)]
pub struct Stopper(Arc<Shared>);

impl Stopper {
    /// Ends it: the window of a capture is closed at once, and what was recorded is given to the client that is attached, if it takes
    /// that within 8 s. Called again, or with nobody attached: what was recorded is thrown away.
    pub fn stop(&self) {
        self.0.lock().ask_to_end(Instant::now());
        self.0.ring();
    }
}

impl Server {
    /// Listens. A socket that a dead server has left is replaced; that of a living one is an error.
    pub fn bind(options: &Options, run: Run) -> io::Result<Self> {
        let folder = match options.socket.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        if UnixStream::connect(&options.socket).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another profiler serves there"));
        }
        match fs::remove_file(&options.socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&options.socket)?;
        let socket = SocketFile(options.socket.clone());
        fs::set_permissions(&options.socket, Permissions::from_mode(0o600))?;
        let limits = Limits { memory_bytes: MEMORY_BYTES, file_bytes: options.spool_bytes, folder: folder.to_owned() };
        let shared = Arc::new(Shared::new(Lease::new(options.lease, Instant::now()), options.unattended, limits, run));
        Ok(Self { listener, socket, shared })
    }

    /// What ends it from outside.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.shared))
    }

    /// Serves until there is a reason to end, removes the socket, and gives the capture a moment to undo what it did.
    pub fn run(self) -> io::Result<Ended> {
        let Self { listener, socket, shared } = self;
        let accepting = Arc::clone(&shared);
        thread::Builder::new().name("accept".to_owned()).spawn(move || accept(&listener, &accepting))?;
        let ended = reason_to_end(&shared);
        let mut state = shared.lock();
        state.give_up();
        shared.ring();
        drop(state);
        // Wakes the thread that accepts, so that it sees the end.
        let _ = UnixStream::connect(&socket.0);
        drop(socket);

        let told = Instant::now() + TELL;
        let detached = Instant::now() + DETACH;
        let mut state = shared.lock();
        while state.connections > 0 && Instant::now() < told {
            state = shared.wait_for(state, told.saturating_duration_since(Instant::now()));
        }
        state.cut();
        while state.running > 0 && Instant::now() < detached {
            state = shared.wait_for(state, detached.saturating_duration_since(Instant::now()));
        }
        Ok(ended)
    }
}

/// Waits for the end.
fn reason_to_end(shared: &Shared) -> Ended {
    let mut state = shared.lock();
    loop {
        if state.left {
            return Ended::Left;
        }
        match state.asked {
            Asked::Not => {}
            Asked::Once(at) if state.is_awaited() && at.elapsed() < DELIVER => {
                state = shared.wait_for(state, DELIVER.saturating_sub(at.elapsed()));
                continue;
            }
            Asked::Once(_) | Asked::Again => return Ended::Asked,
        }
        match state.lease.due(Instant::now()) {
            Due::Over => return Ended::Lease,
            Due::Cut => {
                state.cut();
                shared.ring();
            }
            Due::Nothing(left) => state = shared.wait_for(state, left),
        }
    }
}

fn accept(listener: &UnixListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        let mut state = shared.lock();
        if state.closed {
            return;
        }
        let Ok(stream) = stream else {
            drop(state);
            // Out of descriptors, most likely: they come back.
            thread::sleep(Duration::from_millis(100));
            continue;
        };
        if state.connections >= MAX_CONNECTIONS {
            continue;
        }
        state.connections += 1;
        drop(state);
        let attending = Arc::clone(shared);
        let attend = move || {
            client::attend(&attending, &stream);
            attending.lock().connections -= 1;
            attending.ring();
        };
        if thread::Builder::new().name("connection".to_owned()).spawn(attend).is_err() {
            shared.lock().connections -= 1;
        }
    }
}

/// The socket's file; removed when dropped.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Whoever removed it before has done no harm.
        let _ = fs::remove_file(&self.0);
    }
}
