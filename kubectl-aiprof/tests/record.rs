//! `record` from the command line to the archive, with a stand-in for the profiler: see `stand_in/profiler.rs`.

// They record processes of this machine.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use aiprof_capture::{archive::Archive, manifest::Outcome, progress::EndReason, request::Dimension};
use common::{finish, folder, plugin, record};
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};

/// What no test here should last.
const PATIENCE: Duration = Duration::from_secs(20);

fn sleeper() -> Child {
    Command::new("sleep").arg("60").spawn().unwrap()
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
}

/// Waits for the line of an event; the rest of standard error is read on and thrown away.
fn wait_for_event(child: &mut Child, event: &str) {
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let wanted = format!("\"event\":\"{event}\"");
    assert!(lines.by_ref().map_while(Result::ok).any(|line| line.contains(&wanted)), "no {event}");
    thread::spawn(move || lines.for_each(drop));
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// The profiler that ran last in a folder has ended.
fn assert_no_profiler(folder: &Path) {
    let pid = fs::read_to_string(folder.join("pid")).unwrap();
    // It is killed, and then waited for by whoever inherits it: a zombie no longer runs.
    let runs = || fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| !status.contains("State:\tZ"));
    wait_for("the profiler has ended", || !runs());
}

fn archives(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("aiprof"))
        .collect();
    names.sort();
    names
}

#[test]
fn a_process_is_recorded_into_an_archive() {
    let folder = folder();
    let target = sleeper();
    let pid = target.id().to_string();
    let done = finish(record(folder.path(), "whole").args(["--pid", &pid, "-d", "300ms"]));
    end(target);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stdout.starts_with("sleep.aiprof.tar.gz  "), "{}", done.stdout);
    assert!(done.stdout.contains("kubectl aiprof open sleep.aiprof.tar.gz"), "{}", done.stdout);
    assert!(done.stderr.contains("recording 1 process, 1 thread for 0.3 s"), "{}", done.stderr);
    let archive = Archive::open(folder.path().join("sleep.aiprof.tar.gz")).unwrap();
    assert_eq!(archive.manifest().end_reason, EndReason::Duration);
    assert_eq!(archives(folder.path()), ["sleep.aiprof.tar.gz"]);
}

#[test]
fn an_archive_is_overwritten_only_if_named() {
    let folder = folder();
    let run = |arguments: &[&str]| finish(record(folder.path(), "whole").args(arguments).args(["--", "true"])).code;
    assert_eq!((run(&[]), run(&[]), run(&["-o", "true.aiprof.tar.gz"])), (0, 0, 0));
    assert_eq!(archives(folder.path()), ["true-2.aiprof.tar.gz", "true.aiprof.tar.gz"]);
}

#[test]
fn a_program_runs_with_its_own_streams_once_the_window_is_open() {
    let folder = folder();
    let mut command = record(folder.path(), "whole");
    command.args(["--progress", "json", "--", "sh", "-c", "read word; echo \"got $word\"; echo oops >&2; exit 3"]);
    let input = folder.path().join("input");
    fs::write(&input, "hello\n").unwrap();
    command.stdin(fs::File::open(&input).unwrap());
    let done = finish(&mut command);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stdout.starts_with("got hello\n"), "{}", done.stdout);
    let started = done.stderr.find("\"event\":\"started\"").unwrap();
    assert!(started < done.stderr.find("oops").unwrap(), "{}", done.stderr);
    assert!(done.stderr.contains("exit status: 3"), "{}", done.stderr);
    let archive = Archive::open(folder.path().join("sh.aiprof.tar.gz")).unwrap();
    assert_eq!(archive.manifest().end_reason, EndReason::TargetExited);
}

#[test]
fn a_program_that_outlives_its_window_is_ended() {
    let folder = folder();
    let begun = Instant::now();
    let done = finish(record(folder.path(), "whole").args(["-d", "200ms", "--", "sleep", "60"]));
    assert_eq!(done.code, 0, "{done:?}");
    assert!(begun.elapsed() < PATIENCE);
    assert!(done.stderr.contains("was ended (SIGTERM)"), "{}", done.stderr);
}

#[test]
fn a_program_that_ignores_sigterm_is_killed() {
    let folder = folder();
    let done =
        finish(record(folder.path(), "whole").args(["-d", "300ms", "--", "sh", "-c", "trap '' TERM; exec sleep 60"]));
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stderr.contains("was killed"), "{}", done.stderr);
}

