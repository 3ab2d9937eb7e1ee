//! `NAME.aiprof.tar.gz`: `manifest.json`, then `trace.perfetto-trace`.
//!
//! The manifest comes first, so that one look at the start of a file tells whose it is and what it holds. An archive is written
//! beside its final name and renamed when it is complete: there is never half a one under that name.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use flate2::{Compression, bufread::GzDecoder, write::GzEncoder};
use serde::Deserialize;
use tar::{Builder, Entry, EntryType, Header};
use tempfile::NamedTempFile;
use thiserror::Error;

use crate::manifest::{Manifest, SCHEMA_VERSION};

/// First entry.
const MANIFEST: &str = "manifest.json";
/// Second entry.
const TRACE: &str = "trace.perfetto-trace";
/// Longest manifest, in bytes.
const MAX_MANIFEST: u64 = 16 << 20;
/// Longest trace, in bytes: far more than a browser can load.
const MAX_TRACE: u64 = 64 << 30;

/// Why an archive cannot be written or read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The folder of the output is not there.
    #[error("cannot write {}: there is no folder {}", output.display(), folder.display())]
    NoFolder {
        /// The archive.
        output: PathBuf,
        /// Its folder.
        folder: PathBuf,
    },
    /// No room.
    #[error("cannot write {}: the disk is full", output.display())]
    DiskFull {
        /// The archive.
        output: PathBuf,
    },
    /// Another failure of writing.
    #[error("cannot write {}: {source}", output.display())]
    Write {
        /// The archive.
        output: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be opened or read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The archive.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is something else.
    #[error("{} is not a kubectl-aiprof archive: expected {expected}, found {found}", path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// What should be there.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// It ends early or was changed.
    #[error("{} is torn or damaged: {source}", path.display())]
    Torn {
        /// The archive.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// It was written by another version.
    #[error(
        "{} has the archive schema {found}, but this version reads schema {SCHEMA_VERSION}: use the version that wrote it",
        path.display()
    )]
    Schema {
        /// The archive.
        path: PathBuf,
        /// Its schema.
        found: u64,
    },
    /// The manifest is none.
    #[error("the manifest of {} cannot be understood: {source}", path.display())]
    Manifest {
        /// The archive.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A part is too long.
    #[error("{name} in {} is too long: at most {limit} bytes are allowed, found {found}", path.display())]
    TooLong {
        /// The archive.
        path: PathBuf,
        /// The part.
        name: &'static str,
        /// Allowed, in bytes.
        limit: u64,
        /// Found, in bytes.
        found: u64,
    },
}

/// Writes an archive with this manifest and the whole content of `trace`, from its start.
///
/// An archive of the same name is replaced, at once and only when the new one is complete and on the disk.
///
/// # Errors
/// [`ArchiveError::NoFolder`], [`ArchiveError::DiskFull`], [`ArchiveError::Write`]; then nothing is left behind.
pub fn write(output: &Path, manifest: &Manifest, trace: &mut File) -> Result<(), ArchiveError> {
    let folder = match output.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        return Err(ArchiveError::NoFolder { output: output.into(), folder: folder.into() });
    }
    try_write(folder, output, manifest, trace).map_err(|source| write_error(output, source))
}

fn write_error(output: &Path, source: io::Error) -> ArchiveError {
    let output = output.into();
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ArchiveError::DiskFull { output },
        _ => ArchiveError::Write { output, source },
    }
}

fn try_write(folder: &Path, output: &Path, manifest: &Manifest, trace: &mut File) -> io::Result<()> {
    // Removed when dropped; a kill at least leaves a name that says what it is.
    let mut file = tempfile::Builder::new().prefix(".aiprof-").suffix(".partial").tempfile_in(folder)?;
    write_to(file.as_file_mut(), manifest, trace)?;
    readable_by_others(&file)?;
    file.as_file().sync_all()?;
    file.persist(output).map_err(|error| error.error)?;
    sync_folder(folder)
}

fn write_to(output: &mut File, manifest: &Manifest, trace: &mut File) -> io::Result<()> {
    let manifest = serde_json::to_vec_pretty(manifest)?;
    let length = trace.seek(SeekFrom::End(0))?;
    trace.rewind()?;

    // The trace is compressed already.
    let gz = GzEncoder::new(BufWriter::new(output), Compression::fast());
    let mut tar = Builder::new(gz);
    append(&mut tar, MANIFEST, manifest.len() as u64, &*manifest)?;
    append(&mut tar, TRACE, length, trace.take(length))?;
    tar.into_inner()?.finish()?.flush()
}

fn append(tar: &mut Builder<impl Write>, name: &str, length: u64, content: impl Read) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_size(length);
    header.set_mode(0o644);
    header.set_mtime(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()));
    tar.append_data(&mut header, name, content)
}

/// Temporary files are their owner's only; an archive is made under sudo and looked at without.
#[cfg(unix)]
fn readable_by_others(file: &NamedTempFile) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "as on Unix")]
fn readable_by_others(_file: &NamedTempFile) -> io::Result<()> {
    Ok(())
}

/// Makes the new name last.
#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "as on Unix")]
fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}

/// An archive that is there.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    manifest: Manifest,
}

/// An archive, unpacked as it is read.
type Tar = tar::Archive<GzDecoder<BufReader<File>>>;

