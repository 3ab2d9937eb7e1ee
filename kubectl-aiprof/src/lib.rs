//! The plugin: what runs on the user's machine.
//!
//! - [`advice`]: what to do about an archive that cannot be written or read.
//! - [`check`]: what would work in a pod, and the processes in it.
//! - [`cli`]: the command line, and nothing but; turned into the plain `…Props` that the commands take.
//! - [`cluster`]: a profiler in a pod, from what the user named to a container that can be spoken to.
//! - [`mod@format`]: the forms of an answer; [`strings`] and `table`: what the commands share to write one.
//! - [`local`]: processes of this machine; [`platform`]: what else differs between systems.
//! - [`record`]: a capture, from the request to the archive.
//! - [`transport`]: bytes to and from a profiler; a child process or sessions into a pod.
//! - [`open`]: the trace of an archive, shown by the Perfetto UI.
//! - [`report`]: the trace of an archive, summed up as text or JSON.

pub mod advice;
pub mod check;
pub mod cli;
pub mod cluster;
pub mod format;
pub mod local;
pub mod open;
pub mod platform;
pub mod record;
pub mod report;
pub mod strings;
mod table;
pub mod transport;

use std::{ffi::OsString, process::ExitCode};

use cli::Invocation;

/// Exit code of a command that failed.
pub const EXIT_FAILED: u8 = 1;
/// Exit code of an archive in which something asked for is missing or partial.
pub const EXIT_PARTIAL: u8 = 3;
/// Exit code of a capture that the user gave up: 128 + SIGINT, as shells have it.
pub const EXIT_GIVEN_UP: u8 = 130;

/// Runs the command of this process's own command line.
#[must_use]
pub fn main() -> ExitCode {
    if let Some(code) = local::main_if_held() {
        return code;
    }
    match run(std::env::args_os()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// Runs one command; usage errors, help and version end the process as clap has it.
fn run(arguments: impl IntoIterator<Item = OsString>) -> anyhow::Result<ExitCode> {
    match cli::parse(arguments) {
        Invocation::Record(props) => Ok(ExitCode::from(record::run(&props)?)),
        Invocation::Check(props) => Ok(ExitCode::from(check::run(&props)?)),
        Invocation::Ps(props) => {
            check::ps::run(&props)?;
            Ok(ExitCode::SUCCESS)
        }
        Invocation::Open(props) => {
            open::run(&props)?;
            Ok(ExitCode::SUCCESS)
        }
        Invocation::Report(props) => {
            report::run(&props)?;
            Ok(ExitCode::SUCCESS)
        }
        Invocation::Completion(shell) => {
            cli::write_completion(shell, &mut std::io::stdout())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
