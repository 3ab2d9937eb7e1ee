//! One capture, from the request to the last frame of the archive.

mod clock;
mod join;
mod manifest;
mod processes;
mod targets;
mod threads;

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use aiprof_capture::{
    event::{ClockSnapshot, Event},
    frame::FrameKind,
    manifest::Manifest,
    progress::{EndReason, Progress},
    request::{Dimension as Kind, PROTOCOL_VERSION, Request},
    trace::TraceWriter,
};
use aiprof_ebpf_types::{Counters, RunningThread, StackTrigger, SyscallRecord};
use aya::maps::{MapData, RingBuf};
use thiserror::Error;

use self::{processes::Processes, threads::Threads};
use crate::{
    headroom,
    kernel::{
        programs::{self, Programs, ProgramsError},
        rings,
    },
    output::Output,
    privilege,
    timeline::{Input, Timeline},
};

/// How often the rings are drained.
const DRAIN_INTERVAL: Duration = Duration::from_millis(40);
/// How often progress is told and the target is looked after.
const TICK_INTERVAL: Duration = Duration::from_millis(250);
/// How often the sums of system calls are read.
const SUMS_INTERVAL: Duration = Duration::from_secs(1);
/// Records younger than this at a drain wait for the next one: another CPU may still be writing an older one.
const SETTLE_NS: u64 = 10_000_000;
/// Nothing that is written waits longer for a block to become full: with the target's first process the profiler is killed, too, and
/// what has left is kept.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// Why there is no capture.
#[derive(Debug, Error)]
#[error("{message}")]
pub struct Failure {
    /// What and why, one sentence.
    pub message: String,
    /// What to do next.
    pub hint: String,
}

impl Failure {
    fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into() }
    }
}

impl From<ProgramsError> for Failure {
    fn from(error: ProgramsError) -> Self {
        Self::new(error.to_string(), error.hint())
    }
}

/// Captures what `request` asks for until its time is over, `control` says so, or the target has ended.
pub fn run(request: &Request, control: &Receiver<EndReason>, mut output: Output) -> Result<(), Failure> {
    let mut session = Session::prepare(request, &output)?;
    session.open(request, &output)?;
    let reason = session.record(request, control, &mut output);
    output.progress(&Progress::Finishing { reason });
    let manifest = session.close(request, reason, &mut output)?;
    let json = serde_json::to_vec(&manifest)
        .map_err(|error| Failure::new(format!("the manifest cannot be written: {error}"), "please report this"))?;
    output.frame(FrameKind::Manifest, &json);
    output.frame(FrameKind::End, &[]);
    output.finish();
    Ok(())
}

/// The memory is the target's: rather no capture than a target that is killed for it.
fn enough_memory() -> Result<(), Failure> {
    match headroom::shortage() {
        Some(sentence) => Err(Failure::new(sentence, "raise the memory limit of the pod, or record when it uses less")),
        None => Ok(()),
    }
}

struct Session {
    programs: Programs,
    stacks: RingBuf<MapData>,
    threads: RingBuf<MapData>,
    syscalls: RingBuf<MapData>,
    processes: Processes,
    timeline: Timeline,
    writer: TraceWriter,
    /// When the last block of the trace left.
    left_at: Instant,
    /// Joined but not yet settled, see [`SETTLE_NS`].
    pending: Vec<Input>,
    events: Vec<Event>,
    names: Threads,
    opened: ClockSnapshot,
    opened_at: Instant,
    torn_records: u64,
    records: Records,
}

/// Records that reached the trace.
#[derive(Clone, Copy, Debug, Default)]
struct Records {
    samples: u64,
    start_stacks: u64,
    switch_stacks: u64,
    syscall_stacks: u64,
    thread_events: u64,
    /// Stacks from before the window opened, which are left out.
    early: u64,
}

