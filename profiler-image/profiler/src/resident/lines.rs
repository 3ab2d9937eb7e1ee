//! Progress that no client has seen yet, and what every new client must know.

use std::collections::VecDeque;

use aiprof_capture::progress::Progress;

/// Lines kept for a client that is away or slow.
const MAX_LINES: usize = 256;

/// The lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// In order; each goes to one client.
    unseen: VecDeque<Progress>,
    /// The latest tick, if no client has seen it.
    tick: Option<Progress>,
    /// How the window opened, closed, and why there is no capture: told again to every client.
    state: Vec<Progress>,
}

impl Lines {
    /// A line of the capture.
    pub(super) fn push(&mut self, line: &Progress) {
        match line {
            Progress::Tick { .. } => self.tick = Some(line.clone()),
            Progress::Started { .. } | Progress::Finishing { .. } | Progress::Error { .. } => {
                self.tick = None;
                self.state.push(line.clone());
                self.unseen.push_back(line.clone());
            }
            _ if self.unseen.len() < MAX_LINES => self.unseen.push_back(line.clone()),
            // The manifest has them all.
            _ => {}
        }
    }

    /// A new client has come: it may not know what the one before has seen.
    pub(super) fn again(&mut self) {
        let known = self.state.iter().filter(|line| !self.unseen.contains(line)).cloned().collect::<Vec<_>>();
        for line in known.into_iter().rev() {
            self.unseen.push_front(line);
        }
    }

    /// The next line to send.
    pub(super) fn take(&mut self) -> Option<Progress> {
        self.unseen.pop_front().or_else(|| self.tick.take())
    }

    /// Whether [`Self::take`] has one.
    pub(super) fn is_empty(&self) -> bool {
        self.unseen.is_empty() && self.tick.is_none()
    }
}

#[cfg(test)]
mod tests {
    use aiprof_capture::progress::EndReason;

    use super::*;

    fn tick(elapsed_ms: u64) -> Progress {
        Progress::Tick { elapsed_ms, trace_bytes: 0, samples: 0, switches: 0, lost: 0 }
    }

    fn drain(lines: &mut Lines) -> Vec<Progress> {
        std::iter::from_fn(|| lines.take()).collect()
    }

    #[test]
    fn a_new_client_learns_the_state_and_what_nobody_has_seen() {
        let mut lines = Lines::default();
        let warning = |message: &str| Progress::Warning { message: message.to_owned() };
        let started = Progress::Started { duration_ms: None, processes: 1, threads: 2 };
        let finishing = Progress::Finishing { reason: EndReason::Stopped };
        for line in [&warning("first"), &started, &tick(1), &tick(2)] {
            lines.push(line);
        }
        assert_eq!(drain(&mut lines), [warning("first"), started.clone(), tick(2)]);
        assert!(lines.is_empty());
        lines.push(&tick(3));
        lines.push(&warning("second"));
        lines.push(&finishing);
        lines.again();
        assert_eq!(drain(&mut lines), [started.clone(), warning("second"), finishing.clone()]);
        lines.again();
        assert_eq!(drain(&mut lines), [started, finishing]);
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut lines = Lines::default();
        for number in 0..10_000 {
            lines.push(&Progress::Warning { message: number.to_string() });
            lines.push(&tick(number));
        }
        assert_eq!(drain(&mut lines).len(), MAX_LINES + 1);
    }
}
