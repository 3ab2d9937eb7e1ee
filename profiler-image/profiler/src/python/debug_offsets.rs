//! `_Py_DebugOffsets`, by which CPython tells its own layout from 3.13 on: the first thing in `_PyRuntime`.
//!
//! Field order is that of `Include/internal/pycore_runtime.h` (3.13) and `pycore_debug_offsets.h` (3.14): a cookie, then
//! one `u64` each. Every minor version has an order of its own, so only those two are understood.

use aiprof_ebpf_types::{EntryRule, PythonLayout};

use super::{LineFormat, Offsets, Refusal, Version, layout};
use crate::memory::{MemoryError, ReadMemory};

const COOKIE: &[u8; 8] = b"xdebugpy";

/// Indexes of the `u64`s (the cookie is number 0).
struct Order {
    words: usize,
    interpreter_next: usize,
    interpreter_threads: usize,
    thread_next: usize,
    thread_interpreter: usize,
    thread_frame: usize,
    thread_id: usize,
    native_thread_id: usize,
    frame_previous: usize,
    code_filename: usize,
    object_type: usize,
    type_name: usize,
    bytes_size: usize,
    string_state: usize,
}

const ORDER_3_13: Order = Order {
    words: 73,
    interpreter_next: 8,
    interpreter_threads: 9,
    thread_next: 21,
    thread_interpreter: 22,
    thread_frame: 23,
    thread_id: 24,
    native_thread_id: 25,
    frame_previous: 29,
    code_filename: 35,
    object_type: 45,
    type_name: 47,
    bytes_size: 65,
    string_state: 68,
};

const ORDER_3_14: Order = Order {
    words: 95,
    interpreter_next: 8,
    interpreter_threads: 9,
    thread_next: 24,
    thread_interpreter: 25,
    thread_frame: 26,
    thread_id: 27,
    native_thread_id: 28,
    frame_previous: 32,
    code_filename: 40,
    object_type: 51,
    type_name: 53,
    bytes_size: 75,
    string_state: 78,
};

/// What `_PyRuntime` says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SelfDescription {
    pub(super) version: Version,
    pub(super) layout: PythonLayout,
    pub(super) offsets: Offsets,
}

/// Reads the description at `runtime`; `None` where there is none, as before 3.13.
pub(super) fn read(memory: &impl ReadMemory, runtime: u64) -> Result<Option<SelfDescription>, Refusal> {
    let [cookie, hex, free_threaded] = words::<3>(memory, runtime)?;
    if &cookie.to_ne_bytes() != COOKIE {
        return Ok(None);
    }
    let version =
        Version::from_hex(hex).ok_or_else(|| Refusal::UnknownVersion(format!("_Py_DebugOffsets.version {hex:#x}")))?;
    let order = match version.minor {
        13 => ORDER_3_13,
        14 => ORDER_3_14,
        older if older < 13 => return Err(Refusal::UnknownVersion(format!("_Py_DebugOffsets of {version}"))),
        _ => return Err(Refusal::TooNew(version)),
    };
    if free_threaded != 0 {
        return Err(Refusal::FreeThreaded(version));
    }
    let all: [u64; ORDER_3_14.words] = if order.words == ORDER_3_14.words {
        words(memory, runtime)?
    } else {
        let mut all = [0; ORDER_3_14.words];
        all[..ORDER_3_13.words].copy_from_slice(&words::<{ ORDER_3_13.words }>(memory, runtime)?);
        all
    };
    describe(version, &order, &all).map(Some)
}

fn words<const N: usize>(memory: &impl ReadMemory, address: u64) -> Result<[u64; N], MemoryError> {
    let bytes = memory.bytes(address, N as u64 * 8, N * 8)?;
    let mut words = [0; N];
    for (word, chunk) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_ne_bytes(*chunk);
    }
    Ok(words)
}

/// The self-check's failure on `check`.
fn wrong(version: Version, check: &'static str, expected: String, found: u64) -> Refusal {
    Refusal::SelfCheck { version, check, expected, found: found.to_string() }
}

