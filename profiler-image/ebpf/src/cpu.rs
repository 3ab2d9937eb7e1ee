//! The CPU dimension: samples of running threads, switches and wake-ups.

use aiprof_ebpf_types::{StackTrigger, ThreadEvent, ThreadEventKind};
use aya_ebpf::{
    EbpfContext,
    bindings::BPF_RB_NO_WAKEUP,
    helpers::{bpf_get_current_pid_tgid, bpf_get_smp_processor_id},
    macros::{perf_event, raw_tracepoint},
    programs::{PerfEventContext, RawTracePointContext},
};

use crate::{
    kernel::{SavedRegisters, Task, now_ns},
    maps::{BUDGET, Budget, NO_COMM, THREAD_EVENTS, Thread, count, setting},
    stack, syscalls, target,
};

/// `TASK_DEAD` of `include/linux/sched.h`: the last switch of a thread.
const TASK_DEAD: u32 = 0x80;
/// Credit that a CPU may save up for a burst of switches.
const BURST_NS: u64 = 250_000_000;
/// With less than half of that credit left, a thread gets a stack only this long after its last one.
const SCARCE_INTERVAL_NS: u64 = 50_000_000;

/// A tick of the sampling clock.
#[perf_event]
fn sample(context: PerfEventContext) -> u32 {
    let ids = bpf_get_current_pid_tgid();
    let (tid, pid) = (ids as u32, (ids >> 32) as u32);
    if pid == 0 {
        return 0;
    }
    let task = Task::current();
    let Some(thread) = target::find(task, tid, pid) else { return 0 };
    let start_ns = now_ns();
    // SAFETY: a live map value.
    let thread = unsafe { *thread };
    let registers = SavedRegisters::of_current();
    stack::emit(
        context.as_ptr(),
        task,
        &thread,
        StackTrigger::Sample,
        start_ns,
        registers,
        setting!(sample_stack_bytes),
    );
    let end_ns = now_ns();
    count(|counters| {
        counters.samples += 1;
        counters.samples_ns += end_ns.wrapping_sub(start_ns);
    });
    0
}

/// `sched_switch(bool preempt, task *prev, task *next, …)`: `prev`, still current, leaves this CPU and `next` gets it.
#[raw_tracepoint(tracepoint = "sched_switch")]
fn switch(context: RawTracePointContext) -> i32 {
    let preempt: bool = context.arg::<u64>(0) & 0xff != 0;
    let previous = Task(context.arg(1));
    let next = Task(context.arg(2));
    let ids = bpf_get_current_pid_tgid();
    let (tid, pid) = (ids as u32, (ids >> 32) as u32);
    if pid != 0 {
        if let Some(thread) = target::find(previous, tid, pid) {
            // SAFETY: a live map value, changed by this thread's own events only.
            let thread = unsafe { &mut *thread };
            syscalls::park(thread, tid);
            switch_out(&context, previous, thread, preempt, tid, pid);
        } else if previous.state() & TASK_DEAD != 0 {
            target::forget(tid, pid);
        }
    }
    let (tid, pid) = next.ids();
    let thread = if pid == 0 { None } else { target::find(next, tid, pid) };
    // SAFETY: as above.
    let thread = thread.map(|thread| unsafe { &mut *thread });
    syscalls::resume(thread.as_deref(), tid);
    if let Some(thread) = thread {
        switch_in(thread);
    }
    0
}

#[inline(always)]
fn switch_out(
    context: &RawTracePointContext,
    task: Task,
    thread: &mut Thread,
    preempt: bool,
    global_tid: u32,
    global_pid: u32,
) {
    let start_ns = now_ns();
    let state = if preempt { 0 } else { task.state() };
    let registers = SavedRegisters::of_current();
    let syscall = registers.syscall();
    let dead = state & TASK_DEAD != 0;
    // A preempted thread's stack says nothing that the samples do not say.
    if !preempt && !dead {
        thread.slept_ns = start_ns;
        if take_credit(start_ns, thread.stack_ns) {
            thread.stack_ns = start_ns;
            let copy = *thread;
            stack::emit(
                context.as_ptr(),
                task,
                &copy,
                StackTrigger::SwitchOut,
                start_ns,
                registers,
                setting!(switch_stack_bytes),
            );
            count(|counters| counters.switch_stacks += 1);
        } else {
            count(|counters| counters.switch_stacks_thinned += 1);
        }
    }
    send(&ThreadEvent {
        timestamp_ns: start_ns,
        wake_ns: thread.wake_ns,
        pid: thread.pid,
        tid: thread.tid,
        other_pid: 0,
        other_tid: 0,
        task_state: state,
        syscall,
        argument: if preempt || syscall < 0 { 0 } else { registers.first_argument() },
        // SAFETY: takes no argument.
        cpu: unsafe { bpf_get_smp_processor_id() } as u16,
        kind: ThreadEventKind::SwitchOut as u8,
        padding: [0; 5],
        comm: NO_COMM,
    });
    if dead {
        target::forget(global_tid, global_pid);
    }
    account(start_ns);
}

