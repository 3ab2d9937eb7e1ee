//! Naming frames: function, file and line of a code object, read once and kept.
//!
//! A code object may be freed and another made at its address. The walker gives each frame the object's identity as it
//! was at that moment. Names count only if the object was alive with that identity before they were read and after: a
//! live code object holds its strings, so they were its own all the while.

use std::{
    collections::{HashMap, HashSet},
    mem,
    sync::Arc,
};

use aiprof_ebpf_types::{PythonFrame, PythonLayout};

use super::{
    Interpreter, LineTable, Offsets,
    layout::{BYTES_DATA, OBJECT_TYPE, VAR_SIZE},
    strings::{self, StringError},
    walk::{self, CodeHeader},
};
use crate::memory::{MemoryError, ReadMemory};

/// Line tables beyond this are not read (their frames have no line): a function of some hundred thousand lines.
const MAX_LINE_TABLE: usize = 4 << 20;
/// The most that is read of a code object at once.
const MAX_SNAPSHOT: usize = 2048;
/// Code objects kept in each of the two generations.
const MAX_ENTRIES: usize = 32 * 1024;
/// Bytes that each of the two generations may take.
const MAX_BYTES: usize = 16 << 20;

/// Whether a frame has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameState {
    /// It has.
    Known,
    /// Its code object was replaced before it could be read.
    Gone,
    /// Its code object cannot be read.
    Unreadable,
}

/// A frame by its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedFrame {
    /// Qualified name from 3.11 on, else the name; in brackets what is no function of the target.
    pub function: Arc<str>,
    /// `co_filename`; empty unless known.
    pub file: Arc<str>,
    /// Line, 0 where there is none.
    pub line: u32,
    /// Whether the names are the target's.
    pub state: FrameState,
}

/// The code objects of one process by address and identity. Drop it when the process runs another program.
///
/// It is bounded: entries not asked for any more make room for new ones.
#[derive(Debug)]
pub struct CodeCache {
    layout: PythonLayout,
    offsets: Offsets,
    /// New or asked for lately; becomes `old` when full.
    young: Generation,
    old: Generation,
    /// Files of all entries; many code objects share one.
    files: HashSet<Arc<str>>,
    gone: Arc<str>,
    unreadable: Arc<str>,
    none: Arc<str>,
    max_entries: usize,
}

#[derive(Debug, Default)]
struct Generation {
    entries: HashMap<(u64, u32), Arc<Code>>,
    bytes: usize,
}

#[derive(Debug)]
struct Code {
    function: Arc<str>,
    file: Arc<str>,
    lines: Option<LineTable>,
}

/// What tells a living code object, and what it holds: none of it changes while it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Snapshot {
    header: CodeHeader,
    /// Address of its type.
    kind: u64,
    /// Address of the `str` to show: the qualified name if there is one.
    name: u64,
    /// Address of the `bytes`.
    line_table: u64,
}

impl Snapshot {
    /// Reads it at once; `None` if the object is being freed, or was and nothing has overwritten it yet.
    fn read(
        memory: &impl ReadMemory,
        layout: &PythonLayout,
        offsets: &Offsets,
        address: u64,
    ) -> Result<Option<Self>, MemoryError> {
        let length = u64::from(offsets.code_line_table).max(layout.code_name.into()) + 8;
        let bytes = memory.bytes(address, length, MAX_SNAPSHOT)?;
        // An object being freed has no references left. Once it is, the allocator keeps a pointer to the next free block
        // there, if anything: above 4 GiB, where no count of references reaches (bits 48 and up are flags from 3.14 on).
        let references = walk::word(&bytes, 0);
        if references as u32 == 0 || references >> 32 & 0xffff != 0 {
            return Ok(None);
        }
        let header = CodeHeader::parse(layout, &bytes, 0);
        let at = |offset: u32| walk::word(&bytes, offset as u16);
        Ok(Some(Self {
            header,
            kind: at(OBJECT_TYPE),
            name: offsets.code_qualified_name.map_or(header.name, at),
            line_table: at(offsets.code_line_table),
        }))
    }
}

enum ReadError {
    Gone,
    Unreadable,
}

impl From<MemoryError> for ReadError {
    fn from(_: MemoryError) -> Self {
        Self::Unreadable
    }
}

impl CodeCache {
    /// An empty cache for one process.
    #[must_use]
    pub fn new(interpreter: &Interpreter) -> Self {
        Self {
            layout: interpreter.layout,
            offsets: interpreter.offsets,
            young: Generation::default(),
            old: Generation::default(),
            files: HashSet::new(),
            gone: "[code object gone]".into(),
            unreadable: "[code object unreadable]".into(),
            none: "".into(),
            max_entries: MAX_ENTRIES,
        }
    }

