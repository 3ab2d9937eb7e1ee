//! The words by which our tracks, slices and frames are found again in a trace: the writer puts them in, the reader looks for
//! them, and users see them.

use std::borrow::Cow;

use crate::event::{Frame, FrameKind, Stack, ThreadState};

/// `trusted_packet_sequence_id` of all packets.
pub(super) const SEQUENCE: u32 = 1;

/// Child track of a thread: what it did.
pub(super) const STATE_TRACK: &str = "State";
/// Child track of a thread: the Python functions that it was in.
pub(super) const PYTHON_TRACK: &str = "Python";

/// Child track of a thread: its long system calls.
pub(super) const SYSCALLS_TRACK: &str = "Syscalls";
/// Child track of a thread: what its system calls add up to, an instant for each and second.
pub(super) const SYSCALL_SUMS_TRACK: &str = "Syscall sums";
/// Counter of a process.
pub(super) const SYSCALL_RATE_TRACK: &str = "syscalls/s";

/// Slice of the State track: on a CPU.
pub(super) const RUNNING: &str = "Running";
/// Slice of the State track: wants a CPU.
pub(super) const RUNNABLE: &str = "Runnable";

/// Mapping of kernel frames.
pub(super) const KERNEL_MAPPING: &str = "[kernel]";
/// Mapping of frames that stand for no code.
pub(super) const MARKER_MAPPING: &str = "[aiprof]";
/// Outermost frame of a stack whose outer frames are missing.
pub(super) const STACK_CUT: &str = "[stack cut]";
/// Only frame of a stack without frames, which trace processors take for an error.
pub(super) const NO_STACK: &str = "[no stack]";

/// Before the parent's id in a process track's description.
pub(super) const PARENT: &str = "parent pid ";

const KERNEL_SUFFIX: &str = " [k]";

/// Names of debug annotations.
pub(super) mod annotation {
    pub(in super::super) const CPU: &str = "cpu";
    pub(in super::super) const PREEMPTED: &str = "preempted";
    pub(in super::super) const WAKER_PID: &str = "waker_pid";
    pub(in super::super) const WAKER_TID: &str = "waker_tid";
    pub(in super::super) const REASON: &str = "reason";
    pub(in super::super) const SYSCALL: &str = "syscall";
    pub(in super::super) const ON: &str = "on";
    pub(in super::super) const KERNEL_FUNCTION: &str = "kernel_function";
    pub(in super::super) const UNINTERRUPTIBLE: &str = "uninterruptible";
    pub(in super::super) const STACK: &str = "stack";
    /// Number of the interned callstack that [`STACK`] shows. The field for it in track events (56) is an error to trace
    /// processors that do not know it yet, such as v52.
    pub(in super::super) const CALLSTACK: &str = "callstack_iid";
    pub(in super::super) const FILE: &str = "file";
    pub(in super::super) const LINE: &str = "line";
    pub(in super::super) const RESULT: &str = "result";
    pub(in super::super) const ERROR: &str = "error";
    pub(in super::super) const UNFINISHED: &str = "unfinished";
    pub(in super::super) const BEGAN_BEFORE: &str = "began_before";
    /// The innermost Python function of [`STACK`].
    pub(in super::super) const PYTHON: &str = "python";
    /// Before the name of an argument.
    pub(in super::super) const ARGUMENT: &str = "arg.";
    pub(in super::super) const COUNT: &str = "count";
    pub(in super::super) const ERRORS: &str = "errors";
    pub(in super::super) const TOTAL_NS: &str = "total_ns";
    pub(in super::super) const MAX_NS: &str = "max_ns";
    /// Before the name of an `errno`.
    pub(in super::super) const ERRNO: &str = "errno.";
    /// Before the time in nanoseconds that calls stay below.
    pub(in super::super) const HISTOGRAM: &str = "below_ns.";
}

/// Name of a slice of the State track.
pub(super) fn state_name(state: &ThreadState) -> Cow<'static, str> {
    match state {
        ThreadState::Running { .. } => RUNNING.into(),
        ThreadState::Runnable { .. } => RUNNABLE.into(),
        ThreadState::Waiting(wait) if wait.reason.is_empty() => "Waiting".into(),
        ThreadState::Waiting(wait) => format!("Waiting ({})", wait.reason).into(),
    }
}

/// Name of a frame in flame graphs, where nothing but the name tells kernel, native and Python frames apart:
/// `do_futex [k]`, `PyEval_EvalFrameDefault`, `Engine.step (engine.py)`.
pub(super) fn frame_name(frame: &Frame) -> Cow<'_, str> {
    match suffix(frame.kind, &frame.file) {
        Some(suffix) => format!("{}{suffix}", frame.function).into(),
        None => Cow::Borrowed(&frame.function),
    }
}

/// A stack as text, for the eye: a line for each frame, leaf first, until `limit` bytes are passed.
pub(super) fn stack_text(stack: &Stack, limit: usize) -> String {
    let mut text = String::new();
    for frame in &*stack.frames {
        if text.len() >= limit {
            return text;
        }
        text.push_str(&frame_name(frame));
        if frame.kind == FrameKind::Python && frame.line != 0 {
            text.push(':');
            text.push_str(&frame.line.to_string());
        }
        text.push('\n');
    }
    text.push_str(if stack.cut { STACK_CUT } else { "" });
    text
}

