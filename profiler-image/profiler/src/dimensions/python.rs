//! Python: which functions and lines run, in every process that runs a CPython that can be read.

use std::{collections::HashMap, sync::Arc};

use aiprof_capture::{
    event::{Frame, FrameKind},
    request::Dimension as Kind,
};
use aiprof_ebpf_types::{Counters, MAX_PYTHON_FRAMES, PythonFrame, PythonStatus};

use super::{Admission, Dimension, Entry, Losses};
use crate::{
    kernel::programs::Programs,
    memory::{MemoryError, ProcessMemory},
    native::merge::PythonStackFrame,
    process,
    python::{CodeCache, FrameState, Interpreter, PythonStack, Refusal, detect, thread_state_of, walk},
    timeline::PythonCall,
};

/// Named frames kept for one process; at this many all are let go and named anew as they come.
const MAX_FRAMES: usize = 1 << 15;

/// The dimension.
#[derive(Debug, Default)]
pub struct Python {
    processes: HashMap<u32, Process>,
    /// Stacks named, those among them that could not be read to their end, and that were cut.
    stacks: u64,
    unread: u64,
    cut: u64,
    /// Frames named, and those among them without a name.
    frames: u64,
    gone: u64,
    unreadable: u64,
}

#[derive(Debug)]
struct Process {
    interpreter: Interpreter,
    memory: ProcessMemory,
    code: CodeCache,
    /// Shared with the parent and the children that it was forked into, until one of them names a frame anew.
    frames: Arc<Names>,
}

/// Frames by their code object's address and identity and their instruction.
type Names = HashMap<(u64, u32, i32), Arc<Frame>>;

/// A Python frame with its name.
#[derive(Clone, Debug)]
pub struct NamedFrame {
    /// Address and identity of its code object.
    pub code: (u64, u32),
    /// Its name.
    pub frame: Arc<Frame>,
    entry: bool,
}

impl PythonStackFrame for NamedFrame {
    fn is_entry(&self) -> bool {
        self.entry
    }

    fn frame(&self) -> &Arc<Frame> {
        &self.frame
    }
}

impl From<&NamedFrame> for PythonCall {
    fn from(named: &NamedFrame) -> Self {
        Self { code: named.code, frame: Arc::clone(&named.frame) }
    }
}

impl Python {
    /// Names the frames of a stack of a process, in their order; none if the dimension does not work there.
    pub fn name(&mut self, pid: u32, frames: &[PythonFrame], status: PythonStatus) -> Option<Vec<NamedFrame>> {
        let process = self.processes.get_mut(&pid)?;
        self.stacks += 1;
        self.unread += u64::from(status == PythonStatus::ReadFailed);
        self.cut += u64::from(status == PythonStatus::Cut);
        self.frames += frames.len() as u64;
        let named = frames.iter().map(|frame| {
            let key = (frame.code(), frame.identity, frame.instruction);
            let known = process.frames.get(&key).cloned();
            let frame_named = known.unwrap_or_else(|| {
                let resolved = process.code.resolve(&process.memory, frame);
                match resolved.state {
                    FrameState::Known => {}
                    FrameState::Gone => self.gone += 1,
                    FrameState::Unreadable => self.unreadable += 1,
                }
                let named = Arc::new(Frame {
                    kind: FrameKind::Python,
                    function: resolved.function,
                    file: resolved.file,
                    line: resolved.line,
                    ..Frame::default()
                });
                // What could not be read now may be readable at the next sight.
                if resolved.state == FrameState::Known {
                    let names = Arc::make_mut(&mut process.frames);
                    if names.len() >= MAX_FRAMES {
                        names.clear();
                    }
                    names.insert(key, Arc::clone(&named));
                }
                named
            });
            NamedFrame { code: (frame.code(), frame.identity), frame: frame_named, entry: frame.is_entry() }
        });
        Some(named.collect())
    }

    /// Walks the stack of a thread that sleeps, from outside.
    #[must_use]
    pub fn walk(&self, pid: u32, thread_pointer: u64) -> Option<PythonStack> {
        let process = self.processes.get(&pid)?;
        let layout = &process.interpreter.layout;
        let thread_state = thread_state_of(&process.memory, layout, thread_pointer).ok()??;
        Some(walk(&process.memory, layout, thread_state))
    }

    /// Whether a futex is that of the GIL: its lock and its conditions lie within `_PyRuntime`, on all versions, and no other lock on
    /// which a thread can sleep does. A subinterpreter's own GIL is not known, and with musl a thread sleeps on its own stack.
    #[must_use]
    pub fn is_gil(&self, pid: u32, futex: u64) -> bool {
        let interpreter = self.processes.get(&pid).map(|process| &process.interpreter);
        interpreter.is_some_and(|each| futex.wrapping_sub(each.runtime_address) < each.runtime_bytes)
    }

    fn adopt(&mut self, pid: u32, interpreter: Interpreter, frames: Arc<Names>, programs: &mut Programs) -> Admission {
        if let Err(error) = programs.set_python(pid, &interpreter.layout) {
            return Admission::Refused(error.to_string());
        }
        let name = format!("CPython {}", interpreter.version);
        let process =
            Process { memory: ProcessMemory::open(pid), code: CodeCache::new(&interpreter), frames, interpreter };
        self.processes.insert(pid, process);
        Admission::Works(Some(name))
    }
}

impl Dimension for Python {
    fn kind(&self) -> Kind {
        Kind::Python
    }

    fn enter(&mut self, pid: u32, entry: Entry, programs: &mut Programs) -> Admission {
        match entry {
            Entry::Forked(parent) => {
                // A copy of its parent, down to the addresses, until it runs another program.
                if let Some(parent) = self.processes.get(&parent) {
                    let (interpreter, frames) = (parent.interpreter.clone(), Arc::clone(&parent.frames));
                    return self.adopt(pid, interpreter, frames, programs);
                }
            }
            Entry::Exec => self.leave(pid),
            Entry::Chosen => {}
        }
        match detect(pid, &ProcessMemory::open(pid)) {
            Ok(Some(interpreter)) => self.adopt(pid, interpreter, Arc::default(), programs),
            Ok(None) => Admission::Nothing,
            // Right after exec its memory is still being laid out.
            Err(refusal @ (Refusal::Starting | Refusal::Unreadable(MemoryError::Unmapped { .. }))) => {
                Admission::Later(refusal.to_string())
            }
            // What cannot be read of a process that has just ended is no fault of it.
            Err(_) if !process::is_alive(pid) => Admission::Ended,
            Err(refusal) => Admission::Refused(refusal.to_string()),
        }
    }

    fn leave(&mut self, pid: u32) {
        self.processes.remove(&pid);
    }

    fn losses(&self, _: &Counters) -> Losses {
        let mut losses = Losses::default();
        let frames = self.frames;
        losses.add(self.unreadable, frames, "Python frames have no name: their code objects could not be read");
        losses.add(
            self.unread,
            self.stacks,
            "Python stacks end early because the target's memory could not be read there",
        );
        if self.gone > 0 {
            losses.notes.push(format!(
                "{} of {frames} Python frames have no name: their code objects were freed within milliseconds",
                self.gone
            ));
        }
        if self.cut > 0 {
            losses.notes.push(format!(
                "{} Python stacks are deeper than {MAX_PYTHON_FRAMES} frames and are marked as cut",
                self.cut
            ));
        }
        losses
    }
}
