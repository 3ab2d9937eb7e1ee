//! What can be profiled here, for `check` and `ps`: gathered within a bounded time, whatever runs.

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::MetadataExt as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use aiprof_capture::{
    attach::FOLDER,
    inspect::{Inspection, SeenProcess},
};
use nix::sys::utsname::uname;
use procfs::{ProcError, process::Process};

use crate::{
    container::Members,
    headroom,
    kernel::programs::{self, Programs, ProgramsError},
    maps::{self, Mapping},
    memory::ProcessMemory,
    privilege,
    process::{self, Listed},
    python::{self, Refusal},
};

/// Looking at the processes may take so long.
const BUDGET: Duration = Duration::from_millis(1_500);
/// Loading the programs may, where a quarter of a second is usual: on a busy machine they are not to be called refused.
const PATIENCE: Duration = Duration::from_secs(4);
/// Threads that look at processes; each may hold the symbols of a large program.
const LOOKERS: usize = 4;
/// Processes that are listed.
const MAX_PROCESSES: usize = 10_000;

/// Files of code that a process maps, by device and inode.
type Code = Vec<(u64, u64)>;

/// Looks at the machine and at every process, or at those of the container of this id.
#[must_use]
pub fn inspect(container_id: Option<&str>) -> Inspection {
    // One after the other: both take memory that is the target's.
    let trial = in_background(trial_load).recv_timeout(PATIENCE);
    let Trial { no_btf, programs } = trial.unwrap_or_else(|_| Trial {
        no_btf: None,
        programs: Some("they did not load in time to be told here".to_owned()),
    });
    let own = Process::myself().and_then(|own| own.status()).ok();
    Inspection {
        profiler_version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: uname().map(|names| names.release().to_string_lossy().into_owned()).unwrap_or_default(),
        architecture: std::env::consts::ARCH.to_owned(),
        missing_capabilities: privilege::missing().into_iter().map(str::to_owned).collect(),
        seccomp: own.and_then(|status| status.seccomp).is_some_and(|mode| mode != 0),
        yama: fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok().and_then(|text| text.trim().parse().ok()),
        memory_headroom_bytes: headroom::bytes(),
        processes: processes(container_id, Instant::now() + BUDGET),
        no_btf,
        programs,
    }
}

/// What became of a trial.
struct Trial {
    no_btf: Option<String>,
    programs: Option<String>,
}

fn in_background<T: Send + 'static>(work: fn() -> T) -> mpsc::Receiver<T> {
    let (done, result) = mpsc::channel();
    // Without a thread the channel closes, which reads as no answer.
    let _ = thread::Builder::new().spawn(move || done.send(work()));
    result
}

/// Loads the programs as a capture does, attaches none, and lets them go.
fn trial_load() -> Trial {
    if let Some(shortage) = headroom::shortage() {
        // Loading takes memory of the target's as well.
        let no_btf = fs::metadata(programs::KERNEL_TYPES).err().map(|error| ProgramsError::NoBtf(error).to_string());
        return Trial { no_btf, programs: Some(format!("they were not loaded: {shortage}")) };
    }
    // Nothing runs, and so no namespace is compared.
    let settings = match programs::settings(0) {
        Ok(settings) => settings,
        Err(error) => {
            let reason = Some(error.to_string());
            return Trial { no_btf: reason.clone(), programs: reason };
        }
    };
    let programs = Programs::load(&settings).err().as_ref().map(ProgramsError::to_string);
    Trial { no_btf: None, programs }
}

/// Every process of the container but the profiler's own, as much as can be told by then.
fn processes(container_id: Option<&str>, until: Instant) -> Vec<SeenProcess> {
    let own = executable("self");
    let parent = process::parent(std::process::id());
    let is_other = |each: &Listed| {
        each.pid != parent
            // A shell that waits for the profiler, or brings it.
            && !each.command_line.contains(FOLDER)
            && (own.is_none() || executable(&each.pid.to_string()) != own)
    };
    let mut listed: Vec<Listed> = process::list();
    let members = container_id.map(|id| Members::of(id, listed.iter().map(|each| each.pid)));
    listed.retain(|each| members.as_ref().is_none_or(|members| members.may_have(each.pid)));
    listed.truncate(MAX_PROCESSES);
    listed.retain(is_other);
    let mut seen: Vec<SeenProcess> = listed.iter().filter_map(|each| figures(each).ok()).collect();
    // One that waits for its parent to take note of its end has no threads, and nothing to record.
    seen.retain(|each| each.threads > 0);
    // What may well be Python comes first, in case the time is not enough.
    seen.sort_by_key(|each| (!each.title.contains("python"), each.pid));
    look(&mut seen, until);
    seen.sort_by_key(|each| each.pid);
    seen
}

