//! What a server knows and all of its threads share: the capture that it holds, who is attached, who may come in.

use std::{
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use aiprof_capture::{
    attach::{Attach, AttachControl},
    progress::EndReason,
    request::PROTOCOL_VERSION,
};

use super::{
    capture::Capture,
    lease::Lease,
    serve::Run,
    spool::{Limits, Spool},
};
use crate::session::Failure;

/// Longest id of a capture.
const MAX_ID: usize = 64;

/// The client that is attached.
#[derive(Debug)]
struct Client {
    serial: u64,
    stream: UnixStream,
}

/// Whether a client may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It is attached, and has this number.
    In(u64),
    /// Another capture is in the way: for so long at least; zero while what it did is undone.
    Wait(Duration),
}

/// Whether this process is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// No.
    Not,
    /// Yes, then; what was recorded may be fetched.
    Once(Instant),
    /// At once.
    Again,
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
    /// Captures whose thread has not ended: the one held, and one that was given up and still undoes what it did.
    pub(super) running: usize,
    /// Whether somebody has asked this process to end.
    pub(super) asked: Asked,
    /// The server ends: nothing is kept.
    pub(super) closed: bool,
}

/// The state, and a bell that rings when it has changed.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    pub(super) limits: Limits,
    pub(super) run: Run,
    /// A capture that nobody has attended for so long makes room for another.
    pub(super) unattended: Duration,
}

impl Shared {
    pub(super) fn new(lease: Lease, unattended: Duration, limits: Limits, run: Run) -> Self {
        let state = State {
            capture: None,
            client: None,
            clients: 0,
            connections: 0,
            lease,
            left: false,
            running: 0,
            asked: Asked::Not,
            closed: false,
        };
        Self { state: Mutex::new(state), changed: Condvar::new(), limits, run, unattended }
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
    /// none.
    pub(super) fn admit(self: &Arc<Self>, attach: &Attach, stream: &UnixStream) -> Result<Admission, Failure> {
        check(attach)?;
        let mut state = self.lock();
        let now = Instant::now();
        let known = state.capture.as_ref().filter(|capture| capture.id == attach.capture);
        match (known, &attach.request) {
            (Some(capture), _) => check_offset(attach.from, &capture.spool)?,
            (None, Some(request)) if attach.from == 0 => {
                if let Some(left) = state.make_room(self.unattended, now)? {
                    self.ring();
                    return Ok(Admission::Wait(left));
                }
                state.capture = Some(Capture::start(self, &mut state, attach.capture.clone(), request.clone())?);
            }
            (None, _) => return Err(unknown(&attach.capture)),
        }
        let stream = stream.try_clone().map_err(|error| Failure {
            message: format!("no connection can be kept: {error}"),
            hint: "raise the limit of open files of the container".to_owned(),
        })?;
        state.cut();
        state.clients += 1;
        let serial = state.clients;
        state.client = Some(Client { serial, stream });
        state.lease.hear(now);
        if let Some(capture) = &mut state.capture {
            capture.lines.again();
        }
        self.ring();
        Ok(Admission::In(serial))
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
                AttachControl::Stop => capture.stop(EndReason::Stopped),
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
    /// Somebody asks this process to end: the first time what was recorded may still be fetched.
    pub(super) fn ask_to_end(&mut self, now: Instant) {
        self.asked = match self.asked {
            Asked::Not => Asked::Once(now),
            Asked::Once(_) | Asked::Again => Asked::Again,
        };
        if let Some(capture) = &self.capture {
            capture.stop(EndReason::Terminated);
        }
    }

    /// Whether somebody is there for what is held.
    pub(super) fn is_awaited(&self) -> bool {
        self.client.is_some() && self.capture.as_ref().is_some_and(|capture| !capture.is_over())
    }

    /// Makes room for a newcomer's capture. Another that somebody attends stays; one that nobody has attended for `unattended` is given
    /// up. Gives how long the newcomer is to wait; none if there is room.
    fn make_room(&mut self, unattended: Duration, now: Instant) -> Result<Option<Duration>, Failure> {
        if self.closed || self.asked != Asked::Not {
            return Err(ending());
        }
        if let Some(busy) = self.capture.as_ref().filter(|capture| !capture.is_over()) {
            let quiet = self.lease.quiet(now);
            // A client that lives says so more often; one that died may seem attached until it has been silent for long.
            if self.client.is_some() && quiet < unattended / 2 {
                return Err(occupied(busy));
            }
            if let Some(left) = unattended.checked_sub(quiet).filter(|left| !left.is_zero()) {
                return Ok(Some(left));
            }
            busy.stop(EndReason::PluginGone);
        }
        if self.running > 0 {
            // Whoever was attached to it learns that it is no longer held, and what it still writes is thrown away.
            self.capture = None;
            self.cut();
            return Ok(Some(Duration::ZERO));
        }
        Ok(None)
    }

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
            capture.stop(EndReason::PluginGone);
        }
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

fn occupied(busy: &Capture) -> Failure {
    Failure {
        message: format!("the profiler holds another capture, {}, which somebody records", busy.id),
        hint: "record again when it has ended".to_owned(),
    }
}

fn ending() -> Failure {
    Failure {
        message: "the profiler was told to end".to_owned(),
        hint: "record again, unless the pod is being deleted".to_owned(),
    }
}
