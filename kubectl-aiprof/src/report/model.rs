//! What a report says; as JSON it is stable and described in docs/report-json.md. Units are in the names: `_ns` nanoseconds, `_ms`
//! milliseconds, `_bytes`; a `share` is between 0 and 1.

use std::collections::BTreeMap;

use aiprof_capture::{
    manifest::{Cost, Host, Outcome, Stream},
    progress::EndReason,
    request::Dimension,
};
use serde::Serialize;

/// Version of the JSON form: a change that breaks readers raises it.
pub const REPORT_SCHEMA: u32 = 1;

/// A report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// [`REPORT_SCHEMA`].
    pub schema: u32,
    /// What was recorded and when.
    pub capture: Capture,
    /// What is missing.
    pub quality: Quality,
    /// Samples of all processes.
    pub samples: u64,
    /// Time on a CPU that the samples stand for.
    pub sampled_ns: u64,
    /// Functions over all processes.
    pub functions: Functions,
    /// The processes, the busiest first.
    pub processes: Vec<ProcessReport>,
}

/// What was recorded.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Capture {
    /// When the window opened, RFC 3339.
    pub started_at: String,
    /// How long it was open.
    pub duration_ms: u64,
    /// Why it closed.
    pub end_reason: EndReason,
    /// Samples a second of each busy CPU.
    pub frequency_hz: u32,
    /// Time that one sample stands for.
    pub sample_period_ns: u64,
    /// Version of the profiler.
    pub profiler_version: String,
    /// The machine.
    pub host: Host,
    /// What the profiler used.
    pub cost: Cost,
}

/// What is missing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Quality {
    /// Nothing is missing and no record was lost.
    pub complete: bool,
    /// What was got of each dimension.
    pub dimensions: BTreeMap<Dimension, Outcome>,
    /// Records and losses of each stream.
    pub streams: BTreeMap<String, Stream>,
    /// What a reader should know.
    pub notes: Vec<String>,
}

/// One process.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProcessReport {
    /// Its id.
    pub pid: u32,
    /// Its title.
    pub name: String,
    /// Its Python.
    pub python: Option<String>,
    /// When it ended, if within the window, in milliseconds since its opening.
    pub exited_after_ms: Option<u64>,
    /// What was got of each dimension.
    pub dimensions: BTreeMap<Dimension, Outcome>,
    /// Its samples.
    pub samples: u64,
    /// Time on a CPU that they stand for.
    pub sampled_ns: u64,
    /// How its threads spent their time, all together.
    pub time: TimeSplit,
    /// Its functions.
    pub functions: Functions,
    /// What its threads waited for, the longest sum first.
    pub waits: Vec<WaitReport>,
    /// Its threads, the busiest first.
    pub threads: Vec<ThreadReport>,
}

/// One thread.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ThreadReport {
    /// Its id.
    pub tid: u32,
    /// Its name.
    pub name: String,
    /// Its samples.
    pub samples: u64,
    /// How it spent its time.
    pub time: TimeSplit,
    /// What it waited for, the longest sum first.
    pub wait_reasons: Vec<WaitReason>,
}

/// How time was spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct TimeSplit {
    /// All of it.
    pub observed_ns: u64,
    /// On a CPU.
    pub running_ns: u64,
    /// Ready, but without a CPU.
    pub runnable_ns: u64,
    /// Waiting.
    pub waiting_ns: u64,
    /// Share of [`Self::running_ns`]; 0 when nothing was observed.
    pub running_share: f64,
    /// Share of [`Self::runnable_ns`].
    pub runnable_share: f64,
    /// Share of [`Self::waiting_ns`].
    pub waiting_share: f64,
    /// How long threads waited for a CPU.
    pub scheduling_delay: SchedulingDelay,
}

/// Times between ready and running.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SchedulingDelay {
    /// How often.
    pub count: u64,
    /// How often since the thread was preempted, rather than woken.
    pub preempted_count: u64,
    /// All together.
    pub total_ns: u64,
    /// Mean.
    pub mean_ns: u64,
    /// The longest.
    pub longest_ns: u64,
}

/// A sum over waits of one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WaitReason {
    /// The reason, as the kernel tells it.
    pub reason: String,
    /// How often.
    pub count: u64,
    /// All together.
    pub total_ns: u64,
    /// The longest.
    pub longest_ns: u64,
}

/// A sum over waits of one reason at one stack.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WaitReport {
    /// Reason and sums.
    #[serde(flatten)]
    pub wait: WaitReason,
    /// Share of the process's waiting time.
    pub share: f64,
    /// Where, leaf first: the Python frames, if there are none the native ones; empty when no stack was taken.
    pub stack: Vec<Site>,
}

/// A place in code.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Site {
    /// Python, native or kernel.
    pub kind: Kind,
    /// Function.
    pub function: String,
    /// File; empty for the kernel.
    pub file: String,
    /// Line; 0 where there is none.
    pub line: u32,
}

/// Kind of code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Python.
    Python,
    /// Machine code of the process.
    Native,
    /// The kernel.
    Kernel,
}

/// Tables of functions. Each is by itself over all samples: a sample in C code called by Python counts as self time of that C
/// function and of the innermost Python function.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Functions {
    /// Python functions by the time in which they were the innermost Python function.
    pub python_by_self: Vec<FunctionReport>,
    /// Python functions by the time in which they were anywhere on the stack.
    pub python_by_total: Vec<FunctionReport>,
    /// Native functions by the time in which they were the innermost frame outside the kernel.
    pub native_by_self: Vec<FunctionReport>,
    /// Kernel functions by the time in which they were the innermost frame.
    pub kernel_by_self: Vec<FunctionReport>,
}

/// One function.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FunctionReport {
    /// Name.
    pub function: String,
    /// File; empty for the kernel.
    pub file: String,
    /// The line that most samples met it at; 0 where there is none.
    pub line: u32,
    /// Samples with it innermost.
    pub self_samples: u64,
    /// Samples with it anywhere, each counted once however deep it recurses.
    pub total_samples: u64,
    /// Time of `self_samples`.
    pub self_ns: u64,
    /// Time of `total_samples`.
    pub total_ns: u64,
    /// `self_samples` of all samples of the process, or of the capture.
    pub self_share: f64,
    /// `total_samples` likewise.
    pub total_share: f64,
}
