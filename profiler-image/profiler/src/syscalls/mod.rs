//! System calls by name, with what their arguments mean, and their sums.
//!
//! Names of calls and of `errno`s come from the crate `syscalls`, whose tables are generated from the kernel's own for each
//! architecture; values of flags from `libc`. Buffers are never read.

mod arguments;
mod descriptors;
mod sums;

use std::sync::Arc;

use aiprof_capture::event::{Argument, SyscallSlice};
use aiprof_ebpf_types::{MAX_ERRNO, SyscallRecord};
use syscalls::{Errno, Sysno};

pub use self::{descriptors::Descriptors, sums::SumTable};

/// The name of a system call of this architecture.
#[must_use]
pub fn name(number: u32) -> Arc<str> {
    match known(number) {
        Some(name) => name.into(),
        None => format!("syscall {number}").into(),
    }
}

/// The name, if the call is in the table of this architecture.
fn known(number: u32) -> Option<&'static str> {
    Sysno::new(number as usize).map(|call| call.name())
}

/// The name of an `errno`, also of those by which the kernel restarts a call.
#[must_use]
pub fn errno_name(errno: u32) -> Arc<str> {
    match Errno::new(errno as i32).name() {
        Some(name) => name.into(),
        None => format!("errno {errno}").into(),
    }
}

/// The `errno` that a result stands for.
#[must_use]
pub fn errno(result: i64) -> Option<u32> {
    (-MAX_ERRNO..0).contains(&result).then_some(-result as u32)
}

/// Whether a new thread or process returns from this call without having made it.
#[must_use]
pub fn returns_in_child(number: u32, result: i64) -> bool {
    result == 0 && matches!(known(number), Some("clone" | "clone3" | "fork" | "vfork"))
}

/// A call as it is shown; `result` is none while it has not ended.
pub fn slice(record: &SyscallRecord, result: Option<i64>, descriptors: &mut Descriptors) -> SyscallSlice {
    let name = name(record.number);
    SyscallSlice {
        pid: record.pid,
        tid: record.tid,
        start_ns: record.start_ns,
        end_ns: record.end_ns,
        result,
        error: result.and_then(errno).map(errno_name),
        began_before: false,
        arguments: describe(&name, &record.arguments, result, &mut |fd| descriptors.describe(record.pid, fd)),
        name,
        stack: None,
    }
}

/// What a thread waits for in a call, as far as its first argument tells: the file of a descriptor, the address of a futex.
#[must_use]
pub fn waits_on(number: u32, argument: u64, describe: impl FnOnce(i32) -> Option<Arc<str>>) -> Option<Arc<str>> {
    let name = known(number)?;
    if name.starts_with("futex") {
        return Some(format!("{argument:#x}").into());
    }
    if arguments::first_is_descriptor(name) { describe(argument as i32) } else { None }
}

type Named = (Arc<str>, Argument);

/// Those arguments that say something, in their order.
fn describe(
    name: &str,
    values: &[u64; 6],
    result: Option<i64>,
    file: &mut dyn FnMut(i32) -> Option<Arc<str>>,
) -> Vec<Named> {
    // Its registers are those of the new program, or what a signal handler had interrupted.
    if (name.starts_with("execve") && result == Some(0)) || name == "rt_sigreturn" {
        return Vec::new();
    }
    let mut named = Vec::new();
    for (index, label, kind) in arguments::of(name) {
        arguments::push(&mut named, label, *kind, values[*index], file);
    }
    if let Some(descriptor) = result.filter(|_| arguments::returns_descriptor(name))
        && let Some(what) = file(descriptor as i32)
    {
        named.push(("returned".into(), Argument::Text(what)));
    }
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(name: &str, values: [u64; 6], result: Option<i64>) -> Vec<String> {
        let mut file = |fd: i32| (fd == 3).then(|| "/data/model.bin".into());
        let named = describe(name, &values, result, &mut file);
        let text = |(name, value): &Named| match value {
            Argument::Number(number) => format!("{name}={number}"),
            Argument::Address(address) => format!("{name}={address:#x}"),
            Argument::Text(text) => format!("{name}={text}"),
        };
        named.iter().map(text).collect()
    }

    #[test]
    fn arguments_say_what_they_mean() {
        assert_eq!(shown("read", [3, 0xdead, 4096, 0, 0, 0], Some(12)), ["fd=3", "file=/data/model.bin", "count=4096"]);
        assert_eq!(
            shown("futex", [0x7f00, 0x189, 2, 0, 0, 0], None),
            ["address=0x7f00", "operation=WAIT_BITSET|PRIVATE|CLOCK_REALTIME", "value=2"]
        );
        assert_eq!(shown("epoll_wait", [5, 0, 64, u64::MAX, 0, 0], Some(0)), ["fd=5", "events=64", "timeout_ms=-1"]);
        assert_eq!(
            shown("mmap", [0, 8192, 3, 0x22, u64::from(u32::MAX), 0], Some(0x7f00)),
            ["length=8192", "protection=READ|WRITE", "flags=PRIVATE|ANONYMOUS", "fd=-1"]
        );
        assert_eq!(
            shown("openat", [-100_i64 as u64, 0x7f00, 0x8_0000, 0, 0, 0], Some(3)),
            ["directory=AT_FDCWD", "flags=RDONLY|CLOEXEC", "returned=/data/model.bin"]
        );
    }

    #[test]
    fn nothing_is_told_of_buffers_or_of_registers_that_are_no_longer_the_calls() {
        assert_eq!(shown("getrandom", [0xdead, 16, 0, 0, 0, 0], Some(16)), ["count=16"]);
        assert_eq!(shown("execve", [1, 2, 3, 4, 5, 6], Some(0)), [""; 0]);
        assert_eq!(shown("rt_sigreturn", [1, 2, 3, 4, 5, 6], Some(0)), [""; 0]);
    }

    #[test]
    fn results_from_minus_4095_on_are_errors() {
        assert_eq!(errno(-11).map(errno_name).as_deref(), Some("EAGAIN"));
        assert_eq!(errno(-512).map(errno_name).as_deref(), Some("ERESTARTSYS"));
        assert_eq!(errno(-4096), None);
        assert_eq!(errno(0), None);
    }

    #[test]
    fn a_wait_is_told_by_the_first_argument() {
        let file = |fd: i32| (fd == 3).then(|| "pipe".into());
        let number = |sysno: Sysno| sysno as u32;
        assert_eq!(waits_on(number(Sysno::read), 3, file).as_deref(), Some("pipe"));
        assert_eq!(waits_on(number(Sysno::futex), 0x7f10, file).as_deref(), Some("0x7f10"));
        assert_eq!(waits_on(number(Sysno::clock_nanosleep), 3, file), None);
    }
}
