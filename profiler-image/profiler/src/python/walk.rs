//! Walking frame chains from user space: the same walk as the in-kernel one, for checks and for threads at rest.

use aiprof_ebpf_types::{EntryRule, MAX_PYTHON_FRAMES, PythonFrame, PythonLayout, PythonStatus, code_identity};

use super::Interpreter;
use crate::memory::{MemoryError, ReadMemory};

/// The most interpreters, and threads of each, that are followed: lists longer than this are torn.
const MAX_LIST: usize = 1 << 16;
/// Shim frames that may stand between those kept.
const MAX_SHIMS: usize = 2 * MAX_PYTHON_FRAMES;

/// One thread that CPython knows of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Address of its `PyThreadState`.
    pub thread_state: u64,
    /// Address of its `PyInterpreterState`.
    pub interpreter: u64,
    /// What `pthread_self` gives in it, 0 while it starts. On `x86_64` this is the thread pointer.
    pub thread_id: u64,
    /// Its thread id in its own PID namespace; known from 3.11 on.
    pub native_thread_id: Option<u32>,
}

/// A thread's Python stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PythonStack {
    /// Leaf first, at most [`MAX_PYTHON_FRAMES`].
    pub frames: Vec<PythonFrame>,
    /// How far the walk came.
    pub status: PythonStatus,
}

/// All threads of all interpreters, newest first in each. The list may change while it is read: a thread may be missing.
pub fn threads(memory: &impl ReadMemory, interpreter: &Interpreter) -> Result<Vec<Thread>, MemoryError> {
    let offsets = &interpreter.offsets;
    let field = |base: u64, offset: u32| memory.u64(base.wrapping_add(offset.into()));
    let mut threads = Vec::new();
    let mut state = field(interpreter.runtime_address, offsets.interpreters_head)?;
    for _ in 0..MAX_LIST {
        if state == 0 {
            break;
        }
        let mut thread_state = field(state, offsets.interpreter_threads)?;
        while thread_state != 0 && threads.len() < MAX_LIST {
            if field(thread_state, offsets.thread_interpreter)? != state {
                // Freed, or not yet set up.
                break;
            }
            let native = match offsets.native_thread_id {
                Some(offset) => Some(field(thread_state, offset)? as u32).filter(|id| *id != 0),
                None => None,
            };
            let thread_id = field(thread_state, offsets.thread_id)?;
            threads.push(Thread { thread_state, interpreter: state, thread_id, native_thread_id: native });
            thread_state = field(thread_state, offsets.thread_next)?;
        }
        state = field(state, offsets.interpreter_next)?;
    }
    Ok(threads)
}

/// Address of the `PyThreadState` of the thread with this thread pointer; `None` if it never ran Python.
///
/// In a thread that entered another interpreter this is the state it had before up to 3.11, so that the frames there are
/// not seen; from 3.12 on it is that of the interpreter entered, so that the frames before are not.
pub fn thread_state_of(
    memory: &impl ReadMemory,
    layout: &PythonLayout,
    thread_pointer: u64,
) -> Result<Option<u64>, MemoryError> {
    let slots = match layout.tsd_array {
        -1 => thread_pointer,
        offset => memory.u64(thread_pointer.wrapping_add_signed(offset.into()))?,
    };
    let thread_state = memory.u64(slots.wrapping_add_signed(layout.tsd_slot.into()))?;
    Ok((thread_state != 0).then_some(thread_state))
}

/// Walks the frames of the thread whose `PyThreadState` lies at `thread_state`.
#[must_use]
pub fn walk(memory: &impl ReadMemory, layout: &PythonLayout, thread_state: u64) -> PythonStack {
    let mut frames = Vec::new();
    let status = chain(memory, layout, thread_state, &mut frames).unwrap_or(PythonStatus::ReadFailed);
    PythonStack { frames, status }
}

