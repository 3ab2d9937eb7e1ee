//! What the profiler needs to know of an ELF file: where its segments lie, its unwind tables, its symbol tables and its
//! build id. Only headers are read here, piece by piece: the file may be half a gigabyte, and it may be hostile.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Cursor},
    ops::Range,
    os::unix::fs::FileExt,
    sync::Arc,
};

use object::{
    LittleEndian, ReadCache, ReadRef, elf,
    read::elf::{FileHeader, ProgramHeader, SectionHeader},
};

/// More program or section headers than this are no honest file.
const MAX_HEADERS: u32 = 16_384;
/// More notes than this are not searched for a build id.
const MAX_NOTES: u64 = 64 << 10;
/// A build id is cut here (the longest in use has 32 bytes).
const MAX_BUILD_ID: usize = 64;

/// The machine whose code this program itself is.
const MACHINE: elf::Machine = if cfg!(target_arch = "aarch64") { elf::EM_AARCH64 } else { elf::EM_X86_64 };

type Header = elf::FileHeader64<LittleEndian>;

/// Where an ELF file comes from.
#[derive(Debug)]
pub(super) enum ElfSource {
    /// A file, kept open so that it can be read after its process ended or its name is gone.
    File(File),
    /// The file's whole content: the vDSO.
    Bytes(Arc<[u8]>),
}

impl ElfSource {
    /// Fills `buffer` from byte `offset`; an error when the source ends before.
    pub(super) fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::File(file) => file.read_exact_at(buffer, offset),
            Self::Bytes(bytes) => {
                let part = usize::try_from(offset)
                    .ok()
                    .and_then(|start| bytes.get(start..start.checked_add(buffer.len())?))
                    .ok_or(io::ErrorKind::UnexpectedEof)?;
                buffer.copy_from_slice(part);
                Ok(())
            }
        }
    }

    /// Reads up to `buffer.len()` bytes from byte `offset`, fewer only at the end.
    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Self::File(file) => {
                let mut done = 0;
                while done < buffer.len() {
                    match file.read_at(&mut buffer[done..], offset.saturating_add(done as u64)) {
                        Ok(0) => break,
                        Ok(count) => done += count,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(done)
            }
            Self::Bytes(bytes) => {
                let rest = usize::try_from(offset).ok().and_then(|start| bytes.get(start..)).unwrap_or_default();
                let count = rest.len().min(buffer.len());
                buffer[..count].copy_from_slice(&rest[..count]);
                Ok(count)
            }
        }
    }

    /// Size in bytes.
    pub(super) fn len(&self) -> io::Result<u64> {
        match self {
            Self::File(file) => file.metadata().map(|metadata| metadata.len()),
            Self::Bytes(bytes) => Ok(bytes.len() as u64),
        }
    }
}

/// Why a file was not understood.
#[derive(Debug, thiserror::Error)]
pub(super) enum ElfError {
    /// Not read.
    #[error("cannot read the file: {0}")]
    Io(#[from] io::Error),
    /// Broken or no ELF file at all.
    #[error("not a sound ELF file: {0}")]
    Malformed(#[from] object::Error),
    /// Code of another machine, or of none.
    #[error("ELF file for machine {found}, expected {expected}")]
    Machine {
        /// `e_machine` in the file.
        found: u16,
        /// This program's own.
        expected: u16,
    },
    /// More headers than anyone writes.
    #[error("ELF file with {0} headers, expected at most {MAX_HEADERS}")]
    TooManyHeaders(u32),
}

/// A section's or segment's place in memory (the file's own virtual addresses) and in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Virtual addresses.
    pub(super) address: Range<u64>,
    /// Bytes of the file.
    pub(super) file: Range<u64>,
}

/// A loaded segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// Where.
    pub(super) piece: Piece,
    /// Whether it holds code.
    pub(super) executable: bool,
}

