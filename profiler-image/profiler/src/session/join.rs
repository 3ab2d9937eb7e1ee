//! Joins the parts of a record: Python frames and native frames into one stack, stack and switch into one wait.

use aiprof_capture::event::{Event, Sample, Stack, SyscallSlice, ThreadState, Wait, Waker};
use aiprof_ebpf_types::{
    MAX_STACK_BYTES, PythonStatus, StackTrigger, SyscallRecord, ThreadEvent, ThreadEventKind, ThreadSnapshot,
};

use super::processes::Processes;
use crate::{
    dimensions::{Copied, NamedFrame},
    kernel::rings::StackRecord,
    memory::{ProcessMemory, ReadMemory},
    native::merge::Part,
    process, syscalls,
    timeline::{Input, InputKind, Observation, PythonCall, PythonStack},
};

/// Task states (`include/linux/sched.h`).
const TASK_UNINTERRUPTIBLE: u32 = 0x2;
const TASK_STOPPED: u32 = 0x4;
const TASK_TRACED: u32 = 0x8;
const TASK_DEAD: u32 = 0x80;
const TASK_NOLOAD: u32 = 0x400;
const PAGE_BYTES: u64 = 4096;

/// A thread as it was found between the window's opening and `found_ns`. If it sleeps, its stack is read from outside;
/// that it did not run meanwhile is checked.
/// Returns whether there is a stack.
pub(super) fn found(
    thread: &ThreadSnapshot,
    opened_ns: u64,
    found_ns: u64,
    processes: &mut Processes,
    inputs: &mut Vec<Input>,
) -> bool {
    let ThreadSnapshot { pid, tid, .. } = *thread;
    let input = |timestamp_ns, kind| Input { timestamp_ns, pid, tid, kind };
    inputs.push(input(opened_ns, InputKind::Present));
    if thread.task_state == 0 {
        return false;
    }
    let argument = process::syscall(pid, tid).map(|(_, arguments)| arguments[0]);
    let wait = wait(thread.task_state, thread.syscall, argument, pid, processes);
    inputs.push(input(found_ns, InputKind::Found(ThreadState::Waiting(wait))));
    let stack = read_stack(&ProcessMemory::open(pid), thread.registers.sp);
    let kernel_frames = (thread.kernel_frames as usize).min(thread.kernel_stack.len());
    let python = processes.python.as_ref().and_then(|python| python.walk(pid, thread.thread_pointer));
    // Names may be read later, the stack may not: it is only good if the thread has not run since.
    if process::switches(pid, tid) != Some(thread.switches) {
        return false;
    }
    let (named, whole) = match &python {
        Some(walked) => {
            let named = processes.python.as_mut().and_then(|each| each.name(pid, &walked.frames, walked.status));
            (named, walked.status == PythonStatus::Complete)
        }
        None => (None, true),
    };
    let copied =
        Copied { pid, registers: &thread.registers, stack: &stack, kernel: &thread.kernel_stack[..kernel_frames] };
    let observation = observe(copied, named.as_deref(), whole, true, processes);
    inputs.push(input(found_ns, InputKind::Stack(Box::new(observation))));
    true
}

/// A switch, fork, exec or exit.
pub(super) fn thread_event(
    kind: ThreadEventKind,
    event: &ThreadEvent,
    processes: &mut Processes,
    inputs: &mut Vec<Input>,
) {
    let (mut pid, mut tid) = (event.pid, event.tid);
    let dead = kind == ThreadEventKind::SwitchOut && event.task_state & TASK_DEAD != 0;
    if let Some(syscalls) = processes.syscalls.as_mut().filter(|_| dead) {
        syscalls.ended(tid);
    }
    let kind = match kind {
        ThreadEventKind::SwitchOut => InputKind::SwitchOut {
            wait: (event.task_state != 0)
                .then(|| wait(event.task_state, event.syscall, Some(event.argument), pid, processes)),
            wake_ns: (event.wake_ns != 0).then_some(event.wake_ns),
            dead,
        },
        ThreadEventKind::SwitchIn => InputKind::SwitchIn {
            cpu: event.cpu.into(),
            wake_ns: (event.wake_ns != 0).then_some(event.wake_ns),
            waker: (event.other_tid != 0).then_some(Waker { pid: event.other_pid, tid: event.other_tid }),
        },
        ThreadEventKind::Fork => {
            (pid, tid) = (event.other_pid, event.other_tid);
            InputKind::Created
        }
        ThreadEventKind::Exec => InputKind::Exec,
        ThreadEventKind::Exit => return,
    };
    inputs.push(Input { timestamp_ns: event.timestamp_ns, pid, tid, kind });
}

/// A system call that has ended.
pub(super) fn syscall(record: &SyscallRecord, processes: &mut Processes, inputs: &mut Vec<Input>) {
    let Processes { syscalls: Some(syscalls), descriptors, .. } = processes else { return };
    inputs.extend(syscalls.take(record, descriptors).map(|slice| ended(record, slice)));
}

/// A system call that has not ended when the window closes, at the record's end.
pub(super) fn in_flight(record: &SyscallRecord, processes: &mut Processes) -> Option<Input> {
    let Processes { syscalls: Some(syscalls), descriptors, .. } = processes else { return None };
    Some(ended(record, syscalls.in_flight(record, descriptors)))
}

fn ended(record: &SyscallRecord, slice: SyscallSlice) -> Input {
    let SyscallRecord { pid, tid, end_ns, .. } = *record;
    Input { timestamp_ns: end_ns, pid, tid, kind: InputKind::Syscall(Box::new(slice)) }
}

