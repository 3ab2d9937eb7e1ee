//! What a profiler sent, put together: takes the bytes of its two outputs and gives trace bytes, progress, and at the end what became
//! of the capture. Does no I/O.

use std::{collections::VecDeque, fmt::Write as _, mem};

use aiprof_capture::{
    frame::{Decoder, FrameError, FrameKind},
    manifest::Manifest,
    progress::{EndReason, Progress},
};
use indicatif::HumanBytes;

use crate::{strings::printable, transport::Ended};

/// The longest manifest that is accepted, in bytes.
const MAX_MANIFEST_BYTES: usize = 32 << 20;
/// The longest progress line, in bytes; what is longer is no progress.
const MAX_LINE_BYTES: usize = 64 << 10;
/// How many of the profiler's other lines are kept, for the message if it dies.
const KEPT_LINES: usize = 5;

/// One line of progress.
#[derive(Clone, Debug, PartialEq)]
pub struct ProgressLine {
    /// As it was received.
    pub raw: String,
    /// What it says.
    pub progress: Progress,
}

/// A process that the profiler named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedProcess {
    /// Its id.
    pub pid: u32,
    /// Its title.
    pub name: String,
    /// Its Python.
    pub python: Option<String>,
}

/// What became of a capture.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// All of it arrived.
    Whole(Box<Manifest>),
    /// The profiler or the way to it broke; what had arrived is worth keeping.
    Torn(Torn),
    /// There is nothing to keep.
    Failed {
        /// What and why.
        message: String,
        /// What to do next; may be empty.
        hint: String,
    },
}

/// What is known of a capture whose end is missing.
#[derive(Clone, Debug, PartialEq)]
pub struct Torn {
    /// What happened, a sentence without its full stop.
    pub why: String,
    /// The manifest, if it had arrived.
    pub manifest: Option<Box<Manifest>>,
    /// The processes that were named.
    pub processes: Vec<NamedProcess>,
    /// How long the window had been open when it was last heard of.
    pub elapsed_ms: u64,
}

/// One capture as it arrives.
#[derive(Debug, Default)]
pub struct Session {
    decoder: Decoder,
    damage: Option<FrameError>,
    trace_bytes: u64,
    manifest: Vec<u8>,
    line: Vec<u8>,
    line_too_long: bool,
    other_lines: VecDeque<String>,
    processes: Vec<NamedProcess>,
    elapsed_ms: u64,
    started: bool,
    finishing: Option<EndReason>,
    error: Option<(String, String)>,
}

impl Session {
    /// Takes bytes of the capture and gives the trace bytes among them.
    ///
    /// # Errors
    /// The stream is damaged: nothing more will come of it.
    pub fn capture_bytes(&mut self, bytes: &[u8], trace: &mut Vec<u8>) -> Result<(), FrameError> {
        self.decoder.push(bytes);
        loop {
            let frame = match self.decoder.next() {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ok(()),
                Err(error) => {
                    self.damage = Some(error);
                    return Err(error);
                }
            };
            match frame.kind {
                FrameKind::Trace => {
                    self.trace_bytes += frame.payload.len() as u64;
                    trace.extend_from_slice(&frame.payload);
                }
                FrameKind::Manifest => {
                    let room = MAX_MANIFEST_BYTES.saturating_sub(self.manifest.len());
                    self.manifest.extend(frame.payload.iter().take(room));
                }
                FrameKind::End => {}
            }
        }
    }

