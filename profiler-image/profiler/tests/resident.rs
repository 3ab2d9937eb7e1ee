//! `serve` and `attach` around a capture that is made up: a function stands in for `session::run`, everything else is real, the
//! bridges are processes of their own. Needs no root.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
#![allow(clippy::unnecessary_wraps, reason = "what stands in for a capture has its signature")]

mod resident_support;

use std::{
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use aiprof_capture::{
    attach::AttachControl,
    frame::{Encoder, FrameKind},
    progress::{EndReason, Progress},
    request::Request,
};
use aiprof_profiler::{
    output::Output,
    resident::serve::{Ended, Options, Run, Server, Stopper},
    session::Failure,
};
use resident_support::{Bridge, PATIENCE, PROFILER, attach, is_started, request, wait, wait_until};
use tempfile::TempDir;

/// Bytes of a made-up frame.
const FRAME_BYTES: usize = 10_000;

/// The payload of the nth frame: the same each time, and no two are alike.
fn payload(number: u64) -> Vec<u8> {
    let mut random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 56) as u8
    };
    std::iter::repeat_with(next).take(FRAME_BYTES).collect()
}

/// Stands in for a capture: as many frames as the frequency says, one each millisecond.
fn made_up(request: &Request, control: &Receiver<EndReason>, mut output: Output) -> Result<(), Failure> {
    output.progress(&Progress::Process { pid: 1, name: "made up".to_owned(), python: None });
    output.progress(&Progress::Started { duration_ms: None, processes: 1, threads: 1 });
    let mut reason = EndReason::Duration;
    for number in 0..u64::from(request.frequency_hz) {
        match control.recv_timeout(Duration::from_millis(1)) {
            Ok(asked) => {
                reason = asked;
                break;
            }
            Err(RecvTimeoutError::Disconnected) => panic!("nobody holds the control channel"),
            Err(RecvTimeoutError::Timeout) => {}
        }
        output.frame(FrameKind::Trace, &payload(number));
        output.progress(&Progress::Tick { elapsed_ms: number, trace_bytes: 0, samples: 0, switches: 0, lost: 0 });
    }
    output.progress(&Progress::Finishing { reason });
    output.frame(FrameKind::Manifest, b"{}");
    output.frame(FrameKind::End, b"");
    output.finish();
    Ok(())
}

/// The whole stream of [`made_up`] with so many frames.
fn expected(frames: u32) -> Vec<u8> {
    let mut encoder = Encoder::new();
    let mut bytes = Vec::new();
    for number in 0..u64::from(frames) {
        bytes.extend(encoder.frame(FrameKind::Trace, &payload(number)));
    }
    bytes.extend(encoder.frame(FrameKind::Manifest, b"{}"));
    bytes.extend(encoder.frame(FrameKind::End, b""));
    bytes
}

/// A capture that cannot be.
fn impossible(_: &Request, _: &Receiver<EndReason>, _: Output) -> Result<(), Failure> {
    Err(Failure { message: "there is nothing here".to_owned(), hint: "look elsewhere".to_owned() })
}

fn frames(frames: u32) -> Option<Request> {
    Some(Request { frequency_hz: frames, ..request() })
}

/// As long as any test, so that nothing ends by itself.
fn options(socket: &Path) -> Options {
    let (lease, unattended) = (Duration::from_mins(1), Duration::from_mins(1));
    Options { socket: socket.to_owned(), lease, unattended, spool_bytes: 64 << 20 }
}

/// A server in a thread.
struct Serving {
    _folder: TempDir,
    socket: PathBuf,
    stopper: Stopper,
    thread: JoinHandle<io::Result<Ended>>,
}

impl Serving {
    fn start(run: Run, lease: Duration, spool_bytes: u64) -> Self {
        Self::with(run, |options| Options { lease, spool_bytes, ..options })
    }

    fn making_room_after(unattended: Duration, run: Run) -> Self {
        Self::with(run, |options| Options { unattended, ..options })
    }

