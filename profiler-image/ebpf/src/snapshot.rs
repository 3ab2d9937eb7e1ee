//! Where the target's threads stand when the window opens: a thread that sleeps through it makes no other record.

use aiprof_ebpf_types::{MAX_KERNEL_FRAMES, RunningThread, ThreadSnapshot};
use aya_ebpf::{
    bindings::task_struct,
    helpers::generated::{bpf_get_task_stack, bpf_seq_write},
};

use crate::{
    kernel::{SavedRegisters, Task, read},
    maps::setting,
    target,
};

/// `struct bpf_iter__task`: each pointer takes 8 bytes.
#[repr(C)]
struct TaskIterator {
    meta: *const IteratorMeta,
    task: *mut task_struct,
}

/// The start of `struct bpf_iter_meta`.
#[repr(C)]
struct IteratorMeta {
    seq: *mut aya_ebpf::bindings::seq_file,
}

/// Writes one [`ThreadSnapshot`] for each thread of the targets.
#[unsafe(link_section = "iter/task")]
#[unsafe(no_mangle)]
extern "C" fn snapshot(context: *const TaskIterator) -> i32 {
    // SAFETY: the kernel passes a valid context; the verifier tracks the types of both pointers.
    let (seq, pointer) = unsafe { ((*(*context).meta).seq, (*context).task) };
    if pointer.is_null() {
        return 0;
    }
    let task = Task(pointer as u64);
    let (tid, pid) = task.ids();
    if pid == 0 {
        return 0;
    }
    let Some(thread) = target::find(task, tid, pid) else { return 0 };
    // SAFETY: a live map value, copied; `pointer` is BTF-typed and not null.
    let (thread, registers) = unsafe { (*thread, SavedRegisters::of(pointer)) };
    let mut record = ThreadSnapshot {
        pid: thread.pid,
        tid: thread.tid,
        task_state: task.state(),
        syscall: registers.syscall(),
        switches: read::<u64>(task.0 + u64::from(setting!(offsets.task_voluntary_switches)))
            + read::<u64>(task.0 + u64::from(setting!(offsets.task_involuntary_switches))),
        syscall_start_ns: match thread.entered_ns {
            RunningThread::NOT_SEEN => 0,
            entered_ns => entered_ns,
        },
        thread_pointer: task.thread_pointer(),
        registers: registers.user(),
        kernel_frames: 0,
        kernel_stack: [0; MAX_KERNEL_FRAMES],
    };
    // SAFETY: the buffer is as long as said; `seq` and `pointer` are BTF-typed.
    unsafe {
        let written = bpf_get_task_stack(
            pointer,
            record.kernel_stack.as_mut_ptr().cast(),
            size_of_val(&record.kernel_stack) as u32,
            0,
        );
        if written > 0 {
            record.kernel_frames = written as u64 / 8;
        }
        bpf_seq_write(seq, (&raw const record).cast(), size_of::<ThreadSnapshot>() as u32);
    }
    0
}
