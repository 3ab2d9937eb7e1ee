//! Mapped ELF files. An [`Image`] is one file, shared by all processes that map it and read only when an address first
//! falls into it; [`Images`] finds it again by device and inode.

use std::{
    collections::HashMap,
    fs::File,
    io,
    ops::{Deref, Range},
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    sync::{Arc, OnceLock, Weak},
};

use aiprof_capture::event::{Frame, FrameKind};
use framehop::{ExplicitModuleSectionInfo, Module};
use memmap2::{Advice, Mmap, MmapOptions};

use super::{
    call,
    elf::{ElfError, ElfSource, Layout, Piece},
    index,
    merge::EVALUATOR,
    symbols::SymbolTable,
};
use crate::maps::{self, Mapping};

/// Unwind tables up to this size are copied: such a copy takes no more memory than the pages it would touch, and cannot
/// be pulled away by whoever cuts the file short.
const MAX_COPIED_BYTES: u64 = 1 << 20;
/// Unwind tables without an index have to be read whole; larger ones are not.
const MAX_UNINDEXED_BYTES: u64 = 32 << 20;
/// Nor is anything larger than this believed.
const MAX_TABLE_BYTES: u64 = 1 << 30;
/// The kernel's own mapped code (the vDSO) is not larger than this.
const MAX_VDSO_BYTES: u64 = 64 << 10;

/// How to reach into a process. [`LiveProcesses`] does it; tests may do it otherwise.
pub trait ProcessAccess: Send {
    /// Opens the file behind `mapping` of process `pid`; the very file that is mapped, not one that took its name.
    fn open(&self, pid: u32, mapping: &Mapping) -> io::Result<File>;
    /// Fills `buffer` from address `address` of process `pid`.
    fn read_memory(&self, pid: u32, address: u64, buffer: &mut [u8]) -> io::Result<()>;
}

/// Reaches into processes by `/proc`.
#[derive(Clone, Copy, Debug, Default)]
pub struct LiveProcesses;

impl ProcessAccess for LiveProcesses {
    fn open(&self, pid: u32, mapping: &Mapping) -> io::Result<File> {
        let is_mapped = |file: &File| file.metadata().is_ok_and(|file| file.is_file() && file.ino() == mapping.inode);
        if let Ok(file) = maps::open_file(pid, mapping)
            && is_mapped(&file)
        {
            return Ok(file);
        }
        // The inode is not compared here: on overlay file systems it may differ, and this is the mapped file by definition.
        let file = File::open(format!("/proc/{pid}/map_files/{:x}-{:x}", mapping.start, mapping.end))?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a device is mapped, expected a file"));
        }
        Ok(file)
    }

    fn read_memory(&self, pid: u32, address: u64, buffer: &mut [u8]) -> io::Result<()> {
        File::open(format!("/proc/{pid}/mem"))?.read_exact_at(buffer, address)
    }
}

/// Bytes of an unwind table.
#[derive(Clone, Debug)]
pub(super) enum TableBytes {
    Copied(Arc<[u8]>),
    Mapped(Arc<Mmap>),
}

impl Default for TableBytes {
    fn default() -> Self {
        Self::Copied(Arc::from([]))
    }
}

impl Deref for TableBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Copied(bytes) => bytes,
            Self::Mapped(map) => map,
        }
    }
}

/// One mapped file.
#[derive(Debug)]
pub(super) struct Image {
    /// Tells it from every other.
    pub(super) id: u32,
    path: Arc<str>,
    build_id: Arc<str>,
    /// `None`: known by path only.
    content: Option<Content>,
}

#[derive(Debug)]
struct Content {
    source: ElfSource,
    layout: Layout,
    eh_frame: Option<TableBytes>,
    eh_frame_hdr: Option<TableBytes>,
    symbols: OnceLock<SymbolTable>,
}

impl Image {
    /// How far `address`, which lies in a mapping from `start` that shows the file from byte `offset`, is from the
    /// address that the file itself gives it. Without headers the byte of the file stands in for that.
    pub(super) fn bias(&self, start: u64, offset: u64) -> u64 {
        let known = self.content.as_ref().and_then(|content| content.layout.bias(start, offset));
        known.unwrap_or_else(|| start.wrapping_sub(offset))
    }

    /// What the unwinder needs for a mapping of this file; `None` without unwind tables.
    pub(super) fn unwind_module(&self, range: Range<u64>, bias: u64) -> Option<Module<TableBytes>> {
        let Content { layout, eh_frame, eh_frame_hdr, .. } = self.content.as_ref()?;
        let address = |piece: &Option<Piece>| piece.as_ref().map(|piece| piece.address.clone());
        let sections = ExplicitModuleSectionInfo {
            base_svma: layout.lowest_address(),
            text_svma: address(&layout.text),
            got_svma: address(&layout.got),
            eh_frame_svma: address(&layout.eh_frame),
            eh_frame: Some(eh_frame.clone()?),
            eh_frame_hdr_svma: address(&layout.eh_frame_hdr),
            eh_frame_hdr: eh_frame_hdr.clone(),
            ..ExplicitModuleSectionInfo::default()
        };
        let base = bias.wrapping_add(sections.base_svma);
        Some(Module::new(String::new(), range, base, sections))
    }

