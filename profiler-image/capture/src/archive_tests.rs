//! Archives written, read, torn, and not ours.

use std::{collections::BTreeMap, fs};

use super::*;
use crate::{
    manifest::{Clocks, Cost, Host, Outcome, ProcessOutcome, Stream},
    progress::EndReason,
    request::{Dimension, PROTOCOL_VERSION, Request},
};

fn manifest() -> Manifest {
    let partial = Outcome::Partial { reasons: vec!["3 records were lost".into()] };
    Manifest {
        schema: SCHEMA_VERSION,
        profiler_version: "0.1.0".into(),
        request: Request {
            protocol: PROTOCOL_VERSION,
            pids: vec![4242],
            container_id: None,
            processes: vec![],
            duration_ms: Some(10_000),
            frequency_hz: 99,
            collect: vec![Dimension::Python, Dimension::Cpu],
            syscall_min_ns: 0,
        },
        end_reason: EndReason::Duration,
        started_at: "2026-01-02T03:04:05Z".into(),
        duration_ms: 10_001,
        clock: Clocks::default(),
        host: Host::default(),
        dimensions: BTreeMap::from([(Dimension::Python, partial.clone()), (Dimension::Cpu, Outcome::Complete)]),
        processes: vec![ProcessOutcome {
            pid: 4242,
            name: "server".into(),
            python: Some("CPython 3.12.1".into()),
            exited_after_ms: None,
            dimensions: BTreeMap::from([(Dimension::Python, partial)]),
        }],
        streams: BTreeMap::from([("samples".into(), Stream { records: 9, lost: 3, thinned: 0 })]),
        cost: Cost::default(),
        notes: vec![],
    }
}

/// Bytes that gzip cannot make smaller, so that a cut within them is one within the trace.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn trace_file(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file
}

fn written(folder: &Path, trace: &[u8]) -> PathBuf {
    let path = folder.join("server.aiprof.tar.gz");
    write(&path, &manifest(), &mut trace_file(trace)).unwrap();
    path
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn read_trace(path: &Path) -> io::Result<Vec<u8>> {
    let mut trace = Vec::new();
    Archive::open(path).unwrap().trace().unwrap().read_to_end(&mut trace)?;
    Ok(trace)
}

/// A gzipped tar of these entries.
fn tar_gz(folder: &Path, entries: &[(&str, EntryType, &[u8])]) -> PathBuf {
    let path = folder.join("other.tar.gz");
    let mut tar = Builder::new(GzEncoder::new(File::create(&path).unwrap(), Compression::fast()));
    for (name, kind, content) in entries {
        let mut header = Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_entry_type(*kind);
        tar.append_data(&mut header, name, *content).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap();
    path
}

#[test]
fn an_archive_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    for length in [0, 1, 512, 100_000] {
        let trace = noise(length);
        let path = written(folder.path(), &trace);
        let archive = Archive::open(&path).unwrap();
        assert_eq!(archive.manifest(), &manifest());
        assert_eq!(archive.path(), path);
        assert_eq!(archive.trace().unwrap().length(), length as u64);
        assert_eq!(read_trace(&path).unwrap(), trace);
        assert_eq!(names(folder.path()), ["server.aiprof.tar.gz"]);
    }
}

#[cfg(unix)]
#[test]
fn an_archive_can_be_read_by_others_and_by_tar() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let trace = noise(5_000);
    let path = written(folder.path(), &trace);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
    let status =
        std::process::Command::new("tar").arg("-xzf").arg(&path).arg("-C").arg(folder.path()).status().unwrap();
    assert!(status.success());
    assert_eq!(fs::read(folder.path().join(TRACE)).unwrap(), trace);
}

#[test]
fn a_failed_write_leaves_the_old_archive_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(folder.path(), b"old");
    // A trace that cannot be read: opened for writing only.
    let mut unreadable = File::create(folder.path().join("trace")).unwrap();
    unreadable.write_all(b"new").unwrap();
    let error = write(&path, &manifest(), &mut unreadable).unwrap_err();
    assert!(matches!(error, ArchiveError::Write { .. }), "{error}");
    assert_eq!(read_trace(&path).unwrap(), b"old");
    // On Windows it goes with its last handle only.
    drop(unreadable);
    fs::remove_file(folder.path().join("trace")).unwrap();
    assert_eq!(names(folder.path()), ["server.aiprof.tar.gz"]);
}

