//! The self-check: whether the live process looks as the layout says. Its reads race with the running process, so the
//! caller tries again before it believes a failure.

use std::collections::HashMap;

use aiprof_ebpf_types::PythonLayout;

use super::{
    Interpreter, Refusal, Thread,
    layout::{OBJECT_TYPE, TYPE_NAME},
    libc::Libc,
    strings, threads,
    walk::{CodeHeader, thread_state_of, walk},
};
use crate::memory::ReadMemory;

/// Bytes of `_PyRuntime` that are searched for the gilstate key, if it is not where it usually lies.
const KEY_SEARCH_BYTES: usize = 16 * 1024;
/// Threads and frames of each whose code objects are looked at.
const CHECKED_THREADS: usize = 64;
const CHECKED_FRAMES: usize = 4;

/// Finds the TSD slot of the gilstate key and checks the layout. `code_type` is the address of `PyCode_Type` where known.
/// Returns how many code objects bore the layout out: none in a process without a running frame.
pub(super) fn settle(
    memory: &impl ReadMemory,
    interpreter: &mut Interpreter,
    libraries: &[Libc],
    code_type: Option<u64>,
) -> Result<usize, Refusal> {
    if memory.u64(interpreter.runtime_address.wrapping_add(interpreter.offsets.interpreters_head.into()))? == 0 {
        return Err(Refusal::Starting);
    }
    let threads = threads(memory, interpreter)?;
    if threads.iter().all(|thread| thread.thread_id == 0) {
        return Err(Refusal::Starting);
    }
    settle_slot(memory, interpreter, &threads, libraries)?;
    check_code(memory, interpreter, &threads, code_type)
}

/// Sets the TSD fields of the layout so that slots hold what they should.
fn settle_slot(
    memory: &impl ReadMemory,
    interpreter: &mut Interpreter,
    threads: &[Thread],
    libraries: &[Libc],
) -> Result<(), Refusal> {
    let by_id = group(threads);
    let usual = memory.u32(interpreter.runtime_address.wrapping_add(interpreter.offsets.auto_tss_key.into()))?;
    let initialised = memory
        .u32(interpreter.runtime_address.wrapping_add(interpreter.offsets.auto_tss_key.into()).wrapping_sub(4))?;
    let mut keys = Vec::new();
    if initialised == 1 {
        keys.push((interpreter.offsets.auto_tss_key, usual));
    }
    keys.extend(search_keys(memory, interpreter.runtime_address));
    for (offset, key) in keys {
        for libc in libraries {
            let mut layout = interpreter.layout;
            if libc.set_slot(&mut layout, key) && most_match(memory, &layout, *libc, &by_id) {
                interpreter.layout = layout;
                interpreter.offsets.auto_tss_key = offset;
                return Ok(());
            }
        }
    }
    if initialised == 0 {
        // The key is made a little after the first thread state.
        return Err(Refusal::Starting);
    }
    Err(Refusal::SelfCheck {
        version: interpreter.version,
        check: "the gilstate key (autoTSSkey)",
        expected: format!("each of {} threads to find its PyThreadState in its TSD slot", by_id.len()),
        found: format!("key {usual} (initialised: {initialised}), by which most do not"),
    })
}

/// Thread states by OS thread: one thread may have several, of which its slot holds one.
fn group(threads: &[Thread]) -> HashMap<u64, Vec<u64>> {
    let mut by_id: HashMap<u64, Vec<u64>> = HashMap::new();
    for thread in threads.iter().filter(|thread| thread.thread_id != 0) {
        by_id.entry(thread.thread_id).or_default().push(thread.thread_state);
    }
    by_id
}

/// Whether at least half of the threads find their own state: some may have ended just now, or lost theirs at exit.
fn most_match(memory: &impl ReadMemory, layout: &PythonLayout, libc: Libc, by_id: &HashMap<u64, Vec<u64>>) -> bool {
    let matches = |(id, states): (&u64, &Vec<u64>)| {
        let slot = thread_state_of(memory, layout, libc.thread_pointer(*id));
        matches!(slot, Ok(Some(state)) if states.contains(&state))
    };
    let matching = by_id.iter().filter(|entry| matches(*entry)).count();
    matching > 0 && matching * 2 >= by_id.len()
}

