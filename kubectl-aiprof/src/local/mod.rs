//! Processes of this machine: all that `--local` needs beyond a capture. It is for Linux alone; elsewhere the same names exist and
//! refuse, so that nothing above this module asks which system it is.
//!
//! [`start`] runs a profiler as a child process, [`HeldCommand`] is a program that waits until it may run.

#[cfg(not(target_os = "linux"))]
mod elsewhere;
#[cfg(target_os = "linux")]
mod held;
#[cfg(target_os = "linux")]
mod profiler;

use std::{ffi::OsString, io, path::PathBuf};

use thiserror::Error;

#[cfg(not(target_os = "linux"))]
pub use self::elsewhere::{HeldCommand, command_line, main_if_held, start};
#[cfg(target_os = "linux")]
pub use self::{
    held::{HeldCommand, main_if_held},
    profiler::{command_line, start},
};

/// Why nothing of this machine is recorded.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LocalError {
    /// This is not Linux.
    #[error(
        "--local works on Linux only, and this is {os}; to record a pod of a cluster, give a TARGET such as pod/NAME",
        os = std::env::consts::OS
    )]
    NotLinux,
    /// This binary was built without a profiler.
    #[error(
        "this build carries no profiler for {arch}; build it with `make build` (x86_64 only so far), \
         or name one with the variable AIPROF_PROFILER",
        arch = std::env::consts::ARCH
    )]
    NoneEmbedded,
    /// The embedded profiler could not be put into memory.
    #[error("cannot unpack the profiler into memory: {0}")]
    Unpack(#[source] io::Error),
    /// The profiler does not start.
    #[error("cannot start the profiler {path}: {source}; check that it is a program for this machine")]
    Start {
        /// What was to be run.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// No process for the user's program.
    #[error("cannot start a process for {program:?}: {source}")]
    Spawn {
        /// The program.
        program: OsString,
        /// Why not.
        source: io::Error,
    },
    /// A process, but it cannot become the user's program.
    #[error("cannot run {program:?}: {source}; check its name, or give its path")]
    Exec {
        /// The program.
        program: OsString,
        /// Why not.
        source: io::Error,
    },
}
