//! The capture that a server holds, and what all of its threads share.

use std::{
    io,
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use aiprof_capture::{
    attach::{Attach, AttachControl},
    frame::{Encoder, FrameKind, HEADER_LEN},
    progress::{EndReason, Progress},
    request::{PROTOCOL_VERSION, Request},
};

use super::{
    lease::Lease,
    lines::Lines,
    serve::Run,
    spool::{Limits, Spool},
};
use crate::{
    output::{Listener, Output},
    session::Failure,
};

/// Longest id of a capture.
const MAX_ID: usize = 64;

/// How far a capture is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It records or writes.
    Running,
    /// The stream has its end frame.
    Complete,
    /// There is none, or no whole one; the lines say why.
    Failed,
}

/// A capture.
#[derive(Debug)]
pub(super) struct Capture {
    id: String,
    /// Its stream.
    pub(super) spool: Spool,
    /// Its progress.
    pub(super) lines: Lines,
    /// How far it is.
    pub(super) phase: Phase,
    /// Whether its thread still runs; the kernel's part is undone when it has ended.
    pub(super) is_running: bool,
    /// The last bytes of the stream, as many as an end frame has.
    tail: Vec<u8>,
    stop: Sender<EndReason>,
}

impl Capture {
    /// Whether nobody has a use for it any more.
    fn is_over(&self) -> bool {
        match self.phase {
            Phase::Running => false,
            Phase::Complete => self.spool.start() == self.spool.end(),
            Phase::Failed => true,
        }
    }

    /// Keeps as many of `bytes` as there is room for; says how many. The end frame makes it complete at once, so that a client that
    /// has it and says good-bye is believed.
    fn append(&mut self, bytes: &[u8]) -> usize {
        let taken = self.spool.append(bytes);
        self.tail.extend(&bytes[taken.saturating_sub(HEADER_LEN)..taken]);
        self.tail.drain(..self.tail.len().saturating_sub(HEADER_LEN));
        if taken > 0 && self.tail == Encoder::new().frame(FrameKind::End, &[]) {
            self.phase = Phase::Complete;
        }
        if let Some(reason) = self.spool.take_refusal() {
            let message =
                format!("what waits for the connection is kept in memory only, since no file takes it: {reason}");
            self.lines.push(&Progress::Warning { message });
        }
        taken
    }

    fn end(&mut self, result: Result<(), Failure>) {
        self.is_running = false;
        let failure = match result {
            _ if self.phase == Phase::Complete => return,
            Ok(()) => Failure {
                message: "the capture ended without the end of its stream".to_owned(),
                hint: "please report this".to_owned(),
            },
            Err(failure) => failure,
        };
        self.phase = Phase::Failed;
        self.lines.push(&Progress::Error { message: failure.message, hint: failure.hint });
    }
}

/// The client that is attached.
#[derive(Debug)]
struct Client {
    serial: u64,
    stream: UnixStream,
}

/// What a server knows.
#[derive(Debug)]
pub(super) struct State {
    /// The capture, if there is one.
    pub(super) capture: Option<Capture>,
    client: Option<Client>,
    /// Clients so far.
    clients: u64,
    /// Connections that are looked after, attached or not.
    pub(super) connections: usize,
    /// How long nobody may be there.
    pub(super) lease: Lease,
    /// A client has said that all is done.
    pub(super) left: bool,
    /// Somebody has asked this process to end.
    pub(super) asked_to_end: bool,
    /// The server ends: nothing is kept.
    pub(super) closed: bool,
}

/// The state, and a bell that rings when it has changed.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    limits: Limits,
    run: Run,
}

impl Shared {
    pub(super) fn new(lease: Lease, limits: Limits, run: Run) -> Self {
        let state = State {
            capture: None,
            client: None,
            clients: 0,
            connections: 0,
            lease,
            left: false,
            asked_to_end: false,
            closed: false,
        };
        Self { state: Mutex::new(state), changed: Condvar::new(), limits, run }
    }