    /// Takes bytes of the progress and gives the whole lines among them.
    pub fn progress_bytes(&mut self, mut bytes: &[u8]) -> Vec<ProgressLine> {
        let mut lines = Vec::new();
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            self.add_to_line(&bytes[..end]);
            bytes = &bytes[end + 1..];
            lines.extend(self.take_line());
        }
        self.add_to_line(bytes);
        lines
    }

    /// Whether the window has opened.
    #[must_use]
    pub const fn started(&self) -> bool {
        self.started
    }

    /// Whether the window has closed, or there will be none.
    #[must_use]
    pub const fn finishing(&self) -> bool {
        self.finishing.is_some() || self.error.is_some()
    }

    /// What became of it, now that the profiler has ended; `broken` says why it was ended from here, if it was.
    #[must_use]
    pub fn finish(mut self, ended: &Ended, broken: Option<&str>) -> Outcome {
        // A last line without its end, such as of a panic.
        let _ = self.take_line();
        if let Some((message, hint)) = self.error {
            return Outcome::Failed { message, hint };
        }
        let manifest: Option<Box<Manifest>> = serde_json::from_slice(&self.manifest).ok();
        let whole = self.decoder.finish();
        let why = match (manifest, self.damage, whole) {
            (Some(manifest), None, Ok(())) => return Outcome::Whole(manifest),
            (manifest, _, _) if self.trace_bytes > 0 => {
                let mut why = why_torn(self.damage, broken, ended, &self.other_lines);
                if matches!(ended, Ended::Lost(_)) {
                    let seconds = self.elapsed_ms as f64 / 1000.0;
                    let bytes = HumanBytes(self.trace_bytes);
                    let _ = write!(why, "; what had arrived is kept ({seconds:.1} s, {bytes} of trace)");
                }
                return Outcome::Torn(Torn { why, manifest, processes: self.processes, elapsed_ms: self.elapsed_ms });
            }
            (_, damage, _) => why_torn(damage, broken, ended, &self.other_lines),
        };
        Outcome::Failed { message: format!("{why}, before it captured anything"), hint: String::new() }
    }

    fn add_to_line(&mut self, bytes: &[u8]) {
        let room = MAX_LINE_BYTES - self.line.len();
        self.line_too_long |= bytes.len() > room;
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn take_line(&mut self) -> Option<ProgressLine> {
        let line = mem::take(&mut self.line);
        let too_long = mem::take(&mut self.line_too_long);
        let raw = String::from_utf8_lossy(&line).trim().to_owned();
        if raw.is_empty() {
            return None;
        }
        match serde_json::from_str(&raw) {
            // A profiler says where it stands again to each new session.
            Ok(progress) if !too_long => self.note(&progress).then_some(ProgressLine { raw, progress }),
            _ => {
                self.other_lines.truncate(KEPT_LINES - 1);
                self.other_lines.push_front(printable(&raw));
                None
            }
        }
    }

    /// Remembers what a line says; whether that is new.
    fn note(&mut self, progress: &Progress) -> bool {
        match progress {
            Progress::Process { pid, name, python } => {
                let process = NamedProcess { pid: *pid, name: name.clone(), python: python.clone() };
                if self.processes.contains(&process) {
                    return false;
                }
                self.processes.retain(|process| process.pid != *pid);
                self.processes.push(process);
            }
            Progress::Started { .. } => return !mem::replace(&mut self.started, true),
            Progress::Tick { elapsed_ms, .. } => self.elapsed_ms = *elapsed_ms,
            Progress::Finishing { reason } => return self.finishing.replace(*reason).is_none(),
            Progress::Error { message, hint } => self.error = Some((message.clone(), hint.clone())),
            Progress::Note { .. } | Progress::Warning { .. } => {}
        }
        true
    }
}

fn why_torn(damage: Option<FrameError>, broken: Option<&str>, ended: &Ended, other_lines: &VecDeque<String>) -> String {
    if let Some(damage) = damage {
        return format!("the profiler was stopped since {damage}");
    }
    if let Some(broken) = broken {
        return format!("the profiler was stopped since {broken}");
    }
    if let Ended::Lost(why) = ended {
        return printable(why);
    }
    let mut why = format!("the profiler ended too early ({ended})");
    if !other_lines.is_empty() {
        let said: Vec<&str> = other_lines.iter().rev().map(String::as_str).collect();
        why.push_str(", saying: ");
        why.push_str(&said.join(" / "));
    }
    why
}

#[cfg(test)]
mod tests {
    use aiprof_capture::frame::Encoder;

    use super::*;

    const ENDED: Ended = Ended::Signalled(9);

    fn line(progress: &Progress) -> Vec<u8> {
        let mut line = serde_json::to_vec(progress).unwrap();
        line.push(b'\n');
        line
    }

    #[test]
    fn progress_lines_arrive_in_any_pieces() {
        let tick = Progress::Tick { elapsed_ms: 250, trace_bytes: 9, samples: 2, switches: 3, lost: 0 };
        let started = Progress::Started { duration_ms: None, processes: 1, threads: 1 };
        let bytes = [line(&started), line(&tick)].concat();
        let mut session = Session::default();
        let lines: Vec<_> = bytes.chunks(3).flat_map(|piece| session.progress_bytes(piece)).collect();
        assert_eq!(lines.iter().map(|line| line.progress.clone()).collect::<Vec<_>>(), [started, tick]);
        assert!(session.started() && !session.finishing());
    }

