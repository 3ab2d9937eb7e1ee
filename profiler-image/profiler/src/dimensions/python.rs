//! Python: which functions and lines run, in every process that runs a CPython that can be read.

use std::{collections::HashMap, sync::Arc};

use aiprof_capture::{
    event::{Frame, FrameKind},
    request::Dimension as Kind,
};
use aiprof_ebpf_types::{Counters, PythonFrame};

use super::{Admission, Dimension, Entry};
use crate::{
    kernel::programs::Programs,
    memory::{MemoryError, ProcessMemory},
    native::merge::PythonStackFrame,
    python::{CodeCache, FrameState, Interpreter, PythonStack, Refusal, detect, thread_state_of, walk},
    timeline::PythonCall,
};

/// Named frames kept for one process; at this many all are let go and named anew as they come.
const MAX_FRAMES: usize = 1 << 15;

/// The dimension.
#[derive(Debug, Default)]
pub struct Python {
    processes: HashMap<u32, Process>,
    gone: u64,
    unreadable: u64,
}

#[derive(Debug)]
struct Process {
    interpreter: Interpreter,
    memory: ProcessMemory,
    code: CodeCache,
    frames: HashMap<(u64, u32, i32), Arc<Frame>>,
}

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
    pub fn name(&mut self, pid: u32, frames: &[PythonFrame]) -> Option<Vec<NamedFrame>> {
        let process = self.processes.get_mut(&pid)?;
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
                    if process.frames.len() >= MAX_FRAMES {
                        process.frames.clear();
                    }
                    process.frames.insert(key, Arc::clone(&named));
                }
                named
            });
            NamedFrame { code: (frame.code(), frame.identity), frame: frame_named, entry: frame.is_entry() }
        });
        Some(named.collect())
    }

    /// Walks the stack of a thread that sleeps, from outside.
    pub fn walk(&self, pid: u32, thread_pointer: u64) -> Option<PythonStack> {
        let process = self.processes.get(&pid)?;
        let layout = &process.interpreter.layout;
        let thread_state = thread_state_of(&process.memory, layout, thread_pointer).ok()??;
        Some(walk(&process.memory, layout, thread_state))
    }

    fn adopt(&mut self, pid: u32, interpreter: Interpreter, programs: &mut Programs) -> Admission {
        if let Err(error) = programs.set_python(pid, &interpreter.layout) {
            return Admission::Refused(error.to_string());
        }
        let name = format!("CPython {}", interpreter.version);
        let process = Process {
            memory: ProcessMemory::open(pid),
            code: CodeCache::new(&interpreter),
            frames: HashMap::new(),
            interpreter,
        };
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
                if let Some(interpreter) = self.processes.get(&parent).map(|each| each.interpreter.clone()) {
                    return self.adopt(pid, interpreter, programs);
                }
            }
            Entry::Exec => self.leave(pid),
            Entry::Chosen => {}
        }
        match detect(pid, &ProcessMemory::open(pid)) {
            Ok(Some(interpreter)) => self.adopt(pid, interpreter, programs),
            Ok(None) => Admission::Nothing,
            // Right after exec its memory is still being laid out.
            Err(refusal @ (Refusal::Starting | Refusal::Unreadable(MemoryError::Unmapped { .. }))) => {
                Admission::Later(refusal.to_string())
            }
            Err(refusal) => Admission::Refused(refusal.to_string()),
        }
    }

    fn leave(&mut self, pid: u32) {
        self.processes.remove(&pid);
    }

    fn losses(&self, _: &Counters) -> Vec<String> {
        let mut losses = Vec::new();
        if self.gone > 0 {
            losses.push(format!(
                "{} frames have no name: their code objects were gone before they could be read",
                self.gone
            ));
        }
        if self.unreadable > 0 {
            losses.push(format!("{} frames have no name: their code objects could not be read", self.unreadable));
        }
        losses
    }
}