    /// Names one frame, reading the target's memory if its code object was not seen before.
    pub fn resolve(&mut self, memory: &impl ReadMemory, frame: &PythonFrame) -> ResolvedFrame {
        let nameless = |function: &Arc<str>, file: &Arc<str>, state| ResolvedFrame {
            function: Arc::clone(function),
            file: Arc::clone(file),
            line: 0,
            state,
        };
        match self.code(memory, frame.code(), frame.identity) {
            Ok(code) => ResolvedFrame {
                function: Arc::clone(&code.function),
                file: Arc::clone(&code.file),
                line: code.lines.as_ref().and_then(|lines| lines.line(frame.instruction)).unwrap_or(0),
                state: FrameState::Known,
            },
            Err(ReadError::Gone) => nameless(&self.gone, &self.none, FrameState::Gone),
            Err(ReadError::Unreadable) => nameless(&self.unreadable, &self.none, FrameState::Unreadable),
        }
    }

    /// Code objects kept now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.young.entries.len() + self.old.entries.len()
    }

    /// Whether none is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn code(&mut self, memory: &impl ReadMemory, address: u64, identity: u32) -> Result<Arc<Code>, ReadError> {
        let key = (address, identity);
        if let Some(code) = self.young.entries.get(&key) {
            return Ok(Arc::clone(code));
        }
        let code = match self.old.entries.remove(&key) {
            Some(code) => {
                self.old.bytes -= code.bytes();
                code
            }
            None => Arc::new(self.read(memory, address, identity)?),
        };
        if self.young.entries.len() >= self.max_entries || self.young.bytes >= MAX_BYTES {
            self.old = mem::take(&mut self.young);
            self.files.retain(|file| Arc::strong_count(file) > 1);
        }
        self.young.bytes += code.bytes();
        self.young.entries.insert(key, Arc::clone(&code));
        Ok(code)
    }

    fn read(&mut self, memory: &impl ReadMemory, address: u64, identity: u32) -> Result<Code, ReadError> {
        let before = Snapshot::read(memory, &self.layout, &self.offsets, address)?.ok_or(ReadError::Gone)?;
        if before.header.identity != identity {
            return Err(ReadError::Gone);
        }
        let parts = self.read_parts(memory, &before);
        // Whatever came of it counts only if the object is still the same.
        if Snapshot::read(memory, &self.layout, &self.offsets, address)? != Some(before) {
            return Err(ReadError::Gone);
        }
        let (function, file, lines) = parts.map_err(|_| ReadError::Unreadable)?;
        Ok(Code { function: function.into(), file: self.file(&file), lines })
    }

    fn read_parts(
        &self,
        memory: &impl ReadMemory,
        code: &Snapshot,
    ) -> Result<(String, String, Option<LineTable>), StringError> {
        let function = strings::read(memory, &self.offsets, code.name)?;
        let file = strings::read(memory, &self.offsets, code.header.filename)?;
        let length = memory.u64(code.line_table.wrapping_add(VAR_SIZE.into()))?;
        let lines = memory.bytes(code.line_table.wrapping_add(BYTES_DATA.into()), length, MAX_LINE_TABLE).ok();
        let decode = |lines: Vec<u8>| LineTable::decode(self.offsets.line_format, &lines, code.header.first_line);
        Ok((function, file, lines.map(decode)))
    }

    fn file(&mut self, name: &str) -> Arc<str> {
        if let Some(file) = self.files.get(name) {
            return Arc::clone(file);
        }
        let file: Arc<str> = name.into();
        self.files.insert(Arc::clone(&file));
        file
    }
}