fn chain(
    memory: &impl ReadMemory,
    layout: &PythonLayout,
    thread_state: u64,
    frames: &mut Vec<PythonFrame>,
) -> Result<PythonStatus, MemoryError> {
    let mut frame = memory.u64(thread_state.wrapping_add(layout.thread_state_frame.into()))?;
    if let Ok(offset) = u64::try_from(layout.cframe_current_frame)
        && frame != 0
    {
        frame = memory.u64(frame.wrapping_add(offset))?;
    }
    for _ in 0..MAX_PYTHON_FRAMES + MAX_SHIMS {
        if frame == 0 {
            return Ok(PythonStatus::Complete);
        }
        let mut bytes = [0; PythonLayout::MAX_FRAME_READ];
        let length = usize::from(layout.frame_read).min(PythonLayout::MAX_FRAME_READ);
        memory.read(frame, &mut bytes[..length])?;
        frame = word(&bytes, layout.frame_previous);
        if layout.entry_rule == EntryRule::ShimFrame as u8
            && byte(&bytes, layout.frame_owner) >= PythonLayout::FIRST_SHIM_OWNER
        {
            if let Some(last) = frames.last_mut() {
                last.set_entry();
            }
            continue;
        }
        if frames.len() == MAX_PYTHON_FRAMES {
            return Ok(PythonStatus::Cut);
        }
        let code = word(&bytes, layout.frame_code) & !3;
        let instruction = if layout.code_bytecode == 0 {
            half_word(&bytes, layout.frame_instruction).cast_signed()
        } else {
            let start = code.wrapping_add(layout.code_bytecode.into());
            word(&bytes, layout.frame_instruction).wrapping_sub(start) as i32
        };
        let identity = CodeHeader::read(memory, layout, code)?.identity;
        let mut found = PythonFrame::new(code, instruction, identity);
        if layout.entry_rule == EntryRule::EveryFrame as u8
            || (layout.entry_rule == EntryRule::EntryByte as u8 && byte(&bytes, layout.frame_entry) != 0)
        {
            found.set_entry();
        }
        frames.push(found);
    }
    Ok(PythonStatus::Cut)
}

/// What is read of a code object at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CodeHeader {
    pub(super) identity: u32,
    pub(super) first_line: u32,
    /// Address of the `str`.
    pub(super) filename: u64,
    /// Address of the `str`.
    pub(super) name: u64,
}

impl CodeHeader {
    pub(super) fn read(memory: &impl ReadMemory, layout: &PythonLayout, code: u64) -> Result<Self, MemoryError> {
        let start = layout.code_flags;
        let length = usize::from(layout.code_name).saturating_add(8).saturating_sub(start.into());
        let mut bytes = [0; PythonLayout::MAX_CODE_READ];
        let length = length.min(PythonLayout::MAX_CODE_READ);
        memory.read(code.wrapping_add(start.into()), &mut bytes[..length])?;
        Ok(Self::parse(layout, &bytes, start))
    }

    /// From `bytes` of a code object, the first of which is its byte `start`.
    pub(super) fn parse(layout: &PythonLayout, bytes: &[u8], start: u16) -> Self {
        let at = |offset: u16| offset.wrapping_sub(start);
        let version = if layout.code_version == 0 { 0 } else { half_word(bytes, at(layout.code_version)) };
        let (flags, first_line) =
            (half_word(bytes, at(layout.code_flags)), half_word(bytes, at(layout.code_first_line)));
        let (filename, name) = (word(bytes, at(layout.code_filename)), word(bytes, at(layout.code_name)));
        Self { identity: code_identity(version, flags, first_line, filename, name), first_line, filename, name }
    }
}

/// The 8 bytes at `offset`; zero beyond the end, which a checked layout never asks for.
pub(super) fn word(bytes: &[u8], offset: u16) -> u64 {
    bytes.get(usize::from(offset)..).and_then(<[u8]>::first_chunk).copied().map_or(0, u64::from_ne_bytes)
}

fn half_word(bytes: &[u8], offset: u16) -> u32 {
    bytes.get(usize::from(offset)..).and_then(<[u8]>::first_chunk).copied().map_or(0, u32::from_ne_bytes)
}

