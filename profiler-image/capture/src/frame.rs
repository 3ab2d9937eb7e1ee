//! The capture on the wire: frames on the profiler's standard output.
//!
//! One frame is a header of [`HEADER_LEN`] bytes and a payload of at most [`MAX_PAYLOAD`] bytes; numbers are little-endian:
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | `MAGIC` |
//! | 4 | kind, see [`FrameKind`] |
//! | 5..8 | zero |
//! | 8..16 | offset of the payload in the stream of its kind |
//! | 16..20 | length of the payload |
//! | 20..24 | CRC-32 (IEEE) of bytes 0..20 and the payload |
//!
//! Nothing here does I/O: [`Encoder`] gives bytes, [`Decoder`] takes them in pieces of any size. A decoder that has reported an
//! error reports it again and again: what follows a broken frame means nothing.

use thiserror::Error;

/// First bytes of every frame.
const MAGIC: [u8; 4] = *b"AIPF";

/// Bytes before the payload.
pub const HEADER_LEN: usize = 24;

/// Most bytes of one payload.
pub const MAX_PAYLOAD: usize = 1 << 20;

/// What a payload is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrameKind {
    /// The trace: bytes of the Perfetto file, in order.
    Trace,
    /// The manifest: JSON of a [`crate::manifest::Manifest`].
    Manifest,
    /// The capture is complete; the payload is empty and nothing follows.
    End,
}

impl FrameKind {
    const ALL: [Self; 3] = [Self::Trace, Self::Manifest, Self::End];

    const fn code(self) -> u8 {
        match self {
            Self::Trace => 1,
            Self::Manifest => 2,
            Self::End => 3,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }
}

/// One frame as it was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What the payload is part of.
    pub kind: FrameKind,
    /// Where the payload begins in the stream of its kind, in bytes.
    pub offset: u64,
    /// The bytes.
    pub payload: Vec<u8>,
}

/// Why bytes are not the next frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The first bytes are not `AIPF`.
    #[error("the capture stream is out of step: expected a frame's first bytes {MAGIC:02x?}, found {found:02x?}")]
    Magic {
        /// The first bytes found.
        found: [u8; 4],
    },
    /// A kind, or set reserved bytes, of a newer writer.
    #[error("the capture stream has a frame of an unknown kind: expected 01, 02 or 03 and zeros, found {found:02x?}")]
    Kind {
        /// Kind and reserved bytes found.
        found: [u8; 4],
    },
    /// A longer payload than [`MAX_PAYLOAD`].
    #[error("a frame of the capture stream is too long: at most {MAX_PAYLOAD} bytes are allowed, found {found}")]
    Length {
        /// Length found, in bytes.
        found: usize,
    },
    /// Bytes are missing or repeated.
    #[error("the {kind:?} stream has a gap: expected the frame at offset {expected}, found the one at {found}")]
    Offset {
        /// The stream.
        kind: FrameKind,
        /// Where the next payload had to begin.
        expected: u64,
        /// Where this one begins.
        found: u64,
    },
    /// Bytes were damaged.
    #[error("a frame of the capture stream is damaged: its checksum is {expected:08x}, its bytes give {found:08x}")]
    Checksum {
        /// As the frame says.
        expected: u32,
        /// As its bytes give.
        found: u32,
    },
    /// Bytes after [`FrameKind::End`].
    #[error("the capture stream goes on after its end")]
    AfterEnd,
    /// The stream ended early.
    #[error(
        "the capture stream ended early: {have} bytes of an unfinished frame after {frames} whole ones, and no end frame"
    )]
    Truncated {
        /// Whole frames received.
        frames: u64,
        /// Bytes of the frame that is unfinished.
        have: usize,
    },
}

/// Bytes seen of each stream.
#[derive(Clone, Copy, Debug, Default)]
struct Offsets([u64; FrameKind::ALL.len()]);

impl Offsets {
    fn of(&mut self, kind: FrameKind) -> &mut u64 {
        &mut self.0[usize::from(kind.code() - 1)]
    }
}

/// Makes frames and keeps their offsets.
#[derive(Clone, Debug, Default)]
pub struct Encoder {
    offsets: Offsets,
}

