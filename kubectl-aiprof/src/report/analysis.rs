//! Events in, [`Report`] out. Pure; memory grows with the functions, threads and places of the trace, not with its length.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
};

use aiprof_capture::{
    event::{Event, StateSlice, ThreadState},
    manifest::{Manifest, Outcome},
    progress::EndReason,
};

use super::{
    functions::{FunctionCounts, FunctionNumbers},
    model::{Capture, ProcessReport, Quality, REPORT_SCHEMA, Report, SchedulingDelay, ThreadReport, TimeSplit},
    waits::{ReasonSums, Sum, WaitSums},
};

/// Nanoseconds of a second.
const SECOND_NS: u64 = 1_000_000_000;

/// A report in the making.
#[derive(Debug)]
pub struct Analysis {
    manifest: Manifest,
    top: usize,
    numbers: FunctionNumbers,
    processes: BTreeMap<u32, ProcessSums>,
}

#[derive(Debug, Default)]
struct ProcessSums {
    name: String,
    functions: FunctionCounts,
    waits: WaitSums,
    threads: HashMap<u32, ThreadSums>,
}

#[derive(Debug, Default)]
struct ThreadSums {
    name: String,
    samples: u64,
    time: TimeSums,
    reasons: ReasonSums,
}

#[derive(Clone, Copy, Debug, Default)]
struct TimeSums {
    running_ns: u64,
    waiting_ns: u64,
    delay: Sum,
    preempted: u64,
}

impl Analysis {
    /// A report on a capture of this manifest, with tables of `top` rows.
    #[must_use]
    pub fn new(manifest: &Manifest, top: usize) -> Self {
        Self { manifest: manifest.clone(), top, numbers: FunctionNumbers::default(), processes: BTreeMap::new() }
    }

    /// Whether the capture is known to have been cut off.
    #[must_use]
    pub fn torn(&self) -> bool {
        self.manifest.end_reason == EndReason::ProfilerDied
    }

    /// Notes that the rest of the trace cannot be read.
    pub fn note_damage(&mut self, why: &str) {
        self.manifest.notes.push(format!("The trace was read up to where it breaks off: {why}"));
    }

    /// Takes one event.
    pub fn add(&mut self, event: &Event) {
        match event {
            Event::Process(process) => self.process(process.pid).name.clone_from(&process.name),
            Event::Thread(thread) => {
                self.process(thread.pid).threads.entry(thread.tid).or_default().name.clone_from(&thread.name);
            }
            Event::Sample(sample) => {
                let process = self.processes.entry(sample.pid).or_default();
                process.functions.add(&sample.stack, &mut self.numbers);
                process.threads.entry(sample.tid).or_default().samples += 1;
            }
            Event::State(slice) => self.process(slice.pid).add_slice(slice),
            Event::Clock(_)
            | Event::PythonBegin(_)
            | Event::PythonEnd(_)
            | Event::Syscall(_)
            | Event::SyscallSum(_)
            | Event::SyscallRate(_) => {}
        }
    }

    /// The report.
    #[must_use]
    pub fn finish(mut self) -> Report {
        let frequency_hz = self.manifest.request.frequency_hz;
        let period_ns = SECOND_NS.checked_div(u64::from(frequency_hz)).unwrap_or(0);
        for process in &self.manifest.processes {
            self.processes.entry(process.pid).or_default();
        }
        let mut all = FunctionCounts::default();
        let mut processes = Vec::new();
        for (pid, sums) in std::mem::take(&mut self.processes) {
            all.merge(&sums.functions);
            processes.push(self.process_report(pid, &sums, period_ns));
        }
        processes.sort_by_key(|process| Reverse((process.time.running_ns, process.samples)));
        let manifest = self.manifest;
        Report {
            schema: REPORT_SCHEMA,
            samples: all.samples(),
            sampled_ns: all.samples().saturating_mul(period_ns),
            functions: all.tables(&self.numbers, period_ns, self.top),
            processes,
            quality: quality(&manifest),
            capture: Capture {
                started_at: manifest.started_at,
                duration_ms: manifest.duration_ms,
                end_reason: manifest.end_reason,
                frequency_hz,
                sample_period_ns: period_ns,
                profiler_version: manifest.profiler_version,
                host: manifest.host,
                cost: manifest.cost,
            },
        }
    }

