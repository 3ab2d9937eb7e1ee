//! A reader of the kernel's own type data (BTF), for the offsets of structure members: Rust has no CO-RE.
//!
//! Takes bytes, gives offsets; knows the layout of `include/uapi/linux/btf.h` and skips what it does not need.

use thiserror::Error;

/// Why type data could not be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BtfError {
    /// The data ends too early or contradicts itself.
    #[error("the kernel's type data is torn at byte {0:#x}")]
    Torn(usize),
    /// It does not begin as BTF does.
    #[error("the kernel's type data begins with {0:#06x}, expected 0xeb9f")]
    Magic(u16),
    /// A kind of type that is newer than this reader.
    #[error("the kernel's type data holds kind {0}, which this version does not know")]
    Kind(u32),
    /// The structure or member is not there.
    #[error("the kernel has no {0}")]
    Missing(String),
}

const MAGIC: u16 = 0xeb9f;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
/// How deep unnamed members are searched.
const MAX_NESTING: u32 = 8;

/// The kernel's types.
#[derive(Debug)]
pub struct Btf<'a> {
    strings: &'a [u8],
    /// By type id less one.
    types: Vec<Type<'a>>,
}

#[derive(Clone, Copy, Debug)]
struct Type<'a> {
    name: u32,
    kind: u32,
    /// The members' bit offsets share their word with bit-field sizes.
    bit_fields: bool,
    size_or_id: u32,
    /// For structures and unions, 12 bytes each: name, type, offset.
    members: &'a [u8],
}

impl<'a> Btf<'a> {
    /// Reads the type section of `data`, such as `/sys/kernel/btf/vmlinux`.
    pub fn parse(data: &'a [u8]) -> Result<Self, BtfError> {
        let magic = u16::from_le_bytes(word(data, 0)?);
        if magic != MAGIC {
            return Err(BtfError::Magic(magic));
        }
        let header = u32_at(data, 4)? as usize;
        let section = |offset: usize| -> Result<&'a [u8], BtfError> {
            let start = header.checked_add(u32_at(data, offset)? as usize).ok_or(BtfError::Torn(offset))?;
            let end = start.checked_add(u32_at(data, offset + 4)? as usize).ok_or(BtfError::Torn(offset))?;
            data.get(start..end).ok_or(BtfError::Torn(offset))
        };
        let (type_data, strings) = (section(8)?, section(16)?);
        let mut types = Vec::new();
        let mut at = 0;
        while at < type_data.len() {
            let (name, info, size_or_id) =
                (u32_at(type_data, at)?, u32_at(type_data, at + 4)?, u32_at(type_data, at + 8)?);
            let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            let extra = match kind {
                // Integers, variables, declaration tags: one word.
                1 | 14 | 17 => 4,
                // Pointers, forwards, names, qualifiers, functions, floats, type tags: none.
                2 | 7..=12 | 16 | 18 => 0,
                3 => 12,
                KIND_STRUCT | KIND_UNION | 15 | 19 => 12 * count,
                // Enumerators, parameters.
                6 | 13 => 8 * count,
                other => return Err(BtfError::Kind(other)),
            };
            let members = type_data.get(at + 12..at + 12 + extra).ok_or(BtfError::Torn(at))?;
            types.push(Type { name, kind, bit_fields: info >> 31 != 0, size_or_id, members });
            at += 12 + extra;
        }
        Ok(Self { strings, types })
    }

    /// Offset in bytes of `path` (`thread.fsbase`) in `structure`; members of unnamed structures and unions count as its own.
    pub fn offset(&self, structure: &str, path: &str) -> Result<u32, BtfError> {
        let missing = || BtfError::Missing(format!("{structure}.{path}"));
        let mut current = *self.structure(structure)?;
        let mut bits = 0;
        for name in path.split('.') {
            let (offset, kind) = self.member(&current, name, MAX_NESTING).ok_or_else(missing)?;
            bits += offset;
            if let Some(inner) = self.resolve(kind) {
                current = *inner;
            }
        }
        Ok(bits / 8)
    }

    /// Size in bytes of `structure`.
    pub fn size(&self, structure: &str) -> Result<u32, BtfError> {
        Ok(self.structure(structure)?.size_or_id)
    }

    fn structure(&self, name: &str) -> Result<&Type<'a>, BtfError> {
        self.types
            .iter()
            .find(|each| each.kind == KIND_STRUCT && self.string(each.name) == name.as_bytes())
            .ok_or_else(|| BtfError::Missing(format!("struct {name}")))
    }

    /// Offset in bits and type id of a member.
    fn member(&self, of: &Type<'a>, name: &str, nesting: u32) -> Option<(u32, u32)> {
        if !matches!(of.kind, KIND_STRUCT | KIND_UNION) {
            return None;
        }
        of.members.chunks_exact(12).find_map(|member| {
            let (member_name, kind, offset) =
                (u32_at(member, 0).ok()?, u32_at(member, 4).ok()?, u32_at(member, 8).ok()?);
            let offset = if of.bit_fields { offset & 0x00ff_ffff } else { offset };
            if member_name != 0 {
                return (self.string(member_name) == name.as_bytes()).then_some((offset, kind));
            }
            let inner = self.resolve(kind)?;
            let (deeper, kind) = self.member(inner, name, nesting.checked_sub(1)?)?;
            Some((offset + deeper, kind))
        })
    }

    /// The type behind an id, past names and qualifiers.
    fn resolve(&self, mut id: u32) -> Option<&Type<'a>> {
        for _ in 0..MAX_NESTING {
            let found = self.types.get(id.checked_sub(1)? as usize)?;
            // typedef, volatile, const, restrict, type tag
            if !matches!(found.kind, 8..=11 | 18) {
                return Some(found);
            }
            id = found.size_or_id;
        }
        None
    }

    fn string(&self, offset: u32) -> &'a [u8] {
        let rest = self.strings.get(offset as usize..).unwrap_or_default();
        rest.split(|&byte| byte == 0).next().unwrap_or_default()
    }
}

