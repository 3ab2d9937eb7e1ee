//! What was asked, what was got.

use std::collections::BTreeMap;

use aiprof_capture::{
    event::ClockSnapshot,
    manifest::{Clocks, Cost, Host, Manifest, Outcome, ProcessOutcome, SCHEMA_VERSION, Stream},
    progress::EndReason,
    request::{Dimension as Kind, Request},
};
use aiprof_ebpf_types::Counters;
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike,
    utsname::{UtsName, uname},
};

use super::{Session, processes::Known};
use crate::{
    dimensions::{Admission, Losses, Syscalls},
    kernel::programs,
};

pub(super) fn make(
    session: &Session,
    request: &Request,
    end_reason: EndReason,
    closed: ClockSnapshot,
    counters: &Counters,
) -> Manifest {
    let mut losses: BTreeMap<Kind, Losses> = BTreeMap::new();
    for dimension in session.processes.dimensions() {
        losses.insert(dimension.kind(), dimension.losses(counters));
    }
    if session.torn_records > 0 {
        let torn = format!("{} records could not be understood", session.torn_records);
        losses.entry(Kind::Cpu).or_default().partial.push(torn);
    }
    let wanted = |kind: Kind| request.collect.contains(&kind);
    let processes: Vec<ProcessOutcome> = session
        .processes
        .all()
        .map(|(pid, known)| ProcessOutcome {
            pid,
            name: known.name.clone(),
            python: known.python.clone(),
            exited_after_ms: known.exited_after_ms,
            dimensions: known
                .admissions
                .iter()
                .filter(|(kind, _)| wanted(**kind))
                .map(|(kind, admission)| (*kind, of_process(*kind, admission, &losses)))
                .collect(),
        })
        .collect();
    let dimensions = request.collect.iter().map(|kind| (*kind, overall(*kind, session, &losses))).collect();
    let duration_ns = closed.boottime_ns.saturating_sub(session.opened.boottime_ns);
    Manifest {
        schema: SCHEMA_VERSION,
        profiler_version: env!("CARGO_PKG_VERSION").to_owned(),
        request: request.clone(),
        end_reason,
        started_at: rfc3339(session.opened.realtime_ns),
        duration_ms: duration_ns / 1_000_000,
        clock: Clocks {
            boottime_ns: session.opened.boottime_ns,
            monotonic_ns: session.opened.monotonic_ns,
            realtime_ns: session.opened.realtime_ns,
        },
        host: host(),
        dimensions,
        processes,
        streams: streams(session, counters),
        cost: cost(counters, session.processes.syscalls.as_ref().map_or(0, Syscalls::calls), duration_ns),
        notes: notes(session, end_reason, counters, &losses),
    }
}

fn of_process(kind: Kind, admission: &Admission, losses: &BTreeMap<Kind, Losses>) -> Outcome {
    match admission {
        Admission::Works(_) => complete_or(losses.get(&kind).map(|each| each.partial.clone()).unwrap_or_default()),
        Admission::Nothing => Outcome::Refused { reason: "the process runs no CPython".to_owned() },
        Admission::Ended => Outcome::Refused { reason: "the process ended before it could be looked at".to_owned() },
        Admission::Later(reason) | Admission::Refused(reason) => Outcome::Refused { reason: reason.clone() },
    }
}

fn complete_or(reasons: Vec<String>) -> Outcome {
    if reasons.is_empty() { Outcome::Complete } else { Outcome::Partial { reasons } }
}

/// Over all processes: refused only if it worked in none, partial if some refused it although it had something to do there.
fn overall(kind: Kind, session: &Session, losses: &BTreeMap<Kind, Losses>) -> Outcome {
    let admissions: Vec<(u32, &Known, &Admission)> =
        session.processes.all().filter_map(|(pid, known)| Some((pid, known, known.admissions.get(&kind)?))).collect();
    if !admissions.iter().any(|(_, _, admission)| matches!(admission, Admission::Works(_))) {
        return match admissions.first() {
            Some((_, _, admission)) => of_process(kind, admission, losses),
            None => Outcome::Refused { reason: "there was no process".to_owned() },
        };
    }
    let mut reasons = losses.get(&kind).map(|each| each.partial.clone()).unwrap_or_default();
    for (pid, Known { name, .. }, admission) in admissions {
        if let Admission::Later(reason) | Admission::Refused(reason) = admission {
            reasons.push(format!("process {pid} ({name}): {reason}"));
        }
    }
    complete_or(reasons)
}

