//! Names of code addresses of one ELF file: a table of 12 bytes a symbol, sorted by address; the names stay in the file
//! until they are asked for.
//!
//! Everything is read by `pread` and nothing is mapped: a target that cuts its own libraries short must not kill the
//! profiler by SIGBUS, and pages of half-gigabyte libraries must not count as its memory.

use std::{fmt, ops::Range};

use object::elf;

use super::elf::{ElfSource, Layout};

/// Longest symbol name in characters; longer ones are cut and end in `…`.
const MAX_NAME_CHARS: usize = 512;
/// Longest mangled name that is read.
const MAX_MANGLED_BYTES: usize = 4096;
/// Symbols of one file; the largest libraries have about two million.
const MAX_SYMBOLS: usize = 4 << 20;
/// Names for one address that are compared.
const MAX_ALIASES: usize = 16;
/// How far back a function that contains an address is looked for, past others that start behind it.
const MAX_BACK: usize = 16;
/// `size_of::<Elf64_Sym>()`.
const ENTRY_BYTES: usize = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Symbol {
    /// From the lowest segment's address.
    address: u32,
    size: u32,
    /// Byte in the file's names; the highest bit picks the second table.
    name: u32,
}

const SECOND_TABLE: u32 = 1 << 31;

/// The functions of one file.
#[derive(Debug, Default)]
pub(super) struct SymbolTable {
    base: u64,
    sorted: Box<[Symbol]>,
    names: [Range<u64>; 2],
}

impl SymbolTable {
    /// Reads the symbol tables that `layout` names. What cannot be read is left out.
    pub(super) fn read(source: &ElfSource, layout: &Layout) -> Self {
        let base = layout.lowest_address();
        let mut table = Self { base, ..Self::default() };
        let mut sorted: Vec<Symbol> = Vec::new();
        for (index, section) in layout.symbols.iter().take(2).enumerate() {
            table.names[index] = section.names.clone();
            let second = if index == 1 { SECOND_TABLE } else { 0 };
            let known = sorted.len();
            read_entries(source, &section.entries, |entry| {
                let Some(symbol) = entry.function(base, layout).filter(|_| sorted.len() < MAX_SYMBOLS) else {
                    return;
                };
                // `.dynsym` repeats what `.symtab` has.
                if sorted[..known].binary_search_by_key(&symbol.address, |other| other.address).is_err() {
                    sorted.push(Symbol { name: symbol.name | second, ..symbol });
                }
            });
            sorted.sort_unstable();
        }
        sorted.shrink_to_fit();
        table.sorted = sorted.into_boxed_slice();
        table
    }

    /// The demangled name of the function at `address` (in the file's own addresses).
    pub(super) fn name(&self, source: &ElfSource, address: u64) -> Option<String> {
        let address = u32::try_from(address.checked_sub(self.base)?).ok()?;
        let behind = self.sorted.partition_point(|symbol| symbol.address <= address);
        let nearest = self.sorted[..behind].last()?.address;
        let start = self.sorted[behind.saturating_sub(MAX_BACK)..behind].iter().rev().find(|symbol| {
            // Hand-written code often has no size: it reaches to the next symbol.
            let sizeless = symbol.size == 0 && symbol.address == nearest;
            sizeless || address - symbol.address < symbol.size
        })?;
        let first = self.sorted.partition_point(|symbol| symbol.address < start.address);
        self.sorted[first..]
            .iter()
            .take_while(|symbol| symbol.address == start.address)
            .take(MAX_ALIASES)
            .filter_map(|symbol| self.read_name(source, symbol.name))
            // `write` rather than `__GI___libc_write`.
            .min_by_key(|name| (name.bytes().take_while(|byte| *byte == b'_').count(), name.len()))
            .map(|name| demangle(&name))
    }

