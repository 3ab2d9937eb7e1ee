//! CPU: when threads ran and waited, with native and kernel stacks.

use std::{fs, sync::Arc};

use aiprof_capture::{
    event::{Frame, Stack},
    request::Dimension as Kind,
};
use aiprof_ebpf_types::{Counters, UserRegisters};

use super::{Admission, Dimension, Entry, Losses, python::NamedFrame};
use crate::{
    kernel::programs::Programs,
    native::{ProcessChange, Stacks, merge, merge::Part},
};

/// The dimension.
#[derive(Default)]
pub struct Cpu {
    stacks: Stacks,
}

/// What was copied of a thread.
#[derive(Clone, Copy, Debug)]
pub struct Copied<'a> {
    /// Process.
    pub pid: u32,
    /// Registers at the entry to the kernel.
    pub registers: &'a UserRegisters,
    /// User stack from the stack pointer up.
    pub stack: &'a [u8],
    /// Kernel return addresses, leaf first.
    pub kernel: &'a [u64],
}

impl Cpu {
    /// Unwinds and names what was copied, and merges the Python frames into it.
    pub fn merged(&mut self, copied: Copied<'_>, python: Part<'_, NamedFrame>) -> Stack {
        let mut native = self.stacks.native(copied.pid, copied.registers, copied.stack);
        if native.refresh && self.read_maps(copied.pid) {
            native = self.stacks.native(copied.pid, copied.registers, copied.stack);
        }
        let kernel = self.stacks.kernel(copied.kernel);
        let whole = native.is_whole();
        // Native frames above the outermost Python function only tell how the interpreter was started.
        let cut = if python.frames.is_empty() { !whole } else { !python.whole };
        let frames: Vec<Arc<Frame>> = merge(&kernel, Part { frames: &native.frames, whole }, &native.entered, python);
        Stack { frames: frames.into(), cut }
    }

    /// Innermost kernel function of a wait.
    pub fn wait_function(&mut self, kernel: &[u64]) -> Option<Arc<str>> {
        self.stacks.wait_function(kernel)
    }

    /// Why kernel functions have no names, if they have none.
    #[must_use]
    pub fn kernel_hidden(&self) -> Option<&Arc<str>> {
        self.stacks.kernel_hidden()
    }

    fn read_maps(&mut self, pid: u32) -> bool {
        let maps = fs::read(format!("/proc/{pid}/maps"));
        if let Ok(maps) = &maps {
            self.stacks.process_changed(pid, ProcessChange::Maps(maps));
        }
        maps.is_ok()
    }
}

impl Dimension for Cpu {
    fn kind(&self) -> Kind {
        Kind::Cpu
    }

    fn enter(&mut self, pid: u32, entry: Entry, _: &mut Programs) -> Admission {
        match entry {
            Entry::Forked(parent) => self.stacks.process_changed(pid, ProcessChange::Fork { parent }),
            Entry::Chosen => {
                self.read_maps(pid);
            }
            Entry::Exec => {
                if let Ok(maps) = fs::read(format!("/proc/{pid}/maps")) {
                    self.stacks.process_changed(pid, ProcessChange::Exec(&maps));
                }
            }
        }
        Admission::Works(None)
    }

    fn leave(&mut self, pid: u32) {
        self.stacks.process_changed(pid, ProcessChange::Exit);
    }

    fn losses(&self, counters: &Counters) -> Losses {
        let mut losses = Losses::default();
        if counters.stacks_lost > 0 {
            losses.partial.push(format!("{} stacks were lost because the stack ring was full", counters.stacks_lost));
        }
        if counters.thread_events_lost > 0 {
            losses.partial.push(format!(
                "{} thread switches were lost because the thread ring was full: states around them are too long",
                counters.thread_events_lost
            ));
        }
        losses
    }
}
