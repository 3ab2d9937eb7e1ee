//! Where a C library keeps thread-specific data (TSD), in which CPython keeps a thread's own `PyThreadState`.
//!
//! glibc: the first 32 slots lie in `struct pthread` (`specific_1stblock`), 16 bytes each with the value in the second
//! half. musl: `struct pthread` points to an array of values. On `x86_64` the thread pointer is the address of
//! `struct pthread`; on `aarch64` it is the address behind it.

use aiprof_ebpf_types::PythonLayout;

use super::elf::Image;
use crate::memory::ReadMemory;

/// Slots in glibc's `specific_1stblock`.
const FIRST_BLOCK_SLOTS: u32 = 32;
/// Keys that musl gives out (`PTHREAD_KEYS_MAX`).
const MUSL_KEYS: u32 = 128;

/// The symbols that glibc has for debuggers: the size of `struct pthread`, and where `specific` lies in it.
pub(super) const GLIBC_SYMBOLS: [&str; 2] = ["_thread_db_sizeof_pthread", "_thread_db_pthread_specific"];

/// A C library, by how it keeps TSD. Offsets are from the address of `struct pthread`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Libc {
    Glibc {
        /// `specific_1stblock`.
        first_block: i32,
        /// From `struct pthread` to the thread pointer.
        to_thread_pointer: i32,
    },
    Musl {
        /// `tsd`, the pointer to the array.
        array: i32,
        /// From `struct pthread` to the thread pointer.
        to_thread_pointer: i32,
    },
}

impl Libc {
    /// glibc as of 2.36, for where it cannot be asked: a static executable.
    pub(super) const fn usual_glibc() -> Self {
        // Checked on x86_64 with 2.36 and 2.43. On aarch64 from 2.36 to 2.38 by published tables, not tried.
        if cfg!(target_arch = "aarch64") {
            Self::Glibc { first_block: 272, to_thread_pointer: 1856 }
        } else {
            Self::Glibc { first_block: 784, to_thread_pointer: 0 }
        }
    }

    /// musl 1.2, by published tables; not tried on a live process.
    pub(super) const fn musl() -> Self {
        if cfg!(target_arch = "aarch64") {
            Self::Musl { array: 112, to_thread_pointer: 200 }
        } else {
            Self::Musl { array: 0x80, to_thread_pointer: 0 }
        }
    }

    /// glibc as it describes itself to debuggers: `image` holds [`GLIBC_SYMBOLS`].
    pub(super) fn described_glibc(memory: &impl ReadMemory, image: &Image) -> Option<Self> {
        let [size, specific] = *image.symbols.as_slice() else {
            return None;
        };
        let size = memory.u32(size?).ok()?;
        // Bits of an element, elements, offset: `specific`, the second level, stands right behind the first block.
        let offset = memory.u32(specific?.wrapping_add(8)).ok()?;
        let first_block = offset.checked_sub(FIRST_BLOCK_SLOTS * 16)?;
        if size > 1 << 16 || offset >= size {
            return None;
        }
        let to_thread_pointer = if cfg!(target_arch = "aarch64") { size as i32 } else { 0 };
        Some(Self::Glibc { first_block: first_block as i32, to_thread_pointer })
    }

    /// Where the slot of `key` is: [`PythonLayout::tsd_array`] and [`PythonLayout::tsd_slot`]. `None` if the key is out of reach.
    pub(super) fn slot(self, key: u32) -> Option<(i32, i32)> {
        match self {
            Self::Glibc { first_block, to_thread_pointer } => {
                (key < FIRST_BLOCK_SLOTS).then(|| (-1, first_block - to_thread_pointer + 16 * key as i32 + 8))
            }
            Self::Musl { array, to_thread_pointer } => {
                (key < MUSL_KEYS).then(|| (array - to_thread_pointer, 8 * key as i32))
            }
        }
    }

    /// The thread pointer of the thread for which `pthread_self` gives `thread_id`.
    pub(super) fn thread_pointer(self, thread_id: u64) -> u64 {
        let (Self::Glibc { to_thread_pointer, .. } | Self::Musl { to_thread_pointer, .. }) = self;
        thread_id.wrapping_add_signed(to_thread_pointer.into())
    }

    /// Sets the TSD fields of a layout; whether the key is in reach.
    pub(super) fn set_slot(self, layout: &mut PythonLayout, key: u32) -> bool {
        self.slot(key).is_some_and(|(array, slot)| {
            (layout.tsd_array, layout.tsd_slot) = (array, slot);
            true
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::FakeMemory;

    #[test]
    fn slots_of_both_libraries() {
        let x86 = Libc::Glibc { first_block: 784, to_thread_pointer: 0 };
        assert_eq!((x86.slot(0), x86.slot(31), x86.slot(32)), (Some((-1, 792)), Some((-1, 1288)), None));
        let arm = Libc::Glibc { first_block: 272, to_thread_pointer: 1856 };
        assert_eq!((arm.slot(1), arm.thread_pointer(0x1000)), (Some((-1, -1560)), 0x1000 + 1856));
        let musl = Libc::Musl { array: 0x80, to_thread_pointer: 0 };
        assert_eq!((musl.slot(2), musl.slot(128)), (Some((0x80, 16)), None));
        let arm = Libc::Musl { array: 112, to_thread_pointer: 200 };
        assert_eq!((arm.slot(2), arm.thread_pointer(0x1000)), (Some((-88, 16)), 0x10c8));
    }

    #[test]
    fn glibc_describes_itself() {
        let mut memory = FakeMemory::default();
        memory.map(0x100, 4).put_u32(0x100, 2304).map(0x200, 12).put_u32(0x200 + 8, 784 + 512);
        let image = Image { symbols: vec![Some(0x100), Some(0x200)], ..Image::default() };
        let first_block = |libc| match libc {
            Some(Libc::Glibc { first_block, .. }) => first_block,
            _ => -1,
        };
        assert_eq!(first_block(Libc::described_glibc(&memory, &image)), 784);
        memory.put_u32(0x200 + 8, 3000);
        assert_eq!(Libc::described_glibc(&memory, &image), None);
        assert_eq!(Libc::described_glibc(&memory, &Image::default()), None);
    }
}