#[test]
fn a_missing_folder_is_named() {
    let output = Path::new("/nowhere/at/all/x.aiprof.tar.gz");
    let error = write(output, &manifest(), &mut trace_file(b"")).unwrap_err();
    assert_eq!(error.to_string(), "cannot write /nowhere/at/all/x.aiprof.tar.gz: there is no folder /nowhere/at/all");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_said() {
    // The device where every write finds no room; the kind must be told apart from other failures.
    let error = File::options().write(true).open("/dev/full").unwrap().write_all(b"x").unwrap_err();
    let error = write_error(Path::new("x.aiprof.tar.gz"), error);
    assert_eq!(error.to_string(), "cannot write x.aiprof.tar.gz: the disk is full");
    let mut full = File::options().write(true).open("/dev/full").unwrap();
    let error = write_to(&mut full, &manifest(), &mut trace_file(&noise(100_000))).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
}

#[test]
fn what_is_not_there_or_not_gzip_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    assert!(matches!(Archive::open(&path), Err(ArchiveError::Read { .. })));
    for (content, found) in [(&b""[..], "an empty file"), (b"PK\x03\x04", "[50, 4b]")] {
        fs::write(&path, content).unwrap();
        let error = Archive::open(&path).unwrap_err();
        let expected =
            format!("{} is not a kubectl-aiprof archive: expected gzip (1f 8b), found {found}", path.display());
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn other_archives_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let json = serde_json::to_vec(&manifest()).unwrap();
    let long_name = "x".repeat(200);
    let cases: [&[(&str, EntryType, &[u8])]; 4] = [
        &[],
        &[("README.md", EntryType::Regular, b"#")],
        &[(MANIFEST, EntryType::Directory, b"")],
        &[(&long_name, EntryType::Regular, b"")],
    ];
    for entries in cases {
        let error = Archive::open(tar_gz(folder.path(), entries)).unwrap_err();
        assert!(matches!(error, ArchiveError::NotOurs { expected: MANIFEST, .. }), "{error}");
    }
    let no_trace = tar_gz(folder.path(), &[(MANIFEST, EntryType::Regular, &json)]);
    let error = Archive::open(no_trace).unwrap().trace().unwrap_err();
    assert!(matches!(error, ArchiveError::NotOurs { expected: TRACE, .. }), "{error}");
}

#[test]
fn manifests_of_other_versions_or_none_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let open = |json: &[u8]| Archive::open(tar_gz(folder.path(), &[(MANIFEST, EntryType::Regular, json)])).unwrap_err();
    let error = open(br#"{"schema": 99, "later": "fields"}"#);
    assert!(matches!(error, ArchiveError::Schema { found: 99, .. }), "{error}");
    assert!(
        error
            .to_string()
            .ends_with("has the archive schema 99, but this version reads schema 1: use the version that wrote it")
    );
    for json in [&b"{}"[..], b"not json", br#"{"schema": 1}"#, b"[[[[[[["] {
        let error = open(json);
        assert!(matches!(error, ArchiveError::Manifest { .. }), "{error}");
    }
}

#[test]
fn an_archive_cut_anywhere_is_torn() {
    let folder = tempfile::tempdir().unwrap();
    let whole = fs::read(written(folder.path(), &noise(500))).unwrap();
    let path = folder.path().join("torn");
    for length in 2..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let archive = match Archive::open(&path) {
            Ok(archive) => archive,
            Err(error) => {
                assert!(matches!(error, ArchiveError::Torn { .. }), "{length}: {error}");
                continue;
            }
        };
        match archive.trace() {
            Err(error) => assert!(matches!(error, ArchiveError::Torn { .. }), "{length}: {error}"),
            Ok(mut trace) => assert!(io::copy(&mut trace, &mut io::sink()).is_err(), "{length} of {}", whole.len()),
        }
    }
}

#[test]
fn damage_to_the_trace_is_found_by_the_checksum() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(folder.path(), &noise(100_000));
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(read_trace(&path).is_err());
}

#[test]
fn a_huge_manifest_is_refused_before_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("huge");
    let mut header = Header::new_gnu();
    header.set_path(MANIFEST).unwrap();
    header.set_size(MAX_MANIFEST + 1);
    header.set_cksum();
    let mut gz = GzEncoder::new(File::create(&path).unwrap(), Compression::fast());
    gz.write_all(header.as_bytes()).unwrap();
    gz.finish().unwrap();
    let error = Archive::open(&path).unwrap_err();
    assert!(matches!(error, ArchiveError::TooLong { name: MANIFEST, .. }), "{error}");
}
