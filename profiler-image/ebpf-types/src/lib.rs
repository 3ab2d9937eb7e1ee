//! Records and settings that cross between the in-kernel programs and the profiler.
//!
//! Every type is `#[repr(C)]` without implicit padding, so that its bytes mean the same on both sides. Integers are in the
//! machine's own byte order. Times are nanoseconds of `CLOCK_BOOTTIME`; process and thread ids are those of the
//! profiler's own PID namespace unless a name says `global`.
#![cfg_attr(not(feature = "user"), no_std)]

mod python;
mod records;
mod settings;
mod syscalls;

pub use python::{EntryRule, PythonFrame, PythonLayout, code_identity};
pub use records::{
    Counters, PythonStatus, StackHeader, StackTrigger, ThreadEvent, ThreadEventKind, ThreadSnapshot, UserRegisters,
};
pub use settings::{KernelOffsets, Settings};
pub use syscalls::{
    HISTOGRAM_CELLS, HISTOGRAM_FIRST_BITS, MAX_ERRNO, RunningThread, SyscallErrorKey, SyscallKey, SyscallRecord,
    SyscallSum, histogram_cell,
};

/// Types that the profiler reads from or writes to maps.
#[cfg(feature = "user")]
mod user {
    // SAFETY: each is `#[repr(C)]`, without padding, and valid for every bit pattern (`bytemuck::Pod` checks that).
    unsafe impl aya::Pod for crate::Counters {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::PythonLayout {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::Settings {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::SyscallKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::SyscallErrorKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::SyscallSum {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::RunningThread {}
}

/// Python frames kept of one stack; deeper stacks are marked as cut.
pub const MAX_PYTHON_FRAMES: usize = 128;
/// Kernel frames kept of one stack.
pub const MAX_KERNEL_FRAMES: usize = 32;
/// Bytes of user stack copied from the stack pointer up; the unwinder stops where they end.
pub const MAX_STACK_BYTES: usize = 16 * 1024;
/// Bytes of a thread name, as the kernel keeps it (`TASK_COMM_LEN`).
pub const COMM_BYTES: usize = 16;
