//! The dimensions of a capture, each in a file of its own and of the same shape.

mod cpu;
mod python;
mod syscalls;

use aiprof_capture::request::Dimension as Kind;
use aiprof_ebpf_types::Counters;

pub use self::{
    cpu::{Copied, Cpu},
    python::{NamedFrame, Python},
    syscalls::Syscalls,
};
use crate::kernel::programs::Programs;

/// Whether a dimension works in a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It does; with what it found there, such as `CPython 3.12.1`.
    Works(Option<String>),
    /// There is nothing for it to do.
    Nothing,
    /// The process ended before it could be told.
    Ended,
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

    /// What was lost.
    fn losses(&self, counters: &Counters) -> Losses;
}

/// What is missing of what there was to record, one sentence each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// What makes the dimension partial.
    pub partial: Vec<String>,
    /// What is marked where it is missing and is little, or cannot be had by sampling at all.
    pub notes: Vec<String>,
}

impl Losses {
    /// One in this many may be missing before a dimension is partial.
    const TOLERATED: u64 = 100;

    /// `sentence` tells of `missing` things that would make the dimension partial if all `of` that kind were.
    pub fn add(&mut self, missing: u64, of: u64, sentence: &str) {
        if missing > of / Self::TOLERATED {
            self.partial.push(format!("{missing} {sentence}"));
        } else if missing > 0 {
            self.notes.push(format!("{missing} {sentence}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn up_to_one_in_a_hundred_is_a_note() {
        let mut losses = Losses::default();
        losses.add(0, 0, "no");
        losses.add(1, 100, "few");
        losses.add(2, 100, "many");
        losses.add(1, 0, "all");
        assert_eq!(losses.notes, ["1 few"]);
        assert_eq!(losses.partial, ["2 many", "1 all"]);
    }
}