/// All places in `_PyRuntime` that look like an initialised key: an `int` 1 and a small `int`. One for each key.
fn search_keys(memory: &impl ReadMemory, runtime: u64) -> Vec<(u32, u32)> {
    let mut found: Vec<(u32, u32)> = Vec::new();
    let mut words: Vec<u32> = Vec::new();
    for page in (0..KEY_SEARCH_BYTES as u64).step_by(1024) {
        let Ok(bytes) = memory.array::<1024>(runtime.wrapping_add(page)) else { break };
        words.extend(bytes.as_chunks().0.iter().map(|word| u32::from_ne_bytes(*word)));
    }
    for (index, pair) in words.windows(2).enumerate() {
        if pair[0] == 1 && pair[1] < 128 && !found.iter().any(|(_, key)| *key == pair[1]) {
            found.push((index as u32 * 4 + 4, pair[1]));
        }
    }
    found
}

/// Checks that what frames point to are code objects whose names are strings.
fn check_code(
    memory: &impl ReadMemory,
    interpreter: &Interpreter,
    threads: &[Thread],
    code_type: Option<u64>,
) -> Result<usize, Refusal> {
    let (mut good, mut bad, mut last) = (0, 0, None);
    for thread in threads.iter().take(CHECKED_THREADS) {
        for frame in walk(memory, &interpreter.layout, thread.thread_state).frames.iter().take(CHECKED_FRAMES) {
            match check_one(memory, interpreter, frame.code(), code_type) {
                Ok(()) => good += 1,
                Err(refusal) => {
                    bad += 1;
                    last = Some(refusal);
                }
            }
        }
    }
    match last {
        // A thread that runs may leave a frame while it is read.
        Some(refusal) if bad * 4 > good => Err(refusal),
        _ => Ok(good),
    }
}

fn check_one(
    memory: &impl ReadMemory,
    interpreter: &Interpreter,
    code: u64,
    code_type: Option<u64>,
) -> Result<(), Refusal> {
    let wrong =
        |check, expected: String, found| Refusal::SelfCheck { version: interpreter.version, check, expected, found };
    let found = memory.u64(code.wrapping_add(OBJECT_TYPE.into()))?;
    let name = type_name(memory, found);
    // Another copy of the type may exist (copy relocation), so its name counts too.
    if code_type != Some(found) && name.as_deref() != Some("code") {
        let expected = format!("PyCode_Type{}", code_type.map(|at| format!(" at {at:#x}")).unwrap_or_default());
        let found = format!("{found:#x} ({})", name.unwrap_or_else(|| "no type".into()));
        return Err(wrong("a frame's code object", expected, found));
    }
    let header = CodeHeader::read(memory, &interpreter.layout, code)?;
    for (check, address) in [("co_filename", header.filename), ("co_name", header.name)] {
        let kind = type_name(memory, memory.u64(address.wrapping_add(OBJECT_TYPE.into()))?);
        if kind.as_deref() != Some("str") {
            return Err(wrong(check, "a str".into(), kind.unwrap_or_else(|| "no object".into())));
        }
        strings::read(memory, &interpreter.offsets, address)
            .map_err(|error| wrong(check, "a readable str".into(), error.to_string()))?;
    }
    Ok(())
}

/// `tp_name` of the type at `address`, if that looks like one.
fn type_name(memory: &impl ReadMemory, address: u64) -> Option<String> {
    let name = memory.u64(address.wrapping_add(TYPE_NAME.into())).ok()?;
    let bytes = memory.array::<8>(name).ok()?;
    let end = bytes.iter().position(|byte| *byte == 0)?;
    String::from_utf8(bytes[..end].to_vec()).ok().filter(|name| !name.is_empty())
}
