//! One capture over sessions that may break: when to open one and from where, what to say on it, when to look whether the pod still
//! lives, and when to give up. Does no I/O: it takes what happened and the time, and gives the next [`Step`].

use std::time::Duration;

use aiprof_capture::{
    attach::{Attach, AttachControl},
    frame::{Decoder, FrameKind},
    progress::Progress,
    request::{PROTOCOL_VERSION, Request},
};

use super::Ended;

/// The first pause before a session is opened again; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Nothing arrived for so long: given up.
const GIVE_UP: Duration = Duration::from_mins(1);
/// An open session that is silent for so long is taken for broken: a profiler ticks four times a second.
const STALL: Duration = Duration::from_secs(20);
/// What has arrived is told at most this often.
const HELD_AT_MOST: Duration = Duration::from_secs(1);
/// And at least this often, as a sign of life, which also keeps idle time-outs of servers in between away.
const HELD_AT_LEAST: Duration = Duration::from_secs(5);
/// After [`AttachControl::Leave`] the session has so long to end.
const FAREWELL: Duration = Duration::from_millis(1_500);
/// Exit status of a profiler that has said what is wrong.
const FAILED: i32 = 1;
/// Longest progress line that is looked at, in bytes.
const MAX_LINE_BYTES: usize = 64 << 10;

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Open a session and send this line first; then call [`Resume::opened`] or [`Resume::broken`].
    Open(Box<Attach>),
    /// Send this line on the open session.
    Send(AttachControl),
    /// Look whether the pod and the container still live; then call [`Resume::looked`].
    Look,
    /// Drop the session; it is taken for broken.
    Close,
    /// Wait for something to happen, until this time at most.
    Wait(Duration),
    /// It is over.
    Done(Ended),
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Break {
    /// The profiler's own exit status.
    Exited(i32),
    /// The way broke, or was refused for now.
    Broken(String),
    /// It is refused for good: a sentence.
    Refused(String),
}

/// What a look at the pod says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// Pod and container live.
    Alive,
    /// They do not, or no longer as they were: a sentence.
    Gone(String),
    /// Nobody could say.
    Unknown(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// No request yet.
    Idle,
    /// No session until then; `look` says that a look comes first.
    Closed {
        until: Duration,
        look: bool,
    },
    Opening,
    /// No session until then.
    Looking {
        until: Duration,
    },
    Open {
        since: Duration,
        stop_sent: bool,
        leave_sent: Option<Duration>,
    },
    Done(Ended),
}

/// A capture and its sessions. Times are since any one moment.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own that stays true once it is")]
pub struct Resume {
    capture: String,
    request: Option<Request>,
    /// Whether the profiler has shown that it has the capture.
    known: bool,
    /// What has arrived of a progress line, as long as that may make it known.
    line: Vec<u8>,
    received: u64,
    held: u64,
    held_at: Duration,
    heard_at: Duration,
    pause: Duration,
    decoder: Decoder,
    complete: bool,
    stop: bool,
    leave: bool,
    last_break: String,
    state: State,
}

impl Resume {
    /// A capture with this id, for which nothing is asked yet.
    #[must_use]
    pub fn new(capture: String) -> Self {
        Self {
            capture,
            request: None,
            known: false,
            line: Vec::new(),
            received: 0,
            held: 0,
            held_at: Duration::ZERO,
            heard_at: Duration::ZERO,
            pause: FIRST_PAUSE,
            decoder: Decoder::default(),
            complete: false,
            stop: false,
            leave: false,
            last_break: String::new(),
            state: State::Idle,
        }
    }

    /// What the user wants: the first session is opened.
    pub fn request(&mut self, request: Request, now: Duration) {
        if self.state == State::Idle {
            self.request = Some(request);
            self.heard_at = now;
            self.state = State::Closed { until: now, look: false };
        }
    }

    /// The window is to end now.
    pub const fn stop(&mut self) {
        self.stop = true;
    }

    /// The capture is given up.
    pub const fn leave(&mut self) {
        self.leave = true;
    }

    /// The session is open and its first line is sent.
    pub fn opened(&mut self, now: Duration) {
        if self.state == State::Opening {
            self.line.clear();
            self.held_at = now;
            self.held = self.received;
            self.state = State::Open { since: now, stop_sent: false, leave_sent: None };
        }
    }

    /// Bytes of the capture arrived.
    pub fn capture_bytes(&mut self, bytes: &[u8], now: Duration) {
        self.heard(now);
        self.known = true;
        self.received += bytes.len() as u64;
        self.decoder.push(bytes);
        // A damaged stream is found, told and ended by who reads it.
        while let Ok(Some(frame)) = self.decoder.next() {
            self.complete |= frame.kind == FrameKind::End;
        }
    }

