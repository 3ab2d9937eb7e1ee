//! Threads and processes that appear, change their program, and end.

use aiprof_ebpf_types::{COMM_BYTES, ThreadEvent, ThreadEventKind};
use aya_ebpf::{
    bindings::BPF_ANY,
    helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid},
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};

use crate::{
    cpu::send,
    kernel::{Task, now_ns},
    maps::{PROCESSES, PYTHON, TARGETS, THREADS, setting},
    syscalls, target,
};

/// `sched_process_fork(task *parent, task *child)`: a new thread, or a new process, which is then a target too.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
fn fork(context: RawTracePointContext) -> i32 {
    let parent = Task(context.arg(0));
    let child = Task(context.arg(1));
    let (parent_tid, parent_pid) = parent.ids();
    let Some(thread) = target::find(parent, parent_tid, parent_pid) else { return 0 };
    // SAFETY: a live map value, copied.
    let thread = unsafe { *thread };
    let Some(child_tid) = target::namespaced_id(child) else { return 0 };
    let (_, child_global_pid) = child.ids();
    let child_pid = if child_global_pid == parent_pid {
        thread.pid
    } else {
        let _ = TARGETS.insert(child_tid, 1, u64::from(BPF_ANY));
        let _ = PROCESSES.insert(child_global_pid, child_tid, u64::from(BPF_ANY));
        // Until it runs another program, the child is a copy of its parent.
        // SAFETY: a live map value, copied into the new entry.
        if let Some(layout) = unsafe { PYTHON.get(thread.pid) } {
            let _ = PYTHON.insert(child_tid, layout, u64::from(BPF_ANY));
        }
        child_tid
    };
    send(&ThreadEvent {
        timestamp_ns: now_ns(),
        pid: thread.pid,
        tid: thread.tid,
        other_pid: child_pid,
        other_tid: child_tid,
        kind: ThreadEventKind::Fork as u8,
        comm: comm_of(parent),
        ..ThreadEvent::default()
    });
    0
}

/// `sched_process_exec(task *p, pid_t old_pid, …)`: another program runs now.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
fn exec(context: RawTracePointContext) -> i32 {
    let old_tid: u32 = context.arg::<u64>(1) as u32;
    let ids = bpf_get_current_pid_tgid();
    let (tid, pid) = (ids as u32, (ids >> 32) as u32);
    if old_tid != tid {
        let _ = THREADS.remove(old_tid);
        syscalls::renamed(old_tid, tid);
    }
    report(tid, pid, ThreadEventKind::Exec);
    0
}

/// `sched_process_exit(task *p)`: the thread ends.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
fn exit(_: RawTracePointContext) -> i32 {
    let ids = bpf_get_current_pid_tgid();
    report(ids as u32, (ids >> 32) as u32, ThreadEventKind::Exit);
    0
}

#[inline(always)]
fn report(tid: u32, pid: u32, kind: ThreadEventKind) {
    let Some(thread) = target::find(Task::current(), tid, pid) else { return };
    // SAFETY: a live map value, copied.
    let thread = unsafe { *thread };
    if kind as u8 == ThreadEventKind::Exec as u8 {
        let _ = PYTHON.remove(thread.pid);
    }
    send(&ThreadEvent {
        timestamp_ns: now_ns(),
        pid: thread.pid,
        tid: thread.tid,
        kind: kind as u8,
        comm: bpf_get_current_comm().unwrap_or([0; COMM_BYTES]),
        ..ThreadEvent::default()
    });
}

#[inline(always)]
fn comm_of(task: Task) -> [u8; COMM_BYTES] {
    crate::kernel::read(task.0 + u64::from(setting!(offsets.task_comm)))
}
