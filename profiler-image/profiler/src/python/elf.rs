//! Symbols of ELF files that a process has mapped, as addresses in that process.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
};

use object::{
    LittleEndian,
    elf::{self, FileHeader64},
    read::{
        ReadCache, ReadRef, SectionIndex,
        elf::{FileHeader, ProgramHeader, SectionHeader, Sym},
    },
};

use crate::maps::Mapping;

type Header = FileHeader64<LittleEndian>;

/// What is read of one file at most: the symbol tables of the largest CUDA libraries fit, a hostile file cannot do harm.
const MAX_READ: u64 = 512 << 20;
/// Section that holds `_PyRuntime` from 3.10 on, also where no symbol tells.
const RUNTIME_SECTION: &[u8] = b".PyRuntime";

/// What was found in one mapped file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Image {
    /// Address in the process of each symbol asked for, in the order asked.
    pub(super) symbols: Vec<Option<u64>>,
    /// Bytes that the first of them stands for; 0 if that is not told.
    pub(super) first_bytes: u64,
    /// Address in the process of section `.PyRuntime`, and its bytes.
    pub(super) runtime_section: Option<(u64, u64)>,
}

/// Why a file gave nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ElfError {
    /// It is no ELF file, or a torn one.
    NotElf,
    /// It is for another machine than ours.
    Machine(String),
}

/// Looks `wanted` symbols up in `file`, of which `mapping` maps a part.
pub(super) fn inspect(file: File, mapping: &Mapping, wanted: &[&str]) -> Result<Image, ElfError> {
    let mut file = Bounded { file, left: MAX_READ };
    let mut ident = [0; 20];
    file.read_exact(&mut ident).map_err(|_| ElfError::NotElf)?;
    check_machine(&ident)?;
    let cache = ReadCache::new(file);
    read(&cache, mapping, wanted).ok_or(ElfError::NotElf)
}

fn check_machine(ident: &[u8; 20]) -> Result<(), ElfError> {
    if !ident.starts_with(b"\x7fELF") {
        return Err(ElfError::NotElf);
    }
    let machine = u16::from_le_bytes([ident[18], ident[19]]);
    let ours = if cfg!(target_arch = "aarch64") { elf::EM_AARCH64 } else { elf::EM_X86_64 };
    if ident[4] == 2 && ident[5] == 1 && machine == ours.0 {
        return Ok(());
    }
    let bits = if ident[4] == 2 { "64-bit" } else { "32-bit" };
    let machine = match elf::Machine(machine) {
        elf::EM_AARCH64 => "aarch64".into(),
        elf::EM_X86_64 => "x86_64".into(),
        elf::EM_386 => "x86".into(),
        elf::EM_ARM => "arm".into(),
        elf::Machine(other) => format!("ELF machine {other}"),
    };
    Err(ElfError::Machine(format!("{bits} {machine}")))
}

fn read<'data, R: ReadRef<'data>>(data: R, mapping: &Mapping, wanted: &[&str]) -> Option<Image> {
    let header = Header::parse(data).ok()?;
    let endian = LittleEndian;
    let bias = bias(header.program_headers(endian, data).ok()?, mapping)?;
    let sections = header.sections(endian, data).ok()?;
    let runtime_section = sections
        .section_by_name(endian, RUNTIME_SECTION)
        .map(|(_, section)| (bias.wrapping_add(section.sh_addr(endian)), section.sh_size(endian)))
        .filter(|(address, _)| *address != bias);
    let mut image = Image { symbols: vec![None; wanted.len()], first_bytes: 0, runtime_section };
    for kind in [elf::SHT_DYNSYM, elf::SHT_SYMTAB] {
        if image.symbols.iter().all(Option::is_some) {
            break;
        }
        let Ok(table) = sections.symbols(endian, data, kind) else {
            continue;
        };
        if table.is_empty() {
            continue;
        }
        // All names at once: one by one they would be read from the file one by one.
        let strings = sections.section(SectionIndex(table.string_section().0)).ok()?.data(endian, data).ok()?;
        for symbol in table.iter().filter(|symbol| !symbol.is_undefined(endian) && symbol.st_value(endian) != 0) {
            let Some(name) = strings.get(symbol.st_name(endian) as usize..) else {
                continue;
            };
            for (index, (found, wanted)) in image.symbols.iter_mut().zip(wanted).enumerate() {
                let rest = name.strip_prefix(wanted.as_bytes());
                if found.is_none() && rest.is_some_and(|rest| rest.first() == Some(&0)) {
                    *found = Some(bias.wrapping_add(symbol.st_value(endian)));
                    if index == 0 {
                        image.first_bytes = symbol.st_size(endian);
                    }
                }
            }
        }
    }
    Some(image)
}