    fn process(&mut self, pid: u32) -> &mut ProcessSums {
        self.processes.entry(pid).or_default()
    }

    fn process_report(&self, pid: u32, sums: &ProcessSums, period_ns: u64) -> ProcessReport {
        let known = self.manifest.processes.iter().find(|process| process.pid == pid);
        let mut all = TimeSums::default();
        let mut threads: Vec<ThreadReport> = Vec::new();
        for (&tid, thread) in &sums.threads {
            all.merge(thread.time);
            threads.push(ThreadReport {
                tid,
                name: thread.name.clone(),
                samples: thread.samples,
                time: thread.time.split(),
                wait_reasons: thread.reasons.rows(),
            });
        }
        threads.sort_by_key(|thread| (Reverse((thread.time.running_ns, thread.samples)), thread.tid));
        let name = match known {
            Some(known) if sums.name.is_empty() => known.name.clone(),
            _ => sums.name.clone(),
        };
        ProcessReport {
            pid,
            name,
            python: known.and_then(|known| known.python.clone()),
            exited_after_ms: known.and_then(|known| known.exited_after_ms),
            dimensions: known.map(|known| known.dimensions.clone()).unwrap_or_default(),
            samples: sums.functions.samples(),
            sampled_ns: sums.functions.samples().saturating_mul(period_ns),
            time: all.split(),
            functions: sums.functions.tables(&self.numbers, period_ns, self.top),
            waits: sums.waits.rows(self.top),
            threads,
        }
    }
}

impl ProcessSums {
    fn add_slice(&mut self, slice: &StateSlice) {
        let duration_ns = slice.end_ns.saturating_sub(slice.start_ns);
        let thread = self.threads.entry(slice.tid).or_default();
        match &slice.state {
            ThreadState::Running { .. } => thread.time.running_ns = thread.time.running_ns.saturating_add(duration_ns),
            ThreadState::Runnable { preempted, .. } => {
                thread.time.delay.add(duration_ns);
                thread.time.preempted += u64::from(*preempted);
            }
            ThreadState::Waiting(wait) => {
                thread.time.waiting_ns = thread.time.waiting_ns.saturating_add(duration_ns);
                thread.reasons.add(&wait.reason, duration_ns);
                self.waits.add(&wait.reason, slice.stack.as_ref(), duration_ns);
            }
        }
    }
}

impl TimeSums {
    fn merge(&mut self, other: Self) {
        self.running_ns = self.running_ns.saturating_add(other.running_ns);
        self.waiting_ns = self.waiting_ns.saturating_add(other.waiting_ns);
        self.delay.count += other.delay.count;
        self.delay.total_ns = self.delay.total_ns.saturating_add(other.delay.total_ns);
        self.delay.longest_ns = self.delay.longest_ns.max(other.delay.longest_ns);
        self.preempted += other.preempted;
    }

    fn split(self) -> TimeSplit {
        let runnable_ns = self.delay.total_ns;
        let observed_ns = self.running_ns.saturating_add(runnable_ns).saturating_add(self.waiting_ns);
        let share = |part_ns: u64| {
            if observed_ns == 0 { 0.0 } else { part_ns as f64 / observed_ns as f64 }
        };
        TimeSplit {
            observed_ns,
            running_ns: self.running_ns,
            runnable_ns,
            waiting_ns: self.waiting_ns,
            running_share: share(self.running_ns),
            runnable_share: share(runnable_ns),
            waiting_share: share(self.waiting_ns),
            scheduling_delay: SchedulingDelay {
                count: self.delay.count,
                preempted_count: self.preempted,
                total_ns: runnable_ns,
                mean_ns: runnable_ns.checked_div(self.delay.count).unwrap_or(0),
                longest_ns: self.delay.longest_ns,
            },
        }
    }
}

fn quality(manifest: &Manifest) -> Quality {
    let asked = &manifest.request.collect;
    let got_all = asked.iter().all(|dimension| manifest.dimensions.get(dimension) == Some(&Outcome::Complete));
    let lost_none = manifest.streams.values().all(|stream| stream.lost == 0);
    Quality {
        complete: got_all && lost_none,
        dimensions: manifest.dimensions.clone(),
        streams: manifest.streams.clone(),
        notes: manifest.notes.clone(),
    }
}