#[test]
fn a_program_that_does_not_exist_is_an_error_and_leaves_nothing() {
    let folder = folder();
    let log = folder.path().join("log");
    let done = finish(record(folder.path(), "whole").env("STAND_IN_LOG", &log).args(["--", "no-such-program"]));
    assert_eq!(done.code, 1, "{done:?}");
    assert!(
        done.stderr.contains("error: cannot run \"no-such-program\": No such file or directory"),
        "{}",
        done.stderr
    );
    assert_no_profiler(folder.path());
    assert_eq!(archives(folder.path()), [""; 0]);
}

#[test]
fn what_is_partial_is_said_and_has_its_exit_code() {
    let folder = folder();
    let done = finish(record(folder.path(), "partial").args(["--progress", "none", "--", "true"]));
    assert_eq!(done.code, 3, "{done:?}");
    assert_eq!(done.stderr, "warning: no python: this is a stand-in\n");
}

#[test]
fn a_profiler_that_dies_leaves_what_it_sent() {
    let folder = folder();
    let done = finish(record(folder.path(), "dies").args(["-d", "10s", "-o", "x.aiprof.tar.gz", "--", "sleep", "60"]));
    assert_eq!(done.code, 3, "{done:?}");
    assert!(done.stderr.contains("the profiler ended too early (signal 6)"), "{}", done.stderr);
    let path = folder.path().join("x.aiprof.tar.gz");
    let archive = Archive::open(&path).unwrap();
    let manifest = archive.manifest();
    assert_eq!(manifest.end_reason, EndReason::ProfilerDied);
    assert!(matches!(manifest.dimensions[&Dimension::Python], Outcome::Partial { .. }));
    let report = finish(plugin(folder.path()).args(["report", "x.aiprof.tar.gz"]));
    assert_eq!(report.code, 0, "{report:?}");
    assert!(report.stdout.contains("python is partial: the profiler ended too early"), "{}", report.stdout);
    assert!(report.stdout.contains("work"), "{}", report.stdout);
}

#[test]
fn a_damaged_stream_ends_the_capture_and_the_profiler() {
    let folder = folder();
    let done = finish(record(folder.path(), "corrupt").args(["-d", "60s", "--", "sleep", "60"]));
    assert_eq!(done.code, 3, "{done:?}");
    assert!(done.stderr.contains("a frame of the capture stream is damaged"), "{}", done.stderr);
    assert_no_profiler(folder.path());
    assert_eq!(archives(folder.path()), ["sleep.aiprof.tar.gz"]);
}

#[test]
fn a_profiler_without_a_word_of_the_protocol_is_an_error() {
    let folder = folder();
    let done = finish(record(folder.path(), "speechless").args(["--", "sleep", "60"]));
    assert_eq!(done.code, 1, "{done:?}");
    let expected = "error: the profiler ended too early (exit status 2), saying: something is wrong here, before it captured anything\n";
    assert!(done.stderr.ends_with(expected), "{}", done.stderr);
    assert_eq!(archives(folder.path()), [""; 0]);
}

#[test]
fn another_protocol_is_an_error() {
    let folder = folder();
    let done = finish(record(folder.path(), "newer").args(["--", "sleep", "60"]));
    assert_eq!(done.code, 1, "{done:?}");
    let expected = "error: the plugin speaks protocol 1, this profiler 2; install the same version of both\n";
    assert!(done.stderr.ends_with(expected), "{}", done.stderr);
}

#[test]
fn a_process_that_does_not_exist_is_an_error() {
    let folder = folder();
    let done = finish(record(folder.path(), "whole").args(["--pid", "4194304"]));
    assert_eq!((done.code, done.stdout.as_str()), (1, ""));
    assert!(
        done.stderr.ends_with("error: there is no process 4194304; see `ps` for those that run\n"),
        "{}",
        done.stderr
    );
    let json = finish(record(folder.path(), "whole").args(["--progress", "json", "--pid", "4194304"]));
    assert_eq!(json.code, 1);
    for line in json.stderr.lines() {
        serde_json::from_str::<aiprof_capture::progress::Progress>(line).unwrap();
    }
}

#[test]
fn no_profiler_is_an_error() {
    let folder = folder();
    let done = finish(record(folder.path(), "whole").args(["--profiler", "/no/profiler", "--", "true"]));
    assert_eq!(done.code, 1);
    assert!(done.stderr.starts_with("error: cannot start the profiler /no/profiler: No such file"), "{}", done.stderr);
}

