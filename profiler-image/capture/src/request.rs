//! What to capture: one line of JSON on the profiler's standard input, then [`Control`] lines. The end of that input is a stop too:
//! whoever asked has gone.

use serde::{Deserialize, Serialize};

/// Version of this protocol; plugin and profiler must agree.
pub const PROTOCOL_VERSION: u32 = 1;

/// What to capture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// [`PROTOCOL_VERSION`] of the asking side.
    pub protocol: u32,
    /// Processes to profile, by id; their later children are profiled too. Empty: all that run CPython.
    pub pids: Vec<u32>,
    /// The runtime's id of the container whose processes are meant, as `status.containerStatuses[].containerID` of a pod has it after
    /// its scheme. Processes of others are profiled only by id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// Narrows the choice to processes whose name or command line contains one of these.
    pub processes: Vec<String>,
    /// How long; none: until stopped or until the processes have ended.
    pub duration_ms: Option<u64>,
    /// Samples a second for each busy CPU.
    pub frequency_hz: u32,
    /// Dimensions that are wanted.
    pub collect: Vec<Dimension>,
    /// System calls from this length on are told one by one, not only in sums; in nanoseconds.
    #[serde(default = "default_syscall_min_ns")]
    pub syscall_min_ns: u64,
}

/// Most calls that do not wait are shorter, those that a person looks for are not.
pub const DEFAULT_SYSCALL_MIN_NS: u64 = 50_000;

const fn default_syscall_min_ns() -> u64 {
    DEFAULT_SYSCALL_MIN_NS
}

/// The five dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dimension {
    /// Python functions and lines.
    Python,
    /// When threads ran and waited, native and kernel stacks.
    Cpu,
    /// System calls.
    Syscalls,
    /// Calls of the CUDA libraries.
    CudaApi,
    /// CUDA kernels, copies and sets.
    CudaKernels,
}

impl Dimension {
    /// The name on the command line and in the manifest.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Cpu => "cpu",
            Self::Syscalls => "syscalls",
            Self::CudaApi => "cuda-api",
            Self::CudaKernels => "cuda-kernels",
        }
    }
}

/// A line after the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Control {
    /// End the window now and keep what there is.
    Stop,
}
