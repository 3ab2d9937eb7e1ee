//! What the server sends over the one socket: frame bytes, progress lines and the exit status, told apart by a header of 5 bytes
//! (kind, then the payload's length as a little-endian `u32`).

use std::io::{self, Read, Write};

/// Most bytes of one payload.
pub(super) const MAX_PAYLOAD: usize = 1 << 20;

/// What a payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Bytes of the frame stream.
    Stream = 1,
    /// A progress line.
    Progress = 2,
    /// The exit status, one byte; nothing follows.
    Status = 3,
}

/// Sends a packet.
pub(super) fn write(mut to: impl Write, kind: Kind, payload: &[u8]) -> io::Result<()> {
    debug_assert!(payload.len() <= MAX_PAYLOAD);
    let mut packet = Vec::with_capacity(5 + payload.len());
    packet.push(kind as u8);
    packet.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    packet.extend_from_slice(payload);
    to.write_all(&packet)
}

/// Waits for a packet, whose payload replaces what is in `payload`. None: the other side has closed.
pub(super) fn read(mut from: impl Read, payload: &mut Vec<u8>) -> io::Result<Option<Kind>> {
    let mut header = [0; 5];
    if from.read(&mut header[..1])? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut header[1..])?;
    let [kind, length @ ..] = header;
    let kind = [Kind::Stream, Kind::Progress, Kind::Status].into_iter().find(|each| *each as u8 == kind);
    let length = u32::from_le_bytes(length) as usize;
    let Some(kind) = kind.filter(|_| length <= MAX_PAYLOAD) else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the socket is another program's"));
    };
    payload.resize(length, 0);
    from.read_exact(payload)?;
    Ok(Some(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_back_whole_and_torn_ones_are_errors() {
        let mut bytes = Vec::new();
        write(&mut bytes, Kind::Stream, b"frames").unwrap();
        write(&mut bytes, Kind::Status, &[0]).unwrap();
        let mut payload = Vec::new();
        let mut left = bytes.as_slice();
        assert_eq!(read(&mut left, &mut payload).unwrap(), Some(Kind::Stream));
        assert_eq!(payload, b"frames");
        assert_eq!(read(&mut left, &mut payload).unwrap(), Some(Kind::Status));
        assert_eq!(read(&mut left, &mut payload).unwrap(), None);
        assert_eq!(read(&bytes[..4], &mut payload).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(read(&bytes[..9], &mut payload).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        for hostile in [[9, 0, 0, 0, 0], [1, 255, 255, 255, 255]] {
            assert_eq!(read(&hostile[..], &mut payload).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }
}