/// The calls that threads sleep in, without an end.
pub(super) fn sleeping(threads: &[ThreadSnapshot]) -> Vec<SyscallRecord> {
    let sleeping = threads.iter().filter(|thread| thread.task_state != 0);
    let calls = sleeping.filter_map(|&ThreadSnapshot { pid, tid, syscall, syscall_start_ns: start_ns, .. }| {
        let number = u32::try_from(syscall).ok()?;
        let arguments = process::syscall(pid, tid).filter(|(now, _)| *now == number).map(|(_, arguments)| arguments)?;
        Some(SyscallRecord { start_ns, arguments, pid, tid, number, ..SyscallRecord::default() })
    });
    calls.collect()
}

/// A stack.
pub(super) fn stack(
    record: &StackRecord<'_>,
    processes: &mut Processes,
    inputs: &mut Vec<Input>,
    events: &mut Vec<Event>,
) {
    let header = &record.header;
    let (pid, tid, timestamp_ns) = (header.pid, header.tid, header.timestamp_ns);
    let read = matches!(record.python_status, PythonStatus::Complete | PythonStatus::Cut | PythonStatus::ReadFailed);
    let named = if read {
        processes.python.as_mut().and_then(|each| each.name(pid, &record.python, record.python_status))
    } else {
        None
    };
    let whole = !matches!(record.python_status, PythonStatus::Cut | PythonStatus::ReadFailed);
    let is_sample = record.trigger == StackTrigger::Sample;
    let leaving = record.trigger == StackTrigger::SwitchOut;
    let copied = Copied { pid, registers: &header.registers, stack: record.stack, kernel: &record.kernel };
    let observation = observe(copied, named.as_deref(), whole, leaving, processes);
    if is_sample {
        let stack = observation.stack.clone();
        events.push(Event::Sample(Sample { timestamp_ns, pid, tid, cpu: header.cpu.into(), stack }));
    }
    inputs.push(Input { timestamp_ns, pid, tid, kind: InputKind::Stack(Box::new(observation)) });
}

fn observe(
    copied: Copied<'_>,
    named: Option<&[NamedFrame]>,
    python_whole: bool,
    leaving: bool,
    processes: &mut Processes,
) -> Observation {
    let python = Part { frames: named.unwrap_or_default(), whole: python_whole };
    let stack: Stack = processes.cpu.merged(copied, python);
    Observation {
        stack,
        python: named.map(|frames| -> PythonStack { frames.iter().rev().map(PythonCall::from).collect() }),
        leaving,
        wait_function: if leaving { processes.cpu.wait_function(copied.kernel) } else { None },
    }
}

/// The mapped bytes from the stack pointer up, as the in-kernel programs copy them.
fn read_stack(memory: &impl ReadMemory, sp: u64) -> Vec<u8> {
    let mut stack = vec![0; MAX_STACK_BYTES];
    let mut read = 0;
    while read < stack.len() {
        let address = sp.wrapping_add(read as u64);
        let length = ((PAGE_BYTES - address % PAGE_BYTES) as usize).min(stack.len() - read);
        if memory.read(address, &mut stack[read..read + length]).is_err() {
            break;
        }
        read += length;
    }
    stack.truncate(read);
    stack
}

/// What a thread waits for: by its state and the system call that it is in, and more exactly by what its process has there.
fn wait(state: u32, syscall: i32, argument: Option<u64>, pid: u32, processes: &mut Processes) -> Wait {
    let mut wait = wait_of_call(state, syscall);
    if let (Some(argument), Ok(number)) = (argument, u32::try_from(syscall)) {
        wait.on = syscalls::waits_on(number, argument, |fd| processes.descriptors.describe(pid, fd));
        let is_futex = wait.reason.starts_with("futex");
        if is_futex && processes.python.as_ref().is_some_and(|python| python.is_gil(pid, argument)) {
            wait.reason = "GIL".into();
        }
    }
    wait
}

fn wait_of_call(state: u32, syscall: i32) -> Wait {
    let name = u32::try_from(syscall).ok().map(syscalls::name);
    let reason = match state {
        _ if state & TASK_DEAD != 0 => "exit".into(),
        _ if state & TASK_STOPPED != 0 => "stopped".into(),
        _ if state & TASK_TRACED != 0 => "traced".into(),
        // Outside of a system call only a fault makes a thread wait.
        _ => name.clone().unwrap_or_else(|| "page fault".into()),
    };
    Wait {
        reason,
        syscall: name,
        on: None,
        kernel_function: None,
        uninterruptible: state & TASK_UNINTERRUPTIBLE != 0 && state & TASK_NOLOAD == 0,
    }
}

#[cfg(test)]
mod tests {
    use ::syscalls::Sysno;

    use super::*;

    #[test]
    fn waits_are_named_by_state_and_system_call() {
        let futex = Sysno::futex as i32;
        let of = wait_of_call;
        assert_eq!(&*of(0x1, futex).reason, "futex");
        assert_eq!(of(0x2001, futex).syscall.as_deref(), Some("futex"));
        assert!(!of(0x2001, futex).uninterruptible);
        assert!(of(0x2, 0).uninterruptible);
        assert_eq!(&*of(0x2, -1).reason, "page fault");
        assert_eq!(&*of(0x4, -1).reason, "stopped");
        assert_eq!(&*of(0x1, 100_000).reason, "syscall 100000");
    }
}
