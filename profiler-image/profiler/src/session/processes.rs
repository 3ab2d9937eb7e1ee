//! The processes of a capture: which there are, what each dimension can do in them, when they end.

use std::collections::BTreeMap;

use aiprof_capture::{
    event::{Event, Process},
    progress::Progress,
    request::{Dimension as Kind, Request},
};
use aiprof_ebpf_types::{ThreadEvent, ThreadEventKind};

use crate::{
    dimensions::{Admission, Cpu, Dimension, Entry, Python, Syscalls},
    kernel::programs::Programs,
    output::Output,
    process,
    syscalls::Descriptors,
};

/// When to look again, in milliseconds since a process came or changed its program, for a CPython that is still starting.
const LOOK_AGAIN_MS: [u64; 6] = [0, 100, 300, 1_000, 3_000, 10_000];

/// Ended processes that are listed; a target that starts programs all the time has no end of them.
const MAX_ENDED: usize = 1_000;

/// All processes of a capture.
pub(super) struct Processes {
    /// The CPU dimension, wanted or not: it tells when threads run.
    pub(super) cpu: Cpu,
    /// The Python dimension, if it is wanted.
    pub(super) python: Option<Python>,
    /// The system calls dimension, if it is wanted.
    pub(super) syscalls: Option<Syscalls>,
    /// What files waits are for.
    pub(super) descriptors: Descriptors,
    /// Processes that ended when [`MAX_ENDED`] were listed already.
    pub(super) forgotten: u64,
    ended: usize,
    all: BTreeMap<u32, Known>,
}

/// One process.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// Its title.
    pub(super) name: String,
    /// `CPython 3.12.1`.
    pub(super) python: Option<String>,
    /// When it ended, since the window opened.
    pub(super) exited_after_ms: Option<u64>,
    /// What each dimension said last.
    pub(super) admissions: BTreeMap<Kind, Admission>,
    /// Looks taken at it so far, and when its program came.
    looks: usize,
    since_ms: u64,
}

impl Known {
    /// No CPython has been found in it yet, which is no last word while it starts.
    fn may_become_python(&self) -> bool {
        matches!(self.admissions.get(&Kind::Python), Some(Admission::Nothing | Admission::Later(_)))
    }
}

impl Processes {
    pub(super) fn new(request: &Request) -> Self {
        let python = request.collect.contains(&Kind::Python).then(Python::default);
        let syscalls = request.collect.contains(&Kind::Syscalls).then(|| Syscalls::new(request.syscall_min_ns));
        Self {
            cpu: Cpu::default(),
            python,
            syscalls,
            descriptors: Descriptors::default(),
            forgotten: 0,
            ended: 0,
            all: BTreeMap::new(),
        }
    }

