//! What a profiler sees where it runs: one JSON object, printed by `aiprof-profiler inspect` for `check` and `ps`.

use serde::{Deserialize, Serialize};

/// Memory that a profiler must find free in its control group; with less none begins.
pub const LEAST_MEMORY_BYTES: u64 = 64 << 20;

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Inspection {
    /// Version of the profiler.
    pub profiler_version: String,
    /// `uname -r`.
    pub kernel: String,
    /// `x86_64`.
    pub architecture: String,
    /// Why the kernel's type data cannot be read; none if it can.
    pub no_btf: Option<String>,
    /// Capabilities that a capture needs and this process lacks.
    pub missing_capabilities: Vec<String>,
    /// Whether a seccomp filter is on (`Seccomp: 2` in `/proc/self/status`).
    pub seccomp: bool,
    /// `kernel.yama.ptrace_scope`; none without Yama.
    pub yama: Option<u32>,
    /// Why the in-kernel programs do not load; none if they do.
    pub programs: Option<String>,
    /// Bytes that the cgroup may still take; none without a limit.
    pub memory_headroom_bytes: Option<u64>,
    /// Processes of the target's container as far as that can be told, else all; without the profiler's own.
    pub processes: Vec<SeenProcess>,
}

/// One process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SeenProcess {
    /// Its id, as its own PID namespace numbers it.
    pub pid: u32,
    /// Its parent's.
    pub parent_pid: u32,
    /// Its title, without arguments.
    pub title: String,
    /// `CPython 3.12.1`, if it runs one that can be read.
    pub python: Option<String>,
    /// Why its Python is refused, if it is.
    pub python_refused: Option<String>,
    /// Path of its libcuda, if it maps one.
    pub libcuda: Option<String>,
    /// Path of a libcupti that it maps, if it does.
    pub libcupti: Option<String>,
    /// Threads.
    pub threads: u32,
    /// CPU time so far.
    pub cpu_ms: u64,
    /// Resident memory.
    pub rss_bytes: u64,
}
