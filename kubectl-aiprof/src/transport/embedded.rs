//! The profiler that this binary carries.

use std::io::{self, Read as _};

use flate2::read::GzDecoder;

/// For Linux on `x86_64`, compressed with gzip; empty in a build without one.
pub const X86_64_GZ: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/profiler-x86_64.gz"));
/// The largest program that is unpacked, in bytes.
const MAX_BYTES: u64 = 256 << 20;

/// The program for `x86_64`; none in a build without one.
///
/// # Errors
/// What this binary carries is damaged.
pub fn x86_64() -> io::Result<Option<Vec<u8>>> {
    if X86_64_GZ.is_empty() {
        return Ok(None);
    }
    let mut program = Vec::new();
    GzDecoder::new(X86_64_GZ).take(MAX_BYTES).read_to_end(&mut program)?;
    Ok(Some(program))
}
