//! Reading a `str` object.

use super::layout::{self, Offsets};
use crate::memory::{MemoryError, ReadMemory};

/// Bytes of characters that are read of a string; what is longer is cut and ends in `…`.
pub(super) const MAX_STRING_BYTES: usize = 4096;
/// A length beyond this is no name or path but torn memory.
const MAX_LENGTH: u64 = 1 << 24;

/// Why an object gave no text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum StringError {
    /// It cannot be read.
    #[error(transparent)]
    Unreadable(#[from] MemoryError),
    /// What is there is no compact `str`.
    #[error("no str at {address:#x}: length {length}, state {state:#x}")]
    NoString {
        /// The object.
        address: u64,
        /// `PyASCIIObject.length`.
        length: u64,
        /// `PyASCIIObject.state`.
        state: u32,
    },
}

/// The text of the `str` at `address`. Lone surrogates, as in undecodable file names, become U+FFFD.
pub(super) fn read(memory: &impl ReadMemory, offsets: &Offsets, address: u64) -> Result<String, StringError> {
    let length = memory.u64(address.wrapping_add(layout::STRING_LENGTH.into()))?;
    let state = memory.u32(address.wrapping_add(layout::STRING_STATE.into()))?;
    // interned: bits 0 and 1; kind (bytes per character): 2 to 4; compact: 5; ascii: 6.
    let (kind, compact, ascii) = (state as usize >> 2 & 7, state >> 5 & 1 == 1, state >> 6 & 1 == 1);
    let wrong = || StringError::NoString { address, length, state };
    if length > MAX_LENGTH || !compact || !matches!(kind, 1 | 2 | 4) || (ascii && kind != 1) {
        return Err(wrong());
    }
    let data = address.wrapping_add(if ascii { offsets.string_ascii_data } else { offsets.string_data }.into());
    let wanted = length as usize * kind;
    let bytes = memory.bytes(data, wanted.min(MAX_STRING_BYTES) as u64, MAX_STRING_BYTES)?;
    let character = |code: u32| {
        if code > 0x10_ffff { Err(wrong()) } else { Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)) }
    };
    let mut text: String = match kind {
        1 if ascii && !bytes.is_ascii() => return Err(wrong()),
        1 => bytes.iter().map(|byte| char::from(*byte)).collect(),
        2 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|pair| character(u16::from_ne_bytes(*pair).into()))
            .collect::<Result<_, _>>()?,
        _ => bytes.as_chunks().0.iter().map(|four| character(u32::from_ne_bytes(*four))).collect::<Result<_, _>>()?,
    };
    if wanted > bytes.len() {
        text.push('…');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{memory::FakeMemory, python::Version};

    const AT: u64 = 0x1000;

    fn text(version: u8, kind: u32, ascii: bool, length: u64, data: &[u8]) -> Result<String, StringError> {
        let (_, offsets) = layout::known(Version::three(version)).unwrap();
        let mut memory = FakeMemory::default();
        memory.map(AT, 72 + data.len());
        memory.put_u64(AT + 16, length).put_u32(AT + 32, 1 | kind << 2 | 1 << 5 | u32::from(ascii) << 6);
        let start = if ascii { offsets.string_ascii_data } else { offsets.string_data };
        memory.put(AT + u64::from(start), data);
        read(&memory, &offsets, AT)
    }

    fn wide<const N: usize>(text: &str, bytes: impl Fn(char) -> [u8; N]) -> Vec<u8> {
        text.chars().flat_map(bytes).collect()
    }

    #[test]
    fn each_kind_in_each_layout() {
        for version in [8, 12] {
            assert_eq!(text(version, 1, true, 4, b"main").unwrap(), "main");
            assert_eq!(text(version, 1, false, 2, b"\xe9a").unwrap(), "éa");
            let two = wide("λx", |character| (character as u16).to_ne_bytes());
            assert_eq!(text(version, 2, false, 2, &two).unwrap(), "λx");
            let four = wide("🐍y", |character| (character as u32).to_ne_bytes());
            assert_eq!(text(version, 4, false, 2, &four).unwrap(), "🐍y");
            assert_eq!(text(version, 1, true, 0, b"").unwrap(), "");
        }
    }

    #[test]
    fn lone_surrogates_and_long_strings() {
        assert_eq!(text(12, 2, false, 1, &0xdc80_u16.to_ne_bytes()).unwrap(), "\u{fffd}");
        let long = text(12, 1, true, 5000, &[b'a'; 5000]).unwrap();
        assert_eq!((long.len(), long.ends_with("a…")), (MAX_STRING_BYTES + 3, true));
    }

    #[test]
    fn what_is_no_string_is_refused() {
        assert!(matches!(text(12, 3, false, 1, b"abc"), Err(StringError::NoString { .. })));
        assert!(matches!(text(12, 1, true, 1, b"\xff"), Err(StringError::NoString { .. })));
        assert!(matches!(text(12, 2, true, 1, b"ab"), Err(StringError::NoString { .. })));
        assert!(matches!(text(12, 1, true, 1 << 40, b"a"), Err(StringError::NoString { .. })));
        assert!(matches!(text(12, 4, false, 1, &[0xff; 4]), Err(StringError::NoString { .. })));
        assert!(matches!(text(12, 1, true, 2000, b"a"), Err(StringError::Unreadable(_))));
    }
}