/// What to add to an address in the file to get that in the process: 0 for an `ET_EXEC`.
fn bias(segments: &[elf::ProgramHeader64<LittleEndian>], mapping: &Mapping) -> Option<u64> {
    let endian = LittleEndian;
    segments.iter().filter(|segment| segment.p_type(endian) == elf::PT_LOAD).find_map(|segment| {
        let offset = segment.p_offset(endian);
        let end = offset.checked_add(segment.p_filesz(endian))?;
        // A segment is mapped from the start of the page in which it starts; pages have up to 64 KiB.
        let start = offset & !(0x1_0000 - 1);
        let executable = segment.p_flags(endian) & elf::PF_X == elf::PF_X;
        (executable == mapping.executable && (start..end).contains(&mapping.offset)).then(|| {
            mapping.start.wrapping_sub(mapping.offset).wrapping_add(offset).wrapping_sub(segment.p_vaddr(endian))
        })
    })
}

/// A file of which no more than so many bytes are read.
#[derive(Debug)]
struct Bounded {
    file: File,
    left: u64,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.len() as u64 > self.left {
            return Err(io::Error::other("more is to be read of this ELF file than any sound one needs"));
        }
        let read = self.file.read(buffer)?;
        self.left -= read as u64;
        Ok(read)
    }
}

impl Seek for Bounded {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.file.seek(position)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::maps;

    #[unsafe(no_mangle)]
    #[used]
    static AIPROF_ELF_TEST_SYMBOL: u32 = 0x1234_5678;

    #[test]
    fn finds_a_symbol_of_our_own() {
        let executable = std::env::current_exe().unwrap();
        let mappings = maps::of_process(std::process::id()).unwrap();
        let ours = |mapping: &&Mapping| mapping.path.as_deref() == Some(&executable);
        let mut tried = 0;
        for mapping in mappings.iter().filter(ours).filter(|mapping| mapping.executable) {
            let image =
                inspect(File::open(&executable).unwrap(), mapping, &["missing", "AIPROF_ELF_TEST_SYMBOL"]).unwrap();
            assert_eq!(image.symbols, [None, Some(&raw const AIPROF_ELF_TEST_SYMBOL as u64)]);
            assert_eq!(image.runtime_section, None);
            tried += 1;
        }
        assert!(tried > 0);
    }

    #[test]
    fn torn_and_foreign_files_are_refused() {
        let whole = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let mappings = maps::of_process(std::process::id()).unwrap();
        let mapping = mappings.iter().find(|mapping| mapping.executable).unwrap();
        let inspect = |bytes: &[u8]| {
            let mut file = tempfile();
            file.write_all(bytes).unwrap();
            file.rewind().unwrap();
            inspect(file, mapping, &["main"])
        };
        for length in [0, 4, 19, 20, 63, 64, 200] {
            assert_eq!(inspect(&whole[..length]), Err(ElfError::NotElf), "{length}");
        }
        let mut foreign = whole[..64].to_vec();
        foreign[18..20].copy_from_slice(&elf::EM_S390.0.to_le_bytes());
        assert_eq!(inspect(&foreign), Err(ElfError::Machine("64-bit ELF machine 22".into())));
        foreign[4] = 1;
        foreign[18..20].copy_from_slice(&elf::EM_386.0.to_le_bytes());
        assert_eq!(inspect(&foreign), Err(ElfError::Machine("32-bit x86".into())));
        // Header fields that lead anywhere.
        for at in 24..64 {
            let mut torn = whole[..4096].to_vec();
            torn[at] = 0xff;
            let _ = inspect(&torn);
        }
    }

    fn tempfile() -> File {
        let name = format!("aiprof-elf-{}-{:?}", std::process::id(), std::thread::current().id());
        let path = std::env::temp_dir().join(name);
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        file
    }
}
