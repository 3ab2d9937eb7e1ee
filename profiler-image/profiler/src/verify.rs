//! Whether this program is, byte for byte, the one that was sent.

use std::{fs::File, io, path::Path};

use sha2::{Digest as _, Sha256};

/// SHA-256 of a file, in hexadecimal.
pub fn sha256(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        match io::Read::read(&mut file, &mut buffer)? {
            0 => break,
            read => hasher.update(&buffer[..read]),
        }
    }
    Ok(format!("{:x}", hasher.finalize()))
}

/// Compares this program with `expected`; the error is one sentence.
pub fn own(expected: &str) -> Result<(), String> {
    let found = sha256(Path::new("/proc/self/exe")).map_err(|error| format!("this program cannot be read: {error}"))?;
    if found.eq_ignore_ascii_case(expected) {
        return Ok(());
    }
    Err(format!("this program arrived damaged: expected the SHA-256 {expected}, found {found}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_as_sha256sum_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        // FIPS 180-2, appendix B.1.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(&path).unwrap(), expected);
        assert!(own(expected).unwrap_err().contains("arrived damaged"));
        assert_eq!(own(&sha256(Path::new("/proc/self/exe")).unwrap().to_uppercase()), Ok(()));
    }
}
