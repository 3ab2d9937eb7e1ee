//! What is going on: one JSON object a line on the profiler's standard error, passed on by `--progress json`.

use serde::{Deserialize, Serialize};

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Progress {
    /// A process was chosen.
    Process {
        /// Its id.
        pid: u32,
        /// Its title.
        name: String,
        /// `CPython 3.12.1`, if it runs one that can be read.
        python: Option<String>,
    },
    /// What is being done, for the user; nothing is wrong.
    Note {
        /// One sentence.
        message: String,
    },
    /// Something is not as it should be; the capture goes on.
    Warning {
        /// One sentence.
        message: String,
    },
    /// The window is open.
    Started {
        /// How long it will be, if that is known.
        duration_ms: Option<u64>,
        /// Processes in it.
        processes: u32,
        /// Threads in it.
        threads: u32,
    },
    /// The window is still open; about four times a second, also a sign of life.
    Tick {
        /// Since it opened.
        elapsed_ms: u64,
        /// Trace bytes written so far.
        trace_bytes: u64,
        /// Samples so far.
        samples: u64,
        /// Thread switches so far.
        switches: u64,
        /// Records lost so far, all streams.
        lost: u64,
    },
    /// The window is closed, the rest is being written.
    Finishing {
        /// Why it closed.
        reason: EndReason,
    },
    /// No capture: the last line.
    Error {
        /// What and why, one sentence.
        message: String,
        /// What to do next.
        hint: String,
    },
}

/// Why a window closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndReason {
    /// Its time was over.
    Duration,
    /// Somebody asked, with Ctrl-C or by a control line.
    Stopped,
    /// Every chosen process has ended.
    TargetExited,
    /// The asking side has gone.
    PluginGone,
    /// The profiler was told to end, as every container of a pod is when the pod is deleted.
    Terminated,
    /// The profiler ended before it could say why.
    ProfilerDied,
}
