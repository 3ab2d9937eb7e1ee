//! The packets of a trace file, one at a time, whether in compressed blocks or not.

use std::io::{BufReader, Cursor, ErrorKind, Read};

use flate2::read::ZlibDecoder;
use prost::Message;
use thiserror::Error;

use super::proto::{self, TracePacket};

/// Longest packet, in bytes; a compressed block is one.
pub(super) const MAX_PACKET: u64 = 1 << 20;
/// Most bytes of the packets of one compressed block.
pub(super) const MAX_BLOCK: u64 = 64 << 20;

/// Why a trace cannot be read, or not further.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The source failed.
    #[error("the trace cannot be read: {0}")]
    Io(#[source] std::io::Error),
    /// It is something else.
    #[error("this is not a Perfetto trace: expected a packet's first byte 0a at offset {offset}, found {found:02x}")]
    NotATrace {
        /// Bytes of the file, or of the block, before it.
        offset: u64,
        /// The byte found.
        found: u8,
    },
    /// It ends within a packet.
    #[error("the trace is cut off within the packet at offset {offset}")]
    Truncated {
        /// Where the packet begins in the file, or in the block.
        offset: u64,
    },
    /// A packet, or the packets of a block, are too long.
    #[error("a {what} of the trace is too long: at most {limit} bytes are allowed, found {found}")]
    TooLong {
        /// `packet` or `block`.
        what: &'static str,
        /// Allowed, in bytes.
        limit: u64,
        /// Found, in bytes; for a block, so far.
        found: u64,
    },
    /// A block cannot be decompressed.
    #[error("a compressed block of the trace is damaged: {0}")]
    Damaged(#[source] std::io::Error),
    /// A compressed block holds another.
    #[error("a compressed block of the trace holds another one")]
    NestedBlock,
    /// A packet is no protobuf of the expected kind.
    #[error("the packet at offset {offset} of the trace, or of one of its blocks, is damaged: {source}")]
    Packet {
        /// Where it begins in the file, or in the block.
        offset: u64,
        /// What is wrong.
        source: prost::DecodeError,
    },
    /// A number means nothing.
    #[error("the trace refers to {table} {iid}, which it did not define before")]
    Undefined {
        /// Kind of number.
        table: &'static str,
        /// The number.
        iid: u64,
    },
    /// A text is not UTF-8.
    #[error("{table} {iid} of the trace is not UTF-8")]
    NotUtf8 {
        /// Kind of number.
        table: &'static str,
        /// The number.
        iid: u64,
    },
    /// A field is missing without which a packet says nothing.
    #[error("a {packet} of the trace lacks its {field}")]
    Missing {
        /// The packet.
        packet: &'static str,
        /// The field.
        field: &'static str,
    },
    /// Begin and end of a state do not alternate.
    #[error("thread {tid} of process {pid} {what}")]
    Unpaired {
        /// Process.
        pid: u32,
        /// Thread.
        tid: u32,
        /// `begins a state within another`, `ends a state that did not begin`.
        what: &'static str,
    },
    /// More definitions than a reader keeps.
    #[error("the trace defines too many {what}: at most {limit} are allowed")]
    TooMany {
        /// What.
        what: &'static str,
        /// How many.
        limit: usize,
    },
}

/// One packet and where it begins.
fn next_of(source: &mut impl Read, offset: &mut u64) -> Result<Option<Vec<u8>>, TraceError> {
    let start = *offset;
    let truncated = TraceError::Truncated { offset: start };
    let Some(tag) = next_byte(source, offset)? else {
        return Ok(None);
    };
    if tag != proto::PACKET_TAG {
        return Err(TraceError::NotATrace { offset: start, found: tag });
    }
    let mut length = 0_u64;
    for shift in (0..).step_by(7) {
        let Some(byte) = next_byte(source, offset)? else {
            return Err(truncated);
        };
        length |= u64::from(byte & 0x7f) << shift;
        if length > MAX_PACKET || shift > 28 {
            return Err(TraceError::TooLong { what: "packet", limit: MAX_PACKET, found: length });
        }
        if byte < 0x80 {
            break;
        }
    }
    let mut packet = Vec::new();
    source.take(length).read_to_end(&mut packet).map_err(TraceError::Io)?;
    *offset += packet.len() as u64;
    if (packet.len() as u64) < length {
        return Err(truncated);
    }
    Ok(Some(packet))
}

fn next_byte(source: &mut impl Read, offset: &mut u64) -> Result<Option<u8>, TraceError> {
    let mut byte = [0];
    loop {
        match source.read(&mut byte) {
            Ok(0) => return Ok(None),
            Ok(_) => {
                *offset += 1;
                return Ok(Some(byte[0]));
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(TraceError::Io(error)),
        }
    }
}

/// A compressed block that is being read.
struct Block {
    source: BufReader<ZlibDecoder<Cursor<Vec<u8>>>>,
    offset: u64,
}

/// Packets of a file.
pub(super) struct Packets<R> {
    source: BufReader<R>,
    offset: u64,
    block: Option<Block>,
}

impl<R: Read> Packets<R> {
    pub(super) fn new(source: R) -> Self {
        Self { source: BufReader::new(source), offset: 0, block: None }
    }

    /// The next packet that is not itself a block.
    pub(super) fn next(&mut self) -> Result<Option<TracePacket>, TraceError> {
        loop {
            if let Some(packet) = self.next_of_block()? {
                return Ok(Some(packet));
            }
            let offset = self.offset;
            let Some(bytes) = next_of(&mut self.source, &mut self.offset)? else {
                return Ok(None);
            };
            let packet = decode(&bytes, offset)?;
            let Some(compressed) = packet.compressed_packets else {
                return Ok(Some(packet));
            };
            self.block = Some(Block { source: BufReader::new(ZlibDecoder::new(Cursor::new(compressed))), offset: 0 });
        }
    }

    fn next_of_block(&mut self) -> Result<Option<TracePacket>, TraceError> {
        let Some(block) = &mut self.block else {
            return Ok(None);
        };
        let offset = block.offset;
        let bytes = next_of(&mut block.source, &mut block.offset).map_err(|error| match error {
            TraceError::Io(error) => TraceError::Damaged(error),
            other => other,
        })?;
        let Some(bytes) = bytes else {
            self.block = None;
            return Ok(None);
        };
        if block.offset > MAX_BLOCK {
            return Err(TraceError::TooLong { what: "block", limit: MAX_BLOCK, found: block.offset });
        }
        let packet = decode(&bytes, offset)?;
        // A block within a block would be a way round the bound.
        if packet.compressed_packets.is_some() {
            return Err(TraceError::NestedBlock);
        }
        Ok(Some(packet))
    }
}

fn decode(bytes: &[u8], offset: u64) -> Result<TracePacket, TraceError> {
    TracePacket::decode(bytes).map_err(|source| TraceError::Packet { offset, source })
}
