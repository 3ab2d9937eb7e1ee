//! CPython 3.8 to 3.14 seen from outside: finding the interpreter of a process, where its structures lie, walking a
//! thread's frames, and naming them.
//!
//! Everything is read while the process runs. Nothing is guessed: [`detect`] checks each layout against the live
//! process, and a build that it does not know is refused by name.
//!
//! ```no_run
//! use aiprof_profiler::{memory::ProcessMemory, python};
//!
//! let memory = ProcessMemory::open(4242);
//! if let Some(interpreter) = python::detect(4242, &memory)? {
//!     let mut names = python::CodeCache::new(&interpreter);
//!     for thread in python::threads(&memory, &interpreter)? {
//!         for frame in python::walk(&memory, &interpreter.layout, thread.thread_state).frames {
//!             let resolved = names.resolve(&memory, &frame);
//!             println!("{} ({}:{})", resolved.function, resolved.file, resolved.line);
//!         }
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod check;
mod code;
mod debug_offsets;
mod detect;
mod elf;
#[cfg(test)]
mod fake;
mod layout;
mod libc;
mod lines;
mod refusal;
mod strings;
mod version;
mod walk;

pub use code::{CodeCache, FrameState, ResolvedFrame};
pub use detect::{Interpreter, detect, detect_in};
pub use layout::Offsets;
pub use lines::{LineFormat, LineTable};
pub use refusal::Refusal;
pub use version::Version;
pub use walk::{PythonStack, Thread, thread_state_of, threads, walk};
