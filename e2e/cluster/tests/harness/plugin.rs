//! The plugin as a user runs it, and a recording by it.

use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use aiprof_capture::archive::Archive;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{Namespace, stderr, stdout};

/// No command of the plugin that a test runs to its end may take longer.
const LIMIT: Duration = Duration::from_secs(100);
/// Something that is to be said comes within so long.
const PATIENCE: Duration = Duration::from_secs(40);

/// Path of the plugin.
pub fn binary() -> PathBuf {
    let path = std::env::var_os("AIPROF").expect("AIPROF names the plugin's binary");
    Path::new(&path).canonicalize().unwrap_or_else(|why| panic!("AIPROF={}: {why}", path.display()))
}

/// Runs a command to its end, which must come.
pub fn bounded(command: &mut Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command runs");
    let out = collect(child.stdout.take());
    let err = collect(child.stderr.take());
    let status = end(&mut child);
    let [stdout, stderr] = [out, err].map(|reader| reader.join().expect("the reader ends"));
    match status {
        Some(status) => Output { status, stdout, stderr },
        None => panic!("{command:?} does not end: {}", String::from_utf8_lossy(&stderr)),
    }
}

fn collect(from: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    let mut from = from.expect("a pipe");
    thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).expect("the pipe is read");
        bytes
    })
}

