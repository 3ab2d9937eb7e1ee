//! What differs between the systems on which the plugin runs: the signals that end a command, reading at a place of a file, and
//! whose a file is. With [`crate::local`], the only place that asks which system it is.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub use self::unix::{Signals, give_to_sudo_user, read_exact_at};
#[cfg(windows)]
pub use self::windows::{Signals, give_to_sudo_user, read_exact_at};
