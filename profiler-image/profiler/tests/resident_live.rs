//! A real capture of a real Python process behind `serve`: cut, resumed, given up. Needs root and a CPython; without them the test
//! says that it was left out, and with `CI=true` it fails.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod python_support;
mod resident_support;

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use aiprof_capture::{
    attach::AttachControl,
    event::Event,
    frame::{Decoder, FrameKind},
    manifest::{Manifest, Outcome},
    progress::{EndReason, Progress},
    request::{Dimension, Request},
    trace::TraceReader,
};
use aiprof_profiler::privilege;
use python_support::{Target, python};
use resident_support::{Bridge, PROFILER, attach, is_started, request, wait, wait_until};
use tempfile::TempDir;

/// Time enough for what is captured to leave several times.
const WINDOW_MS: u64 = 6_000;

/// The tests take turns: each keeps all CPUs busy.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A busy Python, if a capture can be had here.
fn steady() -> Option<Target> {
    let missing = privilege::missing();
    let interpreter = [12, 13, 11, 10].into_iter().find_map(python).filter(|_| missing.is_empty());
    let Some(interpreter) = interpreter else {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "in CI this must be tested; missing: {missing:?}");
        eprintln!("left out: it needs root and a CPython");
        return None;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../e2e/workloads/steady.py");
    let mut target = Target(Command::new(interpreter).arg(script).stdout(Stdio::piped()).spawn().unwrap());
    let mut stdout = BufReader::new(target.0.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert!(line.contains("ready"), "{line}");
    // A pipe that nobody reads would stop it.
    thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
    Some(target)
}

struct Serving {
    _folder: TempDir,
    socket: PathBuf,
    child: Child,
}

impl Serving {
    fn start(lease: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let child = Command::new(PROFILER).args(["serve", "--lease", lease, "--socket"]).arg(&socket).spawn().unwrap();
        Self { _folder: folder, socket, child }
    }

    fn open(&self, id: &str, target: &Target, duration_ms: Option<u64>) -> Bridge {
        let request = Request { pids: vec![target.pid()], duration_ms, frequency_hz: 999, ..request() };
        let bridge = Bridge::start(&self.socket, &attach(id, 0, Some(request))).stay_alive();
        bridge.wait_for_line(is_started);
        bridge
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a whole stream holds.
struct Captured {
    manifest: Manifest,
    samples: u64,
    functions: usize,
}

/// Every frame is checked by its offset and its checksum, and the trace is read to its end.
fn check(stream: &[u8]) -> Captured {
    let mut decoder = Decoder::new();
    let (mut trace, mut manifest) = (Vec::new(), Vec::new());
    decoder.push(stream);
    while let Some(frame) = decoder.next().unwrap() {
        match frame.kind {
            FrameKind::Trace => trace.extend(frame.payload),
            FrameKind::Manifest => manifest.extend(frame.payload),
            FrameKind::End => {}
        }
    }
    decoder.finish().unwrap();
    let (mut samples, mut functions) = (0, 0);
    for event in TraceReader::new(trace.as_slice()) {
        match event.unwrap() {
            Event::Sample(_) => samples += 1,
            Event::PythonBegin(_) => functions += 1,
            _ => {}
        }
    }
    Captured { manifest: serde_json::from_slice(&manifest).unwrap(), samples, functions }
}

#[track_caller]
fn check_whole(captured: &Captured, target: &Target) {
    let Captured { manifest, samples, functions } = captured;
    assert_eq!(manifest.end_reason, EndReason::Duration);
    assert!((WINDOW_MS..WINDOW_MS + 1_000).contains(&manifest.duration_ms), "{} ms", manifest.duration_ms);
    assert_eq!(manifest.processes.iter().map(|each| each.pid).collect::<Vec<_>>(), [target.pid()]);
    for dimension in [Dimension::Python, Dimension::Cpu] {
        assert_eq!(manifest.dimensions[&dimension], Outcome::Complete, "{dimension:?}");
    }
    for (name, stream) in &manifest.streams {
        assert_eq!(stream.lost, 0, "{name}");
    }
    assert_eq!(manifest.streams["samples"].records, *samples, "all that were sent arrived");
    assert!(*samples > 100 && *functions > 5, "{samples} samples, {functions} functions");
}

/// Whether it ends with an end frame.
fn is_whole(stream: &[u8]) -> bool {
    let mut decoder = Decoder::new();
    decoder.push(stream);
    while decoder.next().unwrap().is_some() {}
    decoder.finish().is_ok()
}

/// Receives the rest of a stream, says good-bye as a plugin does, and gives the whole.
fn finish(bridge: Bridge, mut stream: Vec<u8>, server: &mut Serving) -> Vec<u8> {
    bridge.wait_for_line(|line| matches!(line, Progress::Finishing { .. }));
    wait_until("the end frame", || is_whole(&[stream.clone(), bridge.so_far()].concat()));
    bridge.say(AttachControl::Leave);
    let (status, rest, _) = bridge.end();
    stream.extend(rest);
    assert_eq!(status, Some(0));
    assert!(wait(&mut server.child).success());
    assert!(!server.socket.exists());
    stream
}

#[test]
fn a_capture_that_is_cut_three_times_equals_one_that_is_not() {
    let _turn = turn();
    let Some(target) = steady() else { return };
    let mut server = Serving::start("10");
    let bridge = server.open("uncut", &target, Some(WINDOW_MS));
    check_whole(&check(&finish(bridge, Vec::new(), &mut server)), &target);

    let mut server = Serving::start("10");
    let mut bridge = server.open("cut", &target, Some(WINDOW_MS));
    let mut stream = Vec::new();
    for cut in 1..=3 {
        thread::sleep(Duration::from_millis(WINDOW_MS / 12));
        if cut == 3 {
            bridge.wait_for_bytes(1);
        }
        stream.extend(bridge.cut());
        assert!(!is_whole(&stream), "cut {cut} came too late");
        // What is recorded meanwhile is not lost.
        thread::sleep(Duration::from_millis(WINDOW_MS / 20));
        bridge = Bridge::start(&server.socket, &attach("cut", stream.len() as u64, None)).stay_alive();
        bridge.wait_for_line(is_started);
        bridge.say(AttachControl::Held { bytes: stream.len() as u64 });
    }
    check_whole(&check(&finish(bridge, stream, &mut server)), &target);
    assert!(process_is_well(&target));
}

#[test]
fn a_capture_whose_plugin_was_killed_ends_with_the_lease_and_harms_nobody() {
    let _turn = turn();
    let Some(target) = steady() else { return };
    let mut server = Serving::start("2");
    let bridge = server.open("left-alone", &target, None);
    // While somebody is there, another cannot record, and the newest way to the same capture wins.
    let other = Request { pids: vec![target.pid()], ..request() };
    let (status, _, lines) = Bridge::start(&server.socket, &attach("other", 0, Some(other))).end();
    assert_eq!(status, Some(1));
    assert!(
        matches!(lines.as_slice(), [Progress::Error { message, .. }] if message.contains("which somebody records"))
    );
    let newest = Bridge::start(&server.socket, &attach("left-alone", 0, None)).stay_alive();
    assert_eq!(bridge.end().0, Some(3));
    newest.wait_for_line(is_started);
    let cut = Instant::now();
    newest.cut();
    assert!(wait(&mut server.child).success());
    let after = cut.elapsed();
    assert!((Duration::from_millis(1_900)..Duration::from_secs(4)).contains(&after), "ended after {after:?}");
    assert!(!server.socket.exists());
    assert!(process_is_well(&target));
}

#[test]
fn what_was_captured_a_second_ago_is_there_when_the_profiler_is_killed() {
    let _turn = turn();
    let Some(target) = steady() else { return };
    let mut server = Serving::start("60");
    // So few samples that no block would become full.
    let request = Request { pids: vec![target.pid()], frequency_hz: 19, ..request() };
    let bridge = Bridge::start(&server.socket, &attach("killed", 0, Some(request))).stay_alive();
    bridge.wait_for_line(|line| matches!(line, Progress::Tick { elapsed_ms: 4_000.., .. }));
    server.child.kill().unwrap();
    let killed = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).unwrap();
    let killed_ns = Duration::from(killed).as_nanos() as u64;
    let (status, stream, _) = bridge.end();
    assert_eq!(status, Some(3));
    let mut decoder = Decoder::new();
    decoder.push(&stream);
    let (mut trace, mut blocks) = (Vec::new(), 0);
    while let Some(frame) = decoder.next().unwrap() {
        trace.extend(frame.payload);
        blocks += 1;
    }
    let samples = TraceReader::new(trace.as_slice()).filter_map(|event| match event.unwrap() {
        Event::Sample(sample) => Some(sample.timestamp_ns),
        _ => None,
    });
    let latest = samples.max().unwrap();
    let missing = Duration::from_nanos(killed_ns.saturating_sub(latest));
    assert!(missing < Duration::from_millis(1_800), "the last {missing:?} are missing");
    assert!((3..=7).contains(&blocks), "{blocks} blocks in 4 s");
    assert!(process_is_well(&target));
}

#[test]
fn a_capture_that_is_given_up_ends_at_once() {
    let _turn = turn();
    let Some(target) = steady() else { return };
    for end in [AttachControl::Leave, AttachControl::Stop] {
        let mut server = Serving::start("60");
        let bridge = server.open("given-up", &target, None);
        let asked = Instant::now();
        bridge.say(end);
        if end == AttachControl::Stop {
            let stream = finish(bridge, Vec::new(), &mut server);
            assert_eq!(check(&stream).manifest.end_reason, EndReason::Stopped);
        } else {
            assert!(wait(&mut server.child).success());
            assert_eq!(bridge.end().0, Some(3), "no stream has ended");
        }
        assert!(asked.elapsed() < Duration::from_secs(3), "{end:?} took {:?}", asked.elapsed());
    }
    assert!(process_is_well(&target));
}

#[test]
fn a_capture_whose_pod_is_deleted_is_delivered() {
    let _turn = turn();
    let Some(target) = steady() else { return };
    let mut server = Serving::start("60");
    let bridge = server.open("deleted", &target, Some(60_000));
    bridge.wait_for_line(|line| matches!(line, Progress::Tick { .. }));
    let pid = nix::unistd::Pid::from_raw(server.child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let told = Instant::now();
    let captured = check(&finish(bridge, Vec::new(), &mut server));
    assert_eq!(captured.manifest.end_reason, EndReason::Terminated);
    assert!(captured.samples > 0);
    assert!(told.elapsed() < Duration::from_secs(3), "{:?}", told.elapsed());
    assert!(process_is_well(&target));
}

/// A control group that is named as a container's; removed when dropped.
struct Group(PathBuf);

impl Group {
    /// With this process in it; none where no group can be made.
    fn of(id: &str, target: &Target) -> Option<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let mut groups = mounts.lines().filter(|line| line.contains(" cgroup")).filter_map(|line| {
            let mount = line.split_whitespace().nth(1)?;
            let folder = Path::new(mount).join(format!("cri-containerd-{id}.scope"));
            std::fs::create_dir(&folder).ok()?;
            let group = Self(folder);
            std::fs::write(group.0.join("cgroup.procs"), target.pid().to_string()).ok()?;
            Some(group)
        });
        groups.next()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // It can be removed once its processes are back where they were.
        let parent = self.0.with_file_name("cgroup.procs");
        for pid in std::fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default().lines() {
            let _ = std::fs::write(&parent, pid);
        }
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn of_several_containers_only_the_targets_processes_are_recorded_and_listed() {
    let _turn = turn();
    let (Some(target), Some(other)) = (steady(), steady()) else { return };
    let (id, other_id) = ("a1".repeat(32), "b2".repeat(32));
    let (Some(_group), Some(_other_group)) = (Group::of(&id, &target), Group::of(&other_id, &other)) else {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "in CI this must be tested");
        eprintln!("left out: no control group can be made here");
        return;
    };
    let seen = Command::new(PROFILER).args(["inspect", "--container", &id]).output().unwrap();
    let inspection: aiprof_capture::inspect::Inspection = serde_json::from_slice(&seen.stdout).unwrap();
    assert_eq!(inspection.processes.iter().map(|each| each.pid).collect::<Vec<_>>(), [target.pid()]);

    let of_container = |pids, duration_ms| Request {
        pids,
        container_id: Some(id.clone()),
        duration_ms: Some(duration_ms),
        frequency_hz: 199,
        ..request()
    };
    let mut server = Serving::start("60");
    let bridge = Bridge::start(&server.socket, &attach("one", 0, Some(of_container(vec![], 1_000)))).stay_alive();
    let captured = check(&finish(bridge, Vec::new(), &mut server));
    assert_eq!(captured.manifest.processes.iter().map(|each| each.pid).collect::<Vec<_>>(), [target.pid()]);

    // Whoever names a process of another container gets it, and is told.
    let mut server = Serving::start("60");
    let request = of_container(vec![other.pid()], 500);
    let bridge = Bridge::start(&server.socket, &attach("two", 0, Some(request))).stay_alive();
    bridge.wait_for_line(
        |line| matches!(line, Progress::Note { message } if message.contains("not of the target's container")),
    );
    let captured = check(&finish(bridge, Vec::new(), &mut server));
    assert_eq!(captured.manifest.processes.iter().map(|each| each.pid).collect::<Vec<_>>(), [other.pid()]);

    let server = Serving::start("60");
    let request = Request { container_id: Some("c3".repeat(32)), ..of_container(vec![], 500) };
    let (status, _, lines) = Bridge::start(&server.socket, &attach("three", 0, Some(request))).end();
    assert_eq!(status, Some(1));
    assert!(
        matches!(lines.as_slice(), [Progress::Error { message, .. }]
        if message == "no process that runs CPython can be seen in the target's container"),
        "{lines:?}"
    );
}

#[test]
fn inspect_lists_a_python_with_its_version() {
    let _turn = turn();
    let Some(target) = steady() else { return };
    let output = Command::new(PROFILER).arg("inspect").output().unwrap();
    let inspection: aiprof_capture::inspect::Inspection = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((inspection.programs, inspection.no_btf), (None, None));
    let seen = inspection.processes.iter().find(|each| each.pid == target.pid()).unwrap();
    assert!(seen.python.as_deref().is_some_and(|version| version.starts_with("CPython 3.")), "{seen:?}");
    assert!(seen.title.ends_with(" steady.py") && seen.threads == 3 && seen.rss_bytes > 1 << 20, "{seen:?}");
    assert_eq!(seen.parent_pid, std::process::id());
}

/// Whether it lives and gets on.
fn process_is_well(target: &Target) -> bool {
    let cpu = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", target.pid())).unwrap();
        stat.rsplit(')').next().unwrap().split_whitespace().nth(11).unwrap().parse::<u64>().unwrap()
    };
    let before = cpu();
    thread::sleep(Duration::from_millis(300));
    cpu() > before
}
