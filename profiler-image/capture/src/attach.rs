//! How a plugin reaches a profiler that outlives its connections: `aiprof-profiler serve` holds the capture, and each exec session is an
//! `aiprof-profiler attach` that begins where the last one broke off.
//!
//! An attached session reads one line of JSON, [`Attach`], then [`AttachControl`] lines. It writes the bytes of the frame stream
//! ([`crate::frame`]) from [`Attach::from`] on to standard output, and progress lines ([`crate::progress`]) to standard error. The
//! byte at offset 0 is the first of the first frame; a stream ends with the last byte of its end frame.
//!
//! A line that was on its way when a session broke may be lost, except that `Started`, `Finishing` and `Error` are repeated to every
//! session that attaches; of the ticks only the latest is kept for the next session. A session that sends no line for half the
//! server's lease is taken for a broken way and cut off, so [`AttachControl::Held`] is to be sent also when nothing new has come.
//! While another capture that nobody attends is in the way, a session that wants to start its own gets a
//! [`Note`](crate::progress::Progress::Note), then an empty line each second as a sign of life, and then what it asked for or an error.
//! After the end frame a session has two seconds to say [`AttachControl::Leave`]; later ones attach again to say so.
//!
//! Exit status: 0 after the end frame, 1 with a [`crate::progress::Progress::Error`] line before it, anything else is a broken way.

use serde::{Deserialize, Serialize};

use crate::request::Request;

macro_rules! in_folder {
    ($name:literal) => {
        concat!("/tmp/.aiprof", $name)
    };
}

/// Folder of what an uploaded profiler and its server need in a pod.
pub const FOLDER: &str = in_folder!("");
/// Where an uploaded profiler lies.
pub const UPLOADED: &str = in_folder!("/profiler");
/// Where a server listens.
pub const SOCKET: &str = in_folder!("/socket");

/// First line of an attached session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// [`crate::request::PROTOCOL_VERSION`] of the asking side.
    pub protocol: u32,
    /// Id of the capture, chosen by the plugin: 1 to 64 of `a-z`, `0-9` and `-`.
    pub capture: String,
    /// Bytes of the frame stream that the asking side holds already.
    pub from: u64,
    /// Starts the capture if there is none of this id. None: it must be there.
    pub request: Option<Request>,
}

/// A line after the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "control", rename_all = "kebab-case")]
pub enum AttachControl {
    /// End the window now and keep what there is.
    Stop,
    /// So many bytes of the stream have arrived and need not be kept; also a sign of life.
    Held {
        /// From the stream's start.
        bytes: u64,
    },
    /// The capture is complete or given up: nothing is kept, and the profiler ends.
    Leave,
}
