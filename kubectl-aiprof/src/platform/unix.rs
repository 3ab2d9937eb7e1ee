//! Linux and macOS.

use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt as _, lchown},
    path::Path,
};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end a command early.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    /// From now on these signals no longer end this process.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// Fills `piece` with the file's bytes from `offset` on.
pub fn read_exact_at(file: &File, piece: &mut [u8], offset: u64) -> io::Result<()> {
    file.read_exact_at(piece, offset)
}

/// Gives a file that root wrote to the user who called sudo; does nothing where nobody did.
pub fn give_to_sudo_user(path: &Path) -> io::Result<()> {
    let id = |name: &str| std::env::var(name).ok().and_then(|id| id.parse::<u32>().ok());
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    match (id("SUDO_UID"), id("SUDO_GID")) {
        (Some(uid), Some(gid)) => lchown(path, Some(uid), Some(gid)),
        _ => Ok(()),
    }
}
