//! Events as a Perfetto trace, written and read.
//!
//! | event | packets |
//! |---|---|
//! | clock | a clock snapshot; all times are `CLOCK_BOOTTIME`, Perfetto's own |
//! | process, thread | a track descriptor each |
//! | state | a slice of the thread's child track "State": its name says what, its annotations the rest |
//! | Python begin, end | nested slices of the thread's child track "Python" |
//! | system call | a slice of the thread's child track "Syscalls" |
//! | sum of system calls | an instant of the thread's child track "Syscall sums", named as the call |
//! | rate of system calls | a value of the process's counter "syscalls/s" |
//! | sample | a perf sample with a callstack |
//!
//! Strings, frames and callstacks are interned, packets gathered in compressed blocks. See <https://perfetto.dev/docs/reference/trace-packet-proto>.

mod block;
mod intern;
mod names;
mod proto;
mod reader;
mod resolve;
mod syscalls;
#[cfg(test)]
mod tests;
mod writer;

pub use self::{block::TraceError, reader::TraceReader, writer::TraceWriter};
