//! The system calls dimension: sums of all calls, and a record of each long one.
//!
//! A call costs no look-up of its thread: each CPU keeps in `RUNNING` the thread that it runs and when that entered its call.
//! Switches move this to and from the thread's entry, where a call waits that sleeps.

use aiprof_ebpf_types::{
    MAX_ERRNO, RunningThread, StackTrigger, SyscallErrorKey, SyscallKey, SyscallRecord, SyscallSum, histogram_cell,
};
use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_NOEXIST, BPF_RB_NO_WAKEUP},
    helpers::bpf_get_current_pid_tgid,
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};

use crate::{
    cpu::{spend, take_credit},
    kernel::{SavedRegisters, Task, now_ns},
    maps::{RUNNING, SYSCALL_BUDGET, SYSCALL_ERRORS, SYSCALL_SUMS, SYSCALLS, THREADS, Thread, count, setting},
    stack, target,
};

/// One in this many calls is timed: to read the clock takes as long as most of the rest.
const TIMED_CALLS: u64 = 64;

/// `sys_enter(struct pt_regs *regs, long id)`
#[raw_tracepoint(tracepoint = "sys_enter")]
fn syscall_enter(context: RawTracePointContext) -> i32 {
    let Some(running) = running() else { return 0 };
    if running.pid != 0 {
        running.number = context.arg::<u64>(1) as u32;
        running.entered_ns = now_ns();
    }
    0
}

/// `sys_exit(struct pt_regs *regs, long ret)`
#[raw_tracepoint(tracepoint = "sys_exit")]
fn syscall_exit(context: RawTracePointContext) -> i32 {
    let Some(running) = running() else { return 0 };
    if running.pid == 0 {
        return 0;
    }
    let end_ns = now_ns();
    let start_ns = running.entered_ns;
    running.entered_ns = 0;
    let registers = SavedRegisters(context.arg(0));
    let result = context.arg::<u64>(1) as i64;
    if start_ns == RunningThread::NOT_SEEN {
        // In flight when the programs were attached, or the first return of a new thread.
        running.number = registers.syscall() as u32;
        emit(&context, running, registers, 0, end_ns, result);
        return 0;
    }
    if start_ns == 0 {
        count(|counters| counters.syscalls_unpaired += 1);
        return 0;
    }
    let duration_ns = end_ns.saturating_sub(start_ns);
    let calls = add(running, duration_ns, result);
    if duration_ns >= setting!(syscall_min_ns) {
        emit(&context, running, registers, start_ns, end_ns, result);
    }
    if calls % TIMED_CALLS == 1 {
        let took_ns = now_ns().wrapping_sub(end_ns);
        count(|counters| {
            counters.syscalls_timed += 1;
            counters.syscalls_timed_ns += took_ns;
        });
    }
    0
}

/// What this CPU runs, brought up to date if no switch told: when the programs have just been attached, or a switch was missed.
#[inline(always)]
fn running() -> Option<&'static mut RunningThread> {
    // SAFETY: a live map value of this CPU; the programs that use it do not interrupt each other.
    let running = unsafe { &mut *RUNNING.get_ptr_mut(0)? };
    let ids = bpf_get_current_pid_tgid();
    if running.global_tid != ids as u32 {
        adopt(running, ids as u32, (ids >> 32) as u32);
    }
    Some(running)
}

#[inline(never)]
fn adopt(running: &mut RunningThread, global_tid: u32, global_pid: u32) {
    if running.pid != 0
        && let Some(left) = THREADS.get_ptr_mut(running.global_tid)
    {
        // SAFETY: a live map value. Its thread is off this CPU, and maybe on another already: then its call counts as unpaired.
        unsafe { (*left).entered_ns = running.entered_ns };
    }
    let thread = target::find(Task::current(), global_tid, global_pid);
    // SAFETY: a live map value of the running thread.
    set(running, thread.map(|thread| unsafe { &*thread }), global_tid);
}

#[inline(always)]
fn set(running: &mut RunningThread, thread: Option<&Thread>, global_tid: u32) {
    running.global_tid = global_tid;
    match thread {
        Some(thread) => {
            running.pid = thread.pid;
            running.tid = thread.tid;
            running.number = thread.number;
            running.entered_ns = thread.entered_ns;
        }
        None => running.pid = 0,
    }
}

/// The thread leaves this CPU.
#[inline(always)]
pub(crate) fn park(thread: &mut Thread, global_tid: u32) {
    if setting!(syscall_records_per_second) == 0 {
        return;
    }
    let Some(running) = RUNNING.get_ptr_mut(0) else { return };
    // SAFETY: as in `running`.
    let running = unsafe { &*running };
    if running.global_tid == global_tid && running.pid != 0 {
        thread.entered_ns = running.entered_ns;
        thread.number = running.number;
    }
}

