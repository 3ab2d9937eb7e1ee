//! Where a direct call in a file's code goes.

use super::elf::{ElfSource, Layout};

/// The address that the direct call whose last byte is at `last` goes to; none if the code there is no such call.
pub(super) fn target(source: &ElfSource, layout: &Layout, last: u64) -> Option<u64> {
    let start = last.checked_sub(CALL_BYTES as u64 - 1)?;
    let mut code = [0; CALL_BYTES];
    source.read_exact_at(&mut code, layout.file_offset(start)?).ok()?;
    decode(code, start)
}

/// `call rel32`.
#[cfg(target_arch = "x86_64")]
const CALL_BYTES: usize = 5;

#[cfg(target_arch = "x86_64")]
fn decode(code: [u8; CALL_BYTES], start: u64) -> Option<u64> {
    let [0xe8, distance @ ..] = code else { return None };
    Some(start.wrapping_add(CALL_BYTES as u64).wrapping_add_signed(i32::from_le_bytes(distance).into()))
}

/// `bl imm26`.
#[cfg(target_arch = "aarch64")]
const CALL_BYTES: usize = 4;

#[cfg(target_arch = "aarch64")]
fn decode(code: [u8; CALL_BYTES], start: u64) -> Option<u64> {
    let word = u32::from_le_bytes(code);
    // The lowest 26 bits count words, and have a sign.
    (word >> 26 == 0b10_0101).then(|| start.wrapping_add_signed(i64::from((word << 6) as i32 >> 4)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn calls_go_forth_and_back() {
        assert_eq!(decode([0xe8, 0x6c, 0xb7, 0xfc, 0xff], 0x5c_8e7f), Some(0x59_45f0));
        assert_eq!(decode([0xe8, 1, 0, 0, 0], 0x1000), Some(0x1006));
        assert_eq!(decode([0xff, 0xd0, 0, 0, 0], 0x1000), None);
    }

    #[test]
    #[cfg(target_arch = "aarch64")]
    fn calls_go_forth_and_back() {
        assert_eq!(decode(0x9400_0001_u32.to_le_bytes(), 0x1000), Some(0x1004));
        assert_eq!(decode(0x97ff_ffff_u32.to_le_bytes(), 0x1000), Some(0xffc));
        assert_eq!(decode(0x1400_0001_u32.to_le_bytes(), 0x1000), None);
    }
}
