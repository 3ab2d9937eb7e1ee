//! What the tests of the commands share: the plugin and the stand-in profiler as processes.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;

/// How a process ended and what it said.
#[derive(Debug)]
pub(crate) struct Done {
    /// Exit code; -1 for a signal.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

/// An empty folder.
pub(crate) fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// The plugin, run in `folder`.
pub(crate) fn plugin(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-aiprof"));
    command.current_dir(folder).stdin(Stdio::null()).env_remove("SUDO_UID").env_remove("SUDO_GID");
    command
}

/// `record --local` in `folder` with a stand-in that behaves as told.
pub(crate) fn record(folder: &Path, behaviour: &str) -> Command {
    let mut command = plugin(folder);
    command
        .env("STAND_IN", behaviour)
        .env("STAND_IN_PID", folder.join("pid"))
        .env("AIPROF_PROFILER", stand_in())
        .args(["record", "--local"]);
    command
}

/// Runs it to its end.
pub(crate) fn finish(command: &mut Command) -> Done {
    let output = command.output().unwrap();
    Done {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The stand-in, which cargo builds as an example when it builds all tests.
fn stand_in() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_kubectl-aiprof")).with_file_name("examples").join("stand-in-profiler");
    assert!(path.exists(), "build it first: cargo build -p kubectl-aiprof --examples");
    path
}