/// The thread, none of the target's if there is no entry, gets this CPU.
#[inline(always)]
pub(crate) fn resume(thread: Option<&Thread>, global_tid: u32) {
    if setting!(syscall_records_per_second) == 0 {
        return;
    }
    if let Some(running) = RUNNING.get_ptr_mut(0) {
        // SAFETY: as in `running`.
        set(unsafe { &mut *running }, thread, global_tid);
    }
}

/// The running thread has taken another id, that of its process's first thread, whose program it replaces.
#[inline(always)]
pub(crate) fn renamed(old_global_tid: u32, global_tid: u32) {
    let Some(running) = RUNNING.get_ptr_mut(0) else { return };
    // SAFETY: as in `running`.
    let running = unsafe { &mut *running };
    if running.global_tid == old_global_tid {
        running.global_tid = global_tid;
        running.tid = running.pid;
    }
}

/// Adds a call to its sum; returns how many there are in it now.
#[inline(always)]
fn add(running: &RunningThread, duration_ns: u64, result: i64) -> u64 {
    let key = SyscallKey { tid: running.tid, number: running.number };
    let failed = (-MAX_ERRNO..0).contains(&result);
    if failed {
        count_error(key, -result as u32);
    }
    let Some(sum) = sum(key, running.pid) else {
        count(|counters| counters.syscalls_uncounted += 1);
        return 0;
    };
    sum.count += 1;
    sum.errors += u64::from(failed);
    sum.total_ns += duration_ns;
    if duration_ns > sum.max_ns {
        sum.max_ns = duration_ns;
    }
    let cell = histogram_cell(duration_ns);
    sum.histogram[cell & (sum.histogram.len() - 1)] += 1;
    sum.count
}

#[inline(always)]
fn sum(key: SyscallKey, pid: u32) -> Option<&'static mut SyscallSum> {
    let known = SYSCALL_SUMS.get_ptr_mut(key).or_else(|| {
        let sum = SyscallSum { pid, ..SyscallSum::default() };
        SYSCALL_SUMS.insert(key, sum, u64::from(BPF_NOEXIST)).ok()?;
        SYSCALL_SUMS.get_ptr_mut(key)
    });
    // SAFETY: a live map value that only its thread changes.
    known.map(|sum| unsafe { &mut *sum })
}

#[inline(never)]
fn count_error(call: SyscallKey, errno: u32) {
    let key = SyscallErrorKey { call, errno, padding: 0 };
    if let Some(failures) = SYSCALL_ERRORS.get_ptr_mut(key) {
        // SAFETY: a live map value that only its thread changes.
        unsafe { *failures += 1 };
    } else if SYSCALL_ERRORS.insert(key, 1, u64::from(BPF_NOEXIST)).is_err() {
        count(|counters| counters.syscall_errors_uncounted += 1);
    }
}

/// Reports one call, with its stack unless it slept: then its stack was taken, or left out, when it fell asleep.
#[inline(always)]
fn emit(
    context: &RawTracePointContext,
    running: &RunningThread,
    registers: SavedRegisters,
    start_ns: u64,
    end_ns: u64,
    result: i64,
) {
    if !spend(SYSCALL_BUDGET.get_ptr_mut(0), setting!(syscall_records_per_second), end_ns, |_| false) {
        count(|counters| counters.syscall_records_thinned += 1);
        return;
    }
    if let Some(thread) = THREADS.get_ptr_mut(running.global_tid) {
        // SAFETY: a live map value, changed by this thread's own events only.
        let thread = unsafe { &mut *thread };
        // A call that slept had its chance then.
        if thread.slept_ns < start_ns || thread.slept_ns == 0 {
            if take_credit(end_ns, thread.stack_ns) {
                thread.stack_ns = end_ns;
                let copy = *thread;
                stack::emit(
                    context.as_ptr(),
                    Task::current(),
                    &copy,
                    StackTrigger::Syscall,
                    end_ns,
                    SavedRegisters::of_current(),
                    setting!(switch_stack_bytes),
                );
                count(|counters| counters.syscall_stacks += 1);
            } else {
                count(|counters| counters.syscall_stacks_thinned += 1);
            }
        }
    }
    let record = SyscallRecord {
        start_ns,
        end_ns,
        result,
        arguments: registers.arguments(),
        pid: running.pid,
        tid: running.tid,
        number: running.number,
        padding: 0,
    };
    let lost = SYSCALLS.output::<SyscallRecord>(&record, u64::from(BPF_RB_NO_WAKEUP)).is_err();
    count(|counters| {
        counters.syscall_records += 1;
        counters.syscall_records_lost += u64::from(lost);
    });
}
