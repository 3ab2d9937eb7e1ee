//! Threads told step by step, and what must come of it.

use std::sync::Arc;

use aiprof_capture::event::{Event, Frame, Stack, ThreadState, Wait, Waker};

use super::{Input, InputKind, Observation, PythonCall, Timeline};

const PID: u32 = 10;
const TID: u32 = 11;

fn run(steps: Vec<(u64, InputKind)>, end_ns: u64) -> (Vec<Event>, u64) {
    let mut timeline = Timeline::default();
    let mut out = Vec::new();
    for (timestamp_ns, kind) in steps {
        timeline.push(Input { timestamp_ns, pid: PID, tid: TID, kind }, &mut out);
    }
    timeline.close(end_ns, &mut out);
    (out, timeline.inconsistencies)
}

fn wait(reason: &str) -> Wait {
    Wait { reason: reason.into(), ..Wait::default() }
}

fn switch_in(wake_ns: Option<u64>) -> InputKind {
    InputKind::SwitchIn { cpu: 1, wake_ns, waker: wake_ns.map(|_| Waker { pid: PID, tid: 99 }) }
}

fn switch_out(reason: Option<&str>) -> InputKind {
    InputKind::SwitchOut { wait: reason.map(wait), wake_ns: None, dead: false }
}

fn sighting(functions: &[&str], leaving: bool) -> InputKind {
    let python = functions
        .iter()
        .map(|name| PythonCall {
            code: (name.len() as u64 * 16, u32::from(name.as_bytes()[0])),
            frame: Arc::new(Frame { function: (*name).into(), ..Frame::default() }),
        })
        .collect();
    let stack = Stack::default();
    InputKind::Stack(Box::new(Observation { stack, python: Some(python), leaving, wait_function: None }))
}

/// `(start, end, name)` of the states.
fn states(events: &[Event]) -> Vec<(u64, u64, String)> {
    let name = |state: &ThreadState| match state {
        ThreadState::Running { .. } => "running".to_owned(),
        ThreadState::Runnable { preempted: true, .. } => "preempted".to_owned(),
        ThreadState::Runnable { .. } => "runnable".to_owned(),
        ThreadState::Waiting(wait) => wait.reason.to_string(),
    };
    let slices = events.iter().filter_map(|each| match each {
        Event::State(slice) => Some((slice.start_ns, slice.end_ns, name(&slice.state))),
        _ => None,
    });
    slices.collect()
}

/// `time+name` and `time-` of the Python slices.
fn python(events: &[Event]) -> Vec<String> {
    let marks = events.iter().filter_map(|each| match each {
        Event::PythonBegin(begin) => Some(format!("{}+{}", begin.timestamp_ns, begin.function.function)),
        Event::PythonEnd(end) => Some(format!("{}-", end.timestamp_ns)),
        _ => None,
    });
    marks.collect()
}

fn expect(events: &[Event], wanted: &[(u64, u64, &str)]) {
    let wanted: Vec<_> = wanted.iter().map(|(start, end, name)| (*start, *end, (*name).to_owned())).collect();
    assert_eq!(states(events), wanted);
    assert!(wanted.windows(2).all(|pair| pair[0].1 == pair[1].0), "the expectation itself has a gap");
}

#[test]
fn states_follow_each_other_without_gaps() {
    let (events, inconsistencies) = run(
        vec![
            (100, InputKind::Found(ThreadState::Waiting(wait("futex")))),
            (150, switch_in(Some(140))),
            (170, switch_out(None)),
            (180, switch_in(None)),
            (190, switch_out(Some("read"))),
        ],
        250,
    );
    expect(
        &events,
        &[
            (100, 140, "futex"),
            (140, 150, "runnable"),
            (150, 170, "running"),
            (170, 180, "preempted"),
            (180, 190, "running"),
            (190, 250, "read"),
        ],
    );
    assert_eq!(inconsistencies, 0);
}

#[test]
fn a_thread_of_unknown_state_is_told_by_its_first_switch() {
    expect(
        &run(vec![(100, InputKind::Present), (130, switch_out(Some("poll")))], 140).0,
        &[(100, 130, "running"), (130, 140, "poll")],
    );
    expect(
        &run(vec![(100, InputKind::Present), (130, switch_in(None))], 140).0,
        &[(100, 130, "runnable"), (130, 140, "running")],
    );
    expect(&run(vec![(100, InputKind::Present)], 140).0, &[(100, 140, "running")]);
}

#[test]
fn a_record_tells_more_than_the_state_a_thread_was_found_in() {
    let found = InputKind::Found(ThreadState::Waiting(wait("futex")));
    expect(
        &run(vec![(100, InputKind::Present), (110, switch_in(None)), (120, found.clone())], 140).0,
        &[(100, 110, "runnable"), (110, 140, "running")],
    );
    expect(
        &run(vec![(100, InputKind::Present), (120, found), (130, switch_in(Some(125)))], 140).0,
        &[(100, 125, "futex"), (125, 130, "runnable"), (130, 140, "running")],
    );
}