    /// The frame of code at `address` (the file's own).
    pub(super) fn frame(&self, address: u64) -> Frame {
        let name = self.content.as_ref().and_then(|content| {
            let symbols = content.symbols.get_or_init(|| SymbolTable::read(&content.source, &content.layout));
            symbols.name(&content.source, address)
        });
        // Without symbols a function goes by where it starts, so that all its addresses are one.
        let start = || self.content.as_ref().and_then(|content| content.function_start(address)).unwrap_or(address);
        let file_name = || self.path.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("?");
        Frame {
            kind: FrameKind::Native,
            function: name.unwrap_or_else(|| format!("{}+{:#x}", file_name(), start())).into(),
            file: self.path.clone(),
            line: 0,
            address,
            build_id: self.build_id.clone(),
        }
    }

    /// Whether the call whose last byte is at `address` is one of CPython's evaluator.
    pub(super) fn calls_evaluator(&self, address: u64) -> bool {
        let called = self.content.as_ref().and_then(|content| {
            let target = call::target(&content.source, &content.layout, address)?;
            let symbols = content.symbols.get_or_init(|| SymbolTable::read(&content.source, &content.layout));
            symbols.name(&content.source, target)
        });
        called.as_deref() == Some(EVALUATOR)
    }

    fn read(id: u32, path: Arc<str>, source: ElfSource) -> Result<Self, ElfError> {
        let layout = Layout::read(&source)?;
        let limit = if layout.eh_frame_hdr.is_some() { MAX_TABLE_BYTES } else { MAX_UNINDEXED_BYTES };
        let table = |piece: &Option<Piece>| piece.as_ref().and_then(|piece| table(&source, &piece.file, limit));
        let (eh_frame, eh_frame_hdr) = (table(&layout.eh_frame), table(&layout.eh_frame_hdr));
        Ok(Self {
            id,
            path,
            build_id: layout.build_id.as_str().into(),
            content: Some(Content { source, layout, eh_frame, eh_frame_hdr, symbols: OnceLock::new() }),
        })
    }
}

impl Content {
    /// Where the function at `address` starts, as its unwind table has it.
    fn function_start(&self, address: u64) -> Option<u64> {
        let section = self.layout.eh_frame_hdr.as_ref()?.address.start;
        index::function_start(self.eh_frame_hdr.as_ref()?, section, address)
    }
}

fn table(source: &ElfSource, bytes: &Range<u64>, limit: u64) -> Option<TableBytes> {
    let size = bytes.end.checked_sub(bytes.start).filter(|size| (1..=limit).contains(size))?;
    if bytes.end > source.len().ok()? {
        return None;
    }
    match source {
        ElfSource::File(file) if size > MAX_COPIED_BYTES => {
            let mut options = MmapOptions::new();
            options.offset(bytes.start).len(usize::try_from(size).ok()?);
            // SAFETY: a file mapping is undefined behaviour if the file changes. The unwinder only reads plain bytes from
            // it, checks all that it reads, and keeps no reference between reads that relies on them staying the same. A
            // file cut short raises SIGBUS: a risk taken only for tables too large to copy.
            let map = unsafe { options.map(file) }.ok()?;
            // Lookups jump about: reading ahead would only fill memory.
            let _ = map.advise(Advice::Random);
            Some(TableBytes::Mapped(Arc::new(map)))
        }
        _ => {
            let mut copy = vec![0; usize::try_from(size).ok()?];
            source.read_exact_at(&mut copy, bytes.start).ok()?;
            Some(TableBytes::Copied(copy.into()))
        }
    }
}

/// All images that some process maps.
#[derive(Debug, Default)]
pub(super) struct Images {
    /// Weak: a file is let go with the last process that maps it. While it is held, its inode cannot be given to another.
    by_inode: HashMap<(u64, u64), Weak<Image>>,
    last_id: u32,
}

impl Images {
    /// The image of a mapping, opened now if no process had it opened. One that cannot be read is known by path only.
    pub(super) fn open(&mut self, access: &dyn ProcessAccess, pid: u32, mapping: &Mapping) -> Arc<Image> {
        let key = (mapping.device, mapping.inode);
        if mapping.inode != 0
            && let Some(image) = self.by_inode.get(&key).and_then(Weak::upgrade)
        {
            return image;
        }
        self.last_id = self.last_id.wrapping_add(1);
        let (id, path) = (self.last_id, path_text(mapping));
        match source(access, pid, mapping).map_err(ElfError::from).and_then(|file| Image::read(id, path.clone(), file))
        {
            Ok(image) => {
                let image = Arc::new(image);
                if mapping.inode != 0 {
                    self.by_inode.retain(|_, image| image.strong_count() > 0);
                    self.by_inode.insert(key, Arc::downgrade(&image));
                }
                image
            }
            Err(_) => Arc::new(Image { id, path, build_id: Arc::from(""), content: None }),
        }
    }
}

fn path_text(mapping: &Mapping) -> Arc<str> {
    match &mapping.path {
        Some(path) => Path::to_string_lossy(path).into(),
        None => "[vdso]".into(),
    }
}

fn source(access: &dyn ProcessAccess, pid: u32, mapping: &Mapping) -> io::Result<ElfSource> {
    if mapping.inode != 0 {
        return access.open(pid, mapping).map(ElfSource::File);
    }
    let mut bytes = vec![0; usize::try_from(mapping.end - mapping.start).unwrap_or_default()];
    access.read_memory(pid, mapping.start, &mut bytes)?;
    Ok(ElfSource::Bytes(bytes.into()))
}

/// Whether code without a file is the vDSO: an ELF file in memory.
pub(super) fn is_vdso(access: &dyn ProcessAccess, pid: u32, mapping: &Mapping) -> bool {
    let mut magic = [0; 4];
    mapping.inode == 0
        && mapping.end - mapping.start <= MAX_VDSO_BYTES
        && access.read_memory(pid, mapping.start, &mut magic).is_ok()
        && magic == *b"\x7fELF"
}