fn streams(session: &Session, counters: &Counters) -> BTreeMap<String, Stream> {
    let records = session.records;
    let lost = |counted: u64, arrived: u64| counted.saturating_sub(arrived + records.early);
    let mut streams = BTreeMap::from([
        stream("samples", records.samples, lost(counters.samples, records.samples), 0),
        stream("start-stacks", records.start_stacks, 0, 0),
        stream(
            "switch-stacks",
            records.switch_stacks,
            lost(counters.switch_stacks, records.switch_stacks),
            counters.switch_stacks_thinned,
        ),
        stream("thread-events", records.thread_events, counters.thread_events_lost, 0),
    ]);
    if let Some(syscalls) = &session.processes.syscalls {
        streams.extend([
            stream("syscalls", syscalls.calls(), counters.syscalls_uncounted, 0),
            stream("syscall-slices", syscalls.slices, counters.syscall_records_lost, counters.syscall_records_thinned),
            stream(
                "syscall-stacks",
                records.syscall_stacks,
                lost(counters.syscall_stacks, records.syscall_stacks),
                counters.syscall_stacks_thinned,
            ),
        ]);
    }
    streams
}

fn stream(name: &str, records: u64, lost: u64, thinned: u64) -> (String, Stream) {
    (name.to_owned(), Stream { records, lost, thinned })
}

fn cost(counters: &Counters, syscalls: u64, duration_ns: u64) -> Cost {
    let usage = getrusage(UsageWho::RUSAGE_SELF);
    let cpu_ms = usage.as_ref().map_or(0, |own| (own.user_time() + own.system_time()).num_milliseconds().max(0) as u64);
    // The kernel counts in KiB.
    let peak_rss_bytes = usage.as_ref().map_or(0, |own| own.max_rss().max(0) as u64 * 1024);
    let syscall_ns = counters.syscalls_timed_ns.checked_div(counters.syscalls_timed);
    let kernel_ns = counters.samples_ns + counters.switches_ns + syscalls.saturating_mul(syscall_ns.unwrap_or(0));
    Cost {
        cpu_ms,
        peak_rss_bytes,
        sample_ns: counters.samples_ns.checked_div(counters.samples),
        syscall_ns,
        switch_ns: counters.switches_ns.checked_div(counters.switches),
        kernel_cpu_share: if duration_ns == 0 { 0.0 } else { kernel_ns as f64 / duration_ns as f64 },
    }
}

fn notes(
    session: &Session,
    end_reason: EndReason,
    counters: &Counters,
    losses: &BTreeMap<Kind, Losses>,
) -> Vec<String> {
    let mut notes = Vec::new();
    let ended = session.processes.all().filter(|(_, known)| known.exited_after_ms.is_some()).count();
    if end_reason == EndReason::TargetExited {
        notes.push("the window closed early because every profiled process had ended".to_owned());
    } else if ended > 0 {
        notes.push(format!("{ended} of {} processes ended within the window", session.processes.len()));
    }
    let unseen =
        session.processes.all().filter(|(_, known)| known.admissions.get(&Kind::Python) == Some(&Admission::Ended));
    let unseen = unseen.count();
    if unseen > 0 {
        notes.push(format!("{unseen} processes ended before it could be told whether they run CPython"));
    }
    if session.processes.forgotten > 0 {
        notes.push(format!("{} processes that had ended are not listed", session.processes.forgotten));
    }
    if counters.switch_stacks_thinned > 0 {
        notes.push(format!(
            "{} of {} waits have no stack, to stay within the budget; all of them have their length and reason",
            counters.switch_stacks_thinned,
            counters.switch_stacks_thinned + counters.switch_stacks
        ));
    }
    if session.timeline.inconsistencies > 0 {
        notes.push(format!(
            "the kernel reported {} switches without their counterpart: states around them are estimates",
            session.timeline.inconsistencies
        ));
    }
    notes.extend(losses.values().flat_map(|each| each.notes.iter().cloned()));
    if let Some(reason) = session.processes.cpu.kernel_hidden() {
        notes.push(format!("kernel functions have no names: {reason}"));
    }
    notes
}

fn host() -> Host {
    let names = uname().ok();
    let text =
        |value: Option<&std::ffi::OsStr>| value.map(|each| each.to_string_lossy().into_owned()).unwrap_or_default();
    Host {
        hostname: text(names.as_ref().map(UtsName::nodename)),
        kernel: text(names.as_ref().map(UtsName::release)),
        architecture: std::env::consts::ARCH.to_owned(),
        cpus: programs::cpu_count(),
    }
}

/// `2026-01-31T12:00:00Z` of nanoseconds since 1970.
fn rfc3339(realtime_ns: u64) -> String {
    humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + std::time::Duration::from_nanos(realtime_ns)).to_string()
}
