//! Bytes to and from a profiler, wherever it runs. [`local::start`](crate::local::start) runs one as a child process;
//! [`cluster`] is one in a pod, behind exec sessions that come about by a [`way`] and may break; [`resume`] keeps their order. Both
//! give a [`Connection`], so nothing above this module knows which it is.

use std::{fmt, future::Future, pin::Pin};

use tokio::io::{AsyncRead, AsyncWrite};

pub mod cluster;
pub mod embedded;
pub mod resume;
pub mod way;

/// A profiler that runs and can be talked to.
pub struct Connection {
    /// What it reads: a request line, then control lines. Dropping it tells the profiler that nobody waits for it.
    pub requests: Box<dyn AsyncWrite + Unpin>,
    /// What it captures: frames.
    pub capture: Box<dyn AsyncRead + Unpin>,
    /// What it says: progress lines.
    pub progress: Box<dyn AsyncRead + Unpin>,
    /// Its life.
    pub life: Box<dyn Life>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Connection").finish_non_exhaustive()
    }
}

/// The life of a profiler.
pub trait Life {
    /// Waits until it has ended and says how. May be dropped and called again.
    fn ended(&mut self) -> Pin<Box<dyn Future<Output = Ended> + '_>>;

    /// Ends it at once.
    fn kill(&mut self);
}

/// How a profiler ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this exit status.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
    /// Nobody knows.
    Unknown(String),
    /// It or the way to it was lost for good: a sentence without its full stop.
    Lost(String),
}

impl fmt::Display for Ended {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(status) => write!(formatter, "exit status {status}"),
            Self::Signalled(signal) => write!(formatter, "signal {signal}"),
            Self::Unknown(why) | Self::Lost(why) => formatter.write_str(why),
        }
    }
}