/// Device and inode of a program.
fn executable(pid: &str) -> Option<(u64, u64)> {
    fs::metadata(format!("/proc/{pid}/exe")).ok().map(|file| (file.dev(), file.ino()))
}

/// What `/proc` counts.
fn figures(listed: &Listed) -> Result<SeenProcess, ProcError> {
    let stat = Process::new(listed.pid as i32)?.stat()?;
    Ok(SeenProcess {
        pid: listed.pid,
        parent_pid: stat.ppid.max(0) as u32,
        title: if listed.name.is_empty() { stat.comm.clone() } else { listed.name.clone() },
        threads: stat.num_threads.max(0) as u32,
        cpu_ms: (stat.utime + stat.stime).saturating_mul(1_000) / procfs::ticks_per_second().max(1),
        rss_bytes: stat.rss.saturating_mul(procfs::page_size()),
        ..SeenProcess::default()
    })
}

/// What the code of a process tells.
struct Found {
    index: usize,
    python: Result<Option<String>, String>,
    libcuda: Option<String>,
    libcupti: Option<String>,
}

/// Adds what the code of each process tells; the lookers are not waited for longer than until then.
fn look(seen: &mut [SeenProcess], until: Instant) {
    let pids: Arc<[u32]> = seen.iter().map(|each| each.pid).collect();
    let next = Arc::new(AtomicUsize::new(0));
    let without = Arc::new(Mutex::new(HashSet::new()));
    let (done, results) = mpsc::channel();
    let lookers = if headroom::shortage().is_some() { 1 } else { LOOKERS };
    for _ in 0..lookers {
        let (pids, next, without, done) = (Arc::clone(&pids), Arc::clone(&next), Arc::clone(&without), done.clone());
        let _ = thread::Builder::new().spawn(move || look_at_some(&pids, &next, &without, &done));
    }
    drop(done);
    let mut unseen: HashSet<usize> = (0..seen.len()).collect();
    while let Ok(found) = results.recv_timeout(until.saturating_duration_since(Instant::now())) {
        unseen.remove(&found.index);
        let Some(process) = seen.get_mut(found.index) else { continue };
        (process.libcuda, process.libcupti) = (found.libcuda, found.libcupti);
        match found.python {
            Ok(version) => process.python = version,
            Err(reason) => process.python_refused = Some(reason),
        }
    }
    for index in unseen {
        if let Some(process) = seen.get_mut(index) {
            process.python_refused = Some("there was no time to look at it".to_owned());
        }
    }
}

fn look_at_some(pids: &[u32], next: &AtomicUsize, without: &Mutex<HashSet<Code>>, done: &Sender<Found>) {
    loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        let Some(pid) = pids.get(index) else { return };
        let maps = maps::of_process(*pid);
        let mappings = maps.as_deref().unwrap_or_default();
        let path = |start: &str| {
            let mapped = mappings.iter().find(|each| each.file_name().starts_with(start))?;
            Some(mapped.path.as_ref()?.display().to_string())
        };
        let found = Found {
            index,
            python: match &maps {
                Ok(mappings) => python_of(*pid, mappings, without),
                Err(error) => Err(Refusal::Maps(error.to_string()).to_string()),
            },
            libcuda: path("libcuda.so"),
            libcupti: path("libcupti.so"),
        };
        if done.send(found).is_err() {
            return;
        }
    }
}

/// The CPython of a process. A process with the same code as one that has none has none either.
fn python_of(pid: u32, mappings: &[Mapping], without: &Mutex<HashSet<Code>>) -> Result<Option<String>, String> {
    let mut code: Code = mappings
        .iter()
        .filter(|mapping| mapping.executable && mapping.inode != 0)
        .map(|mapping| (mapping.device, mapping.inode))
        .collect();
    code.sort_unstable();
    code.dedup();
    if without.lock().unwrap_or_else(PoisonError::into_inner).contains(&code) {
        return Ok(None);
    }
    match python::detect_in(pid, &ProcessMemory::open(pid), mappings) {
        Ok(Some(interpreter)) => Ok(Some(format!("CPython {}", interpreter.version))),
        Ok(None) => {
            if !code.is_empty() {
                without.lock().unwrap_or_else(PoisonError::into_inner).insert(code);
            }
            Ok(None)
        }
        Err(refusal) => Err(refusal.to_string()),
    }
}
