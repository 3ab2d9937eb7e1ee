//! One thread's states: running, runnable, waiting. Slices follow each other without gaps.

use std::sync::Arc;

use aiprof_capture::event::{Event, Stack, StateSlice, ThreadState, Wait, Waker};

#[derive(Debug)]
pub(super) struct StateTrack {
    pid: u32,
    tid: u32,
    since_ns: u64,
    /// None: on a CPU or ready for one, it is not known which.
    state: Option<ThreadState>,
    stack: Option<Stack>,
    /// When a sample first found it on a CPU although it should not be.
    sampled_ns: Option<u64>,
}

impl StateTrack {
    pub(super) fn new(pid: u32, tid: u32, since_ns: u64) -> Self {
        Self { pid, tid, since_ns, state: None, stack: None, sampled_ns: None }
    }

    /// Takes the state that the thread was found in, unless a record has told of it meanwhile: that is nearer.
    pub(super) fn assume(&mut self, state: ThreadState) {
        self.state.get_or_insert(state);
    }

    /// The stack at which the coming or present wait began.
    pub(super) fn set_stack(&mut self, stack: Stack, wait_function: Option<Arc<str>>) {
        if let Some(ThreadState::Waiting(wait)) = &mut self.state {
            wait.kernel_function = wait_function;
        }
        self.stack = Some(stack);
    }

    /// A sample found the thread on a CPU.
    pub(super) fn sampled(&mut self, at_ns: u64) {
        if matches!(self.state, Some(ThreadState::Waiting(_) | ThreadState::Runnable { .. })) {
            self.sampled_ns.get_or_insert(at_ns);
        }
    }

    /// Returns false if the thread was on a CPU already: a switch-out was lost.
    pub(super) fn switch_in(
        &mut self,
        at_ns: u64,
        cpu: u32,
        wake_ns: Option<u64>,
        waker: Option<Waker>,
        out: &mut Vec<Event>,
    ) -> bool {
        let consistent = !matches!(self.state, Some(ThreadState::Running { .. }));
        match &self.state {
            Some(ThreadState::Waiting(_)) => {
                // A wake-up may overtake the switch it ends: then there was no wait at all.
                if let Some(woken_ns) = wake_ns {
                    self.change(
                        woken_ns.clamp(self.since_ns, at_ns),
                        ThreadState::Runnable { preempted: false, waker },
                        out,
                    );
                }
            }
            None => self.state = Some(ThreadState::Runnable { preempted: false, waker: None }),
            Some(_) => {}
        }
        self.change(at_ns, ThreadState::Running { cpu: Some(cpu) }, out);
        consistent
    }

    /// Returns false if the thread was not on a CPU: a switch-in was lost. It counts as running from its wake-up on, or if it had
    /// none from the first sample that found it running.
    pub(super) fn switch_out(
        &mut self,
        at_ns: u64,
        wait: Option<Wait>,
        wake_ns: Option<u64>,
        out: &mut Vec<Event>,
    ) -> bool {
        let consistent = matches!(self.state, None | Some(ThreadState::Running { .. }));
        if self.state.is_none() {
            self.state = Some(ThreadState::Running { cpu: None });
        } else if !consistent {
            let within = |time: &u64| (self.since_ns..at_ns).contains(time);
            if let Some(start_ns) = wake_ns.filter(within).or(self.sampled_ns.filter(within)) {
                self.change(start_ns, ThreadState::Running { cpu: None }, out);
            }
        }
        let next = match wait {
            Some(wait) => ThreadState::Waiting(wait),
            None => ThreadState::Runnable { preempted: true, waker: None },
        };
        self.change(at_ns, next, out);
        consistent
    }

    pub(super) fn close(&mut self, at_ns: u64, out: &mut Vec<Event>) {
        if self.state.is_none() {
            self.state = Some(ThreadState::Running { cpu: None });
        }
        if let Some(start_ns) = self.sampled_ns {
            self.change(start_ns, ThreadState::Running { cpu: None }, out);
        }
        self.change(at_ns, ThreadState::Running { cpu: None }, out);
    }

    /// Ends the present state and begins the next.
    fn change(&mut self, at_ns: u64, next: ThreadState, out: &mut Vec<Event>) {
        let state = self.state.replace(next);
        self.sampled_ns = None;
        let stack = self.stack.take();
        let start_ns = self.since_ns;
        self.since_ns = self.since_ns.max(at_ns);
        if let Some(state) = state
            && at_ns > start_ns
        {
            let stack = stack.filter(|_| matches!(state, ThreadState::Waiting(_)));
            out.push(Event::State(StateSlice { pid: self.pid, tid: self.tid, start_ns, end_ns: at_ns, state, stack }));
        }
    }
}
