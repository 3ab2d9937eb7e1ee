//! What a trace is made of, free of any file format: the profiler makes these, [`crate::trace`] writes and reads them, and the
//! report is computed from them.
//!
//! Times are nanoseconds of `CLOCK_BOOTTIME`; ids are those of the profiler's PID namespace. Events of one thread come in
//! the order of their times; events of different threads need not.

use std::sync::Arc;

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The clocks read together; at the window's start and end.
    Clock(ClockSnapshot),
    /// A process, once, before its threads; again when its name changes.
    Process(Process),
    /// A thread, once, before its other events; again when its name changes.
    Thread(Thread),
    /// A stack of a thread that was on a CPU when the sampling clock ticked.
    Sample(Sample),
    /// What a thread did for a while: slices of one thread follow each other without gaps.
    State(StateSlice),
    /// A thread entered a Python function.
    PythonBegin(PythonBegin),
    /// A thread left the Python function that it entered last.
    PythonEnd(PythonEnd),
    /// A system call that was long enough to be told by itself.
    Syscall(SyscallSlice),
    /// What the system calls of a thread add up to; long ones are in it too.
    SyscallSum(SyscallSum),
    /// How many system calls a process makes in a second.
    SyscallRate(SyscallRate),
}

/// The clocks, read together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockSnapshot {
    /// `CLOCK_BOOTTIME`, the trace's own.
    pub boottime_ns: u64,
    /// `CLOCK_MONOTONIC`.
    pub monotonic_ns: u64,
    /// `CLOCK_REALTIME`.
    pub realtime_ns: u64,
}

/// A process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its parent's id; 0 when unknown.
    pub parent_pid: u32,
    /// Its title, without arguments unless the process set the title itself.
    pub name: String,
}

/// A thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Thread {
    /// Its process.
    pub pid: u32,
    /// Its id.
    pub tid: u32,
    /// Its name.
    pub name: String,
}

/// A stack at a tick of the sampling clock.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// When.
    pub timestamp_ns: u64,
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// CPU.
    pub cpu: u32,
    /// Where the thread was.
    pub stack: Stack,
}

/// A stack, **leaf first**: kernel frames, then native and Python frames merged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stack {
    /// The frames.
    pub frames: Arc<[Arc<Frame>]>,
    /// Whether outer frames are missing.
    pub cut: bool,
}

/// What kind of code a frame runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FrameKind {
    /// Machine code of the process.
    #[default]
    Native,
    /// Kernel code.
    Kernel,
    /// A Python function.
    Python,
}

/// One frame of a stack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Frame {
    /// Kind.
    pub kind: FrameKind,
    /// Function: Python's qualified name where there is one, a demangled symbol, or what could be said instead
    /// (`libfoo.so+0x1234`). Never empty.
    pub function: Arc<str>,
    /// Python: source file. Native: path of the mapped file as the target sees it. Kernel: empty.
    pub file: Arc<str>,
    /// Python: line that runs; 0 when there is none. Else 0.
    pub line: u32,
    /// Native: address within the mapped file (its own virtual addresses). Else 0.
    pub address: u64,
    /// Native: the file's build id in hex; empty when it has none.
    pub build_id: Arc<str>,
}

/// What a thread did from `start_ns` to `end_ns`.
#[derive(Clone, Debug, PartialEq)]
pub struct StateSlice {
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Start.
    pub start_ns: u64,
    /// End.
    pub end_ns: u64,
    /// What it did.
    pub state: ThreadState,
    /// Where it was when it began to wait, if a stack was taken.
    pub stack: Option<Stack>,
}

/// A thread's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ThreadState {
    /// On a CPU.
    Running {
        /// Which, if known.
        cpu: Option<u32>,
    },
    /// Could run, but has no CPU.
    Runnable {
        /// It was preempted, rather than woken.
        preempted: bool,
        /// Who woke it.
        waker: Option<Waker>,
    },
    /// Waits for something.
    Waiting(Wait),
}

/// The thread that woke another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waker {
    /// Its process.
    pub pid: u32,
    /// Its id.
    pub tid: u32,
}

/// What a thread waits for, as far as the kernel tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wait {
    /// In one or two words: `futex`, `GIL`, `epoll_wait`, `page fault`, `stopped`.
    pub reason: Arc<str>,
    /// Name of the system call that it is in.
    pub syscall: Option<Arc<str>>,
    /// What that call waits on: the file of its descriptor, or the address of its futex.
    pub on: Option<Arc<str>>,
    /// Innermost kernel function that is not the scheduler's, where a stack was taken.
    pub kernel_function: Option<Arc<str>>,
    /// Whether signals cannot end the wait (state `D`).
    pub uninterruptible: bool,
}

/// A thread entered a Python function.
#[derive(Clone, Debug, PartialEq)]
pub struct PythonBegin {
    /// When, as near as the observations tell.
    pub timestamp_ns: u64,
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// The function; its line is the first line seen to run.
    pub function: Arc<Frame>,
}

/// A thread left the Python function that it entered last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PythonEnd {
    /// When, as near as the observations tell.
    pub timestamp_ns: u64,
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
}

/// One system call.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SyscallSlice {
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// When it began, or the window's start if it had begun before.
    pub start_ns: u64,
    /// When it ended, or the window's end if it had not.
    pub end_ns: u64,
    /// Name, such as `openat`.
    pub name: Arc<str>,
    /// What it returned; none if it had not ended within the window.
    pub result: Option<i64>,
    /// Name of the `errno` that it failed with.
    pub error: Option<Arc<str>>,
    /// Whether it had begun before the window.
    pub began_before: bool,
    /// Those of its arguments that say something and give nothing away, in their order; never the content of a buffer.
    pub arguments: Vec<(Arc<str>, Argument)>,
    /// Where it was called from, if a stack was taken.
    pub stack: Option<Stack>,
}

/// An argument of a system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    /// A size, a count, a time, a descriptor.
    Number(i64),
    /// An address.
    Address(u64),
    /// Flags by their names, or what a descriptor stands for.
    Text(Arc<str>),
}

/// Calls of one thread to one system call that ended since its sum before, or since the window's start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyscallSum {
    /// Until when.
    pub timestamp_ns: u64,
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Name of the system call.
    pub name: Arc<str>,
    /// Calls.
    pub count: u64,
    /// Calls that failed.
    pub errors: u64,
    /// Their time.
    pub total_ns: u64,
    /// The longest of all so far.
    pub max_ns: u64,
    /// In the last sum only, over the whole window: failures by the name of their `errno`.
    pub errnos: Vec<(Arc<str>, u64)>,
    /// In the last sum only, over the whole window: calls that took less than so many nanoseconds and at least half of that. The
    /// first and the last hold all shorter and longer ones.
    pub histogram: Vec<(u64, u64)>,
}

/// How many system calls a process makes, until its next rate.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SyscallRate {
    /// From when on.
    pub timestamp_ns: u64,
    /// Process.
    pub pid: u32,
    /// All its threads together.
    pub per_second: f64,
}