#[test]
fn a_folder_that_does_not_exist_is_an_error_before_anything_runs() {
    let folder = folder();
    let done = finish(record(folder.path(), "whole").args(["-o", "no/such/x.aiprof.tar.gz", "--", "touch", "ran"]));
    assert_eq!(done.code, 1);
    assert!(done.stderr.starts_with("error: cannot write no/such/x.aiprof.tar.gz: No such file"), "{}", done.stderr);
    assert!(!folder.path().join("ran").exists());
}

#[test]
fn the_first_ctrl_c_keeps_the_capture() {
    for end_signal in [Signal::SIGINT, Signal::SIGTERM] {
        let folder = folder();
        let target = sleeper();
        let pid = target.id().to_string();
        let mut child = record(folder.path(), "whole")
            .args(["--progress", "json", "--pid", &pid, "-d", "1h", "-o", "x.aiprof.tar.gz"])
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        wait_for_event(&mut child, "tick");
        // As a terminal does it: every process of the group hears it.
        killpg(Pid::from_raw(child.id().cast_signed()), end_signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
        end(target);
        let archive = Archive::open(folder.path().join("x.aiprof.tar.gz")).unwrap();
        assert_eq!(archive.manifest().end_reason, EndReason::Stopped);
    }
}

#[test]
fn ctrl_c_before_the_window_opens_gives_up() {
    let folder = folder();
    let mut child = record(folder.path(), "slow")
        .args(["--progress", "json", "--", "touch", "ran"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for_event(&mut child, "process");
    signal(&child, Signal::SIGINT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_no_profiler(folder.path());
    assert_eq!(archives(folder.path()), [""; 0]);
    assert!(!folder.path().join("ran").exists());
}

#[test]
fn the_archive_belongs_to_the_user_who_called_sudo() {
    let folder = folder();
    let mut command = record(folder.path(), "whole");
    let done = finish(command.env("SUDO_UID", "1").env("SUDO_GID", "2").args(["--", "true"]));
    assert_eq!(done.code, 0, "{done:?}");
    let archive = fs::metadata(folder.path().join("true.aiprof.tar.gz")).unwrap();
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        assert_eq!((archive.uid(), archive.gid()), (1, 2));
    } else {
        assert_ne!(archive.uid(), 1);
    }
}

#[test]
fn the_second_ctrl_c_gives_up() {
    let folder = folder();
    let target = sleeper();
    let pid = target.id().to_string();
    let mut child = record(folder.path(), "flood")
        .args(["--progress", "json", "--pid", &pid, "-o", "x.aiprof.tar.gz"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for_event(&mut child, "tick");
    signal(&child, Signal::SIGINT);
    thread::sleep(Duration::from_millis(300));
    signal(&child, Signal::SIGINT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    end(target);
    assert_no_profiler(folder.path());
    assert_eq!(archives(folder.path()), [""; 0]);
}

#[test]
fn a_killed_plugin_takes_the_profiler_with_it_and_leaves_the_target() {
    let folder = folder();
    let log = folder.path().join("log");
    let mut target = sleeper();
    let pid = target.id().to_string();
    let mut child = record(folder.path(), "whole")
        .env("STAND_IN_LOG", &log)
        .args(["--progress", "json", "--pid", &pid, "-d", "1h"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for_event(&mut child, "tick");
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for("the profiler has ended", || log.exists());
    assert!(target.try_wait().unwrap().is_none(), "the target was ended");
    end(target);
    assert_eq!(archives(folder.path()), [""; 0]);
}

#[test]
fn a_full_disk_is_an_error_and_leaves_nothing() {
    let folder = folder();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(folder.path())
        .stderr(Stdio::null())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        assert!(std::env::var_os("CI").is_none(), "this test needs the right to mount a tmpfs");
        eprintln!("skipped: it needs the right to mount a tmpfs");
        return;
    }
    let done = finish(record(folder.path(), "flood").args(["--", "sleep", "60"]));
    assert_no_profiler(folder.path());
    let left = archives(folder.path());
    assert!(Command::new("umount").arg(folder.path()).status().unwrap().success());
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.stderr.contains("error: cannot keep the capture in .: No space left on device"), "{}", done.stderr);
    assert_eq!(left, [""; 0]);
}
