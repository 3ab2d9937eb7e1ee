//! What the profiler tells the in-kernel programs before they run.

/// Where fields lie in this kernel's own structures, in bytes, read from its BTF: Rust has no CO-RE.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct KernelOffsets {
    /// `task_struct.__state` (`.state` before 5.14).
    pub task_state: u32,
    /// `task_struct.pid`, with `.tgid` right behind it.
    pub task_pid: u32,
    /// `task_struct.group_leader`.
    pub task_group_leader: u32,
    /// `task_struct.thread_pid`.
    pub task_thread_pid: u32,
    /// `task_struct.comm`.
    pub task_comm: u32,
    /// `task_struct.thread.fsbase` on x86_64, `.thread.uw.tp_value` on aarch64.
    pub task_thread_pointer: u32,
    /// `task_struct.nvcsw`.
    pub task_voluntary_switches: u32,
    /// `task_struct.nivcsw`.
    pub task_involuntary_switches: u32,
    /// `pid.level`.
    pub pid_level: u32,
    /// `pid.numbers`.
    pub pid_numbers: u32,
    /// Size of `struct upid`, the element of `pid.numbers`.
    pub upid_size: u32,
    /// `upid.nr`.
    pub upid_nr: u32,
    /// `upid.ns`.
    pub upid_ns: u32,
    /// `pid_namespace.ns.inum`.
    pub pid_namespace_inum: u32,
    /// `pt_regs.ip` on x86_64, `.pc` on aarch64.
    pub registers_ip: u32,
    /// `pt_regs.sp`.
    pub registers_sp: u32,
    /// `pt_regs.bp` on x86_64, `.regs[29]` on aarch64.
    pub registers_fp: u32,
    /// `pt_regs.regs[30]` on aarch64; 0 on x86_64, which has none.
    pub registers_lr: u32,
    /// `pt_regs.orig_ax` on x86_64, `.syscallno` on aarch64: as `i32` the system call, -1 outside of one.
    pub registers_syscall: u32,
    /// The six arguments of a system call in `pt_regs`, as they still stand when it ends: `di`, `si`, `dx`, `r10`, `r8`, `r9` on
    /// x86_64, `orig_x0` and `regs[1..6]` on aarch64.
    pub registers_arguments: [u32; 6],
}

/// Everything else.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Settings {
    /// Kernel structures.
    pub offsets: KernelOffsets,
    /// Inode of the profiler's own PID namespace (`/proc/self/ns/pid`), in whose terms ids are reported.
    pub pid_namespace: u32,
    /// Stacks at switches: how many a CPU may take in one second before they are thinned.
    pub switch_stacks_per_second: u32,
    /// Bytes of user stack to copy at a sample; at most [`crate::MAX_STACK_BYTES`].
    pub sample_stack_bytes: u32,
    /// Bytes of user stack to copy at a switch; at most [`crate::MAX_STACK_BYTES`].
    pub switch_stack_bytes: u32,
    /// Records of system calls: how many a CPU may write in one second before they are thinned; 0 when no calls are wanted.
    pub syscall_records_per_second: u32,
    /// Calls from this length on are reported one by one.
    pub syscall_min_ns: u64,
}
