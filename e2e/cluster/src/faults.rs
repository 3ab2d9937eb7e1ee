//! Faults that a test orders: cut connections, containers that never start, a server that knows no ephemeral containers.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// What is broken at present; all of it off by default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Faults {
    /// Exec connections to be cut while they run.
    pub cut: Option<Cut>,
    /// New ephemeral containers wait with this reason and never start.
    pub waiting: Option<Waiting>,
    /// Ephemeral containers start so much later.
    pub start_delay_ms: u64,
    /// Exec connections that carry nothing for so long are cut, as by a proxy on the way; 0 for never.
    pub idle_timeout_ms: u64,
    /// The server does not know `pods/ephemeralcontainers`.
    pub no_ephemeral_containers: bool,
    /// Streams only by the protocol version 4, as before Kubernetes 1.30.
    pub only_v4: bool,
}

/// Cuts exec connections without a close frame.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Cut {
    /// Bytes of standard output that a connection carries before it is cut.
    pub after_bytes: u64,
    /// So many connections are cut, then no more.
    pub times: u32,
    /// Only those whose command has this word as an argument; empty for all.
    pub command: String,
}

/// Why a container does not start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waiting {
    /// `ErrImagePull`, `CreateContainerConfigError`, …
    pub reason: String,
    /// The sentence beside it.
    pub message: String,
}

/// The switchboard, shared by the control endpoint, the streams and the node.
pub(crate) struct Board {
    faults: Mutex<Faults>,
    cuts: watch::Sender<u64>,
}

impl Default for Board {
    fn default() -> Self {
        Self { faults: Mutex::default(), cuts: watch::Sender::new(0) }
    }
}

impl Board {
    /// What is broken.
    pub(crate) fn get(&self) -> Faults {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Breaks exactly this.
    pub(crate) fn set(&self, faults: Faults) {
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner) = faults;
    }

    /// Cuts every exec connection that is open now; gives how many there were.
    pub(crate) fn cut_now(&self) -> usize {
        self.cuts.send_modify(|count| *count += 1);
        self.cuts.receiver_count()
    }

    /// Changes when open connections are to be cut; held by each of them.
    pub(crate) fn cuts(&self) -> watch::Receiver<u64> {
        let mut cuts = self.cuts.subscribe();
        cuts.mark_unchanged();
        cuts
    }

    /// Bytes after which a connection of this command is cut. Asked again at the cut, by [`Board::spend_cut`].
    pub(crate) fn cut_after(&self, command: &[String]) -> Option<u64> {
        let cut = self.get().cut?;
        (cut.times > 0 && cut.meant(command)).then_some(cut.after_bytes)
    }

    /// Takes one from the cuts that are left; whether there was one.
    pub(crate) fn spend_cut(&self) -> bool {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut faults.cut {
            Some(cut) if cut.times > 0 => {
                cut.times -= 1;
                true
            }
            _ => false,
        }
    }

    /// How long an ephemeral container waits.
    pub(crate) fn start_delay(&self) -> Duration {
        Duration::from_millis(self.get().start_delay_ms)
    }
}

impl Cut {
    fn meant(&self, command: &[String]) -> bool {
        self.command.is_empty() || command.contains(&self.command)
    }
}