/// A symbol table and its names, as bytes of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SymbolSection {
    /// 24-byte entries.
    pub(super) entries: Range<u64>,
    /// Names.
    pub(super) names: Range<u64>,
}

/// What was learnt from the headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) segments: Vec<Segment>,
    pub(super) text: Option<Piece>,
    pub(super) got: Option<Piece>,
    pub(super) eh_frame: Option<Piece>,
    pub(super) eh_frame_hdr: Option<Piece>,
    /// `.symtab`, then `.dynsym`, where there.
    pub(super) symbols: Vec<SymbolSection>,
    /// In hex; empty without one.
    pub(super) build_id: String,
}

impl Layout {
    /// The byte of the file that is loaded at `address`.
    pub(super) fn file_offset(&self, address: u64) -> Option<u64> {
        let piece =
            self.segments.iter().map(|segment| &segment.piece).find(|piece| piece.address.contains(&address))?;
        let offset = piece.file.start.checked_add(address - piece.address.start)?;
        piece.file.contains(&offset).then_some(offset)
    }

    /// Reads the headers of `source`.
    pub(super) fn read(source: &ElfSource) -> Result<Self, ElfError> {
        match source {
            ElfSource::File(file) => Self::parse(&ReadCache::new(file)),
            ElfSource::Bytes(bytes) => Self::parse(&ReadCache::new(Cursor::new(bytes))),
        }
    }

    fn parse<'data, R: ReadRef<'data>>(data: R) -> Result<Self, ElfError> {
        let endian = LittleEndian;
        let header = Header::parse(data)?;
        let machine = header.e_machine(endian);
        if machine != MACHINE {
            return Err(ElfError::Machine { found: machine.0, expected: MACHINE.0 });
        }
        // Before anything of that many is read.
        let (programs, sections) = (header.phnum(endian, data)?, header.shnum(endian, data)?);
        if let Some(count) = [programs, sections].into_iter().find(|count| *count > MAX_HEADERS) {
            return Err(ElfError::TooManyHeaders(count));
        }
        let mut layout = Self::default();
        let mut unwind_header = None;
        for program in header.program_headers(endian, data)? {
            let Some(piece) = piece(
                program.p_vaddr(endian),
                program.p_memsz(endian),
                program.p_offset(endian),
                program.p_filesz(endian),
            ) else {
                continue;
            };
            match program.p_type(endian) {
                elf::PT_LOAD => {
                    let executable = program.p_flags(endian).contains(elf::PF_X);
                    layout.segments.push(Segment { piece, executable });
                }
                elf::PT_NOTE if layout.build_id.is_empty() && program.p_filesz(endian) <= MAX_NOTES => {
                    layout.build_id = build_id(program, data);
                }
                elf::PT_GNU_EH_FRAME => unwind_header = Some(piece),
                _ => {}
            }
        }
        // A file stripped of its sections still runs, and still unwinds.
        if layout.read_sections(header, data).is_err() || layout.eh_frame_hdr.is_none() {
            layout.eh_frame_hdr = unwind_header;
        }
        if layout.eh_frame.is_none() {
            layout.eh_frame = layout.eh_frame_hdr.as_ref().and_then(|header| layout.eh_frame_behind(header, data));
        }
        Ok(layout)
    }

