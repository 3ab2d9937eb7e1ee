//! The reader's side of interning: what the numbers of the current incremental state mean.

use std::{collections::HashMap, sync::Arc};

use super::{
    block::TraceError,
    names::{self, NO_STACK, STACK_CUT},
    proto,
};
use crate::event::{Frame, FrameKind, Stack};

/// Most that is kept, in bytes as counted here; several times what the writer lets gather.
const MAX_BYTES: usize = 64 << 20;
/// What an entry takes besides its content, roughly.
const ENTRY_BYTES: usize = 128;

/// Meanings by number.
struct Table<T> {
    name: &'static str,
    entries: HashMap<u64, T>,
}

impl<T> Table<T> {
    fn new(name: &'static str) -> Self {
        Self { name, entries: HashMap::new() }
    }

    fn get(&self, iid: u64) -> Result<&T, TraceError> {
        self.entries.get(&iid).ok_or(TraceError::Undefined { table: self.name, iid })
    }
}

/// A frame as it stands in a callstack.
#[derive(Clone)]
enum Entry {
    Frame(Arc<Frame>),
    Cut,
    Empty,
}

/// A mapped file.
struct Mapping {
    path: Arc<str>,
    build_id: Arc<str>,
}

/// All tables.
pub(super) struct Tables {
    event_names: Table<Arc<str>>,
    annotation_names: Table<Arc<str>>,
    annotation_values: Table<Arc<str>>,
    functions: Table<Arc<str>>,
    build_ids: Table<Arc<str>>,
    mapping_paths: Table<Arc<str>>,
    source_paths: Table<Arc<str>>,
    mappings: Table<Mapping>,
    frames: Table<Entry>,
    callstacks: Table<Stack>,
    bytes: usize,
}

impl Tables {
    pub(super) fn new() -> Self {
        Self {
            event_names: Table::new("event name"),
            annotation_names: Table::new("annotation name"),
            annotation_values: Table::new("annotation value"),
            functions: Table::new("function name"),
            build_ids: Table::new("build id"),
            mapping_paths: Table::new("mapping path"),
            source_paths: Table::new("source path"),
            mappings: Table::new("mapping"),
            frames: Table::new("frame"),
            callstacks: Table::new("callstack"),
            bytes: 0,
        }
    }

    pub(super) fn event_name(&self, iid: u64) -> Result<&Arc<str>, TraceError> {
        self.event_names.get(iid)
    }

    pub(super) fn annotation_name(&self, iid: u64) -> Result<&Arc<str>, TraceError> {
        self.annotation_names.get(iid)
    }

    pub(super) fn annotation_value(&self, iid: u64) -> Result<&Arc<str>, TraceError> {
        self.annotation_values.get(iid)
    }

    pub(super) fn callstack(&self, iid: u64) -> Result<&Stack, TraceError> {
        self.callstacks.get(iid)
    }

    /// Takes in definitions; each refers only to those of its own or of earlier packets.
    pub(super) fn define(&mut self, data: proto::InternedData) -> Result<(), TraceError> {
        let bytes = &mut self.bytes;
        texts(&mut self.event_names, data.event_names, bytes)?;
        texts(&mut self.annotation_names, data.debug_annotation_names, bytes)?;
        texts(&mut self.annotation_values, data.debug_annotation_string_values, bytes)?;
        texts(&mut self.functions, data.function_names, bytes)?;
        texts(&mut self.mapping_paths, data.mapping_paths, bytes)?;
        texts(&mut self.source_paths, data.source_paths, bytes)?;
        for build_id in data.build_ids {
            let hex = names::to_hex(&build_id.value);
            charge(bytes, hex.len())?;
            self.build_ids.entries.insert(build_id.iid, hex.into());
        }
        for mapping in data.mappings {
            self.define_mapping(&mapping)?;
        }
        for frame in data.frames {
            charge(&mut self.bytes, size_of::<Frame>())?;
            let entry = self.frame(&frame)?;
            self.frames.entries.insert(frame.iid, entry);
        }
        for callstack in data.callstacks {
            charge(&mut self.bytes, callstack.frame_ids.len() * size_of::<Arc<Frame>>())?;
            let stack = self.stack(&callstack)?;
            self.callstacks.entries.insert(callstack.iid, stack);
        }
        Ok(())
    }

    fn define_mapping(&mut self, mapping: &proto::Mapping) -> Result<(), TraceError> {
        charge(&mut self.bytes, 0)?;
        let path = mapping.path_string_ids.first().copied().unwrap_or_default();
        let mapped = Mapping {
            path: Arc::clone(self.mapping_paths.get(path)?),
            build_id: match mapping.build_id {
                Some(iid) => Arc::clone(self.build_ids.get(iid)?),
                None => Arc::default(),
            },
        };
        self.mappings.entries.insert(mapping.iid, mapped);
        Ok(())
    }

    fn frame(&mut self, frame: &proto::Frame) -> Result<Entry, TraceError> {
        let name = self.functions.get(frame.function_name_id.unwrap_or_default())?;
        let mapping = self.mappings.get(frame.mapping_id.unwrap_or_default())?;
        let address = frame.rel_pc.unwrap_or_default();
        let (kind, file, build_id, line, address) = match frame.kind {
            None if **name == *STACK_CUT => return Ok(Entry::Cut),
            None if **name == *NO_STACK => return Ok(Entry::Empty),
            Some(proto::KIND_KERNEL) => (FrameKind::Kernel, Arc::default(), Arc::default(), 0, 0),
            Some(proto::KIND_INTERPRETED) => {
                let file = self.source_paths.get(frame.source_path_iid.unwrap_or_default())?;
                let line = frame.line_number.unwrap_or_default();
                (FrameKind::Python, Arc::clone(file), Arc::default(), line, 0)
            }
            _ => {
                let build_id = Arc::clone(&mapping.build_id);
                (FrameKind::Native, Arc::clone(&mapping.path), build_id, 0, address)
            }
        };
        let function = names::function_of(name, kind, &file);
        let function = if function.len() == name.len() {
            Arc::clone(name)
        } else {
            charge(&mut self.bytes, function.len())?;
            function.into()
        };
        Ok(Entry::Frame(Arc::new(Frame { kind, function, file, line, address, build_id })))
    }

    fn stack(&self, callstack: &proto::Callstack) -> Result<Stack, TraceError> {
        let mut frames = Vec::with_capacity(callstack.frame_ids.len());
        let mut cut = false;
        for iid in callstack.frame_ids.iter().rev() {
            match self.frames.get(*iid)? {
                Entry::Frame(frame) => frames.push(Arc::clone(frame)),
                Entry::Cut => cut = true,
                Entry::Empty => {}
            }
        }
        Ok(Stack { frames: frames.into(), cut })
    }
}

fn texts(
    table: &mut Table<Arc<str>>,
    strings: Vec<proto::InternedString>,
    bytes: &mut usize,
) -> Result<(), TraceError> {
    for string in strings {
        charge(bytes, string.value.len())?;
        let text =
            str::from_utf8(&string.value).map_err(|_| TraceError::NotUtf8 { table: table.name, iid: string.iid })?;
        table.entries.insert(string.iid, text.into());
    }
    Ok(())
}

fn charge(bytes: &mut usize, content: usize) -> Result<(), TraceError> {
    *bytes += content + ENTRY_BYTES;
    if *bytes > MAX_BYTES {
        return Err(TraceError::TooMany { what: "bytes of names and stacks at once", limit: MAX_BYTES });
    }
    Ok(())
}
