//! A profiler on this machine: a child process, run from memory so that nothing is left on disk.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    future::Future,
    io,
    os::{
        fd::AsRawFd as _,
        unix::{
            ffi::OsStrExt as _,
            process::{CommandExt as _, ExitStatusExt as _},
        },
    },
    path::{Path, PathBuf},
    pin::Pin,
    process::Stdio,
};

use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::memfd::{MFdFlags, memfd_create},
};
use tokio::process::{Child, Command};

use super::LocalError;
use crate::transport::{Connection, Ended, Life, embedded};

/// The profiler for this machine, compressed with gzip; empty in a build without one.
#[cfg(target_arch = "x86_64")]
const EMBEDDED: &[u8] = embedded::X86_64_GZ;
/// The profiler is built for `x86_64` only so far.
#[cfg(not(target_arch = "x86_64"))]
const EMBEDDED: &[u8] = &[];

/// Starts a profiler: the one at `path`, or the embedded one.
pub fn start(path: Option<&Path>) -> Result<Connection, LocalError> {
    let (path, in_memory) = if let Some(path) = path {
        (path.to_owned(), None)
    } else {
        let program = unpack(EMBEDDED)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", program.as_raw_fd()));
        (path, Some(program))
    };
    let mut command = std::process::Command::new(&path);
    command
        .arg0("aiprof-profiler")
        .arg("--stdio")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C of the terminal is for the plugin, which then asks the profiler to stop.
        .process_group(0);
    let spawned = Command::from(command).kill_on_drop(true).spawn();
    drop(in_memory);
    let mut child = spawned.map_err(|source| LocalError::Start { path: path.clone(), source })?;
    let (Some(requests), Some(capture), Some(progress)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        let source = io::Error::other("its standard streams are missing");
        return Err(LocalError::Start { path, source });
    };
    Ok(Connection {
        requests: Box::new(requests),
        capture: Box::new(capture),
        progress: Box::new(progress),
        life: Box::new(LocalLife { child }),
    })
}

/// The words that the process was started with; none if it is not there.
#[must_use]
pub fn command_line(pid: u32) -> Option<Vec<OsString>> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words = bytes.split(|&byte| byte == 0).filter(|word| !word.is_empty());
    Some(words.map(|word| OsStr::from_bytes(word).to_owned()).collect())
}

/// A sealed file in memory that holds the decompressed program.
fn unpack(compressed: &[u8]) -> Result<File, LocalError> {
    if compressed.is_empty() {
        return Err(LocalError::NoneEmbedded);
    }
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // Kernels from 6.3 want to be told that the file is to be run; older ones do not know the flag.
    let executable = MFdFlags::from_bits_retain(nix::libc::MFD_EXEC);
    let file = memfd_create("aiprof-profiler", flags | executable)
        .or_else(|_| memfd_create("aiprof-profiler", flags))
        .map_err(|errno| LocalError::Unpack(errno.into()))?;
    let file = embedded::unpack(compressed, File::from(file)).map_err(LocalError::Unpack)?;
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).map_err(|errno| LocalError::Unpack(errno.into()))?;
    Ok(file)
}

/// Killed when dropped, so that no way out of a capture leaves it running.
struct LocalLife {
    child: Child,
}

impl Life for LocalLife {
    fn ended(&mut self) -> Pin<Box<dyn Future<Output = Ended> + '_>> {
        Box::pin(async {
            match self.child.wait().await {
                Ok(status) => match (status.code(), status.signal()) {
                    (Some(code), _) => Ended::Exited(code),
                    (None, Some(signal)) => Ended::Signalled(signal),
                    (None, None) => Ended::Unknown(format!("{status}")),
                },
                Err(error) => Ended::Unknown(error.to_string()),
            }
        })
    }

    fn kill(&mut self) {
        // It fails only for a process that has ended already.
        let _ = self.child.start_kill();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn compressed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_program_runs_from_memory_and_cannot_be_changed() {
        let program = std::fs::read("/bin/true").unwrap();
        let file = unpack(&compressed(&program)).unwrap();
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let mut held = Vec::new();
        File::open(&path).unwrap().read_to_end(&mut held).unwrap();
        assert_eq!(held, program);
        assert!(std::process::Command::new(&path).status().unwrap().success());
        let error = (&file).write(b"x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn a_process_has_the_words_that_it_was_started_with() {
        assert_eq!(command_line(0), None);
        assert_eq!(command_line(std::process::id()), Some(std::env::args_os().collect()));
    }

    #[test]
    fn a_build_without_a_profiler_says_how_to_get_one() {
        let error = unpack(&[]).unwrap_err();
        assert!(error.to_string().contains("make build"));
    }

    #[test]
    fn what_is_not_gzip_is_an_error() {
        assert!(matches!(unpack(b"no gzip at all, and long enough"), Err(LocalError::Unpack(_))));
    }
}