#[test]
fn a_wake_up_that_overtakes_the_switch_makes_no_wait() {
    let steps = vec![
        (100, InputKind::Created),
        (110, switch_in(None)),
        (120, switch_out(Some("futex"))),
        (125, switch_in(Some(119))),
    ];
    expect(
        &run(steps, 130).0,
        &[(100, 110, "runnable"), (110, 120, "running"), (120, 125, "runnable"), (125, 130, "running")],
    );
}

#[test]
fn a_sample_tells_of_a_lost_switch_in() {
    let preempted = vec![(100, switch_in(None)), (110, switch_out(None))];
    let with = |rest: Vec<(u64, InputKind)>| run([preempted.clone(), rest].concat(), 160);
    let sampled = || sighting(&["f"], false);
    let (events, inconsistencies) = with(vec![(120, sampled()), (130, sampled()), (140, switch_out(Some("read")))]);
    expect(&events, &[(100, 110, "running"), (110, 120, "preempted"), (120, 140, "running"), (140, 160, "read")]);
    assert_eq!(inconsistencies, 1);
    // It still runs when the window closes.
    let (events, _) = with(vec![(120, sampled())]);
    expect(&events, &[(100, 110, "running"), (110, 120, "preempted"), (120, 160, "running")]);
    // What a switch tells is nearer than any sample.
    let (events, inconsistencies) = with(vec![(120, switch_in(None)), (130, sampled())]);
    expect(&events, &[(100, 110, "running"), (110, 120, "preempted"), (120, 160, "running")]);
    assert_eq!(inconsistencies, 0);
}

#[test]
fn lost_switches_are_counted_and_leave_no_gap() {
    let (events, inconsistencies) = run(
        vec![(100, switch_in(None)), (110, switch_in(None)), (120, switch_out(None)), (130, switch_out(None))],
        140,
    );
    expect(&events, &[(100, 110, "running"), (110, 120, "running"), (120, 130, "preempted"), (130, 140, "preempted")]);
    assert_eq!(inconsistencies, 2);
}

#[test]
fn a_switch_in_that_the_kernel_did_not_report_is_taken_from_the_wake_up() {
    let lost = InputKind::SwitchOut { wait: Some(wait("futex")), wake_ns: Some(130), dead: false };
    let (events, inconsistencies) =
        run(vec![(100, switch_in(None)), (110, switch_out(Some("poll"))), (135, lost)], 140);
    expect(&events, &[(100, 110, "running"), (110, 130, "poll"), (130, 135, "running"), (135, 140, "futex")]);
    assert_eq!(inconsistencies, 1);
}

#[test]
fn the_wait_carries_its_stack() {
    let mut timeline = Timeline::default();
    let mut out = Vec::new();
    let frame = Arc::new(Frame { function: "futex_wait".into(), ..Frame::default() });
    let stack = Stack { frames: [frame].into(), cut: false };
    let seen =
        Observation { stack: stack.clone(), python: None, leaving: true, wait_function: Some("futex_wait".into()) };
    for (timestamp_ns, kind) in [
        (10, switch_in(None)),
        (20, switch_out(Some("futex"))),
        (20, InputKind::Stack(Box::new(seen))),
        (30, switch_in(Some(28))),
    ] {
        timeline.push(Input { timestamp_ns, pid: PID, tid: TID, kind }, &mut out);
    }
    let found: Vec<_> = out
        .iter()
        .filter_map(|each| match each {
            Event::State(slice) => slice.stack.clone(),
            _ => None,
        })
        .collect();
    assert_eq!(found, [stack]);
    assert!(out.iter().any(|each| matches!(each, Event::State(slice) if matches!(&slice.state, ThreadState::Waiting(wait) if wait.kernel_function.as_deref() == Some("futex_wait")))));
}

#[test]
fn python_slices_change_in_the_middle_between_sightings() {
    let (events, _) =
        run(vec![(100, sighting(&["main", "work"], false)), (120, sighting(&["main", "rest"], false))], 150);
    assert_eq!(python(&events), ["100+main", "100+work", "110-", "110+rest", "150-", "150-"]);
}

#[test]
fn python_slices_hold_through_a_wait() {
    let (events, _) = run(
        vec![
            (100, switch_in(None)),
            (110, sighting(&["main", "sleep"], true)),
            (110, switch_out(Some("clock_nanosleep"))),
            (200, switch_in(Some(199))),
            (210, sighting(&["main"], false)),
        ],
        220,
    );
    assert_eq!(python(&events), ["105+main", "105+sleep", "205-", "220-"]);
}

#[test]
fn recursion_makes_one_slice_a_call_and_exec_ends_them_all() {
    let (events, _) = run(
        vec![(100, sighting(&["f", "f", "f"], false)), (110, sighting(&["f", "f"], false)), (120, InputKind::Exec)],
        130,
    );
    assert_eq!(python(&events), ["100+f", "100+f", "100+f", "105-", "120-", "120-"]);
}