    /// Takes in a process that was chosen.
    pub(super) fn choose(&mut self, pid: u32, programs: &mut Programs, output: &Output) {
        self.enter(pid, Entry::Chosen, programs);
        self.tell(pid, output);
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// All, by id.
    pub(super) fn all(&self) -> impl Iterator<Item = (u32, &Known)> {
        self.all.iter().map(|(pid, known)| (*pid, known))
    }

    /// The dimensions that are there.
    pub(super) fn dimensions(&self) -> impl Iterator<Item = &dyn Dimension> {
        let python = self.python.as_ref().map(|each| -> &dyn Dimension { each });
        let syscalls = self.syscalls.as_ref().map(|each| -> &dyn Dimension { each });
        std::iter::once::<&dyn Dimension>(&self.cpu).chain(python).chain(syscalls)
    }

    /// Writes every process into the trace.
    pub(super) fn describe(&self, events: &mut Vec<Event>) {
        for (pid, known) in &self.all {
            events.push(described(*pid, &known.name));
        }
    }

    /// Follows a fork or exec; ends are noticed in [`Self::look_after`].
    pub(super) fn note(
        &mut self,
        kind: ThreadEventKind,
        event: &ThreadEvent,
        programs: &mut Programs,
        events: &mut Vec<Event>,
    ) {
        let (pid, entry) = match kind {
            ThreadEventKind::Fork if event.other_pid != event.pid => (event.other_pid, Entry::Forked(event.pid)),
            ThreadEventKind::Exec => (event.pid, Entry::Exec),
            _ => return,
        };
        self.enter(pid, entry, programs);
        if let Some(known) = self.all.get(&pid) {
            events.push(described(pid, &known.name));
        }
    }

    fn enter(&mut self, pid: u32, entry: Entry, programs: &mut Programs) {
        let parent_name = match entry {
            Entry::Forked(parent) => self.all.get(&parent).map(|each| each.name.clone()),
            _ => None,
        };
        let known = self.all.entry(pid).or_default();
        if known.exited_after_ms.take().is_some() {
            self.ended -= 1;
        }
        known.looks = 0;
        known.name =
            if process::is_alive(pid) { process::name(pid) } else { parent_name.unwrap_or_else(|| process::name(pid)) };
        known.admissions.insert(Kind::Cpu, self.cpu.enter(pid, entry, programs));
        if let Some(syscalls) = &mut self.syscalls {
            known.admissions.insert(Kind::Syscalls, syscalls.enter(pid, entry, programs));
        }
        if matches!(entry, Entry::Exec) {
            self.descriptors.forget(pid);
        }
        self.ask_python(pid, entry, programs);
    }

    fn ask_python(&mut self, pid: u32, entry: Entry, programs: &mut Programs) {
        let (Some(python), Some(known)) = (&mut self.python, self.all.get_mut(&pid)) else { return };
        let admission = python.enter(pid, entry, programs);
        if let Admission::Works(Some(version)) = &admission {
            known.python = Some(version.clone());
        }
        known.admissions.insert(Kind::Python, admission);
    }

    fn tell(&self, pid: u32, output: &Output) {
        let Some(known) = self.all.get(&pid) else { return };
        output.progress(&Progress::Process { pid, name: known.name.clone(), python: known.python.clone() });
        if let Some(Admission::Refused(reason)) = known.admissions.get(&Kind::Python) {
            let message = format!("process {pid} ({}) is profiled without Python: {reason}", known.name);
            output.progress(&Progress::Warning { message });
        }
    }

    /// Looks for ends, for new titles, and again for interpreters that were still starting.
    pub(super) fn look_after(
        &mut self,
        since_ms: u64,
        programs: &mut Programs,
        events: &mut Vec<Event>,
        output: &Output,
    ) {
        let pids: Vec<u32> =
            self.all.iter().filter(|(_, known)| known.exited_after_ms.is_none()).map(|(pid, _)| *pid).collect();
        for pid in pids {
            if !process::is_alive(pid) {
                self.end(pid, since_ms, programs);
                continue;
            }
            let Some(known) = self.all.get_mut(&pid) else { continue };
            if known.looks == 0 {
                known.since_ms = since_ms;
            }
            let waiting = known.may_become_python();
            let due = LOOK_AGAIN_MS.get(known.looks).is_some_and(|after| since_ms >= known.since_ms + after);
            if !due {
                continue;
            }
            known.looks += 1;
            let name = process::name(pid);
            if name != known.name {
                known.name = name;
                events.push(described(pid, &known.name));
            }
            if waiting {
                self.ask_python(pid, Entry::Chosen, programs);
                if self.all.get(&pid).is_some_and(|known| !known.may_become_python()) {
                    self.tell(pid, output);
                }
            }
        }
    }

    fn end(&mut self, pid: u32, since_ms: u64, programs: &mut Programs) {
        if self.ended < MAX_ENDED {
            if let Some(known) = self.all.get_mut(&pid) {
                known.exited_after_ms = Some(since_ms);
                self.ended += 1;
            }
        } else {
            self.all.remove(&pid);
            self.forgotten += 1;
        }
        programs.remove_target(pid);
        self.cpu.leave(pid);
        if let Some(python) = &mut self.python {
            python.leave(pid);
        }
        self.descriptors.forget(pid);
    }

    /// System calls cannot be recorded here.
    pub(super) fn refuse_syscalls(&mut self, reason: &str) {
        let Some(syscalls) = &mut self.syscalls else { return };
        syscalls.refuse(reason);
        for known in self.all.values_mut() {
            known.admissions.insert(Kind::Syscalls, Admission::Refused(reason.to_owned()));
        }
    }

    /// Whether none is left.
    pub(super) fn all_ended(&self) -> bool {
        self.all.values().all(|known| known.exited_after_ms.is_some())
    }
}

fn described(pid: u32, name: &str) -> Event {
    Event::Process(Process { pid, parent_pid: process::parent(pid), name: name.to_owned() })
}