/// Waits for the end of a process; none if it did not come and the process was killed.
fn end(child: &mut Child) -> Option<ExitStatus> {
    let limit = Instant::now() + LIMIT;
    loop {
        if let Some(status) = child.try_wait().expect("the process can be waited for") {
            return Some(status);
        }
        if Instant::now() > limit {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

impl Namespace {
    /// The plugin with the administrator's kubeconfig and without arguments, not yet run.
    pub fn plugin(&self) -> Command {
        let mut command = Command::new(binary());
        command.env("KUBECONFIG", &self.cluster.kubeconfig).stdin(Stdio::null());
        command
    }

    /// Runs the plugin here: `AIPROF ARGUMENTS… --namespace HERE`.
    pub fn aiprof(&self, arguments: &[&str]) -> Output {
        bounded(self.plugin().args(arguments).args(["--namespace", &self.name]))
    }

    /// The same as the user of a kubeconfig.
    pub fn aiprof_as(&self, kubeconfig: &Path, arguments: &[&str]) -> Output {
        bounded(self.plugin().env("KUBECONFIG", kubeconfig).args(arguments).args(["--namespace", &self.name]))
    }

    /// Runs the plugin here, which must work, and gives what it prints.
    pub fn answer(&self, arguments: &[&str]) -> String {
        let output = self.aiprof(arguments);
        assert!(output.status.success(), "{arguments:?}: {}{}", stdout(&output), stderr(&output));
        stdout(&output)
    }

    /// Runs the plugin here, which must fail with one sentence; gives that.
    pub fn refusal(&self, arguments: &[&str]) -> String {
        sentence(&self.aiprof(arguments))
    }

    /// Begins `record ARGUMENTS…` here.
    pub fn begin_record(&self, arguments: &[&str]) -> Live {
        Live::begin(self.plugin().arg("record").args(arguments).args(["--namespace", &self.name]))
    }

    /// Runs `record ARGUMENTS…` here to its end.
    pub fn record(&self, arguments: &[&str]) -> Recording {
        self.begin_record(arguments).finish()
    }
}

/// The one sentence of a command that failed.
pub fn sentence(output: &Output) -> String {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{}{text}", stdout(output));
    let (_, error) = text.split_once("error: ").unwrap_or_else(|| panic!("no error is told: {text}"));
    assert!(error.trim_end().lines().count() == 1 || error.contains("kind: Role"), "{text}");
    error.trim_end().to_owned()
}

/// A recording that runs.
pub struct Live {
    child: Child,
    begun: Instant,
    lines: Receiver<String>,
    said: Vec<String>,
    stdout: Option<thread::JoinHandle<Vec<u8>>>,
    folder: tempfile::TempDir,
}

impl Live {
    /// Begins this command, which `record` and the target are part of.
    pub fn begin(command: &mut Command) -> Self {
        Self::begin_with(command, &[])
    }

    /// Begins this command, which `record` is part of, on a program that it is to start.
    pub fn begin_with(command: &mut Command, program: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the archive");
        command.args(["--progress", "json", "--output"]).arg(folder.path().join(ARCHIVE));
        if !program.is_empty() {
            command.arg("--").args(program);
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let begun = Instant::now();
        let mut child = command.spawn().expect("the plugin runs");
        let (sender, lines) = mpsc::channel();
        let errors = BufReader::new(child.stderr.take().expect("a pipe"));
        thread::spawn(move || errors.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let stdout = Some(collect(child.stdout.take()));
        Self { child, begun, lines, said: Vec::new(), stdout, folder }
    }

    /// Waits for an event; gives it and how long after the command's begin it came.
    pub fn event(&mut self, name: &str) -> (Value, Duration) {
        let limit = Instant::now() + PATIENCE;
        loop {
            let line = match self.lines.recv_timeout(limit.saturating_duration_since(Instant::now())) {
                Ok(line) => line,
                Err(why) => panic!("no event \"{name}\" ({why}) but {:#?}", self.said),
            };
            self.said.push(line.clone());
            let event: Value = serde_json::from_str(&line).unwrap_or_default();
            if event["event"] == name {
                return (event, self.begun.elapsed());
            }
        }
    }

    /// Waits until the window is open and so many ticks have come, of which there are four a second.
    pub fn let_arrive(&mut self, ticks: usize) {
        self.event("started");
        (0..ticks).for_each(|_| drop(self.event("tick")));
    }

    /// Sends the plugin a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the plugin runs");
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Recording {
        let status = end(&mut self.child);
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => self.said.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("its standard error stays open"),
            }
        }
        let status = status.unwrap_or_else(|| panic!("the recording does not end: {:#?}", self.said));
        let stdout = self.stdout.take().map(|reader| reader.join().expect("the reader ends")).unwrap_or_default();
        let stdout = String::from_utf8_lossy(&stdout).into_owned();
        Recording { code: status.code(), stdout, said: self.said, folder: self.folder }
    }
}

/// Name of the archive in its folder.
const ARCHIVE: &str = "x.aiprof.tar.gz";

/// A recording that is over.
pub struct Recording {
    /// Exit code of the plugin.
    pub code: Option<i32>,
    /// Its summary.
    pub stdout: String,
    /// Lines of its progress.
    pub said: Vec<String>,
    folder: tempfile::TempDir,
}

impl Recording {
    /// The archive, whether there is one or not.
    pub fn archive(&self) -> PathBuf {
        self.folder.path().join(ARCHIVE)
    }

    /// All that the plugin said on standard error: sentences as they are, other events as JSON.
    pub fn text(&self) -> String {
        let sentence = |line: &String| {
            let event: Value = serde_json::from_str(line).unwrap_or_default();
            event["message"].as_str().map_or_else(|| line.clone(), str::to_owned)
        };
        self.said.iter().map(sentence).collect::<Vec<_>>().join("\n")
    }

    /// The archive's manifest.
    pub fn manifest(&self) -> Value {
        let archive = Archive::open(self.archive()).unwrap_or_else(|why| panic!("{why}: {}", self.text()));
        json!(archive.manifest())
    }

    /// What `report` says of the archive.
    pub fn report(&self) -> Value {
        let output =
            bounded(Command::new(binary()).arg("report").arg(self.archive()).args(["-o", "json", "--top", "1000"]));
        assert!(output.status.success(), "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).expect("the report is JSON")
    }

    /// That all that was asked for is there, and that the trace holds as many samples as the profiler says it sent.
    pub fn assert_complete(&self) {
        assert_eq!(self.code, Some(0), "{}", self.text());
        let manifest = self.manifest();
        for dimension in ["python", "cpu"] {
            assert_eq!(manifest["dimensions"][dimension]["status"], "complete", "{manifest:#}");
        }
        for (name, stream) in manifest["streams"].as_object().expect("streams") {
            assert_eq!(stream["lost"], 0, "{name}: {manifest:#}");
        }
        let report = self.report();
        assert_eq!(report["quality"]["complete"], true, "{}", report["quality"]);
        let time = &report["processes"][0]["time"];
        assert!(report["samples"].as_u64() > Some(0), "no samples: {time:#} {:#}", manifest["streams"]);
        assert_eq!(report["samples"], manifest["streams"]["samples"]["records"], "{}", manifest["streams"]);
    }

    /// That it ended early, which was said in these words, and that what had arrived until then can be read; gives the report.
    pub fn assert_torn(&self, words: &[&str]) -> Value {
        assert_eq!(self.code, Some(3), "{}", self.text());
        assert!(words.iter().all(|word| self.text().contains(word)), "{}", self.text());
        let report = self.report();
        assert_eq!(report["quality"]["complete"], false, "{}", report["quality"]);
        assert!(report["samples"].as_u64() > Some(0), "no samples: {}", self.text());
        report
    }

    /// Share of the samples of a Python function among all of the first process that has it, by its own code.
    pub fn self_share(&self, function: &str) -> f64 {
        let report = self.report();
        share(&report, function).unwrap_or_else(|| panic!("no function {function}: {}", report["functions"]))
    }
}

/// Share of a Python function by its own code in a report; none if it is not there.
pub fn share(report: &Value, function: &str) -> Option<f64> {
    let rows = report["functions"]["python_by_self"].as_array()?;
    rows.iter().find(|row| row["function"] == function)?["self_share"].as_f64()
}