    fn read_sections<'data, R: ReadRef<'data>>(&mut self, header: &Header, data: R) -> Result<(), ElfError> {
        let endian = LittleEndian;
        let table = header.sections(endian, data)?;
        for section in table.iter() {
            let Some(piece) = piece(
                section.sh_addr(endian),
                section.sh_size(endian),
                section.sh_offset(endian),
                section.sh_size(endian),
            ) else {
                continue;
            };
            let kind = section.sh_type(endian);
            if kind == elf::SHT_SYMTAB || kind == elf::SHT_DYNSYM {
                let names = usize::try_from(section.sh_link(endian)).unwrap_or_default();
                if let Ok(names) = table.section(object::SectionIndex(names)) {
                    let start = names.sh_offset(endian);
                    let names = start..start.saturating_add(names.sh_size(endian));
                    let symbols = SymbolSection { entries: piece.file, names };
                    let place = if kind == elf::SHT_SYMTAB { 0 } else { self.symbols.len() };
                    self.symbols.insert(place, symbols);
                }
                continue;
            }
            // A file that holds only debug data has these sections without their bytes.
            if kind == elf::SHT_NOBITS {
                continue;
            }
            match table.section_name(endian, section)? {
                b".text" => self.text = Some(piece),
                b".got" => self.got = Some(piece),
                b".eh_frame" => self.eh_frame = Some(piece),
                b".eh_frame_hdr" => self.eh_frame_hdr = Some(piece),
                _ => {}
            }
        }
        self.symbols.truncate(2);
        Ok(())
    }

    /// `.eh_frame` by the pointer in `.eh_frame_hdr`, up to the end of its segment (tables end by a zero length).
    fn eh_frame_behind<'data, R: ReadRef<'data>>(&self, header: &Piece, data: R) -> Option<Piece> {
        /// `DW_EH_PE_pcrel | DW_EH_PE_sdata4`, the encoding that every linker writes.
        const RELATIVE_32: u8 = 0x1b;
        let bytes = data.read_bytes_at(header.file.start, 8).ok()?;
        let (1, RELATIVE_32) = (bytes[0], bytes[1]) else {
            return None;
        };
        let distance = i32::from_le_bytes(bytes[4..8].try_into().ok()?);
        let start = header.address.start.wrapping_add(4).wrapping_add_signed(distance.into());
        let segment = self.segments.iter().find(|segment| segment.piece.address.contains(&start))?;
        let skip = start - segment.piece.address.start;
        let file = segment.piece.file.start.checked_add(skip)?..segment.piece.file.end;
        (!file.is_empty()).then(|| Piece { address: start..start.saturating_add(file.end - file.start), file })
    }

    /// The difference between addresses in memory and in the file, for a mapping that starts at `start` and shows the
    /// file from byte `offset`. `None` when no segment is mapped from there. Wraps for files linked above `start`.
    pub(super) fn bias(&self, start: u64, offset: u64) -> Option<u64> {
        const PAGE: u64 = 4096;
        let covers = |segment: &&Segment| {
            let file = &segment.piece.file;
            file.start & !(PAGE - 1) <= offset && offset < file.end
        };
        // Neighbours may share a page of the file; code is what we look for.
        let segment = self
            .segments
            .iter()
            .filter(|segment| segment.executable)
            .find(covers)
            .or_else(|| self.segments.iter().find(covers))?;
        let piece = &segment.piece;
        Some(start.wrapping_sub(offset).wrapping_add(piece.file.start).wrapping_sub(piece.address.start))
    }

    /// The lowest address of a segment.
    pub(super) fn lowest_address(&self) -> u64 {
        self.segments.iter().map(|segment| segment.piece.address.start).min().unwrap_or_default()
    }
}

fn piece(address: u64, memory_size: u64, offset: u64, file_size: u64) -> Option<Piece> {
    Some(Piece { address: address..address.checked_add(memory_size)?, file: offset..offset.checked_add(file_size)? })
}

fn build_id<'data, R: ReadRef<'data>>(program: &elf::ProgramHeader64<LittleEndian>, data: R) -> String {
    let Ok(Some(mut notes)) = program.notes(LittleEndian, data) else {
        return String::new();
    };
    while let Ok(Some(note)) = notes.next() {
        if note.name() == elf::ELF_NOTE_GNU && note.n_type(LittleEndian) == elf::NT_GNU_BUILD_ID {
            let bytes = &note.desc()[..note.desc().len().min(MAX_BUILD_ID)];
            return bytes.iter().fold(String::new(), |mut hex, byte| {
                // Writing to a String does not fail.
                let _ = write!(hex, "{byte:02x}");
                hex
            });
        }
    }
    String::new()
}
