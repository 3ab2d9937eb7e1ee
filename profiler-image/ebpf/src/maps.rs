//! Everything shared with the profiler or kept between events.

use aiprof_ebpf_types::{
    COMM_BYTES, Counters, MAX_KERNEL_FRAMES, MAX_PYTHON_FRAMES, MAX_STACK_BYTES, PythonFrame, PythonLayout,
    RunningThread, Settings, StackHeader, SyscallErrorKey, SyscallKey, SyscallSum,
};
use aya_ebpf::{
    macros::map,
    maps::{HashMap, LruHashMap, PerCpuArray, RingBuf},
};

/// Set by the profiler before loading; constant for the verifier.
#[unsafe(no_mangle)]
pub(crate) static SETTINGS: Settings = Settings {
    offsets: aiprof_ebpf_types::KernelOffsets {
        task_state: 0,
        task_pid: 0,
        task_group_leader: 0,
        task_thread_pid: 0,
        task_comm: 0,
        task_thread_pointer: 0,
        task_voluntary_switches: 0,
        task_involuntary_switches: 0,
        pid_level: 0,
        pid_numbers: 0,
        upid_size: 0,
        upid_nr: 0,
        upid_ns: 0,
        pid_namespace_inum: 0,
        registers_ip: 0,
        registers_sp: 0,
        registers_fp: 0,
        registers_lr: 0,
        registers_syscall: 0,
        registers_arguments: [0; 6],
    },
    pid_namespace: 0,
    switch_stacks_per_second: 0,
    sample_stack_bytes: 0,
    switch_stack_bytes: 0,
    syscall_records_per_second: 0,
    syscall_min_ns: 0,
};

/// Reads one setting: volatile, since the compiler would fold the zeros above.
macro_rules! setting {
    ($($field:ident).+ $([$index:literal])?) => {
        // SAFETY: the static is valid, aligned and never written after loading.
        unsafe { core::ptr::read_volatile(&raw const $crate::maps::SETTINGS.$($field).+ $([$index])?) }
    };
}
pub(crate) use setting;

/// Processes to profile, by id in the profiler's PID namespace. The profiler puts in the chosen ones, a fork of one of them adds its child.
#[map]
pub(crate) static TARGETS: HashMap<u32, u8> = HashMap::with_max_entries(4096, 0);

/// What was found out about processes by global id: the id in the profiler's namespace of a target, 0 for any other process.
#[map]
pub(crate) static PROCESSES: LruHashMap<u32, u32> = LruHashMap::with_max_entries(16384, 0);

/// Threads of targets by global id.
#[map]
pub(crate) static THREADS: LruHashMap<u32, Thread> = LruHashMap::with_max_entries(16384, 0);

/// Python layouts by process id in the profiler's namespace; a process that is not here runs no readable CPython.
#[map]
pub(crate) static PYTHON: HashMap<u32, PythonLayout> = HashMap::with_max_entries(4096, 0);

/// The thread that each CPU runs.
#[map]
pub(crate) static RUNNING: PerCpuArray<RunningThread> = PerCpuArray::with_max_entries(1, 0);

/// Sums of system calls. Takes memory only as it fills: most of its room is for targets with very many threads.
#[map]
pub(crate) static SYSCALL_SUMS: HashMap<SyscallKey, SyscallSum> =
    HashMap::with_max_entries(32768, aya_ebpf::bindings::BPF_F_NO_PREALLOC);

/// Failures of system calls by `errno`.
#[map]
pub(crate) static SYSCALL_ERRORS: HashMap<SyscallErrorKey, u64> =
    HashMap::with_max_entries(32768, aya_ebpf::bindings::BPF_F_NO_PREALLOC);

/// Records of long system calls.
#[map]
pub(crate) static SYSCALLS: RingBuf = RingBuf::with_byte_size(2 * 1024 * 1024, 0);

/// Stack records.
#[map]
pub(crate) static STACKS: RingBuf = RingBuf::with_byte_size(4 * 1024 * 1024, 0);

/// Thread records.
#[map]
pub(crate) static THREAD_EVENTS: RingBuf = RingBuf::with_byte_size(2 * 1024 * 1024, 0);

/// One [`Counters`] for each CPU.
#[map]
pub(crate) static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);

/// Time credit for stacks at switches, one for each CPU.
#[map]
pub(crate) static BUDGET: PerCpuArray<Budget> = PerCpuArray::with_max_entries(1, 0);

/// Time credit for records of system calls, one for each CPU.
#[map]
pub(crate) static SYSCALL_BUDGET: PerCpuArray<Budget> = PerCpuArray::with_max_entries(1, 0);

/// Room to build a record in: one slot for samples, one for switches and system calls, since a sample may interrupt these.
#[map]
pub(crate) static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(2, 0);

/// A thread of a target.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Thread {
    /// Process id in the profiler's PID namespace.
    pub(crate) pid: u32,
    /// Thread id in the profiler's PID namespace.
    pub(crate) tid: u32,
    /// Its last wake-up, 0 once reported.
    pub(crate) wake_ns: u64,
    /// Who woke it, if that was a target's thread.
    pub(crate) waker_pid: u32,
    pub(crate) waker_tid: u32,
    /// When its stack was last taken at a switch or at the end of a system call.
    pub(crate) stack_ns: u64,
    /// When it last fell asleep.
    pub(crate) slept_ns: u64,
    /// When it entered the system call that it sleeps in, as [`RunningThread::entered_ns`].
    pub(crate) entered_ns: u64,
    /// Number of that call.
    pub(crate) number: u32,
    pub(crate) padding: u32,
}

/// Credit in nanoseconds: grows with time up to a bound, and each stack at a switch costs its share of a second.
#[repr(C)]
pub(crate) struct Budget {
    pub(crate) credit_ns: u64,
    pub(crate) updated_ns: u64,
}

/// Bytes after the header: all parts at their largest.
pub(crate) const BODY_BYTES: usize =
    MAX_PYTHON_FRAMES * size_of::<PythonFrame>() + MAX_KERNEL_FRAMES * size_of::<u64>() + MAX_STACK_BYTES;

/// Room to build one record in.
#[repr(C)]
pub(crate) struct Scratch {
    pub(crate) header: StackHeader,
    pub(crate) body: [u8; BODY_BYTES],
    /// One Python frame as read from the target, with room for a `u64` at any masked offset.
    pub(crate) frame: [u64; 17],
    /// One code object's fields, likewise.
    pub(crate) code: [u64; 17],
    /// How to walk the target's stacks.
    pub(crate) layout: PythonLayout,
    /// Python frames so far.
    pub(crate) python_frames: u32,
}

/// Adds to this CPU's counters.
#[inline(always)]
pub(crate) fn count(update: impl FnOnce(&mut Counters)) {
    if let Some(counters) = COUNTERS.get_ptr_mut(0) {
        // SAFETY: a live map value of this CPU. An interrupting program may add in between; a count lost to that is harmless.
        update(unsafe { &mut *counters });
    }
}

/// A zeroed name.
pub(crate) const NO_COMM: [u8; COMM_BYTES] = [0; COMM_BYTES];