fn word<const N: usize>(data: &[u8], at: usize) -> Result<[u8; N], BtfError> {
    data.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or(BtfError::Torn(at))
}

fn u32_at(data: &[u8], at: usize) -> Result<u32, BtfError> {
    word(data, at).map(u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct outer { u64 a; union { struct { u32 x; u32 y; }; u64 z; }; inner in; }; struct inner { u16 p; u16 q; }`
    fn sample() -> Vec<u8> {
        let strings = b"\0outer\0a\0x\0y\0z\0in\0inner\0p\0q\0u64\0";
        let name = |wanted: &str| {
            let at = strings.windows(wanted.len() + 1).position(|each| each == [wanted.as_bytes(), b"\0"].concat());
            at.unwrap() as u32
        };
        let mut types = Vec::new();
        let mut push = |words: &[u32]| words.iter().for_each(|each| types.extend_from_slice(&each.to_le_bytes()));
        push(&[name("u64"), 1 << 24, 8, 64]); // 1: int
        push(&[0, 4 << 24 | 2, 8, name("x"), 1, 0, name("y"), 1, 32]); // 2: unnamed struct
        push(&[0, 5 << 24 | 2, 8, 0, 2, 0, name("z"), 1, 0]); // 3: unnamed union
        push(&[name("inner"), 4 << 24 | 2, 4, name("p"), 1, 0, name("q"), 1, 16]); // 4
        push(&[0, 10 << 24, 4]); // 5: const inner
        push(&[name("outer"), 4 << 24 | 3, 24, name("a"), 1, 0, 0, 3, 64, name("in"), 5, 128]); // 6
        let mut data = Vec::new();
        data.extend_from_slice(&MAGIC.to_le_bytes());
        data.extend_from_slice(&[1, 0]);
        for each in [24u32, 0, types.len() as u32, types.len() as u32, strings.len() as u32] {
            data.extend_from_slice(&each.to_le_bytes());
        }
        data.extend_from_slice(&types);
        data.extend_from_slice(strings);
        data
    }

    #[test]
    fn finds_members_through_unnamed_structures_and_qualifiers() {
        let data = sample();
        let btf = Btf::parse(&data).unwrap();
        assert_eq!(btf.offset("outer", "a"), Ok(0));
        assert_eq!(btf.offset("outer", "y"), Ok(12));
        assert_eq!(btf.offset("outer", "z"), Ok(8));
        assert_eq!(btf.offset("outer", "in.q"), Ok(18));
        assert_eq!(btf.size("inner"), Ok(4));
        assert_eq!(btf.offset("outer", "nope"), Err(BtfError::Missing("outer.nope".to_owned())));
        assert_eq!(btf.offset("other", "a"), Err(BtfError::Missing("struct other".to_owned())));
    }

    #[test]
    fn torn_data_is_an_error_at_every_length() {
        let data = sample();
        for length in 0..data.len() {
            assert!(Btf::parse(&data[..length]).is_err(), "{length} bytes were taken for whole");
        }
        assert_eq!(Btf::parse(&[0; 32]).unwrap_err(), BtfError::Magic(0));
    }

    #[test]
    fn the_running_kernel_has_what_the_programs_need() {
        let Ok(data) = std::fs::read("/sys/kernel/btf/vmlinux") else { return };
        let btf = Btf::parse(&data).unwrap();
        assert!(btf.offset("task_struct", "pid").unwrap() > 0);
        assert!(btf.size("upid").unwrap() >= 16);
    }
}