/// Undoes [`frame_name`].
pub(super) fn function_of<'a>(name: &'a str, kind: FrameKind, file: &str) -> &'a str {
    suffix(kind, file).and_then(|suffix| name.strip_suffix(&*suffix)).unwrap_or(name)
}

fn suffix(kind: FrameKind, file: &str) -> Option<Cow<'static, str>> {
    let base = || file.rsplit('/').next().unwrap_or_default();
    match kind {
        FrameKind::Kernel => Some(KERNEL_SUFFIX.into()),
        FrameKind::Python if !base().is_empty() => Some(format!(" ({})", base()).into()),
        FrameKind::Python | FrameKind::Native => None,
    }
}

/// What a track shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TrackKind {
    /// A process.
    Process,
    /// A thread; the others are its children.
    Thread,
    /// [`STATE_TRACK`].
    State,
    /// [`PYTHON_TRACK`].
    Python,
    /// [`SYSCALLS_TRACK`].
    Syscalls,
    /// [`SYSCALL_SUMS_TRACK`].
    SyscallSums,
    /// [`SYSCALL_RATE_TRACK`], of a process.
    SyscallRate,
}

impl TrackKind {
    /// The child tracks of a thread in their order.
    pub(super) const OF_THREAD: [Self; 4] = [Self::State, Self::Python, Self::Syscalls, Self::SyscallSums];

    /// The name of a child track, empty for any other.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Process | Self::Thread => "",
            Self::State => STATE_TRACK,
            Self::Python => PYTHON_TRACK,
            Self::Syscalls => SYSCALLS_TRACK,
            Self::SyscallSums => SYSCALL_SUMS_TRACK,
            Self::SyscallRate => SYSCALL_RATE_TRACK,
        }
    }
}

/// Id of a track, the same in every trace: a bijective mix of the ids, so that two threads never share one.
pub(super) fn track_uuid(kind: TrackKind, pid: u32, tid: u32) -> u64 {
    let ids = u64::from(pid) << 32 | u64::from(tid);
    mix(mix(ids).wrapping_add(kind as u64 + 1))
}

/// The finalizer of splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
const fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Hex digits as bytes; none unless they are pairs of lowercase digits.
pub(super) fn from_hex(hex: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect()
}

/// Bytes as lowercase hex digits.
pub(super) fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: FrameKind, function: &str, file: &str) -> Frame {
        Frame { kind, function: function.into(), file: file.into(), ..Frame::default() }
    }

    #[test]
    fn names_tell_kinds_apart_and_can_be_undone() {
        let cases = [
            (frame(FrameKind::Kernel, "do_futex", ""), "do_futex [k]"),
            (frame(FrameKind::Kernel, "odd [k]", ""), "odd [k] [k]"),
            (frame(FrameKind::Native, "main", "/bin/python3"), "main"),
            (frame(FrameKind::Native, "main [k]", "/bin/python3"), "main [k]"),
            (frame(FrameKind::Python, "Engine.step", "/app/engine.py"), "Engine.step (engine.py)"),
            (frame(FrameKind::Python, "f (a.py)", "a.py"), "f (a.py) (a.py)"),
            (frame(FrameKind::Python, "f", ""), "f"),
            (frame(FrameKind::Python, "f", "dir/"), "f"),
        ];
        for (frame, name) in cases {
            assert_eq!(frame_name(&frame), name);
            assert_eq!(function_of(name, frame.kind, &frame.file), &*frame.function);
        }
    }

    #[test]
    fn a_stack_reads_from_leaf_to_root() {
        let mut python = frame(FrameKind::Python, "get", "/lib/queue.py");
        python.line = 171;
        let stack =
            Stack { frames: [frame(FrameKind::Kernel, "do_futex", ""), python].map(Into::into).into(), cut: true };
        assert_eq!(stack_text(&stack, 4096), "do_futex [k]\nget (queue.py):171\n[stack cut]");
        assert_eq!(stack_text(&stack, 5), "do_futex [k]\n");
    }

    #[test]
    fn tracks_have_their_own_ids() {
        let mut uuids = std::collections::HashSet::new();
        let others = [TrackKind::Process, TrackKind::Thread, TrackKind::SyscallRate];
        for kind in TrackKind::OF_THREAD.into_iter().chain(others) {
            for pid in 0..50 {
                for tid in 0..50 {
                    assert!(uuids.insert(track_uuid(kind, pid, tid)), "{kind:?} {pid} {tid}");
                }
            }
        }
    }

    #[test]
    fn hex_digits_round_trip() {
        assert_eq!(from_hex("00ff1a"), Some(vec![0, 255, 26]));
        assert_eq!(to_hex(&[0, 255, 26]), "00ff1a");
        for wrong in ["0", "0g", "AB", "é"] {
            assert_eq!(from_hex(wrong), None, "{wrong}");
        }
    }
}
