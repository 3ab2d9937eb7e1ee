//! One thread's long system calls, each with the stack that was seen while it lasted.
//!
//! The user part of a stack is the same at a call's beginning, while it waits, and at its end.

use aiprof_capture::event::{Event, Stack, SyscallSlice};

#[derive(Debug, Default)]
pub(super) struct SyscallTrack {
    /// The last stack, and when it was seen.
    seen: Option<(u64, Stack)>,
    /// When the last call began.
    last_start_ns: Option<u64>,
}

impl SyscallTrack {
    pub(super) fn seen(&mut self, at_ns: u64, stack: &Stack) {
        self.seen = Some((at_ns, stack.clone()));
    }

    /// A call that is told twice, as still in flight and by its end that was recorded meanwhile, counts once.
    pub(super) fn ended(&mut self, mut slice: SyscallSlice, out: &mut Vec<Event>) {
        if self.last_start_ns.replace(slice.start_ns) == Some(slice.start_ns) {
            return;
        }
        if let Some((at_ns, stack)) = &self.seen
            && (slice.start_ns..=slice.end_ns).contains(at_ns)
        {
            slice.stack = Some(stack.clone());
        }
        out.push(Event::Syscall(slice));
    }
}