impl Session {
    /// Finds the processes and loads the programs; the target is not touched yet.
    fn prepare(request: &Request, output: &Output) -> Result<Self, Failure> {
        if request.protocol != PROTOCOL_VERSION {
            return Err(Failure::new(
                format!("the plugin speaks protocol {}, this profiler {PROTOCOL_VERSION}", request.protocol),
                "use plugin and profiler of the same version",
            ));
        }
        let known = |kind: &Kind| matches!(kind, Kind::Python | Kind::Cpu | Kind::Syscalls);
        if let Some(unknown) = request.collect.iter().find(|each| !known(each)) {
            return Err(Failure::new(
                format!("this version does not collect {}", unknown.name()),
                "use --collect python,cpu,syscalls",
            ));
        }
        let missing = privilege::missing();
        if !missing.is_empty() {
            return Err(Failure::new(
                format!("profiling needs {}, which this process does not have", missing.join(", ")),
                "run as root (sudo), or give CAP_SYS_ADMIN and CAP_SYS_PTRACE",
            ));
        }
        enough_memory()?;
        let chosen = targets::choose(request)?;
        if let Some(said) = &chosen.said {
            output.progress(said);
        }
        let mut settings = programs::settings(targets::own_pid_namespace()?)?;
        if request.collect.contains(&Kind::Syscalls) {
            programs::want_syscalls(&mut settings, request.syscall_min_ns);
        }
        let mut programs = Programs::load(&settings)?;
        let (stacks, threads) = programs.rings()?;
        let syscalls = programs.syscall_ring()?;
        let mut processes = Processes::new(request);
        for pid in chosen.pids {
            programs.add_target(pid)?;
            processes.choose(pid, &mut programs, output);
        }
        Ok(Self {
            programs,
            stacks,
            threads,
            syscalls,
            processes,
            timeline: Timeline::default(),
            writer: TraceWriter::new(request.frequency_hz),
            left_at: Instant::now(),
            pending: Vec::new(),
            events: Vec::new(),
            names: Threads::default(),
            opened: ClockSnapshot::default(),
            opened_at: Instant::now(),
            torn_records: 0,
            records: Records::default(),
        })
    }

    /// Opens the window.
    fn open(&mut self, request: &Request, output: &Output) -> Result<(), Failure> {
        self.programs.attach(request.frequency_hz)?;
        if self.processes.syscalls.is_some()
            && let Err(error) = self.programs.attach_syscalls()
        {
            let reason = error.to_string();
            self.processes.refuse_syscalls(&reason);
            output.progress(&Progress::Warning { message: format!("system calls are not recorded: {reason}") });
        }
        self.opened = clock::snapshot();
        self.opened_at = Instant::now();
        let mut snapshot = self.programs.snapshot()?;
        // First threads first: the names of the others are compared with theirs.
        snapshot.sort_by_key(|thread| thread.tid != thread.pid);
        let found_ns = clock::boottime_ns();
        if let Some(syscalls) = &mut self.processes.syscalls {
            syscalls.open(self.opened.boottime_ns, snapshot.iter().map(|thread| thread.tid), &self.programs)?;
        }
        self.events.push(Event::Clock(self.opened));
        self.processes.describe(&mut self.events);
        for thread in &snapshot {
            self.names.see(thread.pid, thread.tid, &mut self.events);
            let has_stack =
                join::found(thread, self.opened.boottime_ns, found_ns, &mut self.processes, &mut self.pending);
            self.records.start_stacks += u64::from(has_stack);
        }
        output.progress(&Progress::Started {
            duration_ms: request.duration_ms,
            processes: self.processes.len() as u32,
            threads: snapshot.len() as u32,
        });
        Ok(())
    }

