//! Events in, text out: a small capture of one process, and an empty one.

use aiprof_capture::{
    event::{Event, Frame, FrameKind, Process, Sample, Stack, StateSlice, Thread, ThreadState, Wait},
    manifest::Stream,
    request::Dimension,
};
use unicode_width::UnicodeWidthStr as _;

use super::*;
use crate::{record::tests::manifest, report::analysis::Analysis};

const MS: u64 = 1_000_000;

fn python(function: &str, line: u32) -> Frame {
    Frame {
        kind: FrameKind::Python,
        function: function.into(),
        file: "/srv/app/server.py".into(),
        line,
        ..Frame::default()
    }
}

fn stack(frames: Vec<Frame>) -> Stack {
    Stack { frames: frames.into_iter().map(Into::into).collect(), cut: false }
}

fn events() -> Vec<Event> {
    let (pid, tid) = (42, 43);
    let mut events = vec![
        Event::Process(Process { pid, parent_pid: 1, name: "server.py".into() }),
        Event::Thread(Thread { pid, tid, name: "worker".into() }),
    ];
    for index in 0..10 {
        let native = Frame { function: "PyLong_Add".into(), file: "/usr/bin/python3.12".into(), ..Frame::default() };
        let leaf = if index < 6 { python("hot", 3) } else { python("cold", 9) };
        let frames = if index == 0 { vec![native, leaf, python("main", 30)] } else { vec![leaf, python("main", 30)] };
        events.push(Event::Sample(Sample { timestamp_ns: index * 10 * MS, pid, tid, cpu: 0, stack: stack(frames) }));
    }
    let mut slice = |start_ns, end_ns, state, stack| {
        events.push(Event::State(StateSlice { pid, tid, start_ns, end_ns, state, stack }));
    };
    slice(0, 100 * MS, ThreadState::Running { cpu: Some(0) }, None);
    slice(100 * MS, 150 * MS, ThreadState::Runnable { preempted: true, waker: None }, None);
    let wait = Wait { reason: "epoll_wait".into(), ..Wait::default() };
    slice(150 * MS, 400 * MS, ThreadState::Waiting(wait), Some(stack(vec![python("poll", 7), python("main", 30)])));
    events
}

fn report(events: &[Event]) -> Report {
    let mut analysis = Analysis::new(&manifest(), 10);
    for event in events {
        analysis.add(event);
    }
    analysis.finish()
}

#[test]
fn a_small_capture_reads_like_this() {
    let expected = "\
1.0 s at 100 Hz from 2026-01-01T00:00:00Z; its time was over.

PROCESS 42 server.py, CPython 3.12.1

  TID  THREAD   RUNNING         RUNNABLE          WAITING         MOSTLY FOR
   43  worker  100.0 ms  25.0%   50.0 ms  12.5%  250.0 ms  62.5%  epoll_wait
  Waited for a CPU once (1 preempted): mean 50.0 ms, longest 50.0 ms.

  PYTHON FUNCTIONS BY SELF TIME
     SELF            TOTAL          FUNCTION
  60.0 ms  60.0%   60.0 ms   60.0%  hot  app/server.py:3
  40.0 ms  40.0%   40.0 ms   40.0%  cold  app/server.py:9

  PYTHON FUNCTIONS BY TOTAL TIME
     SELF            TOTAL          FUNCTION
      0   0.0%  100.0 ms  100.0%  main  app/server.py:30
  60.0 ms  60.0%   60.0 ms   60.0%  hot  app/server.py:3
  40.0 ms  40.0%   40.0 ms   40.0%  cold  app/server.py:9

  NATIVE FUNCTIONS BY SELF TIME
     SELF         FUNCTION
  10.0 ms  10.0%  PyLong_Add  bin/python3.12

  WAITS
     TOTAL          COUNT   LONGEST  REASON AND STACK, INNERMOST FIRST
  250.0 ms  100.0%      1  250.0 ms  epoll_wait: poll (server.py:7) < main (server.py:30)
";
    let text = render(&report(&events()), 10);
    let squeezed =
        |text: &str| text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>();
    assert_eq!(squeezed(&text), squeezed(expected), "{text}");
    assert!(text.lines().all(|line| line.width() <= WIDTH), "{text}");
}

#[test]
fn an_empty_capture_says_so() {
    let text = render(&report(&[]), 10);
    assert!(text.ends_with("The profile is empty: no sample and no thread state was recorded.\n"), "{text}");
    assert!(!text.contains("FUNCTIONS"), "{text}");
}

#[test]
fn what_is_missing_stands_on_top() {
    let mut manifest = manifest();
    let reason =
        "CPython 3.15 is not known, and a long reason that will not fit into one line of the report's width at all"
            .to_owned();
    manifest.dimensions.insert(Dimension::Python, Outcome::Refused { reason });
    manifest.streams.insert("samples".into(), Stream { records: 90, lost: 10, thinned: 5 });
    let report = Analysis::new(&manifest, 10).finish();
    assert!(!report.quality.complete);
    let text = render(&report, 10);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[2], "MISSING");
    assert!(lines[3].starts_with("  no python: CPython 3.15"), "{text}");
    assert!(text.contains("samples: 10 lost, 90 kept") && text.contains("samples: 5 left out"), "{text}");
    assert!(text.lines().all(|line| line.width() <= WIDTH), "{text}");
}

#[test]
fn names_from_the_target_cannot_steer_the_terminal() {
    let mut events = events();
    events.push(Event::Process(Process { pid: 42, parent_pid: 1, name: "\x1b[2Jx".into() }));
    events.push(Event::Thread(Thread { pid: 42, tid: 43, name: "\x1b]0;x\x07".into() }));
    assert!(!render(&report(&events), 10).contains('\x1b'));
}

#[test]
fn slices_that_end_before_they_start_count_as_nothing() {
    let state = ThreadState::Running { cpu: None };
    let slice = StateSlice { pid: 1, tid: 1, start_ns: u64::MAX, end_ns: 0, state, stack: None };
    assert_eq!(report(&[Event::State(slice)]).processes[0].time.observed_ns, 0);
}
