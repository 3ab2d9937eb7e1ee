//! Where a capture goes: the archive's path, and the unnamed file that holds the trace until the archive is written.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use super::{RecordError, Target};
use crate::{cluster::TargetName, local};

/// What every archive's name ends with.
const SUFFIX: &str = ".aiprof.tar.gz";
/// The longest name made from a process's name, in bytes.
const MAX_NAME_BYTES: usize = 80;
/// How many numbered names are tried before giving up.
const MAX_NUMBER: u32 = 9_999;
/// Python's options that take the next word as their value.
const PYTHON_OPTIONS_WITH_VALUE: [&str; 3] = ["-W", "-X", "--check-hash-based-pycs"];

/// Where the archive goes: as asked, else a free name in the current folder.
pub fn archive_path(given: Option<&Path>, target: &Target) -> Result<PathBuf, RecordError> {
    if let Some(given) = given {
        if given.is_dir() {
            let source = io::Error::from(io::ErrorKind::IsADirectory);
            return Err(RecordError::Output { path: given.to_owned(), source });
        }
        return Ok(given.to_owned());
    }
    let name = target_name(target);
    let numbered = (2..=MAX_NUMBER).map(|number| PathBuf::from(format!("{name}-{number}{SUFFIX}")));
    std::iter::once(PathBuf::from(format!("{name}{SUFFIX}")))
        .chain(numbered)
        .find(|path| path.symlink_metadata().is_err())
        .ok_or_else(|| RecordError::Output {
            path: PathBuf::from(format!("{name}{SUFFIX}")),
            source: io::Error::from(io::ErrorKind::AlreadyExists),
        })
}

/// The trace until the archive is written: an unnamed file, gone with the process however that ends.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    file: File,
    bytes: u64,
}

impl Spool {
    /// A spool in the folder of `archive`, on the disk that will have to hold the archive.
    pub fn create(archive: &Path) -> Result<Self, RecordError> {
        let folder = match archive.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        match tempfile::tempfile_in(&folder) {
            Ok(file) => Ok(Self { folder, file, bytes: 0 }),
            Err(source) => Err(RecordError::Output { path: archive.to_owned(), source }),
        }
    }

    /// Appends to it.
    pub fn write(&mut self, trace: &[u8]) -> Result<(), RecordError> {
        self.bytes += trace.len() as u64;
        self.file.write_all(trace).map_err(|source| self.failed(source))
    }

    /// Its length in bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The file.
    pub const fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// What a failure to write means.
    #[must_use]
    pub fn failed(&self, source: io::Error) -> RecordError {
        RecordError::Spool { folder: self.folder.clone(), source }
    }
}

/// A file's name for a target: `server` for `python3 server.py`.
fn target_name(target: &Target) -> String {
    let name = match target {
        Target::Command { program, arguments } => command_name(program, arguments.iter().map(AsRef::as_ref)),
        Target::Running { pids, processes } => match (processes.first(), pids.first()) {
            (Some(pattern), _) => pattern.clone(),
            (None, Some(&pid)) => process_name(pid).unwrap_or_else(|| format!("pid-{pid}")),
            (None, None) => "capture".to_owned(),
        },
        Target::Pod { cluster, .. } => match &cluster.target {
            TargetName::Pod(name) | TargetName::Workload(_, name) | TargetName::Selector(name) => name.clone(),
        },
    };
    file_name(&name)
}

fn process_name(pid: u32) -> Option<String> {
    let words = local::command_line(pid)?;
    let (program, arguments) = words.split_first()?;
    Some(command_name(program, arguments.iter().map(AsRef::as_ref)))
}

/// The script or module of a Python command, else the program.
fn command_name<'a>(program: &OsStr, mut arguments: impl Iterator<Item = &'a OsStr>) -> String {
    let program = stem(program);
    if !program.starts_with("python") && !program.starts_with("pypy") {
        return program;
    }
    while let Some(argument) = arguments.next().map(OsStr::to_string_lossy) {
        match &*argument {
            "-m" => {
                return arguments.next().map_or(program, |module| module.to_string_lossy().into_owned());
            }
            "-c" | "-" => return program,
            option if PYTHON_OPTIONS_WITH_VALUE.contains(&option) => drop(arguments.next()),
            option if option.starts_with('-') => {}
            script => return stem(OsStr::new(script)),
        }
    }
    program
}

/// The last part of a path, without `.py`.
fn stem(path: &OsStr) -> String {
    let name = Path::new(path).file_name().unwrap_or(path).to_string_lossy();
    name.strip_suffix(".py").unwrap_or(&name).to_owned()
}

/// Letters, digits and `._-` of a name, no dot or dash in front, never empty.
fn file_name(name: &str) -> String {
    let mut plain = String::new();
    for char in name.chars() {
        if plain.len() >= MAX_NAME_BYTES {
            break;
        }
        if char.is_alphanumeric() || matches!(char, '.' | '_' | '-') {
            plain.push(char);
        } else if !plain.ends_with('-') {
            plain.push('-');
        }
    }
    let plain = plain.trim_matches(['-', '.']);
    if plain.is_empty() { "capture".to_owned() } else { plain.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn name(words: &[&str]) -> String {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        target_name(&Target::Command { program: words[0].clone(), arguments: words[1..].to_vec() })
    }

    #[test]
    fn archives_are_named_after_the_script() {
        assert_eq!(name(&["python3", "server.py", "--port", "1"]), "server");
        assert_eq!(name(&["/usr/bin/python3.12", "-u", "-X", "dev", "/srv/app/main.py"]), "main");
        assert_eq!(name(&["python", "-m", "http.server", "8000"]), "http.server");
        assert_eq!(name(&["python3", "-c", "pass"]), "python3");
        assert_eq!(name(&["/usr/local/bin/vllm", "serve"]), "vllm");
    }

    #[test]
    fn titles_become_plain_file_names() {
        assert_eq!(file_name("VLLM::Worker_TP0"), "VLLM-Worker_TP0");
        assert_eq!(file_name("../../etc/passwd"), "etc-passwd");
        assert_eq!(file_name("\u{1b}[2J"), "2J");
        assert_eq!(file_name("..."), "capture");
        assert!(file_name(&"x".repeat(500)).len() <= MAX_NAME_BYTES);
    }

    #[test]
    fn a_folder_is_no_archive() {
        let folder = tempfile::tempdir().unwrap();
        let target = Target::Running { pids: vec![], processes: vec![] };
        assert!(matches!(archive_path(Some(folder.path()), &target), Err(RecordError::Output { .. })));
        let missing = folder.path().join("missing/x.aiprof.tar.gz");
        assert!(matches!(Spool::create(&missing), Err(RecordError::Output { .. })));
    }
}
