//! Finding CPython in processes that run, start, churn through code objects, or are not what they seem.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod python_support;

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use aiprof_profiler::{
    memory::ProcessMemory,
    python::{self, CodeCache, FrameState, Interpreter, Refusal, Thread},
};
use python_support::{Target, python, pythons, ready, start, start_and_wait};

fn detect(target: &Target) -> Result<Option<Interpreter>, Refusal> {
    python::detect(target.pid(), &ProcessMemory::open(target.pid()))
}

#[test]
fn passes_on_a_process_that_runs() {
    for (minor, executable) in pythons() {
        let (target, _) = start_and_wait(&executable, "busy.py");
        let first = detect(&target).unwrap().unwrap();
        assert_eq!(first.version.minor, minor);
        let started = Instant::now();
        for _ in 0..20 {
            assert_eq!(detect(&target).as_ref(), Ok(&Some(first.clone())), "3.{minor}");
        }
        println!("{}: detected in {:?} on average (debug build)", first.version, started.elapsed() / 20);
    }
}

#[test]
fn passes_on_a_process_that_just_started() {
    for (minor, executable) in pythons() {
        for _ in 0..3 {
            let target = start(&executable, "busy.py");
            let started = Instant::now();
            let interpreter = loop {
                match detect(&target) {
                    Ok(Some(interpreter)) => break interpreter,
                    Ok(None) | Err(Refusal::Starting) => sleep(Duration::from_millis(1)),
                    // Mappings come and go while exec and the dynamic linker work.
                    Err(Refusal::Unreadable(_)) if started.elapsed() < Duration::from_secs(1) => {}
                    Err(refusal) => panic!("3.{minor} after {:?}: {refusal}", started.elapsed()),
                }
                assert!(started.elapsed() < Duration::from_secs(20), "3.{minor} never found");
            };
            assert_eq!(interpreter.version.minor, minor);
        }
    }
}

/// The number in the file name `<made 7>`.
fn made(file: &str) -> Option<u32> {
    file.strip_prefix("<made ")?.strip_suffix('>')?.parse().ok()
}

#[test]
fn code_objects_that_come_and_go_never_give_stale_names() {
    for (minor, executable) in pythons() {
        let (target, _) = start_and_wait(&executable, "churn.py");
        let memory = ProcessMemory::open(target.pid());
        let interpreter = detect(&target).unwrap().unwrap();
        let mut kept = CodeCache::new(&interpreter);
        let (mut known, mut gone, mut compared) = (0, 0, 0);
        for _ in 0..3000 {
            for thread in python::threads(&memory, &interpreter).unwrap_or_default() {
                for frame in python::walk(&memory, &interpreter.layout, thread.thread_state).frames {
                    let resolved = kept.resolve(&memory, &frame);
                    if resolved.state != FrameState::Known {
                        gone += 1;
                        assert!(resolved.function.starts_with('['), "{resolved:?}");
                        continue;
                    }
                    let Some(number) = made(&resolved.file) else {
                        // A shim of 3.12 that is being set up may pass for a frame.
                        let sound = resolved.file.ends_with(".py") || &*resolved.file == "<shim>";
                        assert!(sound, "3.{minor} {resolved:?}");
                        continue;
                    };
                    known += 1;
                    // The file and the function of one code object tell the same number, and so does the line.
                    let module = &*resolved.function == "<module>";
                    assert!(module || *resolved.function == format!("f{number}"), "3.{minor} {resolved:?}");
                    let first = number % 1000 + 1;
                    let inside = (first..first + 2).contains(&resolved.line);
                    // Code before the first line is on line 0 from 3.11 on.
                    assert!(module || inside || resolved.line == 0, "3.{minor} {resolved:?} {frame:?}");
                    // A reader that has seen nothing before agrees with the one that has seen all.
                    let fresh = CodeCache::new(&interpreter).resolve(&memory, &frame);
                    if fresh.state == FrameState::Known {
                        compared += 1;
                        assert_eq!(
                            (&fresh.function, &fresh.file),
                            (&resolved.function, &resolved.file),
                            "3.{minor} {frame:?}"
                        );
                    }
                }
            }
        }
        println!("{}: {known} frames named, {gone} gone, {compared} equal to a fresh reading", interpreter.version);
        assert!(known > 100, "3.{minor}: only {known}");
    }
}

#[test]
fn refuses_old_versions_by_name() {
    for minor in [6, 7] {
        let Some(executable) = python(minor) else { continue };
        let target =
            ready(Command::new(executable).args(["-c", "print('END', flush=True); import sys; sys.stdin.read()"]));
        let expected = format!("CPython 3.{minor} is not supported: 3.8 is the oldest that is");
        assert_eq!(detect(&target).unwrap_err().to_string(), expected);
    }
}

#[test]
fn finds_nothing_where_nothing_is() {
    let target = Target(Command::new("sleep").arg("60").spawn().unwrap());
    sleep(Duration::from_millis(200));
    assert_eq!(detect(&target), Ok(None));
    assert!(matches!(python::detect(0x7fff_fff0, &ProcessMemory::open(0x7fff_fff0)), Err(Refusal::Maps(_))));
}

