//! A stand-in for the profiler: it speaks the protocol and profiles nothing. What it sends is made up.
//!
//! `STAND_IN` says how it behaves: `whole` (the default), `partial`, `dies`, `corrupt`, `speechless`, `slow`, `flood`, `newer`.
//! `STAND_IN_LOG` names a file to which it writes why it ended, `STAND_IN_PID` one for its process id.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, BufRead as _, Write as _},
    path::Path,
    process::{ExitCode, abort},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use aiprof_capture::{
    event::{Event, Frame, FrameKind as Code, Process, Sample, Stack, StateSlice, Thread, ThreadState, Wait},
    frame::{Encoder, FrameKind},
    manifest::{Clocks, Cost, Host, Manifest, Outcome, ProcessOutcome, SCHEMA_VERSION, Stream},
    progress::{EndReason, Progress},
    request::{Dimension, PROTOCOL_VERSION, Request},
    trace::TraceWriter,
};

/// Time between two ticks.
const TICK: Duration = Duration::from_millis(50);

fn main() -> ExitCode {
    assert_eq!(env::args().nth(1).as_deref(), Some("--stdio"), "the profiler is called with --stdio");
    if let Some(path) = env::var_os("STAND_IN_PID") {
        fs::write(path, std::process::id().to_string()).unwrap();
    }
    let behaviour = env::var("STAND_IN").unwrap_or_default();
    if behaviour == "speechless" {
        eprintln!("something is wrong here");
        return ExitCode::from(2);
    }
    let lines = input_lines();
    let request: Request = serde_json::from_str(&lines.recv().unwrap()).unwrap();
    let spoken = if behaviour == "newer" { PROTOCOL_VERSION + 1 } else { PROTOCOL_VERSION };
    if request.protocol != spoken {
        let message = format!("the plugin speaks protocol {}, this profiler {spoken}", request.protocol);
        return refuse(message, "install the same version of both");
    }
    let target = request.pids.first().copied().unwrap_or(4242);
    if let Some(missing) = request.pids.iter().find(|pid| !runs(**pid)) {
        return refuse(format!("there is no process {missing}"), "see `ps` for those that run");
    }
    capture(&behaviour, &request, target, &lines)
}

fn capture(behaviour: &str, request: &Request, target: u32, lines: &Receiver<String>) -> ExitCode {
    let mut encoder = Encoder::new();
    let python = Some("CPython 3.12.1".to_owned());
    say(&Progress::Process { pid: target, name: "server.py".to_owned(), python: python.clone() });
    if behaviour == "slow" {
        // Until the plugin goes.
        while lines.recv().is_ok() {}
        return ExitCode::FAILURE;
    }
    say(&Progress::Started { duration_ms: request.duration_ms, processes: 1, threads: 1 });
    let opened = Instant::now();
    send(&encoder.frame(FrameKind::Trace, &trace(request.frequency_hz, target)));
    say_tick(opened);
    match behaviour {
        "dies" => abort(),
        "corrupt" => {
            let mut damaged = encoder.frame(FrameKind::Trace, b"damaged");
            *damaged.last_mut().unwrap() ^= 1;
            send(&damaged);
            // It does not know, and goes on.
            loop {
                thread::sleep(TICK);
                say_tick(opened);
            }
        }
        "flood" => loop {
            send(&encoder.frame(FrameKind::Trace, &vec![0; 64 << 10]));
        },
        _ => {}
    }
    let end_reason = wait_for_end(request, target, opened, lines);
    say(&Progress::Finishing { reason: end_reason });
    let python_outcome = match behaviour {
        "partial" => Outcome::Refused { reason: "this is a stand-in".to_owned() },
        _ => Outcome::Complete,
    };
    let dimensions = BTreeMap::from([(Dimension::Python, python_outcome), (Dimension::Cpu, Outcome::Complete)]);
    let manifest = Manifest {
        schema: SCHEMA_VERSION,
        profiler_version: "0.0.0-stand-in".to_owned(),
        request: request.clone(),
        end_reason,
        started_at: "2026-01-01T00:00:00Z".to_owned(),
        duration_ms: opened.elapsed().as_millis() as u64,
        clock: Clocks::default(),
        host: Host {
            hostname: "here".to_owned(),
            kernel: "6.1".to_owned(),
            architecture: "x86_64".to_owned(),
            cpus: 2,
        },
        dimensions: dimensions.clone(),
        processes: vec![ProcessOutcome {
            pid: target,
            name: "server.py".to_owned(),
            python,
            exited_after_ms: None,
            dimensions,
        }],
        streams: BTreeMap::from([("samples".to_owned(), Stream { records: 3, lost: 0, thinned: 0 })]),
        cost: Cost::default(),
        notes: vec![],
    };
    send(&encoder.frame(FrameKind::Manifest, &serde_json::to_vec(&manifest).unwrap()));
    send(&encoder.frame(FrameKind::End, &[]));
    log(&format!("{end_reason:?}"));
    ExitCode::SUCCESS
}

