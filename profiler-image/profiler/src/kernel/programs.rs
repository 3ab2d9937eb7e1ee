//! Loads the in-kernel programs, tells them what to profile, and attaches them.
//!
//! Everything is undone when [`Programs`] is dropped or this process dies: the kernel detaches programs with their descriptors.

use std::{fs, io, ops::RangeInclusive};

use aiprof_ebpf_types::{
    Counters, MAX_STACK_BYTES, PythonLayout, RunningThread, Settings, SyscallErrorKey, SyscallKey, SyscallSum,
    ThreadSnapshot,
};
use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{HashMap, Map, MapData, MapError, PerCpuArray, RingBuf},
    programs::{
        Iter, PerfEvent, Program, ProgramError, RawTracePoint,
        perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent},
    },
    util::online_cpus,
};
use nix::errno::Errno;
use thiserror::Error;

use super::{btf::BtfError, offsets};

/// The compiled programs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("AIPROF_EBPF_OBJECT"));
/// The kernel's own type data.
pub const KERNEL_TYPES: &str = "/sys/kernel/btf/vmlinux";

/// Raw tracepoints and the program of each; those that tell of new threads come first, so that none is missed.
const TRACEPOINTS: [(&str, &str); 5] = [
    ("fork", "sched_process_fork"),
    ("exec", "sched_process_exec"),
    ("exit", "sched_process_exit"),
    ("waking", "sched_waking"),
    ("switch", "sched_switch"),
];

/// The largest page of any kernel: a ring has at least one.
const LEAST_RING_BYTES: u32 = 64 << 10;
/// Programs of the system calls dimension. The one that sees calls begin comes first, so that each end that is seen has its beginning,
/// unless the call was in flight before.
const SYSCALL_TRACEPOINTS: [(&str, &str); 2] = [("syscall_enter", "sys_enter"), ("syscall_exit", "sys_exit")];

/// Records of long system calls that a CPU may write in a second, and all together: what this process can follow, and what a trace
/// of half a minute bears.
const SYSCALL_RECORDS_PER_CPU: RangeInclusive<u32> = 250..=2_500;
const SYSCALL_RECORDS_OF_ALL: u32 = 8_000;

/// Stacks at switches that a CPU may take in a second: at about 17 us each under 2 % of its time. Where there are many CPUs, their
/// sum is what counts, since this process has to follow.
const SWITCH_STACKS_PER_CPU: RangeInclusive<u32> = 250..=1_000;
const SWITCH_STACKS_OF_ALL: u32 = 8_000;
/// Bytes of user stack copied at a switch.
const SWITCH_STACK_BYTES: u32 = 8 * 1024;

/// Why the programs cannot run here.
#[derive(Debug, Error)]
pub enum ProgramsError {
    /// No type data.
    #[error("this kernel offers no type data ({KERNEL_TYPES}: {0})")]
    NoBtf(io::Error),
    /// Type data that cannot be used.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// The kernel refused something for want of privilege.
    #[error("the kernel refused to {0} for want of privilege (EPERM)")]
    Permission(String),
    /// The kernel refused something else.
    #[error("the kernel refused to {action}: {reason}")]
    Refused {
        /// What was tried.
        action: String,
        /// Its words.
        reason: String,
    },
}

impl ProgramsError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoBtf(_) => {
                "use a kernel of 5.15 or later built with CONFIG_DEBUG_INFO_BTF (all current distributions are)"
            }
            Self::Btf(_) => {
                "this kernel is newer or older than this version knows (5.15 to 6.18 are tested); please report it"
            }
            Self::Permission(_) => {
                "run as root, or give CAP_SYS_ADMIN and CAP_SYS_PTRACE, or CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE"
            }
            Self::Refused { .. } => {
                "a kernel of 5.15 or later is needed; please report this line with the output of `uname -r`"
            }
        }
    }
}

/// The loaded programs and their maps.
pub struct Programs {
    ebpf: Ebpf,
    targets: HashMap<MapData, u32, u8>,
    python: HashMap<MapData, u32, PythonLayout>,
    counters: PerCpuArray<MapData, Counters>,
    syscalls: SyscallMaps,
    /// Why the programs of system calls did not load; the others work without them.
    syscalls_failure: Option<ProgramsError>,
}