/// The interpreter's file under another name: `run` starts it, given a folder of its own.
fn check_disguised(minor: u8, run: impl Fn(&Path, &Path) -> Command) {
    let Some(executable) = python(minor) else { return };
    let folder = std::env::temp_dir().join(format!("aiprof-disguise-{}-{minor}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let mut command = run(&executable, &folder);
    command.args(["-B", "-c", "print('END', flush=True); import sys; sys.stdin.read()"]);
    let target = ready(&mut command);
    let found = detect(&target);
    // Without its file too.
    fs::remove_dir_all(&folder).unwrap();
    let deleted = detect(&target);
    let interpreter = found.unwrap().expect("found under another name");
    assert_eq!((interpreter.version.minor, interpreter.path.starts_with(&folder)), (minor, true), "{interpreter:?}");
    assert_eq!(deleted, Ok(Some(interpreter)));
}

#[test]
fn finds_a_shared_library_under_any_name() {
    for minor in 8..=13 {
        check_disguised(minor, |executable, folder| {
            let prefix = executable.parent().unwrap().parent().unwrap();
            let library = format!("libpython3.{minor}.so.1.0");
            fs::copy(prefix.join("lib").join(&library), folder.join("engine")).unwrap();
            std::os::unix::fs::symlink("engine", folder.join(&library)).unwrap();
            fs::copy(executable, folder.join("server")).unwrap();
            let mut command = Command::new(folder.join("server"));
            command.env("LD_LIBRARY_PATH", folder).env("PYTHONHOME", prefix);
            command
        });
    }
}

#[test]
fn finds_a_static_executable_run_by_its_own_dynamic_linker() {
    // As e2e/scripts/fetch-python3.14.sh lays it out; /proc/PID/exe is the linker.
    let Some(root) = python(14).and_then(|path| Some(path.parent()?.join("root/usr"))).filter(|root| root.exists())
    else {
        eprintln!("SKIPPED: no extracted CPython 3.14 (e2e/scripts/fetch-python3.14.sh)");
        return;
    };
    let libraries = root.join("lib").join(format!("{}-linux-gnu", std::env::consts::ARCH));
    let linker = fs::read_dir(&libraries).unwrap().map(|entry| entry.unwrap().path());
    let linker =
        linker.into_iter().find(|path| path.file_name().unwrap().to_string_lossy().starts_with("ld-linux-")).unwrap();
    check_disguised(14, |_, folder| {
        fs::copy(root.join("bin/python3.14"), folder.join("engine")).unwrap();
        let mut command = Command::new(&linker);
        command.arg("--library-path").arg(&libraries).arg(folder.join("engine")).env("PYTHONHOME", &root);
        command
    });
}

#[test]
fn passes_while_threads_come_and_go() {
    let source = "import sys, threading, time\n\
        def spawn():\n while True:\n  threads = [threading.Thread(target=time.sleep, args=(0,)) for _ in range(8)]\n  \
        [thread.start() for thread in threads]\n  [thread.join() for thread in threads]\n\
        threading.Thread(target=spawn, daemon=True).start()\nprint('END', flush=True)\nsys.stdin.read()";
    for (minor, executable) in pythons() {
        let target = ready(Command::new(executable).args(["-c", source]));
        for _ in 0..20 {
            assert_eq!(detect(&target).unwrap().expect("found").version.minor, minor);
        }
    }
}

#[test]
fn lists_threads_of_subinterpreters() {
    for (minor, executable) in pythons() {
        let source = "import sys, threading\n\
            try:\n import _interpreters as i\nexcept ImportError:\n import _xxsubinterpreters as i\n\
            threading.Thread(target=i.run_string, args=(i.create(), 'import time\\ntime.sleep(60)'), daemon=True).start()\n\
            print('END', flush=True)\nsys.stdin.read()";
        let target = ready(Command::new(executable).args(["-W", "ignore", "-c", source]));
        let memory = ProcessMemory::open(target.pid());
        let interpreter = detect(&target).unwrap().expect("found");
        let mut names = CodeCache::new(&interpreter);
        let mut stack = |thread: &Thread| -> Vec<(String, u32)> {
            let frames = python::walk(&memory, &interpreter.layout, thread.thread_state).frames;
            let frames = frames.iter().map(|frame| names.resolve(&memory, frame));
            frames.map(|frame| (frame.function.to_string(), frame.line)).collect()
        };
        let started = Instant::now();
        loop {
            // The thread that entered it, what it runs there, and the main thread.
            let threads = python::threads(&memory, &interpreter).unwrap_or_default();
            let found: Vec<_> = threads.iter().map(|thread| (thread.interpreter, stack(thread))).collect();
            let inside = found.iter().find(|(_, frames)| *frames == [("<module>".to_string(), 2)]);
            let main = found.iter().find(|(_, frames)| *frames == [("<module>".to_string(), 8)]);
            if found.len() == 3 && matches!((inside, main), (Some((inside, _)), Some((main, _))) if inside != main) {
                break;
            }
            assert!(started.elapsed() < Duration::from_secs(20), "3.{minor}: {found:?}");
            sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn finds_a_forked_child() {
    for (minor, executable) in pythons() {
        let mut command = Command::new(executable);
        let source = "import os, sys, threading, time\n\
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n\
            if os.fork() == 0:\n print(os.getpid(), flush=True)\n time.sleep(60)\nsys.stdin.read()";
        command.args(["-W", "ignore", "-c", source]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut target = Target(command.spawn().unwrap());
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(target.0.stdout.take().unwrap()), &mut line).unwrap();
        let child: u32 = line.trim().parse().unwrap();
        let memory = ProcessMemory::open(child);
        let found = python::detect(child, &memory);
        let threads = found.clone().map(|found| python::threads(&memory, &found.unwrap()).unwrap());
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child as i32), nix::sys::signal::SIGKILL).unwrap();
        assert_eq!(found.unwrap().unwrap().version.minor, minor);
        let threads = threads.unwrap();
        assert_eq!(threads.len(), 1, "3.{minor} {threads:?}");
        assert!(minor < 11 || threads[0].native_thread_id == Some(child), "3.{minor} {threads:?}");
    }
}
