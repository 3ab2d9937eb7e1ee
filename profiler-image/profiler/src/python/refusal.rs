//! Why Python is refused in a process that does run it.

use super::Version;
use crate::memory::MemoryError;

/// One sentence on why a process's Python stacks are not read. CPU profiling goes on without them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The interpreter is mapped but not set up yet; ask again a little later.
    #[error("CPython has not finished starting in this process")]
    Starting,
    /// A version older than 3.8.
    #[error("{0} is not supported: 3.8 is the oldest that is")]
    TooOld(String),
    /// A version newer than 3.14.
    #[error("CPython {0} is not supported: 3.14 is the newest that is")]
    TooNew(Version),
    /// A build without the global interpreter lock.
    #[error("CPython {0} is a free-threaded build, which is not supported")]
    FreeThreaded(Version),
    /// An executable for another kind of processor, or a 32-bit one.
    #[error("the process runs {found} code, and this profiler reads {expected}", expected = std::env::consts::ARCH)]
    Machine {
        /// The ELF machine found, by name or number.
        found: String,
    },
    /// Nothing tells the version.
    #[error("the CPython version cannot be told from {0}")]
    UnknownVersion(String),
    /// The structures do not lie where this version has them.
    #[error("CPython {version} failed the self-check of {check}: expected {expected}, found {found}")]
    SelfCheck {
        /// The version whose layout was tried.
        version: Version,
        /// What was checked.
        check: &'static str,
        /// What a sound layout gives.
        expected: String,
        /// What was there.
        found: String,
    },
    /// The process's mappings cannot be listed.
    #[error("the memory map of the process cannot be read: {0}")]
    Maps(String),
    /// The process's memory cannot be read.
    #[error("CPython's state cannot be read: {0}")]
    Unreadable(#[from] MemoryError),
}
