//! A CPython 3.12 made up in memory: one interpreter, one thread, one frame in `Class.method` of `/srv/app.py`.

use aiprof_ebpf_types::PythonFrame;

use super::{Interpreter, Version, layout};
use crate::memory::FakeMemory;

/// Address of the thread's `PyThreadState`.
pub(super) const THREAD_STATE: u64 = 0x30_0000;
/// Address of its `struct pthread`, which is its thread pointer; the TSD slot is left empty. The gilstate key is 1.
pub(super) const PTHREAD: u64 = 0x50_0000;
/// Address of the code object; its `co_version` is 77.
pub(super) const CODE: u64 = 0x60_0000;
/// Address of its qualified name.
pub(super) const NAME: u64 = 0x61_0000;
/// Address of its line table: line 11 at byte 0, 12 at byte 2, 13 at byte 4.
pub(super) const LINES: u64 = 0x63_0000;

const RUNTIME: u64 = 0x10_0000;
const STATE: u64 = 0x20_0000;
const FRAME: u64 = 0x31_0000;
/// Of code and of str; their names follow.
const CODE_TYPE: u64 = 0x40_0000;
const STR_TYPE: u64 = 0x40_0100;
const FILE: u64 = 0x62_0000;

/// The process and what is known of it.
#[derive(Clone, Debug)]
pub(super) struct FakePython {
    pub(super) memory: FakeMemory,
    pub(super) interpreter: Interpreter,
}

impl FakePython {
    pub(super) fn new() -> Self {
        let version = Version::three(12);
        let (layout, offsets) = layout::known(version).expect("3.12");
        let mut memory = FakeMemory::default();
        memory.map(RUNTIME, 16 * 1024).put_u64(RUNTIME + 40, STATE);
        memory.put_u32(RUNTIME + 1544, 1).put_u32(RUNTIME + 1548, 1);
        memory.map(STATE, 256).put_u64(STATE + 72, THREAD_STATE);
        memory.map(THREAD_STATE, 512).put_u64(THREAD_STATE + 16, STATE).put_u64(THREAD_STATE + 136, PTHREAD);
        memory.put_u64(THREAD_STATE + 56, THREAD_STATE + 400).put_u64(THREAD_STATE + 400, FRAME);
        memory.map(FRAME, 128).put_u64(FRAME, CODE).put_u64(FRAME + 56, CODE + 192);
        memory.map(PTHREAD, 2304).put_u64(PTHREAD + 0x80, PTHREAD);
        memory.map(CODE_TYPE, 1024);
        for (kind, name) in [(CODE_TYPE, b"code"), (STR_TYPE, b"str\0")] {
            memory.put_u64(kind + 24, kind + 0x200).put(kind + 0x200, name);
        }
        memory.map(CODE, 256).put_u64(CODE, 2).put_u64(CODE + 8, CODE_TYPE);
        memory.put_u32(CODE + 68, 11).put_u32(CODE + 92, 77);
        memory.put_u64(CODE + 112, FILE).put_u64(CODE + 120, NAME).put_u64(CODE + 128, NAME).put_u64(CODE + 136, LINES);
        for (address, text) in [(NAME, "Class.method"), (FILE, "/srv/app.py")] {
            memory.map(address, 128).put_u64(address + 8, STR_TYPE).put_u64(address + 16, text.len() as u64);
            memory.put_u32(address + 32, 1 << 2 | 1 << 5 | 1 << 6).put(address + 40, text.as_bytes());
        }
        let table = [0xd0, 0, 0, 0xd8, 0, 0, 0xd8, 0, 0];
        memory.map(LINES, 128).put_u64(LINES + 16, table.len() as u64).put(LINES + 32, &table);
        let path = "/usr/bin/python3.12".into();
        Self {
            memory,
            interpreter: Interpreter { version, runtime_address: RUNTIME, runtime_bytes: 0, layout, offsets, path },
        }
    }

    /// The frame at this byte of the bytecode, of the code object as it is now.
    pub(super) fn frame(&self, instruction: i32) -> PythonFrame {
        use crate::memory::ReadMemory;
        PythonFrame::new(CODE, instruction, self.memory.u32(CODE + 92).expect("mapped"))
    }
}