    /// Records until there is a reason to stop.
    fn record(&mut self, request: &Request, control: &Receiver<EndReason>, output: &mut Output) -> EndReason {
        let end = request.duration_ms.and_then(|ms| self.opened_at.checked_add(Duration::from_millis(ms)));
        let mut last_tick = Instant::now();
        let mut last_sums = last_tick;
        loop {
            let left = end.map_or(DRAIN_INTERVAL, |end| end.saturating_duration_since(Instant::now()));
            match control.recv_timeout(left.min(DRAIN_INTERVAL)) {
                Ok(reason) => return reason,
                Err(RecvTimeoutError::Disconnected) => return EndReason::PluginGone,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let settled = clock::boottime_ns().saturating_sub(SETTLE_NS);
            self.drain(settled, output);
            if output.is_broken() {
                return EndReason::PluginGone;
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                return EndReason::Duration;
            }
            if last_sums.elapsed() >= SUMS_INTERVAL {
                last_sums = Instant::now();
                self.tell_sums(clock::boottime_ns(), false);
            }
            if last_tick.elapsed() >= TICK_INTERVAL {
                last_tick = Instant::now();
                self.tick(output);
                if self.processes.all_ended() {
                    return EndReason::TargetExited;
                }
            }
        }
    }

    fn tick(&mut self, output: &mut Output) {
        let since_ms = self.opened_at.elapsed().as_millis() as u64;
        self.processes.look_after(since_ms, &mut self.programs, &mut self.events, output);
        if self.left_at.elapsed() + TICK_INTERVAL > FLUSH_INTERVAL {
            self.flush(output);
        }
        let counters = self.programs.counters().unwrap_or_default();
        output.progress(&Progress::Tick {
            elapsed_ms: since_ms,
            trace_bytes: output.trace_bytes(),
            samples: counters.samples,
            switches: counters.switches,
            lost: counters.stacks_lost + counters.thread_events_lost + counters.syscall_records_lost,
        });
    }

    /// Takes everything out of the rings and passes on what is older than `settled_ns`.
    fn drain(&mut self, settled_ns: u64, output: &mut Output) {
        while let Some(record) = self.threads.next() {
            let Some((kind, event)) = rings::thread_event(&record) else {
                self.torn_records += 1;
                continue;
            };
            self.records.thread_events += 1;
            self.processes.note(kind, &event, &mut self.programs, &mut self.events);
            if event.timestamp_ns < self.opened.boottime_ns {
                continue;
            }
            join::thread_event(kind, &event, &mut self.processes, &mut self.pending);
        }
        while let Some(record) = self.stacks.next() {
            let Some(record) = rings::stack_record(&record) else {
                self.torn_records += 1;
                continue;
            };
            if record.header.timestamp_ns < self.opened.boottime_ns {
                self.records.early += 1;
                continue;
            }
            join::stack(&record, &mut self.processes, &mut self.pending, &mut self.events);
            let count = match record.trigger {
                StackTrigger::Sample => &mut self.records.samples,
                StackTrigger::SwitchOut => &mut self.records.switch_stacks,
                StackTrigger::Syscall => &mut self.records.syscall_stacks,
            };
            *count += 1;
        }
        while let Some(record) = self.syscalls.next() {
            let Some(record) = rings::syscall_record(&record) else {
                self.torn_records += 1;
                continue;
            };
            join::syscall(&record, &mut self.processes, &mut self.pending);
        }
        self.pending.sort_by_key(Input::order);
        let settled = self.pending.partition_point(|input| input.timestamp_ns <= settled_ns);
        for input in self.pending.drain(..settled) {
            self.names.see(input.pid, input.tid, &mut self.events);
            self.names.follow(&input, &mut self.events);
            self.timeline.push(input, &mut self.events);
        }
        self.write(output);
    }

    fn tell_sums(&mut self, at_ns: u64, last: bool) {
        let Some(syscalls) = &mut self.processes.syscalls else { return };
        if let Err(error) = syscalls.tell_sums(at_ns, last, &mut self.programs, &mut self.events) {
            self.processes.refuse_syscalls(&error.to_string());
        }
    }

    /// Calls that have not ended: of threads that sleep, and of those that run in the kernel.
    fn in_flight(&self, sleeping: Vec<SyscallRecord>) -> Vec<SyscallRecord> {
        let running = self.programs.running().unwrap_or_default();
        let in_call = running.into_iter().filter(|each| !matches!(each.entered_ns, 0 | RunningThread::NOT_SEEN));
        let running = in_call.map(|RunningThread { pid, tid, number, entered_ns, .. }| SyscallRecord {
            start_ns: entered_ns,
            pid,
            tid,
            number,
            ..SyscallRecord::default()
        });
        sleeping.into_iter().chain(running).collect()
    }

    fn write(&mut self, output: &mut Output) {
        for event in self.events.drain(..) {
            self.writer.push(&event);
            while let Some(block) = self.writer.take_ready() {
                output.frame(FrameKind::Trace, &block);
                self.left_at = Instant::now();
            }
        }
    }

    /// Writes all there is, full block or not.
    fn flush(&mut self, output: &mut Output) {
        self.write(output);
        let block = self.writer.flush();
        if !block.is_empty() {
            output.frame(FrameKind::Trace, &block);
        }
        self.left_at = Instant::now();
    }

    /// Closes the window and writes what is left.
    fn close(&mut self, request: &Request, reason: EndReason, output: &mut Output) -> Result<Manifest, Failure> {
        let sleeping = match &self.processes.syscalls {
            Some(_) => join::sleeping(&self.programs.snapshot().unwrap_or_default()),
            None => Vec::new(),
        };
        self.programs.detach();
        let closed = clock::snapshot();
        let since_ms = self.opened_at.elapsed().as_millis() as u64;
        // A program that still runs on another CPU has ended by then.
        thread::sleep(Duration::from_millis(1));
        // Whatever is counted is in the rings.
        let counters: Counters = self.programs.counters()?;
        self.drain(u64::MAX, output);
        self.processes.look_after(since_ms, &mut self.programs, &mut self.events, output);
        for record in self.in_flight(sleeping) {
            let record = SyscallRecord { end_ns: closed.boottime_ns, ..record };
            if let Some(input) = join::in_flight(&record, &mut self.processes) {
                self.timeline.push(input, &mut self.events);
            }
        }
        self.tell_sums(closed.boottime_ns, true);
        self.timeline.close(closed.boottime_ns, &mut self.events);
        self.events.push(Event::Clock(closed));
        self.flush(output);
        Ok(manifest::make(self, request, reason, closed, &counters))
    }
}