struct SyscallMaps {
    sums: HashMap<MapData, SyscallKey, SyscallSum>,
    errors: HashMap<MapData, SyscallErrorKey, u64>,
    running: PerCpuArray<MapData, RunningThread>,
}

/// Sums of system calls as they stand in the kernel.
#[derive(Clone, Debug, Default)]
pub struct SyscallSums {
    /// By thread and call.
    pub sums: Vec<(SyscallKey, SyscallSum)>,
    /// Failures of these.
    pub errors: Vec<(SyscallErrorKey, u64)>,
}

/// CPUs of this machine, whatever share of them this process may use.
#[must_use]
pub fn cpu_count() -> u32 {
    online_cpus().map_or(1, |cpus| cpus.len() as u32)
}

/// What the programs of a capture are told; `pid_namespace` is the inode of that in whose terms processes are named.
pub fn settings(pid_namespace: u32) -> Result<Settings, ProgramsError> {
    Ok(Settings {
        offsets: kernel_offsets()?,
        pid_namespace,
        switch_stacks_per_second: (SWITCH_STACKS_OF_ALL / cpu_count())
            .clamp(*SWITCH_STACKS_PER_CPU.start(), *SWITCH_STACKS_PER_CPU.end()),
        sample_stack_bytes: MAX_STACK_BYTES as u32,
        switch_stack_bytes: SWITCH_STACK_BYTES,
        syscall_records_per_second: 0,
        syscall_min_ns: 0,
    })
}

/// Has the programs record system calls too, those from `min_ns` on one by one.
pub fn want_syscalls(settings: &mut Settings, min_ns: u64) {
    settings.syscall_min_ns = min_ns;
    settings.syscall_records_per_second =
        (SYSCALL_RECORDS_OF_ALL / cpu_count()).clamp(*SYSCALL_RECORDS_PER_CPU.start(), *SYSCALL_RECORDS_PER_CPU.end());
}

/// Reads the kernel's own type data.
pub fn kernel_offsets() -> Result<aiprof_ebpf_types::KernelOffsets, ProgramsError> {
    let data = fs::read(KERNEL_TYPES).map_err(ProgramsError::NoBtf)?;
    Ok(offsets::find(&data)?)
}

impl Programs {
    /// Loads the programs; nothing runs yet.
    pub fn load(settings: &Settings) -> Result<Self, ProgramsError> {
        let cpus = cpu_count();
        let ring = |of_cpu: u32, least: u32| cpus.saturating_mul(of_cpu).clamp(least, 8 * least).next_power_of_two();
        let with_syscalls = settings.syscall_records_per_second > 0;
        // Every ring's memory is the pod's, also that of one that nothing is written to.
        let syscalls_bytes = if with_syscalls { ring(64 << 10, 2 << 20) } else { LEAST_RING_BYTES };
        let mut ebpf = EbpfLoader::new()
            .override_global("SETTINGS", settings, true)
            .map_max_entries("STACKS", ring(256 << 10, 4 << 20))
            .map_max_entries("THREAD_EVENTS", ring(64 << 10, 2 << 20))
            .map_max_entries("SYSCALLS", syscalls_bytes)
            .load(OBJECT)
            .map_err(|error| refused("load the programs", &error))?;
        let btf = Btf::from_sys_fs().map_err(|error| refused("read its type data", &error))?;
        for (name, _) in TRACEPOINTS {
            let program: &mut RawTracePoint = program(&mut ebpf, name)?;
            program.load().map_err(|error| refused(&format!("load the program `{name}`"), &error))?;
        }
        let mut syscalls_failure = None;
        if with_syscalls {
            for (name, _) in SYSCALL_TRACEPOINTS {
                let program: &mut RawTracePoint = program(&mut ebpf, name)?;
                let loaded = program.load().map_err(|error| refused(&format!("load the program `{name}`"), &error));
                syscalls_failure = syscalls_failure.or(loaded.err());
            }
        }
        let sample: &mut PerfEvent = program(&mut ebpf, "sample")?;
        sample.load().map_err(|error| refused("load the program `sample`", &error))?;
        let snapshot: &mut Iter = program(&mut ebpf, "snapshot")?;
        snapshot.load("task", &btf).map_err(|error| refused("load the program `snapshot`", &error))?;
        Ok(Self {
            targets: map(&mut ebpf, "TARGETS")?,
            python: map(&mut ebpf, "PYTHON")?,
            counters: map(&mut ebpf, "COUNTERS")?,
            syscalls: SyscallMaps {
                sums: map(&mut ebpf, "SYSCALL_SUMS")?,
                errors: map(&mut ebpf, "SYSCALL_ERRORS")?,
                running: map(&mut ebpf, "RUNNING")?,
            },
            syscalls_failure,
            ebpf,
        })
    }

