//! A capture that outlives its connections: `serve` holds it behind a socket, each `attach` is a way to it.
//!
//! - [`serve`]: the server: one capture, one client at a time, an end by itself.
//! - [`attach`]: the bridge between standard streams and the socket.
//! - `client`: one attached session, as the server sees it.
//! - `capture`: the capture that is held; `spool` its bytes, `lines` its progress.
//! - `held`: what the server's threads share: the capture, who is attached, who may come in.
//! - `lease`: how long nobody may be there.
//! - `packet`: what goes over the socket to the bridge. The other way go the lines of `aiprof_capture::attach` as they are.

pub mod attach;
mod capture;
mod client;
mod held;
mod lease;
mod lines;
mod packet;
pub mod serve;
mod spool;
