//! Stacks read from outside against those that the process itself prints, on every CPython there is.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod python_support;

use std::collections::HashMap;

use aiprof_ebpf_types::{MAX_PYTHON_FRAMES, PythonFrame, PythonStatus};
use aiprof_profiler::{
    memory::ProcessMemory,
    python::{self, CodeCache, FrameState, ResolvedFrame},
};
use python_support::{pythons, start_and_wait};

type Frame = (String, u32, String);

/// What `parked.py` printed of one thread.
#[derive(Debug, Default)]
struct Expected {
    ident: u64,
    native: u32,
    name: String,
    frames: Vec<Frame>,
}

fn parse(lines: &[String]) -> Vec<Expected> {
    let mut threads: Vec<Expected> = Vec::new();
    for line in lines {
        match line.split('\t').collect::<Vec<_>>()[..] {
            ["T", ident, native, name] => threads.push(Expected {
                ident: ident.parse().unwrap(),
                native: native.parse().unwrap(),
                name: name.into(),
                frames: vec![],
            }),
            ["F", function, line, file] => {
                threads.last_mut().unwrap().frames.push((function.into(), line.parse().unwrap(), file.into()));
            }
            _ => panic!("{line:?}"),
        }
    }
    threads
}

#[test]
fn stacks_equal_those_that_the_process_prints() {
    for (minor, executable) in pythons() {
        let (target, lines) = start_and_wait(&executable, "parked.py");
        let expected = parse(&lines);
        assert_eq!(expected.len(), 18, "3.{minor}: 17 threads and the main one");
        let memory = ProcessMemory::open(target.pid());
        let interpreter = python::detect(target.pid(), &memory).unwrap().expect("CPython");
        assert_eq!((interpreter.version.major, interpreter.version.minor), (3, minor));
        let mut names = CodeCache::new(&interpreter);
        let threads: HashMap<_, _> = python::threads(&memory, &interpreter)
            .unwrap()
            .into_iter()
            .map(|thread| (thread.thread_id, thread))
            .collect();
        let mut compared = 0;
        for thread in &expected {
            let found = threads[&thread.ident];
            assert!(found.native_thread_id.is_none_or(|id| id == thread.native), "3.{minor} {found:?} {thread:?}");
            let by_slot = python::thread_state_of(&memory, &interpreter.layout, thread.ident).unwrap();
            assert_eq!(by_slot, Some(found.thread_state), "3.{minor} {}", thread.name);
            let stack = python::walk(&memory, &interpreter.layout, found.thread_state);
            let cut = thread.frames.len() > MAX_PYTHON_FRAMES;
            assert_eq!(stack.status, if cut { PythonStatus::Cut } else { PythonStatus::Complete }, "{}", thread.name);
            let resolved: Vec<_> = stack.frames.iter().map(|frame| names.resolve(&memory, frame)).collect();
            assert_eq!(
                resolved.iter().map(plain).collect::<Vec<_>>(),
                first(&thread.frames),
                "3.{minor} {}",
                thread.name
            );
            assert!(resolved.iter().all(|frame| frame.state == FrameState::Known));
            check_entries(minor, thread, &stack.frames);
            compared += resolved.len();
        }
        println!("{}: {compared} frames of {} threads equal", interpreter.version, expected.len());
    }
}

fn plain(frame: &ResolvedFrame) -> Frame {
    (frame.function.to_string(), frame.line, frame.file.to_string())
}

fn first(frames: &[Frame]) -> Vec<Frame> {
    frames.iter().take(MAX_PYTHON_FRAMES).cloned().collect()
}

/// Up to 3.10 each frame enters the evaluator; later only those called from C do, among them a `key=` of `sorted`, and
/// not those called from Python.
fn check_entries(minor: u8, thread: &Expected, frames: &[PythonFrame]) {
    let marked: Vec<_> = frames.iter().map(PythonFrame::is_entry).collect();
    if minor <= 10 {
        assert!(marked.iter().all(|entry| *entry), "3.{minor} {}", thread.name);
        return;
    }
    match thread.name.as_str() {
        // called_back, then the lambda that sorted() called.
        "callback" => assert_eq!(marked[..2], [false, true], "3.{minor} {thread:?}"),
        // deeper and nested, each called by the next.
        "sleeps" => assert_eq!(marked[..2], [false, false], "3.{minor} {thread:?}"),
        // Its outermost frames are cut off.
        "recursion300" => return,
        _ => {}
    }
    assert_eq!(marked.last(), Some(&true), "3.{minor} {}", thread.name);
}