impl Encoder {
    /// An encoder at the start of its streams.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The bytes of a frame, or of several where the payload is longer than [`MAX_PAYLOAD`].
    #[must_use]
    pub fn frame(&mut self, kind: FrameKind, payload: &[u8]) -> Vec<u8> {
        let frames = payload.len().div_ceil(MAX_PAYLOAD).max(1);
        let mut bytes = Vec::with_capacity(payload.len() + frames * HEADER_LEN);
        if payload.is_empty() {
            self.append(kind, payload, &mut bytes);
        }
        for part in payload.chunks(MAX_PAYLOAD) {
            self.append(kind, part, &mut bytes);
        }
        bytes
    }

    fn append(&mut self, kind: FrameKind, payload: &[u8], bytes: &mut Vec<u8>) {
        let offset = self.offsets.of(kind);
        let start = bytes.len();
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[kind.code(), 0, 0, 0]);
        bytes.extend_from_slice(&offset.to_le_bytes());
        bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        let checksum = checksum(&bytes[start..], payload);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes.extend_from_slice(payload);
        *offset += payload.len() as u64;
    }
}

/// Takes bytes in pieces of any size and gives frames.
///
/// ```
/// use aiprof_capture::frame::{Decoder, Encoder, FrameKind};
///
/// let bytes = Encoder::new().frame(FrameKind::Trace, b"packets");
/// let mut decoder = Decoder::new();
/// decoder.push(&bytes[..9]);
/// assert_eq!(decoder.next(), Ok(None));
/// decoder.push(&bytes[9..]);
/// assert_eq!(decoder.next().unwrap().unwrap().payload, b"packets");
/// ```
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Bytes at the start of `buffer` that were given out already.
    taken: usize,
    offsets: Offsets,
    frames: u64,
    ended: bool,
    failed: Option<FrameError>,
}

impl Decoder {
    /// A decoder at the start of its streams.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds received bytes. Take all frames with [`Self::next`] before adding more, so that no more than one unfinished frame is held.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_some() {
            return;
        }
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, or none until more bytes are pushed.
    #[expect(clippy::should_implement_trait, reason = "none means not yet, and more may follow")]
    pub fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.decode().inspect_err(|error| {
            self.failed = Some(*error);
            self.buffer = Vec::new();
            self.taken = 0;
        })
    }

    /// Says that no more bytes will come.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] unless the last frame was [`FrameKind::End`].
    pub fn finish(&self) -> Result<(), FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let have = self.buffer.len() - self.taken;
        match (self.ended, have) {
            (true, 0) => Ok(()),
            (true, _) => Err(FrameError::AfterEnd),
            (false, _) => Err(FrameError::Truncated { frames: self.frames, have }),
        }
    }

    fn decode(&mut self) -> Result<Option<Frame>, FrameError> {
        let bytes = &self.buffer[self.taken..];
        if self.ended && !bytes.is_empty() {
            return Err(FrameError::AfterEnd);
        }
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let (kind, length) = check_header(header)?;
        let Some(payload) = rest.get(..length) else {
            return Ok(None);
        };
        let expected = u32_at(header, 20);
        let found = checksum(&header[..20], payload);
        if expected != found {
            return Err(FrameError::Checksum { expected, found });
        }
        let offset = u64::from_le_bytes(std::array::from_fn(|index| header[8 + index]));
        let next = self.offsets.of(kind);
        if offset != *next {
            return Err(FrameError::Offset { kind, expected: *next, found: offset });
        }
        *next += length as u64;
        self.frames += 1;
        self.ended = kind == FrameKind::End;
        let payload = payload.to_vec();
        self.taken += HEADER_LEN + length;
        Ok(Some(Frame { kind, offset, payload }))
    }
}

/// Kind and payload length; what can be refused before the payload is there is refused here.
fn check_header(header: &[u8; HEADER_LEN]) -> Result<(FrameKind, usize), FrameError> {
    let found = bytes_at(header, 0);
    if found != MAGIC {
        return Err(FrameError::Magic { found });
    }
    let found = bytes_at(header, 4);
    let kind = FrameKind::from_code(found[0]).filter(|_| found[1..] == [0; 3]).ok_or(FrameError::Kind { found })?;
    let found = u32_at(header, 16) as usize;
    if found > MAX_PAYLOAD {
        return Err(FrameError::Length { found });
    }
    Ok((kind, found))
}

fn bytes_at(header: &[u8; HEADER_LEN], at: usize) -> [u8; 4] {
    std::array::from_fn(|index| header[at + index])
}

fn u32_at(header: &[u8; HEADER_LEN], at: usize) -> u32 {
    u32::from_le_bytes(bytes_at(header, at))
}

fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(payload);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three streams interleaved, with an empty payload among them.
    fn stream() -> (Vec<u8>, Vec<Frame>) {
        let mut encoder = Encoder::new();
        let parts: [(FrameKind, &[u8], u64); 6] = [
            (FrameKind::Trace, b"first", 0),
            (FrameKind::Manifest, b"{", 0),
            (FrameKind::Trace, b"", 5),
            (FrameKind::Trace, b"second", 5),
            (FrameKind::Manifest, b"}", 1),
            (FrameKind::End, b"", 0),
        ];
        let mut bytes = Vec::new();
        let mut frames = Vec::new();
        for (kind, payload, offset) in parts {
            bytes.extend(encoder.frame(kind, payload));
            frames.push(Frame { kind, offset, payload: payload.to_vec() });
        }
        (bytes, frames)
    }

    fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Frame>, FrameError> {
        let mut decoder = Decoder::new();
        let mut frames = Vec::new();
        for piece in pieces {
            decoder.push(piece);
            while let Some(frame) = decoder.next()? {
                frames.push(frame);
            }
        }
        decoder.finish()?;
        Ok(frames)
    }

    #[test]
    fn every_split_gives_the_same_frames() {
        let (bytes, frames) = stream();
        for piece in 1..=bytes.len() {
            assert_eq!(decode(bytes.chunks(piece)).as_ref(), Ok(&frames), "pieces of {piece}");
        }
        for at in 0..=bytes.len() {
            let (head, tail) = bytes.split_at(at);
            assert_eq!(decode([head, tail]).as_ref(), Ok(&frames), "split at {at}");
        }
    }

    #[test]
    fn every_flipped_bit_is_detected() {
        let (bytes, _) = stream();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert!(decode([&damaged[..]]).is_err(), "bit {bit} of byte {at}");
            }
        }
    }

    #[test]
    fn every_truncation_is_detected() {
        let (bytes, _) = stream();
        for length in 0..bytes.len() {
            let error = decode([&bytes[..length]]).unwrap_err();
            assert!(matches!(error, FrameError::Truncated { .. }), "{length}: {error}");
        }
    }

    #[test]
    fn a_lost_frame_is_named_by_its_offset() {
        let mut encoder = Encoder::new();
        let first = encoder.frame(FrameKind::Trace, b"first");
        let _lost = encoder.frame(FrameKind::Trace, b"lost");
        let third = encoder.frame(FrameKind::Trace, b"third");
        let error = decode([&first[..], &third]).unwrap_err();
        assert_eq!(error, FrameError::Offset { kind: FrameKind::Trace, expected: 5, found: 9 });
        assert_eq!(error.to_string(), "the Trace stream has a gap: expected the frame at offset 5, found the one at 9");
    }

    #[test]
    fn a_length_over_the_bound_is_refused_before_its_payload_comes() {
        let mut header = Encoder::new().frame(FrameKind::Trace, b"");
        header[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
        let mut decoder = Decoder::new();
        decoder.push(&header);
        let error = FrameError::Length { found: u32::MAX as usize };
        assert_eq!(decoder.next(), Err(error));
        decoder.push(&header);
        assert_eq!(decoder.next(), Err(error), "an error stays");
    }

    #[test]
    fn other_text_in_the_stream_is_shown() {
        let error = decode([&b"OCI runtime exec failed: exec failed"[..]]).unwrap_err();
        assert_eq!(error, FrameError::Magic { found: *b"OCI " });
    }

    #[test]
    fn bytes_after_the_end_are_refused() {
        let (mut bytes, _) = stream();
        bytes.push(0);
        assert_eq!(decode([&bytes[..]]), Err(FrameError::AfterEnd));
    }

    #[test]
    fn a_long_payload_is_split() {
        let payload: Vec<u8> = (0..MAX_PAYLOAD * 2 + 3).map(|index| index as u8).collect();
        let mut encoder = Encoder::new();
        let mut bytes = encoder.frame(FrameKind::Trace, &payload);
        bytes.extend(encoder.frame(FrameKind::End, b""));
        let frames = decode(bytes.chunks(65_536)).unwrap();
        let offsets: Vec<u64> = frames.iter().map(|frame| frame.offset).collect();
        assert_eq!(offsets, [0, MAX_PAYLOAD as u64, 2 * MAX_PAYLOAD as u64, 0]);
        assert_eq!(frames.into_iter().flat_map(|frame| frame.payload).collect::<Vec<_>>(), payload);
    }
}
