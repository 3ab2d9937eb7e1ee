//! Reading another process's memory without stopping it.
//!
//! Whatever is read may be torn, since the process goes on running: callers check what they got and read again.

use std::io::IoSliceMut;

use nix::{
    errno::Errno,
    sys::uio::{RemoteIoVec, process_vm_readv},
    unistd::Pid,
};

/// Why a read failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// Nothing readable is mapped there, or not all of it.
    #[error("{length} bytes at {address:#x} cannot be read: {read} of them are mapped")]
    Unmapped {
        /// First address wanted.
        address: u64,
        /// Bytes wanted.
        length: usize,
        /// Bytes that could be read.
        read: usize,
    },
    /// The kernel refuses to let us read this process.
    #[error("the kernel refuses to let us read the process's memory (EPERM): CAP_SYS_PTRACE is needed")]
    Denied,
    /// The process has ended.
    #[error("the process has ended")]
    Gone,
    /// What should be read is larger than anything sound at that place.
    #[error("{length} bytes at {address:#x} are more than the {limit} expected at most")]
    TooLong {
        /// First address wanted.
        address: u64,
        /// Bytes wanted.
        length: u64,
        /// The most that is read.
        limit: usize,
    },
    /// Any other error.
    #[error("{length} bytes at {address:#x} cannot be read: {source}")]
    Other {
        /// First address wanted.
        address: u64,
        /// Bytes wanted.
        length: usize,
        /// What the kernel said.
        source: Errno,
    },
}

/// Something that holds a process's memory, by its virtual addresses.
pub trait ReadMemory {
    /// Fills `buffer` with the bytes from `address` on, all of them or none that count.
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), MemoryError>;

    /// The 8 bytes at `address` in the machine's byte order.
    fn u64(&self, address: u64) -> Result<u64, MemoryError> {
        self.array(address).map(u64::from_ne_bytes)
    }

    /// The 4 bytes at `address` in the machine's byte order.
    fn u32(&self, address: u64) -> Result<u32, MemoryError> {
        self.array(address).map(u32::from_ne_bytes)
    }

    /// `N` bytes at `address`.
    fn array<const N: usize>(&self, address: u64) -> Result<[u8; N], MemoryError> {
        let mut bytes = [0; N];
        self.read(address, &mut bytes)?;
        Ok(bytes)
    }

    /// `length` bytes at `address`, refused if they are more than `limit`.
    fn bytes(&self, address: u64, length: u64, limit: usize) -> Result<Vec<u8>, MemoryError> {
        match usize::try_from(length) {
            Ok(wanted) if wanted <= limit => {
                let mut bytes = vec![0; wanted];
                self.read(address, &mut bytes)?;
                Ok(bytes)
            }
            _ => Err(MemoryError::TooLong { address, length, limit }),
        }
    }
}

/// A live process's memory, read by `process_vm_readv(2)`.
#[derive(Clone, Copy, Debug)]
pub struct ProcessMemory {
    pid: Pid,
}

impl ProcessMemory {
    /// The memory of process `pid`, as our own PID namespace numbers it. Nothing is read yet, so this cannot fail:
    /// a process that is not there or not ours shows at the first read.
    #[must_use]
    pub fn open(pid: u32) -> Self {
        Self { pid: Pid::from_raw(pid as i32) }
    }
}

impl ReadMemory for ProcessMemory {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let length = buffer.len();
        if length == 0 {
            return Ok(());
        }
        let Ok(base) = usize::try_from(address) else {
            return Err(MemoryError::Unmapped { address, length, read: 0 });
        };
        let remote = [RemoteIoVec { base, len: length }];
        match process_vm_readv(self.pid, &mut [IoSliceMut::new(buffer)], &remote) {
            Ok(read) if read == length => Ok(()),
            Ok(read) => Err(MemoryError::Unmapped { address, length, read }),
            Err(Errno::EFAULT) => Err(MemoryError::Unmapped { address, length, read: 0 }),
            Err(Errno::EPERM) => Err(MemoryError::Denied),
            Err(Errno::ESRCH) => Err(MemoryError::Gone),
            Err(source) => Err(MemoryError::Other { address, length, source }),
        }
    }
}

/// Memory made up by a test: pieces at addresses of its choice, nothing in between.
#[cfg(test)]
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeMemory {
    pieces: std::collections::BTreeMap<u64, Vec<u8>>,
}

#[cfg(test)]
impl FakeMemory {
    /// Puts `length` zero bytes at `address`; pieces must not overlap.
    pub(crate) fn map(&mut self, address: u64, length: usize) -> &mut Self {
        self.pieces.insert(address, vec![0; length]);
        self
    }

    /// Overwrites mapped bytes.
    pub(crate) fn put(&mut self, address: u64, bytes: &[u8]) -> &mut Self {
        let (start, piece) = self.pieces.range_mut(..=address).next_back().expect("mapped");
        let from = (address - start) as usize;
        piece[from..from + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Overwrites 8 mapped bytes.
    pub(crate) fn put_u64(&mut self, address: u64, value: u64) -> &mut Self {
        self.put(address, &value.to_ne_bytes())
    }

    /// Overwrites 4 mapped bytes.
    pub(crate) fn put_u32(&mut self, address: u64, value: u32) -> &mut Self {
        self.put(address, &value.to_ne_bytes())
    }
}

#[cfg(test)]
impl ReadMemory for FakeMemory {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let length = buffer.len();
        let unmapped = |read| MemoryError::Unmapped { address, length, read };
        let (start, piece) = self.pieces.range(..=address).next_back().ok_or(unmapped(0))?;
        let rest = usize::try_from(address - start).ok().and_then(|from| piece.get(from..)).ok_or(unmapped(0))?;
        buffer.copy_from_slice(rest.get(..length).ok_or(unmapped(rest.len()))?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_our_own_memory() {
        let word = 0x1122_3344_5566_7788_u64;
        let memory = ProcessMemory::open(std::process::id());
        assert_eq!(memory.u64(&raw const word as u64), Ok(word));
        assert_eq!(memory.bytes(&raw const word as u64, 8, 8).unwrap(), word.to_ne_bytes());
    }

    #[test]
    fn says_why_it_cannot_read() {
        let memory = ProcessMemory::open(std::process::id());
        assert_eq!(memory.u64(16), Err(MemoryError::Unmapped { address: 16, length: 8, read: 0 }));
        let too_long = MemoryError::TooLong { address: 16, length: 1 << 40, limit: 4096 };
        assert_eq!(memory.bytes(16, 1 << 40, 4096), Err(too_long));
        // Beyond what pid_max can be, so no such process.
        assert_eq!(ProcessMemory::open(0x7fff_fff0).u64(4096), Err(MemoryError::Gone));
    }

    #[test]
    fn fake_memory_ends_where_its_pieces_end() {
        let mut memory = FakeMemory::default();
        memory.map(0x1000, 16).put_u64(0x1008, 7);
        assert_eq!(memory.u64(0x1008), Ok(7));
        assert_eq!(memory.u64(0x100c), Err(MemoryError::Unmapped { address: 0x100c, length: 8, read: 4 }));
        assert!(memory.u64(0xfff).is_err());
    }
}
