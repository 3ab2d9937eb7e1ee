//! The self-check: whether the live process looks as the layout says. Its reads race with the running process, so the
//! caller tries again before it believes a failure.

use std::collections::HashSet;

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
/// Returns how many code objects bore the layout out: none in a process without a running frame. Where the version is
/// only `guessed`, the key must be where that version has it.
pub(super) fn settle(
    memory: &impl ReadMemory,
    interpreter: &mut Interpreter,
    libraries: &[Libc],
    code_type: Option<u64>,
    guessed: bool,
) -> Result<usize, Refusal> {
    if memory.u64(interpreter.runtime_address.wrapping_add(interpreter.offsets.interpreters_head.into()))? == 0 {
        return Err(Refusal::Starting);
    }
    let threads = threads(memory, interpreter)?;
    if threads.iter().all(|thread| thread.thread_id == 0) {
        return Err(Refusal::Starting);
    }
    settle_slot(memory, interpreter, &threads, libraries, guessed)?;
    check_code(memory, interpreter, &threads, code_type)
}

/// Sets the TSD fields of the layout so that slots hold what they should.
fn settle_slot(
    memory: &impl ReadMemory,
    interpreter: &mut Interpreter,
    threads: &[Thread],
    libraries: &[Libc],
    guessed: bool,
) -> Result<(), Refusal> {
    let usual = memory.u32(interpreter.runtime_address.wrapping_add(interpreter.offsets.auto_tss_key.into()))?;
    let initialised = memory
        .u32(interpreter.runtime_address.wrapping_add(interpreter.offsets.auto_tss_key.into()).wrapping_sub(4))?;
    let mut keys = Vec::new();
    if initialised == 1 {
        keys.push((interpreter.offsets.auto_tss_key, usual));
    }
    if !guessed {
        keys.extend(search_keys(memory, interpreter.runtime_address));
    }
    for (offset, key) in keys {
        for libc in libraries {
            let mut layout = interpreter.layout;
            if libc.set_slot(&mut layout, key) && most_match(memory, &layout, *libc, threads) {
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
        expected: format!("each of {} threads to find its PyThreadState in its TSD slot", threads.len()),
        found: format!("key {usual} (initialised: {initialised}), by which most do not"),
    })
}

/// Whether for at least half of the threads the slot holds a `PyThreadState` that is listed: some may have ended just
/// now. It need not be the very one, since a thread that enters another interpreter has several.
fn most_match(memory: &impl ReadMemory, layout: &PythonLayout, libc: Libc, threads: &[Thread]) -> bool {
    let states: HashSet<u64> = threads.iter().map(|thread| thread.thread_state).collect();
    let ids: HashSet<u64> = threads.iter().map(|thread| thread.thread_id).filter(|id| *id != 0).collect();
    let slot = |id: &u64| thread_state_of(memory, layout, libc.thread_pointer(*id));
    let matching = ids.iter().filter(|id| matches!(slot(id), Ok(Some(state)) if states.contains(&state))).count();
    matching > 0 && matching * 2 >= ids.len()
}

/// All places in `_PyRuntime` that look like an initialised key: an `int` 1 and a small `int`. One for each key.
fn search_keys(memory: &impl ReadMemory, runtime: u64) -> Vec<(u32, u32)> {
    let mut found: Vec<(u32, u32)> = Vec::new();
    let mut words: Vec<u32> = Vec::new();
    for page in (0..KEY_SEARCH_BYTES as u64).step_by(1024) {
        let Ok(bytes) = memory.array::<1024>(runtime.wrapping_add(page)) else {
            break;
        };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::fake::{CODE, FakePython, PTHREAD, THREAD_STATE};

    const GLIBC: Libc = Libc::Glibc { first_block: 784, to_thread_pointer: 0 };
    const MUSL: Libc = Libc::Musl { array: 0x80, to_thread_pointer: 0 };

    #[test]
    fn passes_on_glibc_and_musl() {
        let mut python = FakePython::new();
        python.memory.put_u64(PTHREAD + 784 + 16 + 8, THREAD_STATE);
        assert_eq!(settle(&python.memory, &mut python.interpreter, &[GLIBC, MUSL], None, false), Ok(1));
        assert_eq!((python.interpreter.layout.tsd_array, python.interpreter.layout.tsd_slot), (-1, 808));

        let mut python = FakePython::new();
        python.memory.map(0x70_0000, 64).put_u64(PTHREAD + 0x80, 0x70_0000).put_u64(0x70_0008, THREAD_STATE);
        assert_eq!(settle(&python.memory, &mut python.interpreter, &[GLIBC, MUSL], None, false), Ok(1));
        assert_eq!((python.interpreter.layout.tsd_array, python.interpreter.layout.tsd_slot), (0x80, 8));
    }

    #[test]
    fn searches_the_key_where_it_moved() {
        let mut python = FakePython::new();
        let runtime = python.interpreter.runtime_address;
        python.memory.put_u64(PTHREAD + 784 + 16 * 5 + 8, THREAD_STATE);
        python.memory.put_u32(runtime + 1700, 1).put_u32(runtime + 1704, 5);
        assert_eq!(settle(&python.memory, &mut python.interpreter, &[GLIBC], None, false), Ok(1));
        assert_eq!((python.interpreter.offsets.auto_tss_key, python.interpreter.layout.tsd_slot), (1704, 784 + 88));
        // Now it is where it is looked for first.
        assert_eq!(settle(&python.memory, &mut python.interpreter, &[GLIBC], None, true), Ok(1));
    }

    #[test]
    fn a_guessed_version_must_have_its_key_in_place() {
        let mut python = FakePython::new();
        let runtime = python.interpreter.runtime_address;
        python.memory.put_u64(PTHREAD + 784 + 16 * 5 + 8, THREAD_STATE);
        python.memory.put_u32(runtime + 1700, 1).put_u32(runtime + 1704, 5);
        let refused = settle(&python.memory, &mut python.interpreter, &[GLIBC], None, true);
        assert!(matches!(refused, Err(Refusal::SelfCheck { .. })), "{refused:?}");
    }

    #[test]
    fn says_what_failed() {
        let refuse = |change: &dyn Fn(&mut FakePython)| {
            let mut python = FakePython::new();
            python.memory.put_u64(PTHREAD + 784 + 16 + 8, THREAD_STATE);
            change(&mut python);
            settle(&python.memory, &mut python.interpreter, &[GLIBC], Some(0x40_0000), false).unwrap_err().to_string()
        };
        let key = refuse(&|python| _ = python.memory.put_u64(PTHREAD + 784 + 16 + 8, 1));
        assert!(key.contains("failed the self-check of the gilstate key (autoTSSkey)"), "{key}");
        let code = refuse(&|python| _ = python.memory.put_u64(CODE + 8, 0x40_0100));
        assert_eq!(
            code,
            "CPython 3.12 failed the self-check of a frame's code object: expected PyCode_Type at 0x400000, found 0x400100 (str)"
        );
        let name = refuse(&|python| _ = python.memory.put_u64(CODE + 120, CODE));
        assert_eq!(name, "CPython 3.12 failed the self-check of co_name: expected a str, found code");
        let starting = refuse(&|python| {
            python.memory.put_u64(python.interpreter.runtime_address + 40, 0);
        });
        assert_eq!(starting, Refusal::Starting.to_string());
    }
}
