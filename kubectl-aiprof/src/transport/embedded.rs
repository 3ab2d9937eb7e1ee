//! The profiler that this binary carries.

use std::io::{self, Write};

use flate2::write::GzDecoder;

/// For Linux on `x86_64`, compressed with gzip; empty in a build without one.
pub const X86_64_GZ: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/profiler-x86_64.gz"));

/// The program for `x86_64`; none in a build without one.
///
/// # Errors
/// What this binary carries is damaged.
pub fn x86_64() -> io::Result<Option<Vec<u8>>> {
    if X86_64_GZ.is_empty() { Ok(None) } else { unpack(X86_64_GZ, Vec::new()).map(Some) }
}

/// Writes the program that is compressed here.
///
/// # Errors
/// It is no gzip, or cannot be written.
pub fn unpack<W: Write>(compressed: &[u8], into: W) -> io::Result<W> {
    let mut decoder = GzDecoder::new(into);
    decoder.write_all(compressed)?;
    decoder.finish()
}