    /// Takes the rings: stacks, then thread events. Once only.
    pub fn rings(&mut self) -> Result<(RingBuf<MapData>, RingBuf<MapData>), ProgramsError> {
        Ok((map(&mut self.ebpf, "STACKS")?, map(&mut self.ebpf, "THREAD_EVENTS")?))
    }

    /// Takes the ring of system calls. Once only.
    pub fn syscall_ring(&mut self) -> Result<RingBuf<MapData>, ProgramsError> {
        map(&mut self.ebpf, "SYSCALLS")
    }

    /// Makes a process a target. Do this before [`Self::attach`]: processes seen earlier are remembered as none.
    pub fn add_target(&mut self, pid: u32) -> Result<(), ProgramsError> {
        self.targets.insert(pid, 1, 0).map_err(|error| refused("take a target", &error))
    }

    /// Forgets a process that has ended; its id may be used again.
    pub fn remove_target(&mut self, pid: u32) {
        // Not being there is as good.
        let _ = self.targets.remove(&pid);
        let _ = self.python.remove(&pid);
    }

    /// Says how to walk the Python stacks of a process.
    pub fn set_python(&mut self, pid: u32, layout: &PythonLayout) -> Result<(), ProgramsError> {
        self.python.insert(pid, layout, 0).map_err(|error| refused("take a Python layout", &error))
    }

    /// Starts sampling at `frequency_hz` on each CPU, and the recording of switches.
    pub fn attach(&mut self, frequency_hz: u32) -> Result<(), ProgramsError> {
        self.attach_to(TRACEPOINTS)?;
        let cpus = online_cpus().map_err(|(path, error)| refused(&format!("tell its CPUs ({path})"), &error))?;
        let sample: &mut PerfEvent = program(&mut self.ebpf, "sample")?;
        for cpu in cpus {
            sample
                .attach(
                    PerfEventConfig::Software(SoftwareEvent::CpuClock),
                    PerfEventScope::AllProcessesOneCpu { cpu },
                    SamplePolicy::Frequency(frequency_hz.into()),
                    false,
                )
                .map_err(|error| refused(&format!("open the sampling clock of CPU {cpu}"), &error))?;
        }
        Ok(())
    }

    /// Starts the recording of system calls, which [`want_syscalls`] asked for.
    pub fn attach_syscalls(&mut self) -> Result<(), ProgramsError> {
        match self.syscalls_failure.take() {
            Some(failure) => Err(failure),
            None => self.attach_to(SYSCALL_TRACEPOINTS),
        }
    }

    fn attach_to<const N: usize>(&mut self, tracepoints: [(&str, &str); N]) -> Result<(), ProgramsError> {
        for (name, tracepoint) in tracepoints {
            let program: &mut RawTracePoint = program(&mut self.ebpf, name)?;
            program
                .attach(tracepoint)
                .map_err(|error| refused(&format!("attach to the tracepoint {tracepoint}"), &error))?;
        }
        Ok(())
    }

