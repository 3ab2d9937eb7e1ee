//! The dimensions of a capture, each in a file of its own and of the same shape.

mod cpu;
mod python;

use aiprof_capture::request::Dimension as Kind;
use aiprof_ebpf_types::Counters;

pub use self::{
    cpu::{Copied, Cpu},
    python::{NamedFrame, Python},
};
use crate::kernel::programs::Programs;

/// Whether a dimension works in a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It does; with what it found there, such as `CPython 3.12.1`.
    Works(Option<String>),
    /// There is nothing for it to do.
    Nothing,
    /// Not yet: ask again a little later.
    Later(String),
    /// It does not, for this reason.
    Refused(String),
}

/// How a process came to be profiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Chosen when the capture began, or found anew.
    Chosen,
    /// Made by this profiled process.
    Forked(u32),
    /// It runs another program now.
    Exec,
}

/// One dimension.
pub trait Dimension {
    /// Which.
    fn kind(&self) -> Kind;

    /// Takes a process in, and says whether the dimension works there.
    fn enter(&mut self, pid: u32, entry: Entry, programs: &mut Programs) -> Admission;

    /// The process has ended.
    fn leave(&mut self, pid: u32);

    /// What was lost, one sentence each.
    fn losses(&self, counters: &Counters) -> Vec<String>;
}
