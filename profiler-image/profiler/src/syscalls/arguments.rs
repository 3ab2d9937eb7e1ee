//! What the arguments of system calls mean, for those calls that take time in programs like ours.

use std::sync::Arc;

use aiprof_capture::event::Argument;
use nix::libc;

use super::Named;

/// How an argument is shown.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// A file descriptor, with what it stands for.
    Descriptor,
    /// A folder's descriptor, or `AT_FDCWD`.
    Directory,
    /// A signed 32-bit number: a time in milliseconds, an id.
    Int,
    /// A size, a count, an offset.
    Size,
    /// An address of the program, or bits without names.
    Address,
    /// Bits by name; the first name stands for zero in the bits that are covered by none.
    Flags(&'static [(i32, &'static str)]),
    /// One of several.
    Choice(&'static [(i32, &'static str)]),
    /// [`open_flags`].
    OpenFlags,
    /// [`futex_operation`].
    FutexOperation,
}

use Kind::{Address, Choice, Descriptor, Directory, Flags, FutexOperation, Int, OpenFlags, Size};

/// Position, name and kind.
type Spec = &'static [(usize, &'static str, Kind)];

/// Names of constants of `libc`, without their prefix.
macro_rules! named {
    ($prefix:literal: $($constant:ident),* $(,)?) => {
        &[$((libc::$constant as i32, without(stringify!($constant), $prefix))),*]
    };
}