    /// The state; nothing that may wait is done while it is held.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something changes.
    pub(super) fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something changes, but not longer than `most`.
    pub(super) fn wait_for<'a>(&self, state: MutexGuard<'a, State>, most: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, most).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Tells all threads that something has changed.
    pub(super) fn ring(&self) {
        self.changed.notify_all();
    }

    /// Lets a client in that wants the stream from [`Attach::from`] on, cuts an older one off, and starts the capture if there is
    /// none. Gives the client's number.
    pub(super) fn admit(self: &Arc<Self>, attach: Attach, stream: UnixStream) -> Result<u64, Failure> {
        check(&attach)?;
        let mut state = self.lock();
        let now = Instant::now();
        let known = state.capture.as_ref().filter(|capture| capture.id == attach.capture);
        match (known, attach.request) {
            (Some(capture), _) => check_offset(attach.from, &capture.spool)?,
            (None, None) => return Err(unknown(&attach.capture)),
            (None, Some(request)) => {
                if let Some(busy) = state.capture.as_ref().filter(|capture| !capture.is_over()) {
                    return Err(occupied(busy, &state, now));
                }
                if attach.from != 0 {
                    return Err(unknown(&attach.capture));
                }
                state.capture = Some(self.start(attach.capture, request)?);
            }
        }
        state.cut();
        state.clients += 1;
        let serial = state.clients;
        state.client = Some(Client { serial, stream });
        state.lease.hear(now);
        if let Some(capture) = &mut state.capture {
            capture.lines.again();
        }
        self.changed.notify_all();
        Ok(serial)
    }

    fn start(self: &Arc<Self>, id: String, request: Request) -> Result<Capture, Failure> {
        let (stop, control) = mpsc::channel();
        let ends = Arc::clone(self);
        let run = self.run;
        let own_id = id.clone();
        let capture = move || {
            let part = Part { shared: ends, id: own_id };
            let result = run(&request, &control, Output::new(part.clone(), part.clone()));
            part.end(result);
        };
        thread::Builder::new().name("capture".to_owned()).spawn(capture).map_err(|error| Failure {
            message: format!("no thread can be started: {error}"),
            hint: "raise the process limit of the container".to_owned(),
        })?;
        Ok(Capture {
            id,
            spool: Spool::new(self.limits.clone()),
            lines: Lines::default(),
            phase: Phase::Running,
            is_running: true,
            tail: Vec::new(),
            stop,
        })
    }

    /// Does what a client says; false once it is no longer the one that is attached.
    pub(super) fn obey(&self, serial: u64, control: AttachControl) -> bool {
        let mut state = self.lock();
        if !state.is_attached(serial) {
            return false;
        }
        state.lease.hear(Instant::now());
        if let Some(capture) = &mut state.capture {
            match control {
                // Nobody listens once the window is closed.
                AttachControl::Stop => drop(capture.stop.send(EndReason::Stopped)),
                AttachControl::Held { bytes } => capture.spool.release(bytes),
                AttachControl::Leave => state.left = true,
            }
        }
        self.changed.notify_all();
        true
    }

    /// The client has gone, if it is still the one that was attached.
    pub(super) fn detach(&self, serial: u64) {
        let mut state = self.lock();
        // After a farewell it is the server that ends the connection.
        if state.is_attached(serial) && !state.left {
            state.cut();
            state.lease.leave(Instant::now());
            self.changed.notify_all();
        }
    }
}

impl State {
    /// Whether this client is the one.
    pub(super) fn is_attached(&self, serial: u64) -> bool {
        self.client.as_ref().is_some_and(|client| client.serial == serial)
    }

    /// Cuts the client off, if there is one.
    pub(super) fn cut(&mut self) {
        if let Some(client) = self.client.take() {
            // Fails only if the other side has closed already.
            let _ = client.stream.shutdown(Shutdown::Both);
        }
    }

    /// Ends a capture that still runs; what it sends from now on is thrown away.
    pub(super) fn give_up(&mut self) {
        self.closed = true;
        if let Some(capture) = &self.capture {
            let _ = capture.stop.send(EndReason::PluginGone);
        }
    }
}

/// The capture's end of a [`Shared`]: its frames go into the spool, which may wait, its progress to the lines.
#[derive(Clone, Debug)]
struct Part {
    shared: Arc<Shared>,
    id: String,
}

impl Part {
    /// Does something with the capture, unless it has been replaced.
    fn with<T>(&self, state: &mut State, what: impl FnOnce(&mut Capture) -> T) -> Option<T> {
        state.capture.as_mut().filter(|capture| capture.id == self.id).map(what)
    }

    fn end(&self, result: Result<(), Failure>) {
        let mut state = self.shared.lock();
        self.with(&mut state, |capture| capture.end(result));
        self.shared.ring();
    }
}

impl io::Write for Part {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.shared.lock();
        loop {
            let taken = if state.closed { None } else { self.with(&mut state, |capture| capture.append(bytes)) };
            match taken {
                None => return Err(io::ErrorKind::BrokenPipe.into()),
                // Full: the rings count what is lost until a client has taken some.
                Some(0) if !bytes.is_empty() => state = self.shared.wait(state),
                Some(taken) => {
                    self.shared.ring();
                    return Ok(taken);
                }
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Listener for Part {
    fn hear(&self, line: &Progress) {
        let mut state = self.shared.lock();
        self.with(&mut state, |capture| capture.lines.push(line));
        self.shared.ring();
    }
}

fn check(attach: &Attach) -> Result<(), Failure> {
    if attach.protocol != PROTOCOL_VERSION {
        return Err(Failure {
            message: format!("the plugin speaks protocol {}, this profiler {PROTOCOL_VERSION}", attach.protocol),
            hint: "use plugin and profiler of the same version".to_owned(),
        });
    }
    let is_id = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if attach.capture.is_empty() || attach.capture.len() > MAX_ID || !attach.capture.bytes().all(is_id) {
        return Err(Failure {
            message: format!("a capture's id is 1 to {MAX_ID} of a-z, 0-9 and -, and this one is not"),
            hint: "use plugin and profiler of the same version".to_owned(),
        });
    }
    Ok(())
}

fn check_offset(from: u64, spool: &Spool) -> Result<(), Failure> {
    if (spool.start()..=spool.end()).contains(&from) {
        return Ok(());
    }
    Err(Failure {
        message: format!(
            "the capture cannot go on at byte {from}: the profiler keeps bytes {} to {}",
            spool.start(),
            spool.end()
        ),
        hint: "record again".to_owned(),
    })
}

fn unknown(id: &str) -> Failure {
    Failure {
        message: format!(
            "the profiler holds no capture {id}: it was started anew, or nobody was attached for too long"
        ),
        hint: "record again".to_owned(),
    }
}

fn occupied(busy: &Capture, state: &State, now: Instant) -> Failure {
    let until = match &state.client {
        Some(_) => "which somebody records".to_owned(),
        None => format!(
            "to which nobody is attached; unless somebody comes, it ends in {} s",
            state.lease.left(now).as_secs() + 1
        ),
    };
    Failure {
        message: format!("the profiler holds another capture, {}, {until}", busy.id),
        hint: "record again when it has ended".to_owned(),
    }
}
