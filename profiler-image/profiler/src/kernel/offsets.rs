//! Offsets of the running kernel's structures, for the in-kernel programs.

use aiprof_ebpf_types::KernelOffsets;

use super::btf::{Btf, BtfError};

/// Finds them in the kernel's type data.
pub fn find(data: &[u8]) -> Result<KernelOffsets, BtfError> {
    let btf = Btf::parse(data)?;
    let task = |path| btf.offset("task_struct", path);
    let registers = |path| btf.offset("pt_regs", path);
    let mut offsets = KernelOffsets {
        // Renamed in 5.14.
        task_state: task("__state").or_else(|_| task("state"))?,
        task_pid: task("pid")?,
        task_group_leader: task("group_leader")?,
        task_thread_pid: task("thread_pid")?,
        task_comm: task("comm")?,
        task_voluntary_switches: task("nvcsw")?,
        task_involuntary_switches: task("nivcsw")?,
        pid_level: btf.offset("pid", "level")?,
        pid_numbers: btf.offset("pid", "numbers")?,
        upid_size: btf.size("upid")?,
        upid_nr: btf.offset("upid", "nr")?,
        upid_ns: btf.offset("upid", "ns")?,
        pid_namespace_inum: btf.offset("pid_namespace", "ns.inum")?,
        ..KernelOffsets::default()
    };
    if cfg!(target_arch = "aarch64") {
        let word = 8;
        offsets.task_thread_pointer = task("thread.uw.tp_value")?;
        offsets.registers_ip = registers("pc")?;
        offsets.registers_sp = registers("sp")?;
        offsets.registers_fp = registers("regs")? + 29 * word;
        offsets.registers_lr = registers("regs")? + 30 * word;
        offsets.registers_syscall = registers("syscallno")?;
        let regs = registers("regs")?;
        // The result takes the place of the first argument, which is kept apart.
        offsets.registers_arguments =
            [registers("orig_x0")?, regs + word, regs + 2 * word, regs + 3 * word, regs + 4 * word, regs + 5 * word];
    } else {
        offsets.task_thread_pointer = task("thread.fsbase")?;
        offsets.registers_ip = registers("ip")?;
        offsets.registers_sp = registers("sp")?;
        offsets.registers_fp = registers("bp")?;
        offsets.registers_syscall = registers("orig_ax")?;
        for (offset, name) in offsets.registers_arguments.iter_mut().zip(["di", "si", "dx", "r10", "r8", "r9"]) {
            *offset = registers(name)?;
        }
    }
    Ok(offsets)
}
