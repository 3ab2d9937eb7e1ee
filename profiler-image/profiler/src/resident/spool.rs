//! The bytes of a stream that somebody may still ask for, bounded: the first in memory, then in a file without a name.
//!
//! The file is used as a ring, so that what is held back, not how long it is, bounds the disk.

use std::{collections::VecDeque, fs::File, io, os::unix::fs::FileExt, path::PathBuf};

/// Where bytes are kept and how many.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    /// Bytes kept in memory.
    pub(super) memory_bytes: usize,
    /// Bytes kept in a file besides.
    pub(super) file_bytes: u64,
    /// The file's folder.
    pub(super) folder: PathBuf,
}

/// The bytes from [`Self::start`] to [`Self::end`] of a stream.
#[derive(Debug)]
pub(super) struct Spool {
    limits: Limits,
    /// Bytes from `start` on.
    memory: VecDeque<u8>,
    start: u64,
    /// The file has the bytes from here to `end`, each at its offset modulo the file's limit. Memory ends here.
    file_start: u64,
    end: u64,
    file: Option<File>,
    /// Why the file takes no more bytes.
    refusal: Option<String>,
}

impl Spool {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, memory: VecDeque::new(), start: 0, file_start: 0, end: 0, file: None, refusal: None }
    }

    /// Offset of the first byte kept.
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    /// Offset behind the last byte.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Takes the reason why the file takes no more bytes, once.
    pub(super) fn take_refusal(&mut self) -> Option<String> {
        self.refusal.as_mut().map(std::mem::take).filter(|reason| !reason.is_empty())
    }

    /// Keeps as many of `bytes` as there is room for; says how many.
    pub(super) fn append(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        if self.file_start == self.end {
            let room = self.limits.memory_bytes.saturating_sub(self.memory.len());
            taken = room.min(bytes.len());
            self.memory.extend(&bytes[..taken]);
            self.end += taken as u64;
            self.file_start = self.end;
        }
        // What came into the file goes out of it before memory is used again.
        taken + self.append_to_file(&bytes[taken..])
    }

    fn append_to_file(&mut self, bytes: &[u8]) -> usize {
        let room = self.limits.file_bytes.saturating_sub(self.end - self.file_start);
        let length = (bytes.len() as u64).min(room) as usize;
        if length == 0 || self.refusal.is_some() {
            return 0;
        }
        match self.write(&bytes[..length]) {
            Ok(()) => {
                self.end += length as u64;
                length
            }
            Err(error) => {
                self.refusal = Some(error.to_string());
                0
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(tempfile::tempfile_in(&self.limits.folder)?),
        };
        let at = self.end % self.limits.file_bytes;
        let (first, second) = bytes.split_at(bytes.len().min((self.limits.file_bytes - at) as usize));
        file.write_all_at(first, at)?;
        file.write_all_at(second, 0)
    }

    /// Fills `buffer` with the bytes from `offset` on, as far as there are any; says how many. `offset` is not before the start.
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(skip) = offset.checked_sub(self.start) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "these bytes are no longer kept"));
        };
        if skip < self.memory.len() as u64 {
            let (front, back) = self.memory.as_slices();
            let skip = skip as usize;
            let from = if skip < front.len() { &front[skip..] } else { &back[skip - front.len()..] };
            let length = from.len().min(buffer.len());
            buffer[..length].copy_from_slice(&from[..length]);
            return Ok(length);
        }
        let Some(file) = &self.file else { return Ok(0) };
        let at = offset % self.limits.file_bytes;
        let length = self.end.saturating_sub(offset).min(self.limits.file_bytes - at).min(buffer.len() as u64) as usize;
        file.read_exact_at(&mut buffer[..length], at)?;
        Ok(length)
    }

    /// Bytes before `held` need not be kept.
    pub(super) fn release(&mut self, held: u64) {
        let held = held.min(self.end);
        let Some(released) = held.checked_sub(self.start) else { return };
        self.memory.drain(..self.memory.len().min(usize::try_from(released).unwrap_or(usize::MAX)));
        self.start = held;
        self.file_start = self.file_start.max(held);
        if self.file_start == self.end
            && let Some(file) = &self.file
        {
            // Only the room on the disk is at stake.
            let _ = file.set_len(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn spool(folder: &Path, memory_bytes: usize, file_bytes: u64) -> Spool {
        Spool::new(Limits { memory_bytes, file_bytes, folder: folder.to_owned() })
    }

    fn kept(spool: &Spool) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut buffer = [0; 7];
        loop {
            match spool.read(spool.start() + bytes.len() as u64, &mut buffer).unwrap() {
                0 => return bytes,
                read => bytes.extend_from_slice(&buffer[..read]),
            }
        }
    }

    #[test]
    fn memory_comes_first_then_a_ring_on_disk_and_then_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = spool(folder.path(), 4, 6);
        assert_eq!(spool.append(b"abcdefghijkl"), 10);
        assert_eq!(spool.append(b"k"), 0);
        assert_eq!(kept(&spool), b"abcdefghij");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the file has no name");
        // Room in memory is of no use while the file has bytes.
        spool.release(3);
        assert_eq!(spool.append(b"k"), 0);
        assert_eq!(kept(&spool), b"defghij");
        spool.release(7);
        assert_eq!(spool.append(b"klmn"), 3);
        assert_eq!(kept(&spool), b"hijklm");
        spool.release(13);
        assert_eq!(spool.append(b"nopqr"), 5);
        assert_eq!((spool.start(), spool.end(), kept(&spool)), (13, 18, b"nopqr".to_vec()));
        assert!(spool.read(12, &mut [0]).is_err());
    }

    #[test]
    fn any_order_of_appends_and_releases_keeps_the_stream() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = spool(folder.path(), 50, 70);
        let (mut sent, mut random) = (Vec::new(), 1_u32);
        let mut next = || {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            random >> 16
        };
        for _ in 0..3_000 {
            let bytes: Vec<u8> = (0..next() % 40).map(|_| next() as u8).collect();
            let taken = spool.append(&bytes);
            sent.extend_from_slice(&bytes[..taken]);
            assert!(spool.end() - spool.start() <= 120);
            if next() % 4 == 0 || taken < bytes.len() {
                spool.release(spool.start() + u64::from(next() % 60));
            }
            assert_eq!(spool.end(), sent.len() as u64);
            assert_eq!(kept(&spool), &sent[spool.start() as usize..]);
        }
        assert!(sent.len() > 20_000);
    }

    #[test]
    fn where_no_disk_may_be_used_memory_is_all_there_is() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = spool(folder.path(), 4, 0);
        assert_eq!(spool.append(b"abcdef"), 4);
        assert_eq!(spool.append(b"ef"), 0);
        assert_eq!((spool.read(4, &mut [0]).unwrap(), spool.take_refusal()), (0, None));
        spool.release(3);
        assert_eq!(spool.append(b"efg"), 3);
        assert_eq!(kept(&spool), b"defg");
    }

    #[test]
    fn without_a_file_memory_is_all_there_is() {
        let mut spool = spool(Path::new("/nonexistent"), 4, 100);
        assert_eq!(spool.append(b"abcdef"), 4);
        assert!(spool.take_refusal().is_some_and(|reason| reason.contains("No such file")));
        assert_eq!(spool.take_refusal(), None);
        spool.release(2);
        assert_eq!(spool.append(b"efg"), 2);
        assert_eq!(kept(&spool), b"cdef");
    }
}