impl Code {
    /// What it takes, its place in the table and its share of the file name included.
    fn bytes(&self) -> usize {
        size_of::<Self>() + 64 + self.function.len() + self.file.len() + self.lines.as_ref().map_or(0, LineTable::bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::python::fake::{CODE, FakePython};

    #[test]
    fn a_known_code_object_is_read_once() {
        let python = FakePython::new();
        let mut cache = CodeCache::new(&python.interpreter);
        let resolved = cache.resolve(&python.memory, &python.frame(2));
        assert_eq!((&*resolved.function, &*resolved.file, resolved.line), ("Class.method", "/srv/app.py", 12));
        assert_eq!(resolved.state, FrameState::Known);
        // From now on no memory is needed, not even for another line.
        let gone = crate::memory::FakeMemory::default();
        assert_eq!(cache.resolve(&gone, &python.frame(0)).line, 11);
        assert_eq!((cache.len(), cache.is_empty()), (1, false));
    }

    #[test]
    fn a_replaced_code_object_has_no_name() {
        let mut python = FakePython::new();
        let mut cache = CodeCache::new(&python.interpreter);
        let frame = python.frame(0);
        python.memory.put_u32(CODE + 92, 1234);
        let resolved = cache.resolve(&python.memory, &frame);
        assert_eq!((&*resolved.function, resolved.state, resolved.line), ("[code object gone]", FrameState::Gone, 0));
        assert!(cache.is_empty());
    }

    #[test]
    fn a_freed_code_object_has_no_name() {
        let mut python = FakePython::new();
        // Being freed, freed as the last of its pool, freed with a free block behind it.
        for references in [0, 0x7f12_3456_7890, 0x5555_0000_0001] {
            python.memory.put_u64(CODE, references);
            let resolved = CodeCache::new(&python.interpreter).resolve(&python.memory, &python.frame(0));
            assert_eq!(resolved.state, FrameState::Gone, "{references:#x}");
        }
        // Alive: one reference, many, immortal on 3.12, static on 3.14.
        for references in [1, 0x1234_5678, 0xffff_ffff, 7 << 48 | 3 << 30] {
            python.memory.put_u64(CODE, references);
            let resolved = CodeCache::new(&python.interpreter).resolve(&python.memory, &python.frame(0));
            assert_eq!(resolved.state, FrameState::Known, "{references:#x}");
        }
    }

    /// Memory in which the code object is replaced after so many reads.
    struct Replaced<'a> {
        python: &'a FakePython,
        after: FakePython,
        left: Cell<u32>,
    }

    impl ReadMemory for Replaced<'_> {
        fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), MemoryError> {
            match self.left.get() {
                0 => self.after.memory.read(address, buffer),
                left => {
                    self.left.set(left - 1);
                    self.python.memory.read(address, buffer)
                }
            }
        }
    }

    #[test]
    fn a_code_object_replaced_while_it_is_read_has_no_name() {
        let python = FakePython::new();
        let frame = python.frame(0);
        // All reads of one resolution: the object twice, two strings by three each, and the line table by two.
        for reads in 1..=9 {
            let mut after = FakePython::new();
            after.memory.put_u32(CODE + 92, 1234).put(crate::python::fake::NAME + 40, b"Other.");
            let memory = Replaced { python: &python, after, left: Cell::new(reads) };
            let mut cache = CodeCache::new(&python.interpreter);
            assert_eq!(cache.resolve(&memory, &frame).state, FrameState::Gone, "replaced after {reads} reads");
            assert!(cache.is_empty());
        }
        let memory = Replaced { python: &python, after: FakePython::new(), left: Cell::new(10) };
        assert_eq!(CodeCache::new(&python.interpreter).resolve(&memory, &frame).state, FrameState::Known);
        assert_eq!(memory.left.get(), 0, "the count above is that of all reads");
    }

    #[test]
    fn unreadable_objects_and_names() {
        let mut python = FakePython::new();
        let mut cache = CodeCache::new(&python.interpreter);
        let nowhere = PythonFrame::new(0xdead_0000, 0, 1);
        assert_eq!(cache.resolve(&python.memory, &nowhere).state, FrameState::Unreadable);
        let frame = python.frame(0);
        python.memory.put_u64(CODE + 128, 0xdead_0000);
        let resolved = cache.resolve(&python.memory, &frame);
        assert_eq!((&*resolved.function, resolved.state), ("[code object unreadable]", FrameState::Unreadable));
    }

    #[test]
    fn a_line_table_out_of_bounds_costs_only_the_line() {
        let mut python = FakePython::new();
        python.memory.put_u64(crate::python::fake::LINES + 16, 1 << 40);
        let resolved = CodeCache::new(&python.interpreter).resolve(&python.memory, &python.frame(0));
        assert_eq!((&*resolved.function, resolved.line, resolved.state), ("Class.method", 0, FrameState::Known));
    }

    #[test]
    fn the_cache_stays_bounded_and_keeps_what_is_used() {
        let mut python = FakePython::new();
        let mut cache = CodeCache::new(&python.interpreter);
        cache.max_entries = 10;
        let used = python.frame(0);
        cache.resolve(&python.memory, &used);
        for version in 1000..1100 {
            python.memory.put_u32(CODE + 92, version);
            cache.resolve(&python.memory, &python.frame(0));
            assert_eq!(cache.resolve(&python.memory, &used).state, FrameState::Known);
            assert!(cache.len() <= 20, "{}", cache.len());
        }
        assert_eq!(cache.files.len(), 1);
    }
}