fn wait_for_end(request: &Request, target: u32, opened: Instant, lines: &Receiver<String>) -> EndReason {
    let duration = request.duration_ms.map(Duration::from_millis);
    loop {
        match lines.recv_timeout(TICK) {
            Ok(line) if line == "\"stop\"" => return EndReason::Stopped,
            Ok(line) => panic!("unknown control line {line}"),
            Err(RecvTimeoutError::Disconnected) => return EndReason::PluginGone,
            Err(RecvTimeoutError::Timeout) => say_tick(opened),
        }
        if duration.is_some_and(|duration| opened.elapsed() >= duration) {
            return EndReason::Duration;
        }
        if request.pids.contains(&target) && !runs(target) {
            return EndReason::TargetExited;
        }
    }
}

/// Two samples in `work`, one in `rest`, and a wait of half a second.
fn trace(frequency_hz: u32, pid: u32) -> Vec<u8> {
    let frame = |kind, function: &str, line| Frame {
        kind,
        function: function.into(),
        file: "/srv/server.py".into(),
        line,
        ..Frame::default()
    };
    let stack = |leaf: &str| Stack {
        frames: [frame(Code::Python, leaf, 7), frame(Code::Python, "main", 20)].map(Into::into).into(),
        cut: false,
    };
    let mut events = vec![
        Event::Process(Process { pid, parent_pid: 1, name: "server.py".to_owned() }),
        Event::Thread(Thread { pid, tid: pid, name: "MainThread".to_owned() }),
    ];
    for (index, leaf) in ["work", "work", "rest"].into_iter().enumerate() {
        let timestamp_ns = 1_000_000_000 + index as u64 * 10_000_000;
        events.push(Event::Sample(Sample { timestamp_ns, pid, tid: pid, cpu: 0, stack: stack(leaf) }));
    }
    let slice =
        |start_ns, end_ns, state, stack| Event::State(StateSlice { pid, tid: pid, start_ns, end_ns, state, stack });
    events.push(slice(1_000_000_000, 1_500_000_000, ThreadState::Running { cpu: Some(0) }, None));
    let wait = Wait { reason: "futex".into(), ..Wait::default() };
    events.push(slice(1_500_000_000, 2_000_000_000, ThreadState::Waiting(wait), Some(stack("get"))));
    let mut writer = TraceWriter::new(frequency_hz);
    let mut bytes = Vec::new();
    for event in &events {
        writer.push(event);
        bytes.extend(writer.take_ready().unwrap_or_default());
    }
    bytes.extend(writer.flush());
    bytes
}

fn input_lines() -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

fn refuse(message: String, hint: &str) -> ExitCode {
    say(&Progress::Error { message, hint: hint.to_owned() });
    ExitCode::FAILURE
}

fn say_tick(opened: Instant) {
    let elapsed_ms = opened.elapsed().as_millis() as u64;
    say(&Progress::Tick { elapsed_ms, trace_bytes: 1024, samples: 3, switches: 1, lost: 0 });
}

fn say(progress: &Progress) {
    // The plugin may have gone; that is then told by the end of the input.
    let _ = writeln!(io::stderr(), "{}", serde_json::to_string(progress).unwrap());
}

fn send(bytes: &[u8]) {
    let mut output = io::stdout().lock();
    if output.write_all(bytes).and_then(|()| output.flush()).is_err() {
        log("PluginGone");
        std::process::exit(1);
    }
}

fn log(why: &str) {
    if let Some(path) = env::var_os("STAND_IN_LOG") {
        fs::write(path, why).unwrap();
    }
}

fn runs(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}
