//! The writer's interning: every string, frame and callstack is written once and then meant by a number, until the tables are
//! full and a new incremental state begins with empty ones.

use std::{collections::HashMap, sync::Arc};

use prost::Message;

use super::{
    names::{self, KERNEL_MAPPING, MARKER_MAPPING, NO_STACK, STACK_CUT},
    proto,
};
use crate::event::{Frame, FrameKind, Stack};

/// What the tables may hold, in bytes as [`Interner`] counts them; about 64 Ki entries.
const CAPACITY_BYTES: usize = 8 << 20;
/// What frames known by address may hold: callers should share frames, but may also make equal ones anew.
const KNOWN_BYTES: usize = 4 << 20;
/// What an entry takes besides its content, roughly.
const ENTRY_BYTES: usize = 64;
/// New interned data is handed over for writing before it grows beyond this, so that packets stay small.
const FRESH_BYTES: usize = 64 << 10;
/// Longer strings are clipped.
pub(super) const MAX_STRING: usize = 4096;
/// Deeper stacks are cut.
pub(super) const MAX_FRAMES: usize = 1024;

/// Strings of one table.
type Strings = HashMap<Box<[u8]>, u64>;

/// All tables of one incremental state, and what was added to them but not written yet.
#[derive(Debug, Default)]
pub(super) struct Interner {
    event_names: Strings,
    annotation_names: Strings,
    annotation_values: Strings,
    functions: Strings,
    build_ids: Strings,
    mapping_paths: Strings,
    source_paths: Strings,
    /// By path and build id.
    mappings: HashMap<(u64, u64), u64>,
    frames: HashMap<Arc<Frame>, u64>,
    /// The same frames by address; each is kept alive beside its number, so that no other comes to its address.
    known: HashMap<usize, (Arc<Frame>, u64)>,
    known_bytes: usize,
    /// By frames, outermost first.
    callstacks: HashMap<Box<[u64]>, u64>,
    /// Texts of callstacks that slices show, by callstack.
    stack_texts: HashMap<u64, u64>,
    markers: HashMap<&'static str, u64>,
    used_bytes: usize,
    fresh: proto::InternedData,
    fresh_bytes: usize,
    /// Kept for its memory.
    frame_ids: Vec<u64>,
}

/// The number of a string in a table, and into `fresh` if it is new there.
fn string(
    table: &mut Strings,
    fresh: &mut Vec<proto::InternedString>,
    bytes: &mut [&mut usize; 2],
    value: &[u8],
) -> u64 {
    if let Some(iid) = table.get(value) {
        return *iid;
    }
    let iid = table.len() as u64 + 1;
    table.insert(value.into(), iid);
    for count in bytes {
        **count += value.len() + ENTRY_BYTES;
    }
    fresh.push(proto::InternedString { iid, value: value.to_vec() });
    iid
}

/// At most [`MAX_STRING`] bytes of a string.
pub(super) fn clip(value: &str) -> &str {
    &value[..value.floor_char_boundary(MAX_STRING)]
}

macro_rules! intern {
    ($self:ident, $table:ident, $fresh:ident, $value:expr) => {
        string(&mut $self.$table, &mut $self.fresh.$fresh, &mut [&mut $self.used_bytes, &mut $self.fresh_bytes], $value)
    };
}

impl Interner {
    /// Whether the next event should begin a new incremental state, with a new interner.
    pub(super) fn is_full(&self) -> bool {
        self.used_bytes >= CAPACITY_BYTES
    }

    /// Whether [`Self::take_fresh`] should be written although no event needs it yet.
    fn is_fresh_full(&self) -> bool {
        self.fresh_bytes >= FRESH_BYTES
    }

    /// What must be written with or before the next packet that uses a number.
    pub(super) fn take_fresh(&mut self) -> Option<proto::InternedData> {
        if self.fresh_bytes == 0 {
            return None;
        }
        self.fresh_bytes = 0;
        Some(std::mem::take(&mut self.fresh))
    }

    pub(super) fn event_name(&mut self, name: &str) -> u64 {
        intern!(self, event_names, event_names, clip(name).as_bytes())
    }

    pub(super) fn annotation_value(&mut self, value: &str) -> u64 {
        intern!(self, annotation_values, debug_annotation_string_values, clip(value).as_bytes())
    }

    pub(super) fn annotation_name(&mut self, name: &str) -> u64 {
        intern!(self, annotation_names, debug_annotation_names, clip(name).as_bytes())
    }

    /// The number of a stack. Its new frames may be more than a packet should hold: `write` is given the first parts of them.
    pub(super) fn callstack(&mut self, stack: &Stack, mut write: impl FnMut(proto::InternedData)) -> u64 {
        let frames = &stack.frames[..stack.frames.len().min(MAX_FRAMES)];
        let mut ids = std::mem::take(&mut self.frame_ids);
        ids.clear();
        if stack.cut || frames.len() < stack.frames.len() {
            ids.push(self.marker(STACK_CUT));
        } else if frames.is_empty() {
            ids.push(self.marker(NO_STACK));
        }
        for frame in frames.iter().rev() {
            ids.push(self.frame(frame));
            if self.is_fresh_full()
                && let Some(fresh) = self.take_fresh()
            {
                write(fresh);
            }
        }
        let iid = if let Some(iid) = self.callstacks.get(&*ids) {
            *iid
        } else {
            let iid = self.callstacks.len() as u64 + 1;
            self.callstacks.insert(ids.as_slice().into(), iid);
            let bytes = ids.len() * size_of::<u64>() + ENTRY_BYTES;
            self.used_bytes += bytes;
            self.fresh_bytes += bytes;
            self.fresh.callstacks.push(proto::Callstack { iid, frame_ids: ids.clone() });
            iid
        };
        self.frame_ids = ids;
        iid
    }

