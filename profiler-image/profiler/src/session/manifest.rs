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
    utsname::uname,
};

use super::{Session, processes::Known};
use crate::dimensions::Admission;

pub(super) fn make(
    session: &Session,
    request: &Request,
    end_reason: EndReason,
    closed: ClockSnapshot,
    counters: &Counters,
) -> Manifest {
    let mut losses: BTreeMap<Kind, Vec<String>> = BTreeMap::new();
    for dimension in session.processes.dimensions() {
        losses.insert(dimension.kind(), dimension.losses(counters));
    }
    losses.entry(Kind::Python).or_default().extend(session.joiner.losses());
    if session.torn_records > 0 {
        let torn = format!("{} records could not be understood", session.torn_records);
        losses.entry(Kind::Cpu).or_default().push(torn);
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
    let dimensions = request.collect.iter().map(|kind| (*kind, overall(*kind, &processes, &losses))).collect();
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
        cost: cost(counters, duration_ns),
        notes: notes(session, end_reason, counters),
    }
}

fn of_process(kind: Kind, admission: &Admission, losses: &BTreeMap<Kind, Vec<String>>) -> Outcome {
    match admission {
        Admission::Works(_) => complete_or(losses.get(&kind)),
        Admission::Nothing => Outcome::Refused { reason: "the process runs no CPython".to_owned() },
        Admission::Later(reason) | Admission::Refused(reason) => Outcome::Refused { reason: reason.clone() },
    }
}

fn complete_or(losses: Option<&Vec<String>>) -> Outcome {
    match losses {
        Some(reasons) if !reasons.is_empty() => Outcome::Partial { reasons: reasons.clone() },
        _ => Outcome::Complete,
    }
}

/// Over all processes: refused only if it worked in none, partial if some refused it although it had something to do there.
fn overall(kind: Kind, processes: &[ProcessOutcome], losses: &BTreeMap<Kind, Vec<String>>) -> Outcome {
    let outcomes: Vec<(&ProcessOutcome, &Outcome)> =
        processes.iter().filter_map(|each| Some((each, each.dimensions.get(&kind)?))).collect();
    let refused = |outcome: &Outcome| matches!(outcome, Outcome::Refused { .. });
    if outcomes.iter().all(|(_, outcome)| refused(outcome)) {
        return match outcomes.first() {
            Some((_, Outcome::Refused { reason })) => Outcome::Refused { reason: reason.clone() },
            _ => Outcome::Refused { reason: "there was no process".to_owned() },
        };
    }
    let mut reasons = losses.get(&kind).cloned().unwrap_or_default();
    for (process, outcome) in outcomes {
        if let Outcome::Refused { reason } = outcome
            && !reason.contains("runs no CPython")
        {
            reasons.push(format!("process {} ({}): {reason}", process.pid, process.name));
        }
    }
    complete_or(Some(&reasons))
}

fn streams(session: &Session, counters: &Counters) -> BTreeMap<String, Stream> {
    let records = session.records;
    let stream = |records, lost, thinned| Stream { records, lost, thinned };
    BTreeMap::from([
        ("samples".to_owned(), stream(records.samples, counters.samples.saturating_sub(records.samples), 0)),
        (
            "switch-stacks".to_owned(),
            stream(
                records.switch_stacks,
                counters.switch_stacks.saturating_sub(records.switch_stacks),
                counters.switch_stacks_thinned,
            ),
        ),
        ("thread-events".to_owned(), stream(records.thread_events, counters.thread_events_lost, 0)),
    ])
}

fn cost(counters: &Counters, duration_ns: u64) -> Cost {
    let usage = getrusage(UsageWho::RUSAGE_SELF);
    let cpu_ms = usage.as_ref().map_or(0, |own| (own.user_time() + own.system_time()).num_milliseconds().max(0) as u64);
    // The kernel counts in KiB.
    let peak_rss_bytes = usage.as_ref().map_or(0, |own| own.max_rss().max(0) as u64 * 1024);
    let kernel_ns = counters.samples_ns + counters.switches_ns;
    Cost {
        cpu_ms,
        peak_rss_bytes,
        sample_ns: counters.samples_ns.checked_div(counters.samples),
        switch_ns: counters.switches_ns.checked_div(counters.switches),
        kernel_cpu_share: if duration_ns == 0 { 0.0 } else { kernel_ns as f64 / duration_ns as f64 },
    }
}

fn notes(session: &Session, end_reason: EndReason, counters: &Counters) -> Vec<String> {
    let mut notes = Vec::new();
    if end_reason == EndReason::TargetExited {
        notes.push("the window closed early because every profiled process had ended".to_owned());
    }
    for (pid, Known { name, exited_after_ms, .. }) in session.processes.all() {
        if let Some(after) = exited_after_ms {
            notes.push(format!("process {pid} ({name}) ended {after} ms after the window opened"));
        }
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
        hostname: text(names.as_ref().map(|each| each.nodename())),
        kernel: text(names.as_ref().map(|each| each.release())),
        architecture: std::env::consts::ARCH.to_owned(),
        cpus: aya::util::online_cpus().map_or(0, |cpus| cpus.len() as u32),
    }
}

/// `2026-01-31T12:00:00Z` of nanoseconds since 1970.
fn rfc3339(realtime_ns: u64) -> String {
    humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + std::time::Duration::from_nanos(realtime_ns)).to_string()
}
