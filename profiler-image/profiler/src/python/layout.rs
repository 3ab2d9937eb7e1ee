//! Where CPython's structures have their fields, version by version.
//!
//! 3.8 to 3.12 come from the table below, computed by `offsetof` over each version's own headers (default builds, 64 bit);
//! they are the same for every patch release seen. From 3.13 on most come from the process itself (`debug_offsets`).
//! Either way the self-check has the last word.

use aiprof_ebpf_types::{EntryRule, PythonLayout};

use super::{LineFormat, Version};

/// The fields that only user space reads, in bytes; [`PythonLayout`] has those that the in-kernel walker reads too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// `_PyRuntime.interpreters.head`.
    pub interpreters_head: u32,
    /// `_PyRuntime` to the `_key` of the gilstate TSS key; the `int` before it tells whether the key was made.
    pub auto_tss_key: u32,
    /// `PyInterpreterState.next`.
    pub interpreter_next: u32,
    /// `PyInterpreterState.threads.head`.
    pub interpreter_threads: u32,
    /// `PyThreadState.next`.
    pub thread_next: u32,
    /// `PyThreadState.interp`.
    pub thread_interpreter: u32,
    /// `PyThreadState.thread_id`: what `pthread_self` gives.
    pub thread_id: u32,
    /// `PyThreadState.native_thread_id` (from 3.11): the thread id in the process's own PID namespace.
    pub native_thread_id: Option<u32>,
    /// `co_qualname` (from 3.11).
    pub code_qualified_name: Option<u32>,
    /// `co_lnotab` or `co_linetable`.
    pub code_line_table: u32,
    /// How that table is encoded.
    pub line_format: LineFormat,
    /// Characters of a compact ASCII `str` (`sizeof(PyASCIIObject)`).
    pub string_ascii_data: u32,
    /// Characters of any other compact `str` (`sizeof(PyCompactUnicodeObject)`).
    pub string_data: u32,
}

/// `PyASCIIObject.length`.
pub(super) const STRING_LENGTH: u32 = 16;
/// `PyASCIIObject.state`.
pub(super) const STRING_STATE: u32 = 32;
/// `PyVarObject.ob_size`.
pub(super) const VAR_SIZE: u32 = 16;
/// `PyBytesObject.ob_sval`.
pub(super) const BYTES_DATA: u32 = 32;
/// `PyObject.ob_type`.
pub(super) const OBJECT_TYPE: u32 = 8;
/// `PyTypeObject.tp_name`.
pub(super) const TYPE_NAME: u32 = 24;

/// The layout of a version that cannot tell it itself: 3.8 to 3.12. TSD fields are left for the live key.
pub(super) fn known(version: Version) -> Option<(PythonLayout, Offsets)> {
    match version.minor {
        8 => Some(until_3_10(&FrameObjects { tss_key: 1396, instruction: 104, format: LineFormat::Lnotab })),
        9 => Some(until_3_10(&FrameObjects { tss_key: 588, instruction: 104, format: LineFormat::Lnotab })),
        10 => Some(until_3_10(&FrameObjects { tss_key: 588, instruction: 96, format: LineFormat::Ranges })),
        11 => Some((
            PythonLayout {
                thread_state_frame: 56,
                cframe_current_frame: 8,
                frame_code: 32,
                frame_previous: 48,
                frame_instruction: 56,
                frame_owner: 69,
                frame_entry: 68,
                frame_read: 72,
                code_bytecode: 184,
                code_flags: 48,
                code_first_line: 72,
                code_filename: 112,
                code_name: 120,
                entry_rule: EntryRule::EntryByte as u8,
                ..PythonLayout::default()
            },
            Offsets {
                interpreters_head: 40,
                auto_tss_key: 596,
                interpreter_threads: 16,
                thread_id: 152,
                native_thread_id: Some(160),
                code_qualified_name: Some(128),
                code_line_table: 136,
                line_format: LineFormat::Locations,
                ..FRAME_OBJECT_OFFSETS
            },
        )),
        12 => Some((
            PythonLayout {
                thread_state_frame: 56,
                cframe_current_frame: 0,
                frame_code: 0,
                frame_previous: 8,
                frame_instruction: 56,
                frame_owner: 70,
                frame_read: 72,
                code_bytecode: 192,
                code_flags: 48,
                code_first_line: 68,
                code_version: 92,
                code_filename: 112,
                code_name: 120,
                entry_rule: EntryRule::ShimFrame as u8,
                ..PythonLayout::default()
            },
            Offsets {
                interpreters_head: 40,
                auto_tss_key: 1548,
                interpreter_threads: 72,
                thread_id: 136,
                native_thread_id: Some(144),
                code_qualified_name: Some(128),
                code_line_table: 136,
                line_format: LineFormat::Locations,
                string_ascii_data: 40,
                string_data: 56,
                ..FRAME_OBJECT_OFFSETS
            },
        )),
        _ => None,
    }
}

/// Where `autoTSSkey._key` lies from 3.13 on, which `_Py_DebugOffsets` does not say; tried first, searched for if wrong.
pub(super) fn usual_tss_key(version: Version) -> u32 {
    if version.minor == 13 { 2164 } else { 2340 }
}

/// What differs among the versions whose frames are objects.
struct FrameObjects {
    tss_key: u32,
    instruction: u16,
    format: LineFormat,
}

/// User-space offsets of 3.8; later versions differ where they say so.
const FRAME_OBJECT_OFFSETS: Offsets = Offsets {
    interpreters_head: 32,
    auto_tss_key: 0,
    interpreter_next: 0,
    interpreter_threads: 8,
    thread_next: 8,
    thread_interpreter: 16,
    thread_id: 176,
    native_thread_id: None,
    code_qualified_name: None,
    code_line_table: 120,
    line_format: LineFormat::Lnotab,
    string_ascii_data: 48,
    string_data: 72,
};

fn until_3_10(version: &FrameObjects) -> (PythonLayout, Offsets) {
    let layout = PythonLayout {
        thread_state_frame: 24,
        cframe_current_frame: -1,
        frame_code: 32,
        frame_previous: 24,
        frame_instruction: version.instruction,
        frame_read: version.instruction + 4,
        code_flags: 36,
        code_first_line: 40,
        code_filename: 104,
        code_name: 112,
        entry_rule: EntryRule::EveryFrame as u8,
        ..PythonLayout::default()
    };
    (layout, Offsets { auto_tss_key: version.tss_key, line_format: version.format, ..FRAME_OBJECT_OFFSETS })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_layout_keeps_within_what_the_walker_reads() {
        for minor in 8..=12 {
            let (layout, _) = known(Version::three(minor)).unwrap();
            assert!(usize::from(layout.frame_read) <= PythonLayout::MAX_FRAME_READ, "3.{minor}");
            assert!(usize::from(layout.code_name + 8 - layout.code_flags) <= PythonLayout::MAX_CODE_READ, "3.{minor}");
            let ends = [
                layout.frame_code + 8,
                layout.frame_previous + 8,
                layout.frame_instruction + 4,
                layout.frame_owner + 1,
            ];
            assert!(ends.iter().all(|end| *end <= layout.frame_read), "3.{minor}");
        }
        assert!([7, 13, 15].iter().all(|minor| known(Version::three(*minor)).is_none()));
    }
}