    /// Bytes of the progress arrived.
    pub fn progress_bytes(&mut self, bytes: &[u8], now: Duration) {
        self.heard(now);
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            if self.known {
                return;
            }
            let room = MAX_LINE_BYTES.saturating_sub(self.line.len());
            self.line.extend(piece.iter().take(room));
            if piece.ends_with(b"\n") {
                // While another capture is in the way there are only notes, and signs of life that say nothing.
                let line = serde_json::from_slice(&std::mem::take(&mut self.line));
                self.known = matches!(line, Ok(progress) if !matches!(progress, Progress::Note { .. }));
            }
        }
    }

    const fn heard(&mut self, now: Duration) {
        self.heard_at = now;
        self.pause = FIRST_PAUSE;
    }

    /// The session ended or could not be opened.
    pub fn broken(&mut self, how: Break, now: Duration) {
        if matches!(self.state, State::Done(_)) {
            return;
        }
        self.state = match how {
            // All of it is here, however the session ended.
            _ if self.complete => State::Done(Ended::Exited(0)),
            Break::Exited(code @ (0 | FAILED)) => State::Done(Ended::Exited(code)),
            Break::Refused(why) => State::Done(Ended::Lost(why)),
            _ if self.leave => State::Done(Ended::Unknown("it was given up".to_owned())),
            Break::Exited(code) => self.closed(format!("exit status {code}"), now),
            Break::Broken(why) => self.closed(why, now),
        };
    }

    fn closed(&mut self, why: String, now: Duration) -> State {
        self.last_break = why;
        let until = now + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        State::Closed { until, look: true }
    }

    /// A look at the pod is done.
    pub fn looked(&mut self, look: Look) {
        let State::Looking { until } = self.state else { return };
        self.state = match look {
            Look::Alive => State::Closed { until, look: false },
            Look::Gone(why) => State::Done(Ended::Lost(why)),
            Look::Unknown(why) => {
                self.last_break = why;
                State::Closed { until, look: false }
            }
        };
    }

    /// What to do next.
    pub fn step(&mut self, now: Duration) -> Step {
        match self.state.clone() {
            State::Done(ended) => Step::Done(ended),
            State::Idle if self.leave => self.done(Ended::Unknown("it was never asked for anything".to_owned())),
            State::Closed { .. } if self.leave => self.done(Ended::Unknown("it was given up".to_owned())),
            State::Closed { .. } if now >= self.heard_at + GIVE_UP => {
                let why = if self.last_break.is_empty() { "no answer" } else { &self.last_break };
                let why = format!("nothing arrived from the pod for {} s ({why})", GIVE_UP.as_secs());
                self.done(Ended::Lost(why))
            }
            State::Closed { look: true, until } => {
                self.state = State::Looking { until };
                Step::Look
            }
            State::Closed { until, .. } if now < until => Step::Wait(until),
            State::Closed { .. } => {
                self.state = State::Opening;
                Step::Open(Box::new(self.attach()))
            }
            State::Idle | State::Opening | State::Looking { .. } => Step::Wait(now + LONGEST_PAUSE),
            State::Open { since, stop_sent, leave_sent } => self.step_open(since, stop_sent, leave_sent, now),
        }
    }

    fn step_open(&mut self, since: Duration, stop_sent: bool, leave_sent: Option<Duration>, now: Duration) -> Step {
        if let Some(sent) = leave_sent {
            if now < sent + FAREWELL {
                return Step::Wait(sent + FAREWELL);
            }
            let ended = if self.complete { Ended::Exited(0) } else { Ended::Unknown("it was given up".to_owned()) };
            return self.done(ended);
        }
        if self.leave || self.complete {
            self.state = State::Open { since, stop_sent, leave_sent: Some(now) };
            return Step::Send(AttachControl::Leave);
        }
        if self.stop && !stop_sent {
            self.state = State::Open { since, stop_sent: true, leave_sent };
            return Step::Send(AttachControl::Stop);
        }
        let stalled_at = self.heard_at.max(since) + STALL;
        if now >= stalled_at {
            self.state = self.closed(format!("silence for {} s", STALL.as_secs()), now);
            return Step::Close;
        }
        let wait = if self.received > self.held { HELD_AT_MOST } else { HELD_AT_LEAST };
        if now >= self.held_at + wait {
            self.held = self.received;
            self.held_at = now;
            return Step::Send(AttachControl::Held { bytes: self.received });
        }
        Step::Wait(stalled_at.min(self.held_at + wait))
    }

    fn done(&mut self, ended: Ended) -> Step {
        self.state = State::Done(ended.clone());
        Step::Done(ended)
    }

    fn attach(&self) -> Attach {
        Attach {
            protocol: PROTOCOL_VERSION,
            capture: self.capture.clone(),
            from: self.received,
            // A profiler that has lost the capture must say so, not begin another.
            request: self.request.clone().filter(|_| !self.known),
        }
    }
}

#[cfg(test)]
mod tests;
