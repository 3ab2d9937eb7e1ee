//! `manifest.json`: what was asked, what was got, and what is missing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    progress::EndReason,
    request::{Dimension, Request},
};

/// Version of the archive's layout.
pub const SCHEMA_VERSION: u32 = 1;

/// The manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`SCHEMA_VERSION`] of the writer.
    pub schema: u32,
    /// Version of the profiler.
    pub profiler_version: String,
    /// What was asked.
    pub request: Request,
    /// Why the window closed.
    pub end_reason: EndReason,
    /// When it opened, RFC 3339 in UTC.
    pub started_at: String,
    /// How long it was open.
    pub duration_ms: u64,
    /// The clocks at its start.
    pub clock: Clocks,
    /// The machine.
    pub host: Host,
    /// What was got of each wanted dimension, over all processes.
    pub dimensions: BTreeMap<Dimension, Outcome>,
    /// The processes.
    pub processes: Vec<ProcessOutcome>,
    /// Per stream, how many records there were and how many were lost or left out.
    pub streams: BTreeMap<String, Stream>,
    /// What the profiler itself used.
    pub cost: Cost,
    /// What a reader should know, one sentence each.
    pub notes: Vec<String>,
}

/// Clocks read together when the window opened, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clocks {
    /// `CLOCK_BOOTTIME`, in which the trace is written.
    pub boottime_ns: u64,
    /// `CLOCK_MONOTONIC`.
    pub monotonic_ns: u64,
    /// `CLOCK_REALTIME`.
    pub realtime_ns: u64,
}

/// The machine of the target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Host name as the profiler sees it.
    pub hostname: String,
    /// `uname -r`.
    pub kernel: String,
    /// `x86_64` or `aarch64`.
    pub architecture: String,
    /// CPUs that are online.
    pub cpus: u32,
}

/// What was got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "kebab-case")]
pub enum Outcome {
    /// All of it.
    Complete,
    /// Some of it.
    Partial {
        /// What is missing and why, one sentence each.
        reasons: Vec<String>,
    },
    /// Nothing.
    Refused {
        /// Why.
        reason: String,
    },
}

/// One process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessOutcome {
    /// Its id.
    pub pid: u32,
    /// Its title.
    pub name: String,
    /// `CPython 3.12.1`, if it runs one.
    pub python: Option<String>,
    /// When it ended, if within the window, in milliseconds since its opening.
    pub exited_after_ms: Option<u64>,
    /// What was got of each wanted dimension.
    pub dimensions: BTreeMap<Dimension, Outcome>,
}

/// One stream of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// Records that reached the trace.
    pub records: u64,
    /// Records lost for want of room.
    pub lost: u64,
    /// Records left out on purpose, to stay within the budget.
    pub thinned: u64,
}

/// What the profiler used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// CPU time of the profiler's own process, in milliseconds.
    pub cpu_ms: u64,
    /// Peak resident memory, in bytes.
    pub peak_rss_bytes: u64,
    /// Mean time of one sample in the kernel, in nanoseconds; none without samples.
    pub sample_ns: Option<u64>,
    /// Mean time of one switch in the kernel, in nanoseconds; none without switches.
    pub switch_ns: Option<u64>,
    /// Mean time of the end of one system call in the kernel, of those that were timed, in nanoseconds; none without any.
    #[serde(default)]
    pub syscall_ns: Option<u64>,
    /// Share of one CPU that the in-kernel programs took over the window.
    pub kernel_cpu_share: f64,
}
