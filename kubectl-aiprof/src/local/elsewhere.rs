//! What stands for [`crate::local`] where this is not Linux: it refuses, and no [`HeldCommand`] ever exists.

#![expect(clippy::unused_async, reason = "as on Linux")]

use std::{
    ffi::{OsStr, OsString},
    io,
    path::Path,
    process::{ExitCode, ExitStatus},
    time::Duration,
};

use super::LocalError;
use crate::transport::Connection;

/// No value of it.
#[derive(Debug)]
pub enum HeldCommand {}

impl HeldCommand {
    /// Refuses.
    pub fn spawn(_program: &OsStr, _arguments: &[OsString]) -> Result<Self, LocalError> {
        Err(LocalError::NotLinux)
    }

    /// Never called.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        match *self {}
    }

    /// Never called.
    pub async fn release(&mut self) -> Result<(), LocalError> {
        match *self {}
    }

    /// Never called.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        match *self {}
    }

    /// Never called.
    #[must_use]
    pub const fn status(&self) -> Option<ExitStatus> {
        match *self {}
    }

    /// Never called.
    pub async fn end(&mut self, _grace: Duration) -> Option<bool> {
        match *self {}
    }
}

/// Refuses.
pub fn start(_profiler: Option<&Path>) -> Result<Connection, LocalError> {
    Err(LocalError::NotLinux)
}

/// Not known here.
#[must_use]
pub const fn command_line(_pid: u32) -> Option<Vec<OsString>> {
    None
}

/// No process of this binary is ever held.
#[must_use]
pub const fn main_if_held() -> Option<ExitCode> {
    None
}
