//! A capture that a server holds: its thread, its stream, its progress.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{self, Sender},
    },
    thread,
};

use aiprof_capture::{
    frame::{Encoder, FrameKind, HEADER_LEN},
    progress::{EndReason, Progress},
    request::Request,
};

use super::{
    held::{Shared, State},
    lines::Lines,
    spool::Spool,
};
use crate::{
    output::{Listener, Output},
    session::Failure,
};

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
    pub(super) id: String,
    /// Its stream.
    pub(super) spool: Spool,
    /// Its progress.
    pub(super) lines: Lines,
    /// How far it is.
    pub(super) phase: Phase,
    /// The last bytes of the stream, as many as an end frame has.
    tail: Vec<u8>,
    stop: Sender<EndReason>,
}

impl Capture {
    /// Starts one in a thread of its own, which [`State::running`](super::held::State::running) counts until the kernel's part is
    /// undone.
    pub(super) fn start(
        shared: &Arc<Shared>,
        state: &mut State,
        id: String,
        request: Request,
    ) -> Result<Self, Failure> {
        let (stop, control) = mpsc::channel();
        let run = shared.run;
        let part = Part { shared: Arc::clone(shared), id: id.clone() };
        let capture = move || {
            let result = run(&request, &control, Output::new(part.clone(), part.clone()));
            part.end(result);
        };
        thread::Builder::new().name("capture".to_owned()).spawn(capture).map_err(|error| Failure {
            message: format!("no thread can be started: {error}"),
            hint: "raise the process limit of the container".to_owned(),
        })?;
        state.running += 1;
        Ok(Self {
            id,
            spool: Spool::new(shared.limits.clone()),
            lines: Lines::default(),
            phase: Phase::Running,
            tail: Vec::new(),
            stop,
        })
    }

    /// Closes its window, if that is open.
    pub(super) fn stop(&self, reason: EndReason) {
        // Nobody listens once the window is closed.
        let _ = self.stop.send(reason);
    }

    /// Whether nobody has a use for it any more.
    pub(super) fn is_over(&self) -> bool {
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
        state.running -= 1;
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
