//! Faults that a test orders for its namespace: cut connections, containers that never start, a server that knows no ephemeral
//! containers.

use std::{
    collections::HashMap,
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

/// The switchboard, shared by the control endpoint, the streams and the node: each namespace has faults of its own.
#[derive(Default)]
pub(crate) struct Board(Mutex<HashMap<String, Panel>>);

/// What is ordered for one namespace.
#[derive(Default)]
struct Panel {
    faults: Faults,
    /// Rises when open connections are to be cut; held by each of them.
    cuts: watch::Sender<u64>,
    /// Connections that were cut.
    cut: u64,
}

impl Board {
    fn with<T>(&self, namespace: &str, what: impl FnOnce(&mut Panel) -> T) -> T {
        let mut panels = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        what(panels.entry(namespace.to_owned()).or_default())
    }

    /// What is broken.
    pub(crate) fn get(&self, namespace: &str) -> Faults {
        self.with(namespace, |panel| panel.faults.clone())
    }

    /// Breaks exactly this.
    pub(crate) fn set(&self, namespace: &str, faults: Faults) {
        self.with(namespace, |panel| panel.faults = faults);
    }

    /// Cuts every exec connection that is open now; gives how many there were.
    pub(crate) fn cut_now(&self, namespace: &str) -> usize {
        self.with(namespace, |panel| {
            panel.cuts.send_modify(|count| *count += 1);
            panel.cuts.receiver_count()
        })
    }

    /// Changes when open connections are to be cut; held by each of them.
    pub(crate) fn cuts(&self, namespace: &str) -> watch::Receiver<u64> {
        let mut cuts = self.with(namespace, |panel| panel.cuts.subscribe());
        cuts.mark_unchanged();
        cuts
    }

    /// Connections that were cut so far, for whatever reason.
    pub(crate) fn cut_so_far(&self, namespace: &str) -> u64 {
        self.with(namespace, |panel| panel.cut)
    }

    /// Counts a connection that was cut.
    pub(crate) fn count_cut(&self, namespace: &str) {
        self.with(namespace, |panel| panel.cut += 1);
    }

    /// Bytes after which a connection of this command is cut. Asked again at the cut, by [`Board::spend_cut`].
    pub(crate) fn cut_after(&self, namespace: &str, command: &[String]) -> Option<u64> {
        let cut = self.get(namespace).cut?;
        (cut.times > 0 && cut.meant(command)).then_some(cut.after_bytes)
    }

    /// Takes one from the cuts that are left; whether there was one.
    pub(crate) fn spend_cut(&self, namespace: &str) -> bool {
        self.with(namespace, |panel| match &mut panel.faults.cut {
            Some(cut) if cut.times > 0 => {
                cut.times -= 1;
                true
            }
            _ => false,
        })
    }

    /// How long an ephemeral container waits.
    pub(crate) fn start_delay(&self, namespace: &str) -> Duration {
        Duration::from_millis(self.get(namespace).start_delay_ms)
    }
}

impl Cut {
    fn meant(&self, command: &[String]) -> bool {
        self.command.is_empty() || command.contains(&self.command)
    }
}