const fn without(name: &'static str, prefix: &str) -> &'static str {
    name.split_at(prefix.len()).1
}

const PROTECTION: Kind = Flags(named!("PROT_": PROT_READ, PROT_WRITE, PROT_EXEC));
const MAP: Kind = Flags(named!(
    "MAP_": MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS, MAP_NORESERVE, MAP_LOCKED, MAP_POPULATE, MAP_HUGETLB, MAP_STACK
));
const MESSAGE: Kind = Flags(named!(
    "MSG_": MSG_PEEK, MSG_WAITALL, MSG_DONTWAIT, MSG_NOSIGNAL, MSG_TRUNC, MSG_MORE, MSG_ERRQUEUE, MSG_ZEROCOPY
));
const ADVICE: Kind = Choice(named!(
    "MADV_": MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_DONTNEED, MADV_FREE, MADV_HUGEPAGE, MADV_NOHUGEPAGE
));
const CONTROL: Kind = Choice(named!(
    "F_": F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_GETLK, F_SETLK, F_SETLKW, F_DUPFD_CLOEXEC
));
const LOCK: Kind = Flags(named!("LOCK_": LOCK_SH, LOCK_EX, LOCK_NB, LOCK_UN));
const WHENCE: Kind = Choice(named!("SEEK_": SEEK_SET, SEEK_CUR, SEEK_END));
const CLOCK: Kind = Choice(named!("CLOCK_": CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME));
const EPOLL: Kind = Choice(named!("EPOLL_CTL_": EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD));
const FAMILY: Kind = Choice(named!("AF_": AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_VSOCK));
const HOW: Kind = Choice(named!("SHUT_": SHUT_RD, SHUT_WR, SHUT_RDWR));
const WAIT: Kind = Flags(named!("W": WNOHANG, WUNTRACED, WCONTINUED));
const SIGNAL: Kind = Choice(named!("": SIGHUP, SIGINT, SIGKILL, SIGUSR1, SIGUSR2, SIGTERM, SIGCHLD, SIGCONT, SIGSTOP));

/// What is shown of a call's arguments.
pub(super) fn of(name: &str) -> Spec {
    match name {
        "read" | "write" | "getdents64" | "getdents" => &[(0, "fd", Descriptor), (2, "count", Size)],
        "pread64" | "pwrite64" => &[(0, "fd", Descriptor), (2, "count", Size), (3, "offset", Size)],
        "readv" | "writev" | "preadv" | "pwritev" | "preadv2" | "pwritev2" => {
            &[(0, "fd", Descriptor), (2, "vectors", Size)]
        }
        "recvfrom" | "sendto" => &[(0, "fd", Descriptor), (2, "count", Size), (3, "flags", MESSAGE)],
        "recvmsg" | "sendmsg" => &[(0, "fd", Descriptor), (2, "flags", MESSAGE)],
        "recvmmsg" | "sendmmsg" => &[(0, "fd", Descriptor), (2, "messages", Size), (3, "flags", MESSAGE)],
        "sendfile" => &[(1, "fd", Descriptor), (0, "to", Descriptor), (3, "count", Size)],
        "splice" | "copy_file_range" => &[(0, "fd", Descriptor), (2, "to", Descriptor), (4, "count", Size)],
        "accept" | "accept4" | "connect" | "bind" | "getsockname" | "getpeername" | "close" | "fsync" | "fdatasync"
        | "syncfs" | "fstat" | "fstatfs" | "fchdir" | "timerfd_settime" | "timerfd_gettime" | "dup" | "dup2"
        | "dup3" => &[(0, "fd", Descriptor)],
        "listen" => &[(0, "fd", Descriptor), (1, "backlog", Int)],
        "shutdown" => &[(0, "fd", Descriptor), (1, "how", HOW)],
        "setsockopt" | "getsockopt" => &[(0, "fd", Descriptor), (1, "level", Int), (2, "option", Int)],
        "socket" => &[(0, "family", FAMILY)],
        "epoll_wait" | "epoll_pwait" => &[(0, "fd", Descriptor), (2, "events", Int), (3, "timeout_ms", Int)],
        "epoll_pwait2" => &[(0, "fd", Descriptor), (2, "events", Int)],
        "epoll_ctl" => &[(0, "fd", Descriptor), (1, "operation", EPOLL), (2, "of", Descriptor)],
        "poll" => &[(1, "descriptors", Size), (2, "timeout_ms", Int)],
        "ppoll" => &[(1, "descriptors", Size)],
        "select" | "pselect6" => &[(0, "descriptors", Int)],
        "futex" => &[(0, "address", Address), (1, "operation", FutexOperation), (2, "value", Int)],
        "futex_wait" | "futex_wake" | "brk" => &[(0, "address", Address)],
        "ioctl" => &[(0, "fd", Descriptor), (1, "request", Address)],
        "fcntl" => &[(0, "fd", Descriptor), (1, "command", CONTROL)],
        "flock" => &[(0, "fd", Descriptor), (1, "operation", LOCK)],
        "lseek" => &[(0, "fd", Descriptor), (1, "offset", Size), (2, "whence", WHENCE)],
        "ftruncate" => &[(0, "fd", Descriptor), (1, "length", Size)],
        "fallocate" => &[(0, "fd", Descriptor), (2, "offset", Size), (3, "length", Size)],
        "fadvise64" | "readahead" => &[(0, "fd", Descriptor), (1, "offset", Size), (2, "length", Size)],
        "open" => &[(1, "flags", OpenFlags)],
        "openat" => &[(0, "directory", Directory), (2, "flags", OpenFlags)],
        "openat2" | "newfstatat" | "statx" | "readlinkat" | "faccessat" | "faccessat2" | "mkdirat" | "unlinkat" => {
            &[(0, "directory", Directory)]
        }
        "mmap" => &[(1, "length", Size), (2, "protection", PROTECTION), (3, "flags", MAP), (4, "fd", Descriptor)],
        "munmap" | "msync" | "mlock" | "munlock" => &[(0, "address", Address), (1, "length", Size)],
        "mprotect" => &[(0, "address", Address), (1, "length", Size), (2, "protection", PROTECTION)],
        "madvise" => &[(0, "address", Address), (1, "length", Size), (2, "advice", ADVICE)],
        "mremap" => &[(0, "address", Address), (1, "old_length", Size), (2, "length", Size)],
        "clock_nanosleep" | "clock_gettime" => &[(0, "clock", CLOCK)],
        "getrandom" => &[(1, "count", Size)],
        "wait4" => &[(0, "child", Int), (2, "flags", WAIT)],
        "waitid" => &[(1, "child", Int), (3, "flags", WAIT)],
        "kill" => &[(0, "process", Int), (1, "signal", SIGNAL)],
        "tgkill" => &[(0, "process", Int), (1, "thread", Int), (2, "signal", SIGNAL)],
        "io_uring_enter" => &[(0, "fd", Descriptor), (1, "submit", Int), (2, "complete", Int)],
        "prctl" => &[(0, "option", Int)],
        _ => &[],
    }
}

/// Whether a call's first argument is a descriptor that it may wait on.
pub(super) fn first_is_descriptor(name: &str) -> bool {
    matches!(of(name).first(), Some((0, _, Descriptor)))
}

/// Whether a call returns a new descriptor.
pub(super) fn returns_descriptor(name: &str) -> bool {
    matches!(
        name,
        "open" | "openat" | "openat2" | "accept" | "accept4" | "dup" | "dup2" | "dup3" | "memfd_create" | "pidfd_open"
    )
}

pub(super) fn push(
    named: &mut Vec<Named>,
    label: &str,
    kind: Kind,
    value: u64,
    file: &mut dyn FnMut(i32) -> Option<Arc<str>>,
) {
    let int = value as i32;
    let text = |text: String| Argument::Text(text.into());
    let shown = match kind {
        Descriptor => {
            named.push((label.into(), Argument::Number(int.into())));
            let Some(what) = file(int) else { return };
            let label = if label == "fd" { "file".to_owned() } else { format!("{label}_file") };
            named.push((label.into(), Argument::Text(what)));
            return;
        }
        Directory if int == libc::AT_FDCWD => Argument::Text("AT_FDCWD".into()),
        Directory => return push(named, label, Descriptor, value, file),
        Int => Argument::Number(int.into()),
        Size => Argument::Number(value as i64),
        Address => Argument::Address(value),
        Flags(names) => text(flags(int, names)),
        Choice(names) => text(choice(int, names)),
        OpenFlags => text(open_flags(int)),
        FutexOperation => text(futex_operation(int)),
    };
    named.push((label.into(), shown));
}

/// Flags by name, what is left as a number; `0` when there are none.
fn flags(value: i32, names: &[(i32, &str)]) -> String {
    let mut left = value;
    let mut found = Vec::new();
    for (bits, name) in names {
        if *bits != 0 && left & bits == *bits {
            left &= !bits;
            found.push((*name).to_owned());
        }
    }
    if left != 0 || found.is_empty() {
        found.push(if left == 0 { "0".to_owned() } else { format!("{left:#x}") });
    }
    found.join("|")
}

fn choice(value: i32, names: &[(i32, &str)]) -> String {
    names.iter().find(|(known, _)| *known == value).map_or_else(|| value.to_string(), |(_, name)| (*name).to_owned())
}

/// The access mode is a choice, the rest are flags.
fn open_flags(value: i32) -> String {
    const ACCESS: &[(i32, &str)] = named!("O_": O_RDONLY, O_WRONLY, O_RDWR);
    const REST: &[(i32, &str)] = named!(
        "O_": O_CLOEXEC, O_NONBLOCK, O_CREAT, O_EXCL, O_TRUNC, O_APPEND, O_DIRECTORY, O_NOFOLLOW, O_DIRECT, O_TMPFILE, O_PATH
    );
    // Set by the C library for every file of a 64-bit program.
    const LARGE_FILE: i32 = 0o100_000;
    let access = choice(value & libc::O_ACCMODE, ACCESS);
    match value & !libc::O_ACCMODE & !LARGE_FILE {
        0 => access,
        rest => format!("{access}|{}", flags(rest, REST)),
    }
}

/// A command with flags.
fn futex_operation(value: i32) -> String {
    const COMMANDS: &[(i32, &str)] = named!(
        "FUTEX_": FUTEX_WAIT, FUTEX_WAKE, FUTEX_REQUEUE, FUTEX_CMP_REQUEUE, FUTEX_WAKE_OP, FUTEX_LOCK_PI, FUTEX_UNLOCK_PI,
        FUTEX_TRYLOCK_PI, FUTEX_WAIT_BITSET, FUTEX_WAKE_BITSET, FUTEX_WAIT_REQUEUE_PI, FUTEX_CMP_REQUEUE_PI
    );
    const MODES: &[(i32, &str)] =
        &[(libc::FUTEX_PRIVATE_FLAG, "PRIVATE"), (libc::FUTEX_CLOCK_REALTIME, "CLOCK_REALTIME")];
    const MODE_BITS: i32 = libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME;
    let command = choice(value & !MODE_BITS, COMMANDS);
    match value & MODE_BITS {
        0 => command,
        modes => format!("{command}|{}", flags(modes, MODES)),
    }
}
