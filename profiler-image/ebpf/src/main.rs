//! The in-kernel side of the profiler: what runs at a tick of the sampling clock, at a thread switch and at a system call.
//!
//! Addresses go out, never names. Each program first asks [`target`] whether the thread is one of the target's; everything
//! else on the machine leaves at once. Records go to two rings, so that big stacks never crowd out the small records
//! from which the thread timeline is made:
//! - `STACKS`: [`aiprof_ebpf_types::StackHeader`] and what follows it,
//! - `THREAD_EVENTS`: [`aiprof_ebpf_types::ThreadEvent`].
//!
//! Needs Linux 5.15 (`bpf_task_pt_regs`), BTF, and no CO-RE: offsets come in as [`aiprof_ebpf_types::Settings`].
// A program's context comes by value.
#![allow(clippy::needless_pass_by_value)]
#![no_std]
#![no_main]

mod cpu;
mod kernel;
mod lifecycle;
mod maps;
mod python;
mod snapshot;
mod stack;
mod syscalls;
mod target;

/// The helpers used are GPL-only in part; the kernel reads this section.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses any program in which this can be reached.
    loop {}
}
