//! Windows.

use std::{fs::File, io, os::windows::fs::FileExt as _, path::Path};

use tokio::signal::windows::{CtrlBreak, CtrlC, CtrlClose, ctrl_break, ctrl_c, ctrl_close};

/// The console's events that end a command early.
#[derive(Debug)]
pub struct Signals {
    interrupt: CtrlC,
    terminate: CtrlBreak,
    hangup: CtrlClose,
}

impl Signals {
    /// From now on these events no longer end this process; after the console's end, Windows does so some seconds later.
    pub fn listen() -> io::Result<Self> {
        Ok(Self { interrupt: ctrl_c()?, terminate: ctrl_break()?, hangup: ctrl_close()? })
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

/// Fills `piece` with the file's bytes from `offset` on; moves the file's own position.
pub fn read_exact_at(file: &File, mut piece: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !piece.is_empty() {
        match file.seek_read(piece, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                piece = &mut piece[read..];
                offset += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Does nothing: there is no sudo that would leave a file root's.
pub const fn give_to_sudo_user(_path: &Path) -> io::Result<()> {
    Ok(())
}
