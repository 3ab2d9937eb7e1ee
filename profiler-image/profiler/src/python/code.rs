//! Naming frames: function, file and line of a code object, read once and kept.
//!
//! A code object may be freed and another made at its address. The walker gives each frame the object's identity as it
//! was at that moment; names are read only while the identity is still the same, before and after.

use std::{
    collections::{HashMap, HashSet},
    mem,
    sync::Arc,
};

use aiprof_ebpf_types::{PythonFrame, PythonLayout};

use super::{
    Interpreter, LineTable, Offsets,
    layout::{BYTES_DATA, VAR_SIZE},
    strings::{self, StringError},
    walk::CodeHeader,
};
use crate::memory::{MemoryError, ReadMemory};

/// Line tables beyond this are not read (their frames have no line): a function of some hundred thousand lines.
const MAX_LINE_TABLE: usize = 4 << 20;
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
        let header = CodeHeader::read(memory, &self.layout, address)?;
        if header.identity != identity {
            return Err(ReadError::Gone);
        }
        let code = self.read_parts(memory, address, &header);
        // Whatever came of it counts only if it is still the same object.
        if CodeHeader::read(memory, &self.layout, address)? != header {
            return Err(ReadError::Gone);
        }
        let (function, file, lines) = code.map_err(|_| ReadError::Unreadable)?;
        Ok(Code { function: function.into(), file: self.file(&file), lines })
    }

    fn read_parts(
        &self,
        memory: &impl ReadMemory,
        address: u64,
        header: &CodeHeader,
    ) -> Result<(String, String, Option<LineTable>), StringError> {
        let name = match self.offsets.code_qualified_name {
            Some(offset) => memory.u64(address.wrapping_add(offset.into()))?,
            None => header.name,
        };
        let function = strings::read(memory, &self.offsets, name)?;
        let file = strings::read(memory, &self.offsets, header.filename)?;
        let table = memory.u64(address.wrapping_add(self.offsets.code_line_table.into()))?;
        let length = memory.u64(table.wrapping_add(VAR_SIZE.into()))?;
        let lines = memory.bytes(table.wrapping_add(BYTES_DATA.into()), length, MAX_LINE_TABLE).ok();
        let decode = |lines: Vec<u8>| LineTable::decode(self.offsets.line_format, &lines, header.first_line);
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