    /// The number of the text of a stack, of which [`Self::callstack`] gave the number.
    pub(super) fn stack_text(&mut self, callstack: u64, stack: &Stack) -> u64 {
        if let Some(iid) = self.stack_texts.get(&callstack) {
            return *iid;
        }
        let iid = self.annotation_value(&names::stack_text(stack, MAX_STRING));
        self.used_bytes += ENTRY_BYTES;
        self.stack_texts.insert(callstack, iid);
        iid
    }

    fn frame(&mut self, frame: &Arc<Frame>) -> u64 {
        let address = Arc::as_ptr(frame).addr();
        if let Some((_, iid)) = self.known.get(&address) {
            return *iid;
        }
        let iid = if let Some(iid) = self.frames.get(frame) {
            *iid
        } else {
            let iid = self.next_frame();
            let fresh = self.describe(iid, frame);
            self.fresh.frames.push(fresh);
            self.frames.insert(Arc::clone(frame), iid);
            self.used_bytes += ENTRY_BYTES + size_of::<Frame>() + frame.function.len() + frame.file.len();
            iid
        };
        self.known_bytes += ENTRY_BYTES + size_of::<Frame>() + frame.function.len() + frame.file.len();
        if self.known_bytes > KNOWN_BYTES {
            self.known.clear();
            self.known_bytes = 0;
        }
        self.known.insert(address, (Arc::clone(frame), iid));
        iid
    }

    fn next_frame(&mut self) -> u64 {
        self.fresh_bytes += ENTRY_BYTES;
        (self.frames.len() + self.markers.len()) as u64 + 1
    }

    fn describe(&mut self, iid: u64, frame: &Frame) -> proto::Frame {
        let python = frame.kind == FrameKind::Python;
        let name = names::frame_name(frame);
        let file = clip(&frame.file).as_bytes();
        let function = intern!(self, functions, function_names, clip(&name).as_bytes());
        let (path, build_id) = match frame.kind {
            FrameKind::Kernel => (KERNEL_MAPPING.as_bytes(), None),
            FrameKind::Native => (file, names::from_hex(clip(&frame.build_id))),
            FrameKind::Python => (file, None),
        };
        proto::Frame {
            iid,
            function_name_id: Some(function),
            mapping_id: Some(self.mapping(path, build_id.as_deref())),
            // Trace processors take frames of the same mapping, name and address for one: the line keeps Python's apart.
            rel_pc: Some(if python { u64::from(frame.line) } else { frame.address }),
            source_path_iid: python.then(|| intern!(self, source_paths, source_paths, file)),
            line_number: python.then_some(frame.line),
            kind: Some(match frame.kind {
                FrameKind::Native => proto::KIND_NATIVE,
                FrameKind::Kernel => proto::KIND_KERNEL,
                FrameKind::Python => proto::KIND_INTERPRETED,
            }),
        }
    }

    fn marker(&mut self, name: &'static str) -> u64 {
        if let Some(iid) = self.markers.get(name) {
            return *iid;
        }
        let iid = self.next_frame();
        let frame = proto::Frame {
            iid,
            function_name_id: Some(intern!(self, functions, function_names, name.as_bytes())),
            mapping_id: Some(self.mapping(MARKER_MAPPING.as_bytes(), None)),
            ..proto::Frame::default()
        };
        self.fresh.frames.push(frame);
        self.markers.insert(name, iid);
        iid
    }

    fn mapping(&mut self, path: &[u8], build_id: Option<&[u8]>) -> u64 {
        let path = intern!(self, mapping_paths, mapping_paths, path);
        let build_id = match build_id {
            Some(bytes) if !bytes.is_empty() => intern!(self, build_ids, build_ids, bytes),
            _ => 0,
        };
        let next = self.mappings.len() as u64 + 1;
        *self.mappings.entry((path, build_id)).or_insert_with(|| {
            self.used_bytes += ENTRY_BYTES;
            self.fresh_bytes += ENTRY_BYTES;
            self.fresh.mappings.push(proto::Mapping {
                iid: next,
                build_id: (build_id != 0).then_some(build_id),
                path_string_ids: vec![path],
            });
            next
        })
    }
}

/// Appends a packet as an element of `Trace.packet`.
pub(super) fn append_packet(packet: &proto::TracePacket, bytes: &mut Vec<u8>) {
    bytes.push(proto::PACKET_TAG);
    prost::encoding::encode_varint(packet.encoded_len() as u64, bytes);
    packet.encode_raw(bytes);
}
