//! How long nobody may be there: a client that says nothing for half the lease is taken for gone, and the lease counts from the last
//! that was heard.

use std::time::{Duration, Instant};

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing for so long.
    Nothing(Duration),
    /// Cut the silent client off, so that one that lives comes again.
    Cut,
    /// End: nobody is there.
    Over,
}

/// The lease.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    length: Duration,
    heard: Instant,
    attached: bool,
}

impl Lease {
    /// Nobody is there yet.
    pub(super) fn new(length: Duration, now: Instant) -> Self {
        Self { length, heard: now, attached: false }
    }

    /// A client came, or said something.
    pub(super) fn hear(&mut self, now: Instant) {
        (self.heard, self.attached) = (now, true);
    }

    /// The client has gone.
    pub(super) fn leave(&mut self, now: Instant) {
        (self.heard, self.attached) = (now, false);
    }

    /// What is to be done at `now`; after [`Due::Cut`] the client counts as gone.
    pub(super) fn due(&mut self, now: Instant) -> Due {
        let silent = self.quiet(now);
        let limit = if self.attached { self.length / 2 } else { self.length };
        if let Some(left) = limit.checked_sub(silent).filter(|left| !left.is_zero()) {
            return Due::Nothing(left);
        }
        if std::mem::take(&mut self.attached) { Due::Cut } else { Due::Over }
    }

    /// How long nobody was heard.
    pub(super) fn quiet(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.heard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_lease_counts_from_the_last_that_was_heard() {
        let start = Instant::now();
        let mut lease = Lease::new(10 * SECOND, start);
        assert_eq!(lease.due(start + 4 * SECOND), Due::Nothing(6 * SECOND));
        lease.hear(start + 9 * SECOND);
        assert_eq!(lease.due(start + 10 * SECOND), Due::Nothing(4 * SECOND));
        lease.hear(start + 13 * SECOND);
        assert_eq!(lease.due(start + 18 * SECOND), Due::Cut);
        assert_eq!(lease.due(start + 18 * SECOND), Due::Nothing(5 * SECOND));
        assert_eq!(lease.due(start + 23 * SECOND), Due::Over);
        lease.hear(start + 23 * SECOND);
        lease.leave(start + 24 * SECOND);
        assert_eq!(lease.quiet(start + 25 * SECOND), SECOND);
        assert_eq!(lease.due(start + 34 * SECOND), Due::Over);
    }
}
