//! Builds one stack record of the running thread and sends it.

use aiprof_ebpf_types::{
    MAX_KERNEL_FRAMES, MAX_PYTHON_FRAMES, MAX_STACK_BYTES, PythonFrame, PythonStatus, StackHeader, StackTrigger,
};
use aya_ebpf::{
    bindings::BPF_RB_NO_WAKEUP,
    cty::c_void,
    helpers::{
        bpf_get_smp_processor_id,
        generated::{bpf_get_stack, bpf_probe_read_user, bpf_ringbuf_output},
    },
};

use crate::{
    kernel::{SavedRegisters, Task},
    maps::{BODY_BYTES, PYTHON, SCRATCH, STACKS, Scratch, Thread, count},
    python,
};

const PAGE_BYTES: u64 = 4096;
const PYTHON_BYTES: usize = MAX_PYTHON_FRAMES * size_of::<PythonFrame>();
const KERNEL_BYTES: usize = MAX_KERNEL_FRAMES * size_of::<u64>();

/// Takes the stack of the running thread. `context` is the program's own; `stack_bytes` bounds the copy of the user stack.
#[inline(always)]
pub(crate) fn emit(
    context: *mut c_void,
    task: Task,
    thread: &Thread,
    trigger: StackTrigger,
    timestamp_ns: u64,
    registers: SavedRegisters,
    stack_bytes: u32,
) {
    // A sample may interrupt the others, which do not interrupt each other.
    let slot = u32::from(!matches!(trigger, StackTrigger::Sample));
    let Some(scratch) = SCRATCH.get_ptr_mut(slot) else { return };
    // SAFETY: a live map value of this CPU; a program that may interrupt this one uses the other slot.
    let scratch = unsafe { &mut *scratch };

    // SAFETY: a map value; the profiler replaces layouts as wholes.
    let (frames, status) = match unsafe { PYTHON.get(thread.pid) } {
        Some(layout) => python::walk(layout, task.thread_pointer(), slot, scratch),
        None => (0, PythonStatus::NotPython),
    };
    let mut length = (frames * size_of::<PythonFrame>()).min(PYTHON_BYTES);
    // At its end, a call has nothing left in the kernel but its way out.
    let kernel_bytes =
        if matches!(trigger, StackTrigger::Syscall) { 0 } else { kernel_stack(context, scratch, length) };
    length += kernel_bytes;
    let user = registers.user();
    let copied = user_stack(scratch, length, user.sp, stack_bytes);

    scratch.header = StackHeader {
        timestamp_ns,
        pid: thread.pid,
        tid: thread.tid,
        registers: user,
        stack_bytes: copied as u32,
        // SAFETY: takes no argument.
        cpu: unsafe { bpf_get_smp_processor_id() } as u16,
        python_frames: frames as u16,
        kernel_frames: (kernel_bytes / size_of::<u64>()) as u16,
        trigger: trigger as u8,
        python_status: status as u8,
        padding: 0,
    };
    let total = size_of::<StackHeader>() + length + copied;
    if total > size_of::<StackHeader>() + BODY_BYTES {
        return;
    }
    // SAFETY: the record starts at the header, and `total` lies within header and body.
    let sent = unsafe {
        bpf_ringbuf_output(
            (&raw const STACKS).cast_mut().cast(),
            (&raw mut scratch.header).cast(),
            total as u64,
            u64::from(BPF_RB_NO_WAKEUP),
        )
    } == 0;
    if !sent {
        count(|counters| counters.stacks_lost += 1);
    }
}

/// Writes the kernel frames at `offset` of the body; returns their bytes, 0 in user mode.
#[inline(always)]
fn kernel_stack(context: *mut c_void, scratch: &mut Scratch, offset: usize) -> usize {
    if offset > PYTHON_BYTES {
        return 0;
    }
    // SAFETY: `offset` leaves room for the kernel frames.
    let written =
        unsafe { bpf_get_stack(context, scratch.body.as_mut_ptr().add(offset).cast(), KERNEL_BYTES as u32, 0) };
    if written <= 0 { 0 } else { (written as usize).min(KERNEL_BYTES) }
}

/// Copies the user stack from `sp` up, page by page: a copy that touches an unmapped page fails whole. Returns its bytes.
#[inline(always)]
fn user_stack(scratch: &mut Scratch, offset: usize, sp: u64, limit: u32) -> usize {
    let mut copied = 0usize;
    for _ in 0..=MAX_STACK_BYTES / PAGE_BYTES as usize {
        let address = sp + copied as u64;
        let left = (limit as usize).saturating_sub(copied);
        let mut length = (PAGE_BYTES - (address & (PAGE_BYTES - 1))) as usize;
        if length > left {
            length = left;
        }
        let at = offset + copied;
        if length == 0 || length > PAGE_BYTES as usize || at > BODY_BYTES - PAGE_BYTES as usize {
            break;
        }
        // SAFETY: `at` leaves room for a page.
        let failed = unsafe {
            bpf_probe_read_user(scratch.body.as_mut_ptr().add(at).cast(), length as u32, address as *const c_void)
        };
        if failed != 0 {
            break;
        }
        copied += length;
    }
    copied
}