    /// The sums of system calls.
    pub fn syscall_sums(&self) -> Result<SyscallSums, ProgramsError> {
        let action = "tell the sums of system calls";
        let sums = self.syscalls.sums.iter().collect::<Result<_, _>>().map_err(|error| refused(action, &error))?;
        let errors = self.syscalls.errors.iter().collect::<Result<_, _>>().map_err(|error| refused(action, &error))?;
        Ok(SyscallSums { sums, errors })
    }

    /// Forgets sums whose thread has ended.
    pub fn remove_syscall_sums(&mut self, sums: &[SyscallKey], errors: &[SyscallErrorKey]) {
        // Not being there is as good.
        for key in sums {
            let _ = self.syscalls.sums.remove(key);
        }
        for key in errors {
            let _ = self.syscalls.errors.remove(key);
        }
    }

    /// What each CPU runs of the target; after [`Self::detach`].
    pub fn running(&self) -> Result<Vec<RunningThread>, ProgramsError> {
        let each = self.syscalls.running.get(&0, 0).map_err(|error| refused("tell what it runs", &error))?;
        Ok(each.iter().filter(|running| running.pid != 0).copied().collect())
    }

    /// Detaches all programs; what they wrote stays in the rings.
    pub fn detach(&mut self) {
        for (_, program) in self.ebpf.programs_mut() {
            // Unloading drops the links; it fails only for a program that never loaded and so has none.
            let _ = match program {
                Program::RawTracePoint(each) => each.unload(),
                Program::PerfEvent(each) => each.unload(),
                _ => Ok(()),
            };
        }
    }

    /// Where every thread of the targets stands now.
    pub fn snapshot(&mut self) -> Result<Vec<ThreadSnapshot>, ProgramsError> {
        let action = "list the target's threads";
        let snapshot: &mut Iter = program(&mut self.ebpf, "snapshot")?;
        let link = snapshot.attach().and_then(|id| snapshot.take_link(id)).map_err(|error| refused(action, &error))?;
        let mut file = link.into_file().map_err(|error| refused(action, &error))?;
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut file, &mut bytes).map_err(|error| refused(action, &error))?;
        Ok(bytes.chunks_exact(size_of::<ThreadSnapshot>()).map(bytemuck::pod_read_unaligned).collect())
    }

    /// What the programs counted, all CPUs together.
    pub fn counters(&self) -> Result<Counters, ProgramsError> {
        let each = self.counters.get(&0, 0).map_err(|error| refused("tell its counters", &error))?;
        let mut sum = Counters::default();
        for cpu in each.iter() {
            let from: &[u64] = bytemuck::cast_slice(std::slice::from_ref(cpu));
            let to: &mut [u64] = bytemuck::cast_slice_mut(std::slice::from_mut(&mut sum));
            to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        }
        Ok(sum)
    }
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P, ProgramsError>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    ebpf.program_mut(name)
        .ok_or_else(|| refused("find a program", &io::Error::other(name)))?
        .try_into()
        .map_err(|error: ProgramError| refused(&format!("take the program `{name}`"), &error))
}

fn map<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<M, ProgramsError> {
    ebpf.take_map(name)
        .ok_or_else(|| refused("find a map", &io::Error::other(name)))?
        .try_into()
        .map_err(|error: MapError| refused(&format!("take the map `{name}`"), &error))
}

/// Turns an error into ours; `EPERM` anywhere in its chain of causes means want of privilege.
fn refused(action: &str, error: &(dyn std::error::Error + 'static)) -> ProgramsError {
    let mut reason = error.to_string();
    let mut cause = Some(error);
    while let Some(each) = cause {
        if let Some(io_error) = each.downcast_ref::<io::Error>()
            && matches!(io_error.raw_os_error().map(Errno::from_raw), Some(Errno::EPERM | Errno::EACCES))
        {
            // The verifier answers EACCES too, and then its log is the reason.
            if !reason.contains("Verifier output") || reason.len() < 200 {
                return ProgramsError::Permission(action.to_owned());
            }
        }
        cause = each.source();
        if let Some(next) = cause {
            let text = next.to_string();
            if !reason.contains(&text) {
                reason = format!("{reason}: {text}");
            }
        }
    }
    ProgramsError::Refused { action: action.to_owned(), reason }
}
