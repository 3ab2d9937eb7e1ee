//! What the in-kernel programs report.

use crate::COMM_BYTES;

/// The registers that an unwinder starts from.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct UserRegisters {
    /// Instruction pointer.
    pub ip: u64,
    /// Stack pointer; the copied stack bytes start here.
    pub sp: u64,
    /// Frame pointer register (`rbp`, `x29`).
    pub fp: u64,
    /// Link register on aarch64, else 0.
    pub lr: u64,
}

/// Why a stack was taken.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StackTrigger {
    /// The sampling clock ticked while the thread was on a CPU.
    Sample = 0,
    /// The thread left its CPU.
    SwitchOut = 1,
    /// A long system call ended that did not sleep; without kernel frames.
    Syscall = 2,
}

/// How the Python part of a stack came out.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PythonStatus {
    /// No layout is known for the process: it runs no CPython, or Python was refused there.
    NotPython = 0,
    /// The whole chain was read.
    Complete = 1,
    /// The chain goes on beyond [`crate::MAX_PYTHON_FRAMES`].
    Cut = 2,
    /// The thread has no Python thread state: it never ran Python.
    NoThreadState = 3,
    /// A read failed; what came before it is there.
    ReadFailed = 4,
}

/// Starts each record of the stack ring. [`StackHeader::python_frames`] times [`crate::PythonFrame`], leaf first, then
/// [`StackHeader::kernel_frames`] times a `u64` address, leaf first, then [`StackHeader::stack_bytes`] of user stack follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct StackHeader {
    /// When the stack was taken.
    pub timestamp_ns: u64,
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// User-mode registers at the entry to the kernel.
    pub registers: UserRegisters,
    /// Bytes of user stack in the record.
    pub stack_bytes: u32,
    /// CPU on which the stack was taken.
    pub cpu: u16,
    /// Python frames in the record.
    pub python_frames: u16,
    /// Kernel frames in the record; 0 when the thread was in user mode.
    pub kernel_frames: u16,
    /// A [`StackTrigger`].
    pub trigger: u8,
    /// A [`PythonStatus`].
    pub python_status: u8,
    /// Zero.
    pub padding: u32,
}

/// What a [`ThreadEvent`] tells.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThreadEventKind {
    /// The thread left its CPU; `task_state` and `syscall` say why.
    SwitchOut = 0,
    /// The thread got a CPU; `wake_ns`, `other_pid` and `other_tid` tell its last wake-up.
    SwitchIn = 1,
    /// The thread made thread `other_tid`, of process `other_pid`.
    Fork = 2,
    /// The process runs another program now.
    Exec = 3,
    /// The thread ends; `comm` is its last name.
    Exit = 4,
}

/// One record of the thread ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct ThreadEvent {
    /// When it happened.
    pub timestamp_ns: u64,
    /// When the thread was last woken; 0 if that was not seen, or was reported by a switch-in already.
    pub wake_ns: u64,
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Switch-in: process of the waker (0 when it lies outside the profiler's PID namespace or is an interrupt on an idle CPU); fork: the child.
    pub other_pid: u32,
    /// As `other_pid`, the thread.
    pub other_tid: u32,
    /// Switch-out: the kernel's `__state` of the thread (0: still runnable, that is preempted).
    pub task_state: u32,
    /// Switch-out: number of the system call the thread is in, -1 when in none (a fault or an interrupt).
    pub syscall: i32,
    /// Switch-out in a system call: its first argument.
    pub argument: u64,
    /// CPU.
    pub cpu: u16,
    /// A [`ThreadEventKind`].
    pub kind: u8,
    /// Zero.
    pub padding: [u8; 5],
    /// Fork (of the parent), exec and exit: the thread's name, zero padded.
    pub comm: [u8; COMM_BYTES],
}

/// One thread as the task iterator saw it when the window opened.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct ThreadSnapshot {
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// The kernel's `__state` of the thread: 0 when it runs or could.
    pub task_state: u32,
    /// System call the thread is in, -1 when in none.
    pub syscall: i32,
    /// Voluntary and involuntary switches so far: unchanged later, the thread has not run since.
    pub switches: u64,
    /// When that call began; 0 when that was not seen.
    pub syscall_start_ns: u64,
    /// The thread pointer (`fsbase` on x86_64).
    pub thread_pointer: u64,
    /// User-mode registers at the entry to the kernel.
    pub registers: UserRegisters,
    /// Kernel frames in [`Self::kernel_stack`].
    pub kernel_frames: u64,
    /// Kernel return addresses, leaf first.
    pub kernel_stack: [u64; crate::MAX_KERNEL_FRAMES],
}

/// What the in-kernel programs count for themselves, one for each CPU; add them up.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Counters {
    /// Samples of target threads.
    pub samples: u64,
    /// Time spent in the sampling program for them.
    pub samples_ns: u64,
    /// Switches to or from target threads.
    pub switches: u64,
    /// Time spent in the switch program for them.
    pub switches_ns: u64,
    /// Switches for which a stack was taken.
    pub switch_stacks: u64,
    /// Switches whose stack was left out to stay within the budget.
    pub switch_stacks_thinned: u64,
    /// Stack records lost because the stack ring was full.
    pub stacks_lost: u64,
    /// Thread records lost because the thread ring was full.
    pub thread_events_lost: u64,
    /// System calls whose handling at their end was timed: one in some.
    pub syscalls_timed: u64,
    /// The time that took.
    pub syscalls_timed_ns: u64,
    /// Long system calls for which a record was due.
    pub syscall_records: u64,
    /// Long system calls without a record, to stay within the budget.
    pub syscall_records_thinned: u64,
    /// Records of system calls lost because their ring was full.
    pub syscall_records_lost: u64,
    /// Records of system calls that did not sleep, for which a stack was taken at their end.
    pub syscall_stacks: u64,
    /// Records of system calls whose stack was left out to stay within the budget.
    pub syscall_stacks_thinned: u64,
    /// System calls in no sum because the table of sums was full.
    pub syscalls_uncounted: u64,
    /// Failures of system calls whose `errno` was not counted because that table was full.
    pub syscall_errors_uncounted: u64,
    /// System calls in no sum because their beginning was not seen.
    pub syscalls_unpaired: u64,
}
