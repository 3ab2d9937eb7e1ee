//! Which kernel functions are machinery: of the tracing that took a stack, or of the scheduler.

/// Frames that the taking of a stack itself leaves at the leaf are within so many.
const MAX_TRACING_FRAMES: usize = 32;

/// Starts of names of what runs between the interrupted code and the taking of a stack.
const TRACING: [&str; 31] = [
    "bpf_prog_",
    "bpf_trace_run",
    "bpf_get_stack",
    "bpf_overflow_handler",
    "bpf_dispatcher_",
    "bpf_trampoline_",
    "__bpf_get_stack",
    "__bpf_trace_",
    "__bpf_prog_",
    "__traceiter_",
    "__perf_event_overflow",
    "__hrtimer_run_queues",
    "__sysvec_",
    "trace_",
    "perf_trace_",
    "perf_swevent_",
    "perf_event_overflow",
    "perf_event_output",
    "perf_prepare_sample",
    "perf_callchain",
    "get_perf_callchain",
    "stack_map_",
    "hrtimer_interrupt",
    "sysvec_",
    "asm_sysvec_",
    "asm_exc_nmi",
    "exc_nmi",
    "cpu_clock_event_",
    "arch_timer_handler_",
    "handle_percpu_devid_irq",
    "gic_handle_irq",
];

/// The same, whole names: generic interrupt entry on aarch64 and x86.
const INTERRUPT: [&str; 13] = [
    "el1_interrupt",
    "el1h_64_irq_handler",
    "el1h_64_irq",
    "do_interrupt_handler",
    "call_on_irq_stack",
    "generic_handle_domain_irq",
    "handle_irq_desc",
    "__gic_handle_irq_from_irqson",
    "asm_call_irq_on_stack",
    "local_apic_timer_interrupt",
    "irq_work_run_list",
    "irq_work_run",
    "irq_work_single",
];

/// Starts of names of the scheduler's own functions, which every wait shows.
const SCHEDULER: [&str; 13] = [
    "__schedule",
    "schedule",
    "io_schedule",
    "preempt_schedule",
    "__cond_resched",
    "__switch_to",
    "_cond_resched",
    "dynamic_preempt_schedule",
    "dynamic_cond_resched",
    "dequeue_task",
    "finish_task_switch",
    "context_switch",
    "__traceiter_sched",
];

/// How many frames at the leaf of a stack are those of the tracing that took it. `names` are leaf first; `None` for code
/// without a name, which counts only when known machinery lies below it (a program just loaded has no name yet).
pub(super) fn tracing_frames<'a>(names: impl Iterator<Item = Option<&'a str>>) -> usize {
    /// So many nameless frames may lie between.
    const MAX_NAMELESS: usize = 3;
    let mut count = 0;
    for (index, name) in names.take(MAX_TRACING_FRAMES).enumerate() {
        match name {
            Some(name) if is_tracing(name) => count = index + 1,
            None if index - count < MAX_NAMELESS => {}
            _ => break,
        }
    }
    count
}

fn is_tracing(name: &str) -> bool {
    TRACING.iter().any(|start| name.starts_with(start)) || INTERRUPT.contains(&plain(name))
}

/// Whether a function is the scheduler's, and so says nothing of what a thread waits for.
pub(super) fn is_scheduler(name: &str) -> bool {
    // `schedule_work` and its like are no waits.
    !name.contains("_work") && SCHEDULER.iter().any(|start| name.starts_with(start))
}

/// A name without what compilers append to parts and copies of functions (`.cold`, `.isra.0`).
pub(super) fn plain(name: &str) -> &str {
    name.split_once('.').map_or(name, |(plain, _)| plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracing(names: &[&'static str]) -> usize {
        tracing_frames(names.iter().map(|name| (*name != "?").then_some(*name)))
    }

    #[test]
    fn cuts_the_tracing_only_at_the_leaf() {
        assert_eq!(tracing(&["bpf_prog_12_a", "bpf_trace_run4", "__traceiter_sched_switch", "__schedule"]), 3);
        assert_eq!(tracing(&["?", "?", "bpf_trace_run4", "__schedule"]), 3);
        assert_eq!(tracing(&["?", "?", "__schedule"]), 0);
        assert_eq!(tracing(&["__schedule", "bpf_trace_run4"]), 0);
        assert_eq!(tracing(&["copy_page", "asm_sysvec_apic_timer_interrupt"]), 0);
        let interrupt = [
            "perf_swevent_hrtimer",
            "__hrtimer_run_queues",
            "hrtimer_interrupt",
            "__sysvec_apic_timer_interrupt",
            "sysvec_apic_timer_interrupt",
            "asm_sysvec_apic_timer_interrupt",
            "copy_page",
        ];
        assert_eq!(tracing(&interrupt), 6);
        assert_eq!(tracing(&[]), 0);
    }

    #[test]
    fn knows_the_scheduler() {
        for name in ["schedule", "__schedule", "schedule_timeout", "schedule_hrtimeout_range_clock", "io_schedule"] {
            assert!(is_scheduler(name), "{name}");
        }
        for name in ["do_nanosleep", "futex_wait_queue", "schedule_work_on", "rwsem_down_read_slowpath", "pipe_read"] {
            assert!(!is_scheduler(name), "{name}");
        }
    }
}