/// Checks what no version has changed, by which a wrong reading of the order shows.
fn check_constants(version: Version, order: &Order, words: &[u64]) -> Result<(), Refusal> {
    let constants = [
        (order.object_type, layout::OBJECT_TYPE, "PyObject.ob_type"),
        (order.type_name, layout::TYPE_NAME, "PyTypeObject.tp_name"),
        (order.bytes_size, layout::VAR_SIZE, "PyBytesObject.ob_size"),
        (order.bytes_size + 1, layout::BYTES_DATA, "PyBytesObject.ob_sval"),
        (order.string_state, layout::STRING_STATE, "PyASCIIObject.state"),
        (order.string_state + 1, layout::STRING_LENGTH, "PyASCIIObject.length"),
    ];
    match constants.iter().find(|(index, expected, _)| words[*index] != u64::from(*expected)) {
        Some((index, expected, what)) => Err(wrong(version, what, expected.to_string(), words[*index])),
        None => Ok(()),
    }
}

fn describe(version: Version, order: &Order, words: &[u64]) -> Result<SelfDescription, Refusal> {
    check_constants(version, order, words)?;
    let wrong = |what, expected, found| wrong(version, what, expected, found);
    let bounded = |index: usize, limit: u64| match words[index] {
        value if value < limit => Ok(value),
        value => Err(wrong("_Py_DebugOffsets", format!("less than {limit} in word {index}"), value)),
    };
    // Fields of `_PyRuntime` and of the interpreter, which are large; then those of small structures.
    let far = |index| bounded(index, 1 << 24).map(|value| value as u32);
    let near = |index| bounded(index, 1024).map(|value| value as u16);
    // Frame: size, previous, executable, instr_ptr, localsplus, owner.
    let frame = order.frame_previous;
    let (frame_previous, frame_code) = (near(frame)?, near(frame + 1)?);
    let (frame_instruction, frame_owner) = (near(frame + 2)?, near(frame + 4)?);
    let frame_read =
        [frame_previous + 8, frame_code + 8, frame_instruction + 8, frame_owner + 1].into_iter().max().unwrap_or(0);
    if usize::from(frame_read) > PythonLayout::MAX_FRAME_READ {
        let limit = PythonLayout::MAX_FRAME_READ;
        return Err(wrong("_PyInterpreterFrame", format!("fields within {limit} bytes"), frame_read.into()));
    }
    // Code: filename, name, qualname, linetable, firstlineno, argcount, localsplusnames, localspluskinds, co_code_adaptive.
    let code = order.code_filename;
    let (code_filename, code_name, code_first_line) = (near(code)?, near(code + 1)?, near(code + 4)?);
    // `co_flags` stands before `co_argcount`, `co_version` before `co_localsplusnames`.
    let (arguments, names) = (near(code + 5)?, near(code + 6)?);
    let (Some(code_flags), Some(code_version)) = (arguments.checked_sub(4), names.checked_sub(4)) else {
        return Err(wrong("PyCodeObject", "co_argcount behind co_flags".into(), arguments.into()));
    };
    let fields = [code_first_line, code_version, code_filename, code_name];
    let in_reach = |field: &u16| {
        *field >= code_flags
            && usize::from(field + 8 - code_flags) <= PythonLayout::MAX_CODE_READ
            && *field <= code_name
    };
    if let Some(found) = fields.iter().find(|field| !in_reach(field)) {
        let expected = format!("fields between {code_flags} and {code_name}");
        return Err(wrong("PyCodeObject", expected, u64::from(*found)));
    }
    let ascii = near(order.string_state + 2)?;
    Ok(SelfDescription {
        version,
        layout: PythonLayout {
            thread_state_frame: near(order.thread_frame)?.into(),
            cframe_current_frame: -1,
            frame_code,
            frame_previous,
            frame_instruction,
            frame_owner,
            frame_read,
            code_bytecode: near(code + 8)?,
            code_flags,
            code_first_line,
            code_version,
            code_filename,
            code_name,
            entry_rule: EntryRule::ShimFrame as u8,
            ..PythonLayout::default()
        },
        offsets: Offsets {
            interpreters_head: far(5)?,
            auto_tss_key: layout::usual_tss_key(version),
            interpreter_next: far(order.interpreter_next)?,
            interpreter_threads: far(order.interpreter_threads)?,
            thread_next: near(order.thread_next)?.into(),
            thread_interpreter: near(order.thread_interpreter)?.into(),
            thread_id: near(order.thread_id)?.into(),
            native_thread_id: Some(near(order.native_thread_id)?.into()),
            code_qualified_name: Some(near(code + 2)?.into()),
            code_line_table: near(code + 3)?.into(),
            line_format: LineFormat::Locations,
            string_ascii_data: ascii.into(),
            // `PyCompactUnicodeObject` adds the length and the pointer of the UTF-8 form.
            string_data: u32::from(ascii) + 16,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::FakeMemory;

    const RUNTIME: u64 = 0x10_0000;

    /// The offsets of a default 3.13 build, as its headers give them.
    fn described(hex: u64, free_threaded: u64) -> FakeMemory {
        let mut words = [0_u64; ORDER_3_14.words];
        words[0] = u64::from_ne_bytes(*COOKIE);
        (words[1], words[2], words[5]) = (hex, free_threaded, 632);
        (words[8], words[9]) = (7264, 7344);
        words[21..26].copy_from_slice(&[8, 16, 72, 152, 160]);
        words[29..34].copy_from_slice(&[8, 0, 56, 72, 70]);
        words[35..44].copy_from_slice(&[112, 120, 128, 136, 68, 52, 96, 104, 200]);
        (words[45], words[47], words[65], words[66]) = (8, 24, 16, 32);
        words[68..71].copy_from_slice(&[32, 16, 40]);
        let mut memory = FakeMemory::default();
        memory.map(RUNTIME, words.len() * 8);
        for (index, word) in words.iter().enumerate() {
            memory.put_u64(RUNTIME + 8 * index as u64, *word);
        }
        memory
    }

    #[test]
    fn reads_3_13() {
        let found = read(&described(0x030d_00f0, 0), RUNTIME).unwrap().unwrap();
        assert_eq!(found.version.to_string(), "3.13.0");
        let expected = PythonLayout {
            thread_state_frame: 72,
            cframe_current_frame: -1,
            frame_previous: 8,
            frame_instruction: 56,
            frame_owner: 70,
            frame_read: 71,
            code_bytecode: 200,
            code_flags: 48,
            code_first_line: 68,
            code_version: 92,
            code_filename: 112,
            code_name: 120,
            entry_rule: EntryRule::ShimFrame as u8,
            ..PythonLayout::default()
        };
        assert_eq!(found.layout, expected);
        let offsets = found.offsets;
        assert_eq!(
            (offsets.interpreters_head, offsets.interpreter_next, offsets.interpreter_threads),
            (632, 7264, 7344)
        );
        assert_eq!((offsets.string_ascii_data, offsets.string_data), (40, 56));
    }

    #[test]
    fn refuses_by_name() {
        let sentence = |memory: &FakeMemory| read(memory, RUNTIME).unwrap_err().to_string();
        assert_eq!(
            sentence(&described(0x030d_00f0, 1)),
            "CPython 3.13.0 is a free-threaded build, which is not supported"
        );
        assert_eq!(sentence(&described(0x030f_00f0, 0)), "CPython 3.15.0 is not supported: 3.14 is the newest that is");
        let mut moved = described(0x030d_00f0, 0);
        moved.put_u64(RUNTIME + 8 * 68, 48);
        assert_eq!(
            sentence(&moved),
            "CPython 3.13.0 failed the self-check of PyASCIIObject.state: expected 32, found 48"
        );
        let mut hostile = described(0x030d_00f0, 0);
        hostile.put_u64(RUNTIME + 8 * 33, u64::MAX);
        assert!(sentence(&hostile).contains("_Py_DebugOffsets"));
        hostile.put_u64(RUNTIME + 8 * 33, 1000);
        assert!(sentence(&hostile).contains("fields within 112 bytes"));
    }

    #[test]
    fn no_cookie_is_an_older_version() {
        let mut memory = described(0x030d_00f0, 0);
        memory.put_u64(RUNTIME, 1);
        assert_eq!(read(&memory, RUNTIME), Ok(None));
        assert!(matches!(read(&memory, 0), Err(Refusal::Unreadable(_))));
    }
}