    fn read_name(&self, source: &ElfSource, name: u32) -> Option<String> {
        let names = &self.names[usize::from(name & SECOND_TABLE != 0)];
        let start = names.start.checked_add(u64::from(name & !SECOND_TABLE)).filter(|start| *start < names.end)?;
        let mut buffer = [0; MAX_MANGLED_BYTES];
        let wanted = buffer.len().min(usize::try_from(names.end - start).unwrap_or(usize::MAX));
        // Most names are short: the first piece is all that is touched.
        let mut done = 0;
        for piece in [256.min(wanted), wanted] {
            done += source.read_at(&mut buffer[done..piece], start + done as u64).ok()?;
            if let Some(end) = buffer[..done].iter().position(|byte| *byte == 0) {
                return (end > 0).then(|| String::from_utf8_lossy(&buffer[..end]).into_owned());
            }
        }
        (done > 0).then(|| String::from_utf8_lossy(&buffer[..done]).into_owned())
    }
}

/// The parts of an `Elf64_Sym` that matter.
struct Entry {
    name: u32,
    info: u8,
    section: u16,
    value: u64,
    size: u64,
}

impl Entry {
    fn parse(bytes: &[u8; ENTRY_BYTES]) -> Self {
        let [n0, n1, n2, n3, info, _other, s0, s1, v0, v1, v2, v3, v4, v5, v6, v7, z @ ..] = *bytes;
        Self {
            name: u32::from_le_bytes([n0, n1, n2, n3]),
            info,
            section: u16::from_le_bytes([s0, s1]),
            value: u64::from_le_bytes([v0, v1, v2, v3, v4, v5, v6, v7]),
            size: u64::from_le_bytes(z),
        }
    }

    /// The entry as a function that starts in a segment of code.
    fn function(&self, base: u64, layout: &Layout) -> Option<Symbol> {
        let (kind, binding) = (self.info & 0xf, self.info >> 4);
        let wanted = match kind {
            kind if kind == elf::STT_FUNC.0 || kind == elf::STT_GNU_IFUNC.0 => true,
            // Assembler code without a type; local ones are labels, and mark instruction sets on aarch64.
            kind if kind == elf::STT_NOTYPE.0 => binding != elf::STB_LOCAL.0,
            _ => false,
        };
        let defined = self.section != elf::SHN_UNDEF.0 && self.name != 0 && self.name < SECOND_TABLE;
        let in_code = |segment: &super::elf::Segment| segment.executable && segment.piece.address.contains(&self.value);
        if !(wanted && defined && layout.segments.iter().any(in_code)) {
            return None;
        }
        Some(Symbol {
            address: u32::try_from(self.value.checked_sub(base)?).ok()?,
            size: u32::try_from(self.size).unwrap_or(u32::MAX),
            name: self.name,
        })
    }
}

fn read_entries(source: &ElfSource, entries: &Range<u64>, mut each: impl FnMut(&Entry)) {
    let mut chunk = vec![0; ENTRY_BYTES * 1024];
    let mut offset = entries.start;
    while offset < entries.end {
        let wanted = chunk.len().min(usize::try_from(entries.end - offset).unwrap_or(usize::MAX));
        let Ok(count) = source.read_at(&mut chunk[..wanted], offset) else {
            return;
        };
        let (whole, _) = chunk[..count].as_chunks::<ENTRY_BYTES>();
        if whole.is_empty() {
            return;
        }
        for entry in whole {
            each(&Entry::parse(entry));
        }
        offset = offset.saturating_add((whole.len() * ENTRY_BYTES) as u64);
    }
}

/// A Rust or C++ symbol as its source names it, without parameters and hash; anything else unchanged. At most
/// [`MAX_NAME_CHARS`] characters, without control characters.
pub(super) fn demangle(mangled: &str) -> String {
    let mut name = Bounded::default();
    let done = if let Ok(rust) = rustc_demangle::try_demangle(mangled) {
        fmt::write(&mut name, format_args!("{rust:#}")).is_ok()
    } else if mangled.starts_with("_Z") {
        let options = cpp_demangle::DemangleOptions::new().no_params().no_return_type();
        cpp_demangle::Symbol::new(mangled).is_ok_and(|symbol| symbol.structured_demangle(&mut name, &options).is_ok())
    } else {
        false
    };
    // Cut short is as good as whole.
    if !(done || name.full) || name.text.is_empty() {
        name = Bounded::default();
        let _ = fmt::Write::write_str(&mut name, mangled);
    }
    name.text
}