impl Archive {
    /// Opens an archive and reads its manifest. The trace is looked at by [`Self::trace`].
    ///
    /// # Errors
    /// Every [`ArchiveError`] that is about reading.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, ArchiveError> {
        let path = path.into();
        let mut tar = open_tar(&path)?;
        let mut entries = entries_of(&mut tar).map_err(torn(&path))?;
        let mut entry = next_entry(&path, entries.next(), MANIFEST, MAX_MANIFEST)?;
        let mut json = Vec::new();
        entry.read_to_end(&mut json).map_err(torn(&path))?;
        let manifest = parse_manifest(&path, &json)?;
        Ok(Self { path, manifest })
    }

    /// The manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bytes of the trace.
    ///
    /// # Errors
    /// The trace is not there or too long. What is torn further on is an error of the reader, of kind
    /// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) or [`InvalidInput`](io::ErrorKind::InvalidInput).
    pub fn trace(&self) -> Result<TraceEntry, ArchiveError> {
        let mut tar = open_tar(&self.path)?;
        let mut entries = entries_of(&mut tar).map_err(torn(&self.path))?;
        next_entry(&self.path, entries.next(), MANIFEST, MAX_MANIFEST)?;
        let length = next_entry(&self.path, entries.next(), TRACE, MAX_TRACE)?.size();
        drop(entries);
        // What follows in the stream is the trace, and then the padding that ends a tar file.
        Ok(TraceEntry { source: tar.into_inner(), length, left: length })
    }
}

/// The trace of an archive, read once from its start.
#[derive(Debug)]
pub struct TraceEntry {
    source: GzDecoder<BufReader<File>>,
    length: u64,
    left: u64,
}

impl TraceEntry {
    /// Bytes of the whole trace.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Reads over the padding after the trace, so that the checksum at the very end is verified too.
    fn finish(&mut self) -> io::Result<()> {
        // Padding to a block, the two empty blocks of the end, and padding to a record of 20 blocks.
        const MAX_PADDING: u64 = 512 * 32;
        let padding = io::copy(&mut (&mut self.source).take(MAX_PADDING + 1), &mut io::sink())?;
        if padding > MAX_PADDING {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the archive goes on after the trace"));
        }
        Ok(())
    }
}

impl Read for TraceEntry {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || self.left == 0 {
            return Ok(0);
        }
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.source.read(&mut buffer[..wanted])?;
        if read == 0 {
            let message = format!("the trace ends {} bytes early", self.left);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        self.left -= read as u64;
        if self.left == 0 {
            self.finish()?;
        }
        Ok(read)
    }
}

fn open_tar(path: &Path) -> Result<Tar, ArchiveError> {
    let read_error = |source| ArchiveError::Read { path: path.into(), source };
    let mut file = File::open(path).map_err(read_error)?;
    let mut start = Vec::new();
    (&mut file).take(2).read_to_end(&mut start).map_err(read_error)?;
    if start != [0x1f, 0x8b] {
        return Err(ArchiveError::NotOurs {
            path: path.into(),
            expected: "gzip (1f 8b)",
            found: match &*start {
                [] => "an empty file".into(),
                bytes => format!("{bytes:02x?}"),
            },
        });
    }
    file.rewind().map_err(read_error)?;
    Ok(tar::Archive::new(GzDecoder::new(BufReader::new(file))))
}

/// The entries as they lie there: long names and other extensions, which we never write, would be read without a bound.
fn entries_of<R: Read>(tar: &mut tar::Archive<R>) -> io::Result<impl Iterator<Item = io::Result<Entry<'_, R>>>> {
    Ok(tar.entries()?.raw(true))
}

/// Checks that an entry is there, has the expected name, is a file and not too long.
fn next_entry<'a, R: Read>(
    path: &Path,
    entry: Option<io::Result<Entry<'a, R>>>,
    expected: &'static str,
    limit: u64,
) -> Result<Entry<'a, R>, ArchiveError> {
    let not_ours = |found| ArchiveError::NotOurs { path: path.into(), expected, found };
    let entry = entry.ok_or_else(|| not_ours("the end of the file".into()))?.map_err(torn(path))?;
    let name = entry.path_bytes();
    if *name != *expected.as_bytes() {
        let name = String::from_utf8_lossy(&name[..name.len().min(100)]);
        return Err(not_ours(format!("{name:?}")));
    }
    drop(name);
    if entry.header().entry_type() != EntryType::Regular {
        return Err(not_ours("something of that name that is not a file".into()));
    }
    if entry.size() > limit {
        return Err(ArchiveError::TooLong { path: path.into(), name: expected, limit, found: entry.size() });
    }
    Ok(entry)
}

fn parse_manifest(path: &Path, json: &[u8]) -> Result<Manifest, ArchiveError> {
    /// What all versions have in common.
    #[derive(Deserialize)]
    struct Versioned {
        schema: u64,
    }
    let manifest_error = |source| ArchiveError::Manifest { path: path.into(), source };
    let Versioned { schema } = serde_json::from_slice(json).map_err(manifest_error)?;
    if schema != u64::from(SCHEMA_VERSION) {
        return Err(ArchiveError::Schema { path: path.into(), found: schema });
    }
    serde_json::from_slice(json).map_err(manifest_error)
}

fn torn(path: &Path) -> impl Fn(io::Error) -> ArchiveError {
    move |source| ArchiveError::Torn { path: path.into(), source }
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
