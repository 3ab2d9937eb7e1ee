//! From records to slices: what each thread did, without gaps, and in which Python functions it was.
//!
//! Takes events in the order of their times and gives [`Event`]s; touches neither the kernel nor the target.

mod python;
mod state;
mod syscalls;

use std::collections::HashMap;

use aiprof_capture::event::{Event, Stack, SyscallSlice, ThreadState, Wait, Waker};
use python::PythonTrack;
pub use python::{PythonCall, PythonStack};
use state::StateTrack;
use syscalls::SyscallTrack;

/// Something that happened to a thread.
#[derive(Clone, Debug)]
pub struct Input {
    /// When.
    pub timestamp_ns: u64,
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// What.
    pub kind: InputKind,
}

impl Input {
    /// Sorts inputs of one thread into the order in which they are to be taken: at the same time, a switch comes before the
    /// stack that was taken at it, and that before the system call that ends there.
    #[must_use]
    pub fn order(&self) -> (u64, u8) {
        let rank = match self.kind {
            InputKind::Stack(_) => 1,
            InputKind::Syscall(_) => 2,
            _ => 0,
        };
        (self.timestamp_ns, rank)
    }
}

/// What happened.
#[derive(Clone, Debug)]
pub enum InputKind {
    /// The thread is there, and nothing is known of it.
    Present,
    /// The thread was found in this state, maybe since long before.
    Found(ThreadState),
    /// The thread has just been made and waits for a CPU.
    Created,
    /// It got a CPU.
    SwitchIn {
        /// Which.
        cpu: u32,
        /// When it was woken, if it was.
        wake_ns: Option<u64>,
        /// By whom.
        waker: Option<Waker>,
    },
    /// It left its CPU.
    SwitchOut {
        /// What it waits for; none when it could go on.
        wait: Option<Wait>,
        /// When it was woken, if no switch-in has told.
        wake_ns: Option<u64>,
        /// Whether this was its last switch.
        dead: bool,
    },
    /// Its stack was seen.
    Stack(Box<Observation>),
    /// A system call ended, or the window with it; without its stack, which was seen meanwhile.
    Syscall(Box<SyscallSlice>),
    /// The process runs another program: all that was known of its Python is void.
    Exec,
}

/// A stack that was seen.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Kernel, native and Python frames merged.
    pub stack: Stack,
    /// Its Python frames alone; none when the thread's Python stack could not be had.
    pub python: Option<PythonStack>,
    /// Whether the thread leaves its CPU right here, so that the stack holds until it is back.
    pub leaving: bool,
    /// Innermost kernel function of a wait.
    pub wait_function: Option<std::sync::Arc<str>>,
}

/// All threads.
#[derive(Debug, Default)]
pub struct Timeline {
    threads: HashMap<u32, Thread>,
    /// Switches that do not follow from what was known before: a record was lost, or the kernel made none, which it does now and then
    /// (seen on 6.18, by its own tracer too, about once in a thousand switches from the idle task to a thread).
    pub inconsistencies: u64,
}

#[derive(Debug)]
struct Thread {
    state: StateTrack,
    python: PythonTrack,
    syscalls: SyscallTrack,
}

impl Timeline {
    /// Takes one input, appends what follows from it.
    pub fn push(&mut self, input: Input, out: &mut Vec<Event>) {
        let Input { timestamp_ns: at, pid, tid, kind } = input;
        let thread = self.threads.entry(tid).or_insert_with(|| Thread {
            state: StateTrack::new(pid, tid, at),
            python: PythonTrack::new(pid, tid),
            syscalls: SyscallTrack::default(),
        });
        match kind {
            InputKind::Present => {}
            InputKind::Found(state) => thread.state.assume(state),
            InputKind::Created => thread.state.assume(ThreadState::Runnable { preempted: false, waker: None }),
            InputKind::SwitchIn { cpu, wake_ns, waker } => {
                self.inconsistencies += u64::from(!thread.state.switch_in(at, cpu, wake_ns, waker, out));
                thread.python.resumed(at);
            }
            InputKind::SwitchOut { wait, wake_ns, dead } => {
                self.inconsistencies += u64::from(!thread.state.switch_out(at, wait, wake_ns, out));
                if dead {
                    thread.python.close(at, out);
                    self.threads.remove(&tid);
                }
            }
            InputKind::Syscall(slice) => thread.syscalls.ended(*slice, out),
            InputKind::Stack(observation) => {
                thread.syscalls.seen(at, &observation.stack);
                if let Some(python) = &observation.python {
                    thread.python.observe(at, python, observation.leaving, out);
                }
                if observation.leaving {
                    thread.state.set_stack(observation.stack, observation.wait_function);
                } else {
                    thread.state.sampled(at);
                }
            }
            InputKind::Exec => thread.python.close(at, out),
        }
    }

    /// Ends all slices at the end of the window.
    pub fn close(&mut self, at_ns: u64, out: &mut Vec<Event>) {
        for (_, mut thread) in self.threads.drain() {
            thread.close(at_ns, out);
        }
    }
}

impl Thread {
    fn close(&mut self, at_ns: u64, out: &mut Vec<Event>) {
        self.python.close(at_ns, out);
        self.state.close(at_ns, out);
    }
}

#[cfg(test)]
mod tests;