/// Takes up to [`MAX_NAME_CHARS`] characters, then fails, so that a name that unfolds to gigabytes costs nothing.
#[derive(Default)]
struct Bounded {
    text: String,
    chars: usize,
    full: bool,
}

impl fmt::Write for Bounded {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        for char in part.chars() {
            if self.full {
                return Err(fmt::Error);
            }
            self.chars += 1;
            self.full = self.chars == MAX_NAME_CHARS;
            self.text.push(match char {
                _ if self.full => '…',
                char if char.is_control() => '?',
                char => char,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demangles_each_language() {
        assert_eq!(demangle("_PyEval_EvalFrameDefault"), "_PyEval_EvalFrameDefault");
        assert_eq!(demangle("_ZN5space3fooEibc"), "space::foo");
        assert_eq!(demangle("_ZN4core3fmt5write17h0123456789abcdefE"), "core::fmt::write");
        assert_eq!(demangle("_RNvC6_123foo3bar"), "123foo::bar");
        assert_eq!(demangle("_Znope"), "_Znope");
        assert_eq!(demangle("a\nb"), "a?b");
    }

    #[test]
    fn long_names_are_cut() {
        let name = demangle(&"x".repeat(2000));
        assert_eq!(name.chars().count(), MAX_NAME_CHARS);
        assert!(name.ends_with('…'));
        assert_eq!(demangle(&"x".repeat(MAX_NAME_CHARS - 1)).len(), MAX_NAME_CHARS - 1);
    }

    #[test]
    fn names_that_unfold_without_end_are_cut() {
        // Each template argument doubles the one before.
        let mut mangled = String::from("_Z1fI1AIiiE");
        let digits = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";
        mangled.push_str("S_IS0_S0_E");
        for last in digits[1..30].iter().map(|digit| char::from(*digit)) {
            mangled.extend(["S_IS", &last.to_string(), "_S", &last.to_string(), "_E"]);
        }
        mangled.push_str("Evv");
        let name = demangle(&mangled);
        assert!(name.chars().count() <= MAX_NAME_CHARS, "{name}");
    }

    #[test]
    fn finds_aliases_gaps_and_sizeless_functions() {
        let names = b"\0__write\0write\0asm\0last\0";
        let at = |name: &str| {
            let text = std::str::from_utf8(names).unwrap();
            text.find(&format!("\0{name}\0")).unwrap() as u32 + 1
        };
        let symbol = |address, size, name: &str| Symbol { address, size, name: at(name) };
        let table = SymbolTable {
            base: 0x1000,
            sorted: Box::new([
                symbol(0x10, 0x10, "__write"),
                symbol(0x10, 0x10, "write"),
                symbol(0x40, 0, "asm"),
                symbol(0x80, 0x10, "last"),
            ]),
            names: [0..names.len() as u64, 0..0],
        };
        let source = ElfSource::Bytes(names.as_slice().into());
        let name = |address| table.name(&source, address);
        assert_eq!(name(0x0fff), None);
        assert_eq!(name(0x100f), None);
        assert_eq!(name(0x1010).as_deref(), Some("write"));
        assert_eq!(name(0x101f).as_deref(), Some("write"));
        assert_eq!(name(0x1020), None);
        assert_eq!(name(0x107f).as_deref(), Some("asm"));
        assert_eq!(name(0x108f).as_deref(), Some("last"));
        assert_eq!(name(0x1090), None);
        assert_eq!(name(u64::MAX), None);
    }
}
