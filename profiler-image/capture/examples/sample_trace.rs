//! Writes a small trace that has every kind of event, to look at in the Perfetto UI:
//! `cargo run -p aiprof-capture --example sample_trace -- sample.perfetto-trace`.

use std::{env, fs, io, sync::Arc};

use aiprof_capture::{
    event::{
        ClockSnapshot, Event, Frame, FrameKind, Process, PythonBegin, PythonEnd, Sample, Stack, StateSlice, Thread,
        ThreadState, Wait, Waker,
    },
    trace::TraceWriter,
};

const MS: u64 = 1_000_000;
const PID: u32 = 4242;

fn frame(kind: FrameKind, function: &str, file: &str, line: u32) -> Arc<Frame> {
    let native = kind == FrameKind::Native;
    Arc::new(Frame {
        kind,
        function: function.into(),
        file: file.into(),
        line,
        address: if native { 0x1000 + function.len() as u64 } else { 0 },
        build_id: if native { "00ff5a3c" } else { "" }.into(),
    })
}

fn main() -> io::Result<()> {
    let path = env::args().nth(1).unwrap_or_else(|| "sample.perfetto-trace".into());
    let module = frame(FrameKind::Python, "<module>", "/app/server.py", 40);
    let step = frame(FrameKind::Python, "Engine.step", "/app/engine.py", 12);
    let eval = frame(FrameKind::Native, "_PyEval_EvalFrameDefault", "/usr/bin/python3.12", 0);
    let futex = frame(FrameKind::Kernel, "futex_wait_queue", "", 0);
    let stack =
        |frames: &[&Arc<Frame>], cut| Stack { frames: frames.iter().map(|frame| Arc::clone(frame)).collect(), cut };
    let busy = stack(&[&eval, &step, &module], false);
    let parked = stack(&[&futex, &eval, &step, &module], true);

    let mut events = vec![
        Event::Clock(ClockSnapshot {
            boottime_ns: 1_000 * MS,
            monotonic_ns: 900 * MS,
            realtime_ns: 1_767_225_600_000 * MS,
        }),
        Event::Process(Process { pid: PID, parent_pid: 1, name: "python3 server.py".into() }),
    ];
    for tid in [PID, PID + 1] {
        events.push(Event::Thread(Thread { pid: PID, tid, name: format!("thread-{tid}") }));
        let begin = |at: u64, function: &Arc<Frame>| {
            Event::PythonBegin(PythonBegin { timestamp_ns: at * MS, pid: PID, tid, function: Arc::clone(function) })
        };
        let end = |at: u64| Event::PythonEnd(PythonEnd { timestamp_ns: at * MS, pid: PID, tid });
        events.push(begin(1_000, &module));
        for round in 0..10 {
            let start = 1_000 + round * 100;
            // The step ends at the very time at which the next one begins.
            events.extend([begin(start, &step), end(start + 100)]);
            let states = [
                (0, 60, ThreadState::Running { cpu: Some(1) }, None),
                (60, 90, waiting(), Some(parked.clone())),
                (90, 100, woken(tid), None),
            ];
            for (from, to, state, stack) in states {
                events.push(Event::State(StateSlice {
                    pid: PID,
                    tid,
                    start_ns: (start + from) * MS,
                    end_ns: (start + to) * MS,
                    state,
                    stack,
                }));
            }
            for tick in 0..6 {
                events.push(Event::Sample(Sample {
                    timestamp_ns: (start + tick * 10) * MS,
                    pid: PID,
                    tid,
                    cpu: 1,
                    stack: busy.clone(),
                }));
            }
        }
        events.push(end(2_000));
        let empty = Stack::default();
        events.push(Event::Sample(Sample { timestamp_ns: 1_999 * MS, pid: PID, tid, cpu: 0, stack: empty }));
    }

    let mut writer = TraceWriter::new(99);
    let mut bytes = Vec::new();
    for event in &events {
        writer.push(event);
        bytes.extend(writer.take_ready().unwrap_or_default());
    }
    bytes.extend(writer.flush());
    fs::write(&path, bytes)
}

fn waiting() -> ThreadState {
    ThreadState::Waiting(Wait {
        reason: "futex".into(),
        syscall: Some("futex".into()),
        on: None,
        kernel_function: Some("futex_wait_queue".into()),
        uninterruptible: false,
    })
}

fn woken(tid: u32) -> ThreadState {
    ThreadState::Runnable { preempted: false, waker: Some(Waker { pid: PID, tid: tid ^ 1 }) }
}