#[inline(always)]
fn switch_in(thread: &mut Thread) {
    let start_ns = now_ns();
    send(&ThreadEvent {
        timestamp_ns: start_ns,
        wake_ns: thread.wake_ns,
        pid: thread.pid,
        tid: thread.tid,
        other_pid: thread.waker_pid,
        other_tid: thread.waker_tid,
        task_state: 0,
        syscall: -1,
        argument: 0,
        // SAFETY: takes no argument.
        cpu: unsafe { bpf_get_smp_processor_id() } as u16,
        kind: ThreadEventKind::SwitchIn as u8,
        padding: [0; 5],
        comm: NO_COMM,
    });
    thread.wake_ns = 0;
    account(start_ns);
}

/// `sched_waking(task *p)`: the running thread, or an interrupt on its CPU, wakes `p`.
#[raw_tracepoint(tracepoint = "sched_waking")]
fn waking(context: RawTracePointContext) -> i32 {
    let task = Task(context.arg(0));
    let (tid, pid) = task.ids();
    let Some(thread) = target::find(task, tid, pid) else { return 0 };
    let ids = bpf_get_current_pid_tgid();
    let waker = target::find(Task::current(), ids as u32, (ids >> 32) as u32);
    // SAFETY: live map values; a torn pair of waker ids is worse than none, but a thread has one waker at a time.
    unsafe {
        (*thread).wake_ns = now_ns();
        ((*thread).waker_pid, (*thread).waker_tid) = match waker {
            Some(waker) if ids as u32 != tid => ((*waker).pid, (*waker).tid),
            _ => (0, 0),
        };
    }
    0
}

/// Sends a thread record, or counts it as lost.
#[inline(always)]
pub(crate) fn send(event: &ThreadEvent) {
    if THREAD_EVENTS.output::<ThreadEvent>(event, u64::from(BPF_RB_NO_WAKEUP)).is_err() {
        count(|counters| counters.thread_events_lost += 1);
    }
}

/// Whether this CPU may take one more stack at a switch or the end of a system call now; if so, its price is paid.
#[inline(always)]
pub(crate) fn take_credit(now_ns: u64, last_stack_ns: u64) -> bool {
    let scarce = |credit: u64| credit < BURST_NS / 2 && now_ns.saturating_sub(last_stack_ns) < SCARCE_INTERVAL_NS;
    spend(BUDGET.get_ptr_mut(0), setting!(switch_stacks_per_second), now_ns, scarce)
}

/// Takes the price of one of `rate` things a second from a budget of this CPU, if it is there and not too `scarce`.
#[inline(always)]
pub(crate) fn spend(budget: Option<*mut Budget>, rate: u32, now_ns: u64, scarce: impl FnOnce(u64) -> bool) -> bool {
    let Some(budget) = budget else { return false };
    if rate == 0 {
        return false;
    }
    // SAFETY: a live map value of this CPU; only switches and ends of system calls use it, which do not nest.
    let budget = unsafe { &mut *budget };
    let mut credit = budget.credit_ns + now_ns.saturating_sub(budget.updated_ns);
    if credit > BURST_NS {
        credit = BURST_NS;
    }
    budget.updated_ns = now_ns;
    let price = 1_000_000_000 / u64::from(rate);
    let allowed = credit >= price && !scarce(credit);
    budget.credit_ns = if allowed { credit - price } else { credit };
    allowed
}

#[inline(always)]
fn account(start_ns: u64) {
    let end_ns = now_ns();
    count(|counters| {
        counters.switches += 1;
        counters.switches_ns += end_ns.wrapping_sub(start_ns);
    });
}
