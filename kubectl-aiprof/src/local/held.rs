//! A program that is started but held at its door: its process exists and its id is known before its first instruction runs, so a
//! capture can begin before it does.
//!
//! The process is this binary again, called with `__held`: it waits for one byte on a socket, then becomes the program.
//! A socket that closes without the byte ends it, so nothing stays behind if the plugin dies; one that closes after it says that the
//! program runs; an error number on it says why it does not.

use std::{
    ffi::{OsStr, OsString},
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::{net::UnixStream, process::CommandExt as _},
    },
    process::{ExitCode, ExitStatus},
    time::Duration,
};

use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
    time::timeout,
};

use super::LocalError;

/// First argument of a held process; no command of the user's has this name.
const HELD_ARGUMENT: &str = "__held";
/// Exit code of a held process that could not become the program, as shells have it.
const EXIT_NOT_RUN: u8 = 127;

/// A program of the user's, held until [`Self::release`].
#[derive(Debug)]
pub struct HeldCommand {
    program: OsString,
    child: Child,
    pid: u32,
    gate: tokio::net::UnixStream,
    status: Option<ExitStatus>,
}

impl HeldCommand {
    /// Starts a process for `program` with this process's standard streams.
    pub fn spawn(program: &OsStr, arguments: &[OsString]) -> Result<Self, LocalError> {
        Self::try_spawn(program, arguments).map_err(|source| LocalError::Spawn { program: program.to_owned(), source })
    }

    fn try_spawn(program: &OsStr, arguments: &[OsString]) -> io::Result<Self> {
        let (gate, inherited) = UnixStream::pair()?;
        fcntl(&inherited, FcntlArg::F_SETFD(FdFlag::empty()))?;
        let child = Command::new("/proc/self/exe")
            .arg(HELD_ARGUMENT)
            .arg(inherited.as_raw_fd().to_string())
            .arg(program)
            .args(arguments)
            .kill_on_drop(true)
            .spawn()?;
        drop(inherited);
        gate.set_nonblocking(true)?;
        let pid = child.id().ok_or_else(|| io::Error::other("it ended at once"))?;
        Ok(Self {
            program: program.to_owned(),
            child,
            pid,
            gate: tokio::net::UnixStream::from_std(gate)?,
            status: None,
        })
    }

    /// Its process id, the same before and after the release.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Lets it go and waits until it runs, or until it is known why it does not.
    pub async fn release(&mut self) -> Result<(), LocalError> {
        let answer = async {
            self.gate.write_all(b"g").await?;
            let mut errno = Vec::new();
            (&mut self.gate).take(4).read_to_end(&mut errno).await?;
            Ok::<_, io::Error>(errno)
        };
        let source = match answer.await {
            Ok(errno) => match <[u8; 4]>::try_from(errno.as_slice()) {
                Ok(errno) => io::Error::from_raw_os_error(i32::from_le_bytes(errno)),
                Err(_) => return Ok(()),
            },
            Err(error) => error,
        };
        Err(LocalError::Exec { program: self.program.clone(), source })
    }

    /// Waits until it has ended. May be dropped and called again.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        self.status = Some(status);
        Ok(status)
    }

    /// How it ended, once [`Self::ended`] has returned.
    #[must_use]
    pub const fn status(&self) -> Option<ExitStatus> {
        self.status
    }

    /// Ends it: SIGTERM, and SIGKILL if it is still there after `grace`. Says whether it had to be killed; none if it had ended before.
    pub async fn end(&mut self, grace: Duration) -> Option<bool> {
        if self.status.is_some() || matches!(self.child.try_wait(), Ok(Some(_))) {
            return None;
        }
        // It fails only for a process that has ended: the wait below tells.
        let _ = kill(Pid::from_raw(self.pid.cast_signed()), Signal::SIGTERM);
        if timeout(grace, self.ended()).await.is_ok() {
            return Some(false);
        }
        let _ = self.child.kill().await;
        Some(true)
    }
}

/// If this process was started by [`HeldCommand::spawn`]: waits, then becomes the program. Returns only an exit code of a failure.
#[must_use]
pub fn main_if_held() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != HELD_ARGUMENT {
        return None;
    }
    let gate: RawFd = arguments.next()?.to_str()?.parse().ok().filter(|&fd| fd > 2)?;
    let program = arguments.next()?;
    // SAFETY: the number is that of the socket which `try_spawn` left open for this process, and nothing else here owns it: this runs
    // first in `main`. With a wrong number, called by hand, the read below fails and the process ends.
    let mut gate = UnixStream::from(unsafe { OwnedFd::from_raw_fd(gate) });
    let mut go = [0];
    if gate.read_exact(&mut go).is_err() || fcntl(&gate, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).is_err() {
        return Some(ExitCode::from(EXIT_NOT_RUN));
    }
    let error = std::process::Command::new(program).args(arguments).exec();
    let errno = error.raw_os_error().unwrap_or(nix::libc::ENOENT);
    // If nobody listens any more, nobody needs the reason.
    let _ = gate.write_all(&errno.to_le_bytes());
    Some(ExitCode::from(EXIT_NOT_RUN))
}