    #[test]
    fn what_is_said_again_is_told_once() {
        let mut session = Session::default();
        let process = |name: &str| Progress::Process { pid: 7, name: name.into(), python: None };
        let started = Progress::Started { duration_ms: None, processes: 1, threads: 1 };
        let finishing = Progress::Finishing { reason: EndReason::Duration };
        let mut told = |progress: &Progress| session.progress_bytes(&line(progress)).len();
        let said = [process("a"), started.clone(), process("a"), started, process("b"), finishing.clone(), finishing];
        assert_eq!(said.each_ref().map(&mut told), [1, 1, 0, 0, 1, 1, 0]);
    }

    #[test]
    fn an_endless_line_is_bounded_and_no_progress() {
        let mut session = Session::default();
        for _ in 0..100 {
            assert!(session.progress_bytes(&[b'x'; 4096]).is_empty());
        }
        assert!(session.line.len() <= MAX_LINE_BYTES);
        assert!(session.progress_bytes(b"\n").is_empty());
    }

    #[test]
    fn an_error_of_the_profiler_is_the_outcome() {
        let mut session = Session::default();
        session.progress_bytes(&line(&Progress::Error { message: "no".into(), hint: "do".into() }));
        let outcome = session.finish(&Ended::Exited(1), None);
        assert_eq!(outcome, Outcome::Failed { message: "no".into(), hint: "do".into() });
    }

    #[test]
    fn what_came_before_the_end_is_kept() {
        let mut session = Session::default();
        let mut trace = Vec::new();
        session.capture_bytes(&Encoder::new().frame(FrameKind::Trace, b"abc"), &mut trace).unwrap();
        session.progress_bytes(b"thread panicked\x1b[2J\nat lib.rs");
        assert_eq!(trace, b"abc");
        let Outcome::Torn(torn) = session.finish(&ENDED, None) else { panic!("not torn") };
        assert_eq!(torn.why, "the profiler ended too early (signal 9), saying: thread panicked\u{fffd}[2J / at lib.rs");
    }

    #[test]
    fn a_pod_that_was_lost_says_what_is_kept() {
        let mut session = Session::default();
        session.capture_bytes(&Encoder::new().frame(FrameKind::Trace, &[0; 2048]), &mut Vec::new()).unwrap();
        let tick = Progress::Tick { elapsed_ms: 1_250, trace_bytes: 9, samples: 2, switches: 3, lost: 0 };
        session.progress_bytes(&line(&tick));
        let lost = Ended::Lost("pod a was deleted while it was recorded".to_owned());
        let Outcome::Torn(torn) = session.finish(&lost, None) else { panic!("not torn") };
        let expected = "pod a was deleted while it was recorded; what had arrived is kept (1.2 s, 2.00 KiB of trace)";
        assert_eq!(torn.why, expected);
        let Outcome::Failed { message, .. } = Session::default().finish(&lost, None) else { panic!("not failed") };
        assert_eq!(message, "pod a was deleted while it was recorded, before it captured anything");
    }

    #[test]
    fn a_profiler_that_sent_nothing_is_a_failure() {
        let Outcome::Failed { message, .. } = Session::default().finish(&ENDED, None) else { panic!("not failed") };
        assert_eq!(message, "the profiler ended too early (signal 9), before it captured anything");
    }

    #[test]
    fn a_damaged_frame_ends_the_capture() {
        let mut encoder = Encoder::new();
        let whole = encoder.frame(FrameKind::Trace, b"abc");
        let mut damaged = encoder.frame(FrameKind::Trace, b"def");
        *damaged.last_mut().unwrap() ^= 1;
        let mut session = Session::default();
        let mut trace = Vec::new();
        assert!(session.capture_bytes(&[whole, damaged].concat(), &mut trace).is_err());
        assert_eq!(trace, b"abc");
        assert!(matches!(session.finish(&ENDED, None), Outcome::Torn(torn) if torn.why.contains("damaged")));
    }
}
