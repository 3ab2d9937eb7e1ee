//! Reads of kernel structures by offset.

use aiprof_ebpf_types::UserRegisters;
use aya_ebpf::{
    bindings::task_struct,
    helpers::{
        bpf_get_current_task_btf, bpf_probe_read_kernel,
        generated::{bpf_ktime_get_boot_ns, bpf_task_pt_regs},
    },
};

use crate::maps::setting;

/// A kernel `task_struct`, by address.
#[derive(Clone, Copy)]
pub(crate) struct Task(pub(crate) u64);

/// Reads a `T` of kernel memory; 0 bytes where that fails, which no caller takes for a valid pointer or id.
#[inline(always)]
pub(crate) fn read<T: Copy + Default>(address: u64) -> T {
    // SAFETY: the helper checks the address and fails instead of faulting.
    unsafe { bpf_probe_read_kernel(address as *const T) }.unwrap_or_default()
}

/// `CLOCK_BOOTTIME`.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: takes no argument.
    unsafe { bpf_ktime_get_boot_ns() }
}

impl Task {
    /// The running task.
    #[inline(always)]
    pub(crate) fn current() -> Self {
        // SAFETY: takes no argument.
        Self(unsafe { bpf_get_current_task_btf() } as u64)
    }

    /// Global thread id and process id.
    #[inline(always)]
    pub(crate) fn ids(self) -> (u32, u32) {
        let both: u64 = read(self.0 + u64::from(setting!(offsets.task_pid)));
        (both as u32, (both >> 32) as u32)
    }

    /// Address of the user-mode thread control block.
    #[inline(always)]
    pub(crate) fn thread_pointer(self) -> u64 {
        read(self.0 + u64::from(setting!(offsets.task_thread_pointer)))
    }

    /// The kernel's `__state`.
    #[inline(always)]
    pub(crate) fn state(self) -> u32 {
        read(self.0 + u64::from(setting!(offsets.task_state)))
    }
}

/// User-mode registers of a task, saved at its entry to the kernel.
#[derive(Clone, Copy)]
pub(crate) struct SavedRegisters(pub(crate) u64);

impl SavedRegisters {
    /// Those of the running task.
    #[inline(always)]
    pub(crate) fn of_current() -> Self {
        // SAFETY: the argument is the BTF-typed current task, as the helper demands.
        Self(unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) } as u64)
    }

    /// Those of `task`.
    ///
    /// # Safety
    /// `task` must be BTF-typed for the verifier.
    #[inline(always)]
    pub(crate) unsafe fn of(task: *mut task_struct) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { bpf_task_pt_regs(task) } as u64)
    }

    /// The system call that the task is in, -1 outside of one.
    #[inline(always)]
    pub(crate) fn syscall(self) -> i32 {
        read(self.0 + u64::from(setting!(offsets.registers_syscall)))
    }

    /// The first argument of that call.
    #[inline(always)]
    pub(crate) fn first_argument(self) -> u64 {
        read(self.0 + u64::from(setting!(offsets.registers_arguments[0])))
    }

    /// All its arguments.
    #[inline(always)]
    pub(crate) fn arguments(self) -> [u64; 6] {
        [
            self.first_argument(),
            read(self.0 + u64::from(setting!(offsets.registers_arguments[1]))),
            read(self.0 + u64::from(setting!(offsets.registers_arguments[2]))),
            read(self.0 + u64::from(setting!(offsets.registers_arguments[3]))),
            read(self.0 + u64::from(setting!(offsets.registers_arguments[4]))),
            read(self.0 + u64::from(setting!(offsets.registers_arguments[5]))),
        ]
    }

    /// What an unwinder needs.
    #[inline(always)]
    pub(crate) fn user(self) -> UserRegisters {
        let lr = setting!(offsets.registers_lr);
        UserRegisters {
            ip: read(self.0 + u64::from(setting!(offsets.registers_ip))),
            sp: read(self.0 + u64::from(setting!(offsets.registers_sp))),
            fp: read(self.0 + u64::from(setting!(offsets.registers_fp))),
            lr: if lr == 0 { 0 } else { read(self.0 + u64::from(lr)) },
        }
    }
}
