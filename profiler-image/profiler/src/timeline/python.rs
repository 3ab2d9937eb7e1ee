//! One thread's Python functions as nested slices, rebuilt from the stacks that were seen.
//!
//! Between two sightings the change is put in the middle, which is right on average; across a wait it is exact, since a thread
//! that does not run does not change its stack.

use std::sync::Arc;

use aiprof_capture::event::{Event, Frame, PythonBegin, PythonEnd};

/// A Python stack, **outermost call first**.
pub type PythonStack = Vec<PythonCall>;

/// One call on a Python stack.
#[derive(Clone, Debug)]
pub struct PythonCall {
    /// Address and identity of the code object: the same in two stacks at the same depth means the same slice.
    pub code: (u64, u32),
    /// What it shows as.
    pub frame: Arc<Frame>,
}

#[derive(Debug)]
pub(super) struct PythonTrack {
    pid: u32,
    tid: u32,
    /// Code of the open slices, outermost first.
    open: Vec<(u64, u32)>,
    /// Until when the open slices are known to be right.
    held_ns: u64,
    /// The thread sleeps with this stack.
    parked: bool,
}

impl PythonTrack {
    pub(super) fn new(pid: u32, tid: u32) -> Self {
        Self { pid, tid, open: Vec::new(), held_ns: 0, parked: false }
    }

    /// The thread has its CPU back.
    pub(super) fn resumed(&mut self, at_ns: u64) {
        if self.parked || self.open.is_empty() {
            self.held_ns = at_ns;
        }
        self.parked = false;
    }

    pub(super) fn observe(&mut self, at_ns: u64, stack: &PythonStack, leaving: bool, out: &mut Vec<Event>) {
        let common = self.open.iter().zip(stack).take_while(|(open, seen)| **open == seen.code).count();
        let changed_ns = if self.held_ns == 0 { at_ns } else { self.held_ns.midpoint(at_ns) };
        for _ in common..self.open.len() {
            out.push(Event::PythonEnd(PythonEnd { timestamp_ns: changed_ns, pid: self.pid, tid: self.tid }));
        }
        self.open.truncate(common);
        for call in &stack[common..] {
            self.open.push(call.code);
            let function = Arc::clone(&call.frame);
            out.push(Event::PythonBegin(PythonBegin {
                timestamp_ns: changed_ns,
                pid: self.pid,
                tid: self.tid,
                function,
            }));
        }
        self.held_ns = at_ns;
        self.parked = leaving;
    }

    pub(super) fn close(&mut self, at_ns: u64, out: &mut Vec<Event>) {
        for _ in self.open.drain(..) {
            out.push(Event::PythonEnd(PythonEnd { timestamp_ns: at_ns, pid: self.pid, tid: self.tid }));
        }
        self.held_ns = at_ns;
        self.parked = false;
    }
}
