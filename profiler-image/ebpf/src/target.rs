//! Is this thread one of the target's? The filter that everything else on the machine leaves by.
//!
//! Ids are looked up at the level of the profiler's own PID namespace in the task's `struct pid`, so that it works for a profiler
//! on the host, beside the target in a container, and for processes in a PID namespace below.

use aiprof_ebpf_types::RunningThread;
use aya_ebpf::bindings::BPF_ANY;

use crate::{
    kernel::{Task, read},
    maps::{PROCESSES, TARGETS, THREADS, Thread, setting},
};

/// PID namespaces nest at most 32 deep; real ones hardly beyond three.
const MAX_LEVELS: u32 = 8;

/// The thread's entry if it belongs to a target process.
#[inline(always)]
pub(crate) fn find(task: Task, global_tid: u32, global_pid: u32) -> Option<*mut Thread> {
    let pid = process(task, global_pid)?;
    if let Some(thread) = THREADS.get_ptr_mut(global_tid) {
        return Some(thread);
    }
    let tid = namespaced_id(task)?;
    let thread = Thread {
        pid,
        tid,
        wake_ns: 0,
        waker_pid: 0,
        waker_tid: 0,
        stack_ns: 0,
        slept_ns: 0,
        entered_ns: RunningThread::NOT_SEEN,
        number: 0,
        padding: 0,
    };
    THREADS.insert(global_tid, thread, u64::from(BPF_ANY)).ok()?;
    THREADS.get_ptr_mut(global_tid)
}

/// The process id in the profiler's namespace if the task belongs to a target process.
#[inline(always)]
pub(crate) fn process(task: Task, global_pid: u32) -> Option<u32> {
    // SAFETY: a map value, copied at once.
    let known = unsafe { PROCESSES.get(global_pid) }.copied();
    let pid = match known {
        Some(pid) => pid,
        None => find_process(task, global_pid),
    };
    (pid != 0).then_some(pid)
}

/// Looks a process up for the first time and remembers the answer.
#[inline(never)]
fn find_process(task: Task, global_pid: u32) -> u32 {
    // The idle tasks have no id to remember.
    if global_pid == 0 {
        return 0;
    }
    let leader = Task(read(task.0 + u64::from(setting!(offsets.task_group_leader))));
    let pid = match namespaced_id(leader) {
        // SAFETY: only asks whether the key is there.
        Some(pid) if unsafe { TARGETS.get(pid) }.is_some() => pid,
        _ => 0,
    };
    let _ = PROCESSES.insert(global_pid, pid, u64::from(BPF_ANY));
    pid
}

/// The task's thread id in the profiler's PID namespace; none if it cannot be seen from there.
#[inline(always)]
pub(crate) fn namespaced_id(task: Task) -> Option<u32> {
    let pid: u64 = read(task.0 + u64::from(setting!(offsets.task_thread_pid)));
    if pid == 0 {
        return None;
    }
    let deepest: u32 = read(pid + u64::from(setting!(offsets.pid_level)));
    let numbers = pid + u64::from(setting!(offsets.pid_numbers));
    for level in 0..MAX_LEVELS {
        if level > deepest {
            break;
        }
        let upid = numbers + u64::from(level * setting!(offsets.upid_size));
        let namespace: u64 = read(upid + u64::from(setting!(offsets.upid_ns)));
        let inode: u32 = read(namespace + u64::from(setting!(offsets.pid_namespace_inum)));
        if inode == setting!(pid_namespace) {
            let id: u32 = read(upid + u64::from(setting!(offsets.upid_nr)));
            return (id != 0).then_some(id);
        }
    }
    None
}

/// Forgets a thread that has ended, and with the last of its names the process: both ids will be used again.
#[inline(always)]
pub(crate) fn forget(global_tid: u32, global_pid: u32) {
    let _ = THREADS.remove(global_tid);
    if global_tid == global_pid {
        let _ = PROCESSES.remove(global_pid);
    }
}