fn byte(bytes: &[u8], offset: u16) -> u8 {
    bytes.get(usize::from(offset)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        memory::FakeMemory,
        python::{Version, layout},
    };

    const THREAD: u64 = 0x1000;
    const CFRAME: u64 = 0x2000;

    /// A 3.12 thread whose frames, leaf first, have these owners; frame `n` lies at `0x10000 + n * 0x100`.
    fn thread(owners: &[u8]) -> (FakeMemory, PythonLayout) {
        let (layout, _) = layout::known(Version::three(12)).unwrap();
        let mut memory = FakeMemory::default();
        memory.map(THREAD, 256).map(CFRAME, 8).map(0x10000, owners.len() * 0x100).map(0x8000, 256);
        memory.put_u64(THREAD + 56, CFRAME).put_u64(CFRAME, 0x10000);
        memory.put_u32(0x8000 + 92, 77);
        for (index, owner) in owners.iter().enumerate() {
            let frame = 0x10000 + index as u64 * 0x100;
            let last = index + 1 == owners.len();
            memory.put_u64(frame, if *owner >= 3 { 1 } else { 0x8000 });
            memory.put_u64(frame + 8, if last { 0 } else { frame + 0x100 });
            memory.put_u64(frame + 56, 0x8000 + 192 + 2 * index as u64).put(frame + 70, &[*owner]);
        }
        (memory, layout)
    }

    #[test]
    fn shims_mark_entries_and_are_left_out() {
        let (memory, layout) = thread(&[0, 1, 3, 0, 3]);
        let stack = walk(&memory, &layout, THREAD);
        assert_eq!(stack.status, PythonStatus::Complete);
        let seen: Vec<_> = stack.frames.iter().map(|frame| (frame.instruction, frame.is_entry())).collect();
        assert_eq!(seen, [(0, false), (2, true), (6, true)]);
        assert!(stack.frames.iter().all(|frame| (frame.code(), frame.identity) == (0x8000, 77)));
    }

    #[test]
    fn deep_and_endless_chains_are_cut() {
        let (memory, layout) = thread(&[0; MAX_PYTHON_FRAMES]);
        assert_eq!(walk(&memory, &layout, THREAD).status, PythonStatus::Complete);
        let (mut memory, layout) = thread(&[0; MAX_PYTHON_FRAMES + 1]);
        let stack = walk(&memory, &layout, THREAD);
        assert_eq!((stack.frames.len(), stack.status), (MAX_PYTHON_FRAMES, PythonStatus::Cut));
        // A shim that follows itself.
        memory.put_u64(0x10000 + 8, 0x10000).put(0x10000 + 70, &[3]);
        assert_eq!(walk(&memory, &layout, THREAD), PythonStack { frames: vec![], status: PythonStatus::Cut });
    }

    #[test]
    fn a_failed_read_keeps_what_came_before() {
        let (mut memory, layout) = thread(&[0, 0]);
        memory.put_u64(0x10100 + 8, 0xdead_0000);
        let stack = walk(&memory, &layout, THREAD);
        assert_eq!((stack.frames.len(), stack.status), (2, PythonStatus::ReadFailed));
        assert_eq!(walk(&memory, &layout, 0xdead_0000).status, PythonStatus::ReadFailed);
    }

    #[test]
    fn thread_states_by_glibc_and_musl_slots() {
        let mut memory = FakeMemory::default();
        memory.map(0x4000, 1024).map(0x5000, 64).put_u64(0x4000 + 784 + 24, THREAD);
        let glibc = PythonLayout { tsd_array: -1, tsd_slot: 784 + 24, ..PythonLayout::default() };
        assert_eq!(thread_state_of(&memory, &glibc, 0x4000), Ok(Some(THREAD)));
        memory.put_u64(0x4000 + 0x80, 0x5000).put_u64(0x5008, THREAD + 1);
        let musl = PythonLayout { tsd_array: 0x80, tsd_slot: 8, ..PythonLayout::default() };
        assert_eq!(thread_state_of(&memory, &musl, 0x4000), Ok(Some(THREAD + 1)));
        memory.put_u64(0x5008, 0);
        assert_eq!(thread_state_of(&memory, &musl, 0x4000), Ok(None));
    }
}
