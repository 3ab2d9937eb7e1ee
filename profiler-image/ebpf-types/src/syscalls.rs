//! What the in-kernel programs keep and report of system calls.
//!
//! Every call that begins and ends while they run is in the sums; a long one is reported by itself as well.

/// The largest `errno` (`MAX_ERRNO` of `include/linux/err.h`): what a call returns from its negative on is an error.
pub const MAX_ERRNO: i64 = 4095;
/// Cells of [`SyscallSum::histogram`].
pub const HISTOGRAM_CELLS: usize = 32;
/// The first cell holds everything below two to this power, in nanoseconds; each further cell holds twice the time.
pub const HISTOGRAM_FIRST_BITS: u32 = 7;

/// Whose calls a [`SyscallSum`] counts.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct SyscallKey {
    /// Thread.
    pub tid: u32,
    /// Number of the system call.
    pub number: u32,
}

/// All calls of one thread to one system call so far. Only that thread changes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct SyscallSum {
    /// Process.
    pub pid: u32,
    /// Zero.
    pub padding: u32,
    /// Calls.
    pub count: u64,
    /// Calls that failed.
    pub errors: u64,
    /// Their time.
    pub total_ns: u64,
    /// The longest.
    pub max_ns: u64,
    /// Calls by duration, see [`histogram_cell`].
    pub histogram: [u64; HISTOGRAM_CELLS],
}

/// The cell of [`SyscallSum::histogram`] that a duration belongs to.
#[inline(always)]
#[must_use]
pub const fn histogram_cell(duration_ns: u64) -> usize {
    let bits = u64::BITS - duration_ns.leading_zeros();
    let cell = bits.saturating_sub(HISTOGRAM_FIRST_BITS) as usize;
    if cell < HISTOGRAM_CELLS { cell } else { HISTOGRAM_CELLS - 1 }
}

/// Which failures a count of errors counts.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct SyscallErrorKey {
    /// Thread and system call.
    pub call: SyscallKey,
    /// `errno`, positive.
    pub errno: u32,
    /// Zero.
    pub padding: u32,
}

/// One long call, or one that began before the programs ran: a record of the system call ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct SyscallRecord {
    /// When it began; 0 when that was not seen.
    pub start_ns: u64,
    /// When it ended.
    pub end_ns: u64,
    /// What it returned: a negated `errno` from -4095 on.
    pub result: i64,
    /// Its arguments as the registers hold them.
    pub arguments: [u64; 6],
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Number of the system call.
    pub number: u32,
    /// Zero.
    pub padding: u32,
}

/// The thread that a CPU runs, and its call in flight, so that a call costs no look-up of its thread. One for each CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct RunningThread {
    /// Global id of the thread.
    pub global_tid: u32,
    /// Its process, in the profiler's PID namespace; 0 if it is none of the target's.
    pub pid: u32,
    /// The thread in the profiler's PID namespace.
    pub tid: u32,
    /// Number of the call in flight.
    pub number: u32,
    /// When that began; 0 when there is none, [`Self::NOT_SEEN`] when it is not known whether there is one.
    pub entered_ns: u64,
}

impl RunningThread {
    /// In [`Self::entered_ns`]: whether the thread is in a call, and since when, was not seen.
    pub const NOT_SEEN: u64 = u64::MAX;
}
