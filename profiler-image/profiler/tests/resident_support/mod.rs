//! Bridges to a server under test: real `aiprof-profiler attach` processes.

#![allow(dead_code, reason = "no test needs all of it")]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::Path,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use aiprof_capture::{
    attach::{Attach, AttachControl},
    progress::Progress,
    request::{Dimension, PROTOCOL_VERSION, Request},
};

/// The program under test.
pub(crate) const PROFILER: &str = env!("CARGO_BIN_EXE_aiprof-profiler");

/// Longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A request that asks for Python and CPU.
pub(crate) fn request() -> Request {
    Request {
        protocol: PROTOCOL_VERSION,
        pids: Vec::new(),
        container_id: None,
        processes: Vec::new(),
        duration_ms: None,
        frequency_hz: 99,
        collect: vec![Dimension::Python, Dimension::Cpu],
        syscall_min_ns: 0,
    }
}

/// The first line of an attached session.
pub(crate) fn attach(capture: &str, from: u64, request: Option<Request>) -> Attach {
    Attach { protocol: PROTOCOL_VERSION, capture: capture.to_owned(), from, request }
}

/// Waits until it holds.
#[track_caller]
pub(crate) fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A running bridge; killed when dropped.
pub(crate) struct Bridge {
    child: Child,
    input: Arc<Mutex<Option<ChildStdin>>>,
    stream: Arc<Mutex<Vec<u8>>>,
    lines: Arc<Mutex<Vec<Progress>>>,
    signs_of_life: Arc<AtomicUsize>,
    readers: Vec<JoinHandle<()>>,
}

impl Bridge {
    /// Starts one that says `first` and nothing else yet.
    pub(crate) fn start(socket: &Path, first: &Attach) -> Self {
        Self::start_with(socket, &serde_json::to_string(first).unwrap())
    }

    /// Starts one with any first line.
    pub(crate) fn start_with(socket: &Path, first: &str) -> Self {
        let mut child = Command::new(PROFILER)
            .args(["attach", "--socket"])
            .arg(socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (stream, lines) = (Arc::<Mutex<Vec<u8>>>::default(), Arc::<Mutex<Vec<Progress>>>::default());
        let mut stdout = child.stdout.take().unwrap();
        let bytes = Arc::clone(&stream);
        let read_stream = move || {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(read @ 1..) = stdout.read(&mut buffer) {
                bytes.lock().unwrap().extend_from_slice(&buffer[..read]);
            }
        };
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let signs_of_life = Arc::<AtomicUsize>::default();
        let (parsed, empty) = (Arc::clone(&lines), Arc::clone(&signs_of_life));
        let read_lines = move || {
            for line in stderr.lines() {
                let line = line.unwrap();
                if line.is_empty() {
                    empty.fetch_add(1, Ordering::SeqCst);
                    continue;
                }
                let progress = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
                parsed.lock().unwrap().push(progress);
            }
        };
        let readers = vec![thread::spawn(read_stream), thread::spawn(read_lines)];
        let input = Arc::new(Mutex::new(child.stdin.take()));
        let bridge = Self { child, input, stream, lines, signs_of_life, readers };
        bridge.write(first);
        bridge
    }

    /// Gives signs of life from now on, as a plugin does.
    pub(crate) fn stay_alive(self) -> Self {
        let input = Arc::downgrade(&self.input);
        thread::spawn(move || {
            while let Some(input) = input.upgrade() {
                let line = serde_json::to_string(&AttachControl::Held { bytes: 0 }).unwrap();
                if !write_line(&input, &line) {
                    break;
                }
                drop(input);
                thread::sleep(Duration::from_millis(100));
            }
        });
        self
    }

    fn write(&self, line: &str) {
        // A bridge that has ended already shows by its status.
        write_line(&self.input, line);
    }

    pub(crate) fn say(&self, control: AttachControl) {
        self.write(&serde_json::to_string(&control).unwrap());
    }

    pub(crate) fn close_input(&self) {
        drop(self.input.lock().unwrap().take());
    }

    /// Bytes of the stream so far.
    pub(crate) fn received(&self) -> usize {
        self.stream.lock().unwrap().len()
    }

    /// The stream so far.
    pub(crate) fn so_far(&self) -> Vec<u8> {
        self.stream.lock().unwrap().clone()
    }

    pub(crate) fn lines(&self) -> Vec<Progress> {
        self.lines.lock().unwrap().clone()
    }

    /// Empty progress lines so far.
    pub(crate) fn signs_of_life(&self) -> usize {
        self.signs_of_life.load(Ordering::SeqCst)
    }

    #[track_caller]
    pub(crate) fn wait_for_bytes(&self, least: usize) {
        wait_until("bytes of the stream", || self.received() >= least);
    }

    #[track_caller]
    pub(crate) fn wait_for_line(&self, is_it: impl Fn(&Progress) -> bool) {
        wait_until("a progress line", || self.lines().iter().any(&is_it));
    }

    /// Kills it with signal 9 and gives what had arrived.
    pub(crate) fn cut(mut self) -> Vec<u8> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.take_stream()
    }

    /// Waits for its end: exit status, stream and lines.
    #[track_caller]
    pub(crate) fn end(mut self) -> (Option<i32>, Vec<u8>, Vec<Progress>) {
        let status = wait(&mut self.child);
        let stream = self.take_stream();
        (status.code(), stream, self.lines())
    }

    fn take_stream(&mut self) -> Vec<u8> {
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        std::mem::take(&mut self.stream.lock().unwrap())
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write_line(input: &Mutex<Option<ChildStdin>>, line: &str) -> bool {
    let mut input = input.lock().unwrap();
    input.as_mut().is_some_and(|input| input.write_all(format!("{line}\n").as_bytes()).is_ok())
}

/// Waits for a process, but not for ever.
#[track_caller]
pub(crate) fn wait(child: &mut Child) -> ExitStatus {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < until, "the process does not end");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Whether it is the line that the window is open.
pub(crate) fn is_started(line: &Progress) -> bool {
    matches!(line, Progress::Started { .. })
}