    fn with(run: Run, change: impl FnOnce(Options) -> Options) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("inner/socket");
        let server = Server::bind(&change(options(&socket)), run).unwrap();
        let stopper = server.stopper();
        Self { _folder: folder, socket, stopper, thread: thread::spawn(move || server.run()) }
    }

    fn long(run: Run) -> Self {
        Self::with(run, |options| options)
    }

    #[track_caller]
    fn ended(self) -> Ended {
        wait_until("the end of the server", || self.thread.is_finished());
        assert!(!self.socket.exists(), "the socket is left behind");
        self.thread.join().unwrap().unwrap()
    }
}

/// The error line of a bridge that must be refused.
#[track_caller]
fn refused(bridge: Bridge) -> String {
    let (status, stream, lines) = bridge.end();
    assert_eq!((status, stream.len()), (Some(1), 0));
    match lines.as_slice() {
        [Progress::Error { message, hint }] if !hint.is_empty() => message.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_stream_that_is_cut_three_times_is_whole() {
    let server = Serving::long(made_up);
    let whole = expected(600);
    let mut stream = Vec::new();
    let mut first = frames(600);
    for cut_at in [70_000, 1_000_001, 3_333_333] {
        let bridge = Bridge::start(&server.socket, &attach("cut-1", stream.len() as u64, first.take()));
        // Whoever comes later learns that the window is open, too.
        bridge.wait_for_line(is_started);
        bridge.wait_for_bytes(cut_at - stream.len());
        stream.extend(bridge.cut());
        assert!(stream.len() < whole.len(), "the stream was over before it was cut");
    }
    let bridge = Bridge::start(&server.socket, &attach("cut-1", stream.len() as u64, None));
    bridge.wait_for_bytes(whole.len() - stream.len());
    bridge.say(AttachControl::Held { bytes: whole.len() as u64 });
    bridge.say(AttachControl::Leave);
    let (status, rest, lines) = bridge.end();
    stream.extend(rest);
    assert!(stream == whole, "the stream differs: {} bytes, expected {}", stream.len(), whole.len());
    assert_eq!(status, Some(0));
    assert!(lines.iter().any(|line| matches!(line, Progress::Finishing { reason: EndReason::Duration })));
    assert_eq!(server.ended(), Ended::Left);
}

#[test]
fn the_newest_client_wins() {
    let server = Serving::long(made_up);
    let older = Bridge::start(&server.socket, &attach("one", 0, frames(100_000)));
    older.wait_for_bytes(100_000);
    let newer = Bridge::start(&server.socket, &attach("one", 0, None));
    let (status, seen, _) = older.end();
    assert_eq!(status, Some(3), "the way of the older broke");
    newer.wait_for_bytes(seen.len() + 50_000);
    let stream = newer.cut();
    assert!(stream.starts_with(&seen) && expected(2_000).starts_with(&stream[..1_000_000.min(stream.len())]));
    server.stopper.stop();
    assert_eq!(server.ended(), Ended::Asked);
}

#[test]
fn each_wrong_wish_has_its_sentence() {
    let server = Serving::long(made_up);
    let start = |first| Bridge::start(&server.socket, &first);
    assert!(refused(start(attach("none", 0, None))).contains("holds no capture none"));
    let holder = start(attach("one", 0, frames(100_000)));
    holder.wait_for_bytes(500_000);
    holder.say(AttachControl::Held { bytes: 200_000 });
    assert!(refused(start(attach("two", 0, frames(1)))).contains("holds another capture, one, which somebody records"));
    let mut other = attach("one", 0, None);
    other.protocol += 1;
    assert!(refused(start(other)).contains("the plugin speaks protocol 2, this profiler 1"));
    for id in ["", "UPPER", "a/b", &"x".repeat(65)] {
        assert!(refused(start(attach(id, 0, None))).contains("a capture's id is"), "{id}");
    }
    assert!(refused(Bridge::start_with(&server.socket, "nonsense")).contains("the request cannot be read"));
    // Whoever is attached has not noticed anything.
    let before = holder.received();
    holder.wait_for_bytes(before + 100_000);
    for from in [0, 199_999, u64::MAX] {
        let refusal = refused(start(attach("one", from, None)));
        assert!(
            refusal.contains(&format!("cannot go on at byte {from}: the profiler keeps bytes 200000 to")),
            "{refusal}"
        );
    }
    holder.cut();
    // What is held and not yet released can be had again and again.
    for from in [200_000, 400_000, 200_000] {
        let bridge = start(attach("one", from as u64, None));
        bridge.wait_for_bytes(50_000);
        assert_eq!(bridge.cut()[..50_000], expected(60)[from..from + 50_000]);
    }
}

#[test]
fn a_capture_that_cannot_be_says_why_and_makes_room_for_another() {
    let server = Serving::long(impossible);
    assert_eq!(refused(Bridge::start(&server.socket, &attach("one", 0, frames(1)))), "there is nothing here");
    assert_eq!(refused(Bridge::start(&server.socket, &attach("one", 0, None))), "there is nothing here");
    assert_eq!(refused(Bridge::start(&server.socket, &attach("two", 0, frames(1)))), "there is nothing here");
}

#[test]
fn stop_ends_the_window_and_a_complete_capture_makes_room_once_it_is_held() {
    let server = Serving::long(made_up);
    let bridge = Bridge::start(&server.socket, &attach("one", 0, frames(100_000)));
    bridge.wait_for_bytes(100_000);
    bridge.say(AttachControl::Stop);
    let (status, stream, lines) = bridge.end();
    assert_eq!(status, Some(0), "a client that does not say good-bye is let go");
    assert!(lines.iter().any(|line| matches!(line, Progress::Finishing { reason: EndReason::Stopped })));
    assert_eq!(stream, expected((stream.len() / (FRAME_BYTES + 24)) as u32));
    let second = || Bridge::start(&server.socket, &attach("two", 0, frames(3)));
    let waiting = second();
    waiting.wait_for_line(is_note);
    waiting.cut();
    let bridge = Bridge::start(&server.socket, &attach("one", stream.len() as u64, None));
    bridge.say(AttachControl::Held { bytes: stream.len() as u64 });
    assert_eq!(bridge.end().0, Some(0));
    let bridge = second();
    bridge.wait_for_bytes(expected(3).len());
    bridge.say(AttachControl::Leave);
    assert_eq!(bridge.end().1, expected(3));
    assert_eq!(server.ended(), Ended::Left);
}

fn is_note(line: &Progress) -> bool {
    matches!(line, Progress::Note { message } if message.starts_with("waiting "))
}

/// Whether two captures were there at once.
static OVERLAP: AtomicUsize = AtomicUsize::new(0);

/// [`made_up`], which takes a while to undo what it did.
fn slow_to_undo(request: &Request, control: &Receiver<EndReason>, output: Output) -> Result<(), Failure> {
    static RUNNING: AtomicUsize = AtomicUsize::new(0);
    OVERLAP.fetch_max(RUNNING.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
    let result = made_up(request, control, output);
    thread::sleep(Duration::from_millis(300));
    RUNNING.fetch_sub(1, Ordering::SeqCst);
    result
}

#[test]
fn a_newcomer_waits_for_a_capture_whose_client_has_gone_and_then_has_the_server() {
    const UNATTENDED: Duration = Duration::from_millis(2_500);
    let server = Serving::making_room_after(UNATTENDED, slow_to_undo);
    let bridge = Bridge::start(&server.socket, &attach("one", 0, frames(100_000)));
    bridge.wait_for_bytes(100_000);
    bridge.cut();
    let cut = Instant::now();
    let newcomer = Bridge::start(&server.socket, &attach("two", 0, frames(3)));
    newcomer.wait_for_line(is_started);
    assert!(cut.elapsed() >= UNATTENDED.mul_f32(0.9), "{:?}", cut.elapsed());
    assert!(matches!(&newcomer.lines()[0], Progress::Note { message }
        if message == "waiting 3 s for a capture whose plugin has gone"));
    assert!((1..=4).contains(&newcomer.signs_of_life()), "{} signs of life", newcomer.signs_of_life());
    newcomer.wait_for_bytes(expected(3).len());
    assert_eq!(OVERLAP.load(Ordering::SeqCst), 0, "the capture before had not undone what it did");
    assert!(refused(Bridge::start(&server.socket, &attach("one", 100, None))).contains("holds no capture one"));
    newcomer.say(AttachControl::Leave);
    assert_eq!(newcomer.end().1, expected(3));
    assert_eq!(server.ended(), Ended::Left);
}

#[test]
fn a_newcomer_is_refused_once_the_owner_comes_back() {
    let server = Serving::long(made_up);
    let bridge = Bridge::start(&server.socket, &attach("one", 0, frames(100_000)));
    bridge.wait_for_bytes(100_000);
    let stream = bridge.cut();
    let newcomer = Bridge::start(&server.socket, &attach("two", 0, frames(3)));
    newcomer.wait_for_line(is_note);
    let owner = Bridge::start(&server.socket, &attach("one", stream.len() as u64, None)).stay_alive();
    let (status, _, lines) = newcomer.end();
    assert_eq!(status, Some(1));
    assert!(
        matches!(lines.as_slice(), [_, Progress::Error { message, .. }] if message.contains("which somebody records"))
    );
    owner.wait_for_bytes(50_000);
}

#[test]
fn a_client_that_is_silent_but_not_cut_off_makes_room_too() {
    let server = Serving::making_room_after(Duration::from_secs(2), made_up);
    let silent = Bridge::start(&server.socket, &attach("one", 0, frames(100_000)));
    silent.wait_for_bytes(1);
    let begun = Instant::now();
    // It may live: clients say nothing for some time.
    assert!(refused(Bridge::start(&server.socket, &attach("two", 0, frames(3)))).contains("which somebody records"));
    thread::sleep(Duration::from_millis(1_100).saturating_sub(begun.elapsed()));
    let newcomer = Bridge::start(&server.socket, &attach("two", 0, frames(3)));
    newcomer.wait_for_bytes(expected(3).len());
    assert!(newcomer.lines().iter().any(is_note));
    assert!(begun.elapsed() > Duration::from_millis(1_800), "{:?}", begun.elapsed());
    assert_eq!(silent.end().0, Some(3));
}

#[test]
fn a_client_that_goes_while_it_waits_starts_nothing() {
    let server = Serving::making_room_after(Duration::from_secs(3), made_up);
    let bridge = Bridge::start(&server.socket, &attach("one", 0, frames(100_000)));
    bridge.wait_for_bytes(100_000);
    let stream = bridge.cut();
    let newcomer = Bridge::start(&server.socket, &attach("two", 0, frames(3)));
    newcomer.wait_for_line(is_note);
    newcomer.close_input();
    assert_eq!(newcomer.end().0, Some(3));
    thread::sleep(Duration::from_secs(3));
    let owner = Bridge::start(&server.socket, &attach("one", stream.len() as u64, None));
    owner.wait_for_bytes(50_000);
    assert_eq!(owner.cut()[..1_000], expected(2_000)[stream.len()..stream.len() + 1_000]);
}

#[test]
fn a_server_that_is_asked_to_end_delivers_first_what_was_recorded() {
    let server = Serving::long(made_up);
    let bridge = Bridge::start(&server.socket, &attach("one", 0, frames(100_000)));
    bridge.wait_for_bytes(1_000_000);
    server.stopper.stop();
    bridge.wait_for_line(|line| matches!(line, Progress::Finishing { reason: EndReason::Terminated }));
    // From now on nobody else is let in.
    let newcomer = Bridge::start(&server.socket, &attach("two", 0, frames(3)));
    assert!(refused(newcomer).contains("told to end"));
    let (status, stream, _) = bridge.end();
    assert_eq!(status, Some(0));
    assert_eq!(stream, expected((stream.len() / (FRAME_BYTES + 24)) as u32));
    assert_eq!(server.ended(), Ended::Asked);
}

#[test]
fn a_server_that_is_asked_to_end_with_nobody_attached_ends_at_once() {
    let server = Serving::long(made_up);
    let bridge = Bridge::start(&server.socket, &attach("one", 0, frames(100_000)));
    bridge.wait_for_bytes(100_000);
    bridge.cut();
    let asked = Instant::now();
    server.stopper.stop();
    assert_eq!(server.ended(), Ended::Asked);
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
}

#[test]
fn whoever_takes_too_long_is_not_waited_for() {
    /// A capture that goes on whatever it is told.
    fn deaf(_: &Request, _: &Receiver<EndReason>, mut output: Output) -> Result<(), Failure> {
        for number in 0.. {
            output.frame(FrameKind::Trace, &payload(number));
            if output.is_broken() {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
    for (asks, took) in [(1, 7_500..9_500), (2, 0..1_500)] {
        let server = Serving::long(deaf);
        let bridge = Bridge::start(&server.socket, &attach("one", 0, frames(1))).stay_alive();
        bridge.wait_for_bytes(100_000);
        let asked = Instant::now();
        for _ in 0..asks {
            server.stopper.stop();
        }
        assert_eq!(bridge.end().0, Some(3));
        assert_eq!(server.ended(), Ended::Asked);
        assert!(took.contains(&asked.elapsed().as_millis()), "asked {asks} times: {:?}", asked.elapsed());
    }
}

#[test]
fn a_full_spool_makes_the_capture_wait_and_loses_nothing() {
    // 15 MB of stream, 4 MiB of memory and 1 MiB of file.
    let server = Serving::start(made_up, Duration::from_mins(1), 1 << 20);
    let bridge = Bridge::start(&server.socket, &attach("one", 0, frames(1_500)));
    bridge.wait_for_bytes(1);
    let mut stream = bridge.cut();
    thread::sleep(Duration::from_secs(4));
    let whole = expected(1_500);
    let bridge = Bridge::start(&server.socket, &attach("one", stream.len() as u64, None));
    bridge.wait_for_bytes(4 << 20);
    thread::sleep(Duration::from_millis(300));
    let kept = stream.len() + bridge.received();
    assert!(kept <= stream.len() + (5 << 20), "{kept} bytes were kept");
    assert!(!bridge.lines().iter().any(|line| matches!(line, Progress::Finishing { .. })), "the capture did not wait");
    while bridge.received() + stream.len() < whole.len() {
        bridge.say(AttachControl::Held { bytes: (stream.len() + bridge.received()) as u64 });
        thread::sleep(Duration::from_millis(5));
    }
    bridge.say(AttachControl::Leave);
    stream.extend(bridge.end().1);
    assert!(stream == whole);
    assert_eq!(server.ended(), Ended::Left);
}

#[test]
fn a_capture_to_which_nobody_comes_back_is_thrown_away() {
    let server = Serving::start(made_up, Duration::from_secs(1), 64 << 20);
    let bridge = Bridge::start(&server.socket, &attach("one", 0, frames(100_000)));
    bridge.wait_for_bytes(100_000);
    bridge.cut();
    let cut = Instant::now();
    assert_eq!(server.ended(), Ended::Lease);
    let after = cut.elapsed();
    assert!((Duration::from_millis(900)..Duration::from_secs(3)).contains(&after), "ended after {after:?}");
}

#[test]
fn a_client_that_says_nothing_is_taken_for_gone_and_one_that_lives_is_not() {
    let server = Serving::start(made_up, Duration::from_secs(2), 64 << 20);
    let alive = Bridge::start(&server.socket, &attach("one", 0, frames(100_000)));
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        alive.say(AttachControl::Held { bytes: alive.received() as u64 });
        thread::sleep(Duration::from_millis(100));
    }
    let silent = Instant::now();
    let (status, ..) = alive.end();
    assert_eq!(status, Some(3));
    assert!(silent.elapsed() < Duration::from_millis(1_800), "cut off after {:?}", silent.elapsed());
    assert_eq!(server.ended(), Ended::Lease);
    assert!(silent.elapsed() < Duration::from_millis(3_500), "ended after {:?}", silent.elapsed());
}

#[test]
fn a_bridge_notices_that_its_input_or_its_reader_has_gone() {
    // No frame ever comes: nothing is written that could fail.
    fn quiet(_: &Request, control: &Receiver<EndReason>, _: Output) -> Result<(), Failure> {
        let _ = control.recv_timeout(PATIENCE);
        Ok(())
    }
    let server = Serving::long(quiet);
    let bridge = Bridge::start(&server.socket, &attach("one", 0, frames(1)));
    thread::sleep(Duration::from_millis(200));
    bridge.close_input();
    assert_eq!(bridge.end().0, Some(3));

    let mut child = Command::new(PROFILER)
        .args(["attach", "--socket"])
        .arg(&server.socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_millis(200));
    assert!(child.try_wait().unwrap().is_none());
    drop(child.stdout.take());
    assert_eq!(wait(&mut child).code(), Some(3));
    server.stopper.stop();
    assert_eq!(server.ended(), Ended::Asked);
}

#[test]
fn a_bridge_waits_for_the_socket_but_not_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("nowhere");
    let start = Instant::now();
    let hopeless = Bridge::start(&nowhere, &attach("one", 0, None));
    let late = folder.path().join("late");
    let early = Bridge::start(&late, &attach("one", 0, frames(2)));
    thread::sleep(Duration::from_millis(500));
    let server = Server::bind(&options(&late), made_up).unwrap();
    let server = thread::spawn(move || server.run());
    early.wait_for_bytes(expected(2).len());
    early.say(AttachControl::Leave);
    assert_eq!(early.end().1, expected(2));
    assert_eq!(server.join().unwrap().unwrap(), Ended::Left);
    assert!(refused(hopeless).contains("no profiler serves at"));
    assert!((9..13).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
}

fn serve(socket: &Path, lease: &str) -> std::process::Child {
    let mut command = Command::new(PROFILER);
    command.args(["serve", "--lease", lease, "--socket"]).arg(socket).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    wait_until("the socket", || socket.exists());
    child
}

#[test]
fn the_program_ends_by_its_lease_and_by_sigterm_and_leaves_no_socket() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let start = Instant::now();
    let server = serve(&socket, "1");
    let output = server.wait_with_output().unwrap();
    assert!(output.status.success() && start.elapsed() < Duration::from_secs(3));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "nobody was attached for 1 s\n");
    assert!(!socket.exists());

    let mut server = serve(&socket, "60");
    // A second one does not take its place.
    let second = Command::new(PROFILER).args(["serve", "--lease", "1", "--socket"]).arg(&socket).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8(second.stderr).unwrap().contains("another profiler serves there"));
    let pid = nix::unistd::Pid::from_raw(server.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(wait(&mut server).success());
    assert!(!socket.exists());

    // What one that was killed has left is no hindrance.
    let mut server = serve(&socket, "60");
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(socket.exists());
    let server = serve(&socket, "1");
    assert!(server.wait_with_output().unwrap().status.success());
    assert!(!socket.exists());
}

#[test]
fn folders_that_are_missing_are_made_for_this_user_only() {
    let folder = tempfile::tempdir().unwrap();
    // An image of the profiler alone has no /tmp.
    let socket = folder.path().join("tmp/.aiprof/socket");
    let server = Server::bind(&options(&socket), made_up).unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(socket.parent().unwrap()), mode(&socket)), (0o700, 0o600));
    let stopper = server.stopper();
    stopper.stop();
    assert_eq!(server.run().unwrap(), Ended::Asked);
}

#[test]
fn inspect_and_verify_answer_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let mut serving = Command::new(PROFILER).args(["serve", "--lease", "30", "--socket"]).arg(&socket).spawn().unwrap();
    let output = Command::new(PROFILER).arg("inspect").output().unwrap();
    serving.kill().unwrap();
    serving.wait().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.ends_with('\n') && text.lines().count() == 1);
    let inspection: aiprof_capture::inspect::Inspection = serde_json::from_str(&text).unwrap();
    assert_eq!(inspection.architecture, std::env::consts::ARCH);
    assert!(!inspection.kernel.is_empty());
    assert!(inspection.processes.iter().any(|each| each.pid == 1));
    assert!(inspection.processes.iter().all(|each| each.pid != serving.id() && each.threads > 0));

    let hex = aiprof_profiler::verify::sha256(Path::new(PROFILER)).unwrap();
    let verify = |hex: &str| Command::new(PROFILER).args(["verify", "--sha256", hex]).output().unwrap();
    let output = verify(&hex);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"ok\n"[..]));
    let output = verify(&hex.replace(|digit| digit != '0', "0"));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8(output.stderr).unwrap().lines().count(), 1);
}

#[test]
fn wrong_words_are_a_usage_error() {
    for words in [&[][..], &["serve"], &["serve", "--socket", "/x", "--lease", "0"], &["attach"], &["verify", "x"]] {
        assert_eq!(Command::new(PROFILER).args(words).output().unwrap().status.code(), Some(2), "{words:?}");
    }
}
