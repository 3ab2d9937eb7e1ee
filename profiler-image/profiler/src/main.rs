//! `aiprof-profiler --stdio`: speaks the protocol of `aiprof_capture` on its standard streams.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read},
    process::ExitCode,
    sync::mpsc::{self, Sender},
    thread,
};

use aiprof_capture::{
    progress::{EndReason, Progress},
    request::{Control, Request},
};
use aiprof_profiler::{
    output::{Output, progress},
    session::{self, Failure},
};
use nix::sys::{
    prctl,
    resource::{Resource, getrlimit, setrlimit},
    signal::{SigSet, Signal},
};

/// Longest request line, in bytes.
const MAX_REQUEST: u64 = 1 << 20;

/// Files that this process may hold open, where its limit can be raised so far.
const MAX_FILES: u64 = 1 << 16;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("--stdio") => {}
        Some("--version") => {
            println!("aiprof-profiler {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!(
                "aiprof-profiler is started by `kubectl aiprof record`; use that, or --stdio to speak its protocol"
            );
            return ExitCode::from(2);
        }
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { message, hint }) => {
            progress(&Progress::Error { message, hint });
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Failure> {
    // Started from a file without a name, its own would be a number.
    let _ = prctl::set_name(c"aiprof-profiler");
    be_first_to_go();
    allow_many_files();
    let (stop, control) = mpsc::channel();
    // Before any other thread starts, so that all inherit the mask.
    stop_on_signals(stop.clone());
    let mut input = BufReader::new(io::stdin());
    let mut line = String::new();
    let unreadable = |what: String| Failure {
        message: format!("the request cannot be read: {what}"),
        hint: "use plugin and profiler of the same version".to_owned(),
    };
    (&mut input).take(MAX_REQUEST).read_line(&mut line).map_err(|error| unreadable(error.to_string()))?;
    let request: Request = serde_json::from_str(&line).map_err(|error| unreadable(error.to_string()))?;
    thread::spawn(move || follow_control(input, &stop));
    session::run(&request, &control, Output::new(io::stdout()))
}

/// The memory is the target's: if it runs out, this process should go and not the target.
fn be_first_to_go() {
    // Not being allowed to is no reason not to profile.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
}

/// A process and each file of its code keep one file open.
fn allow_many_files() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // With fewer, the code of some processes has no names.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(MAX_FILES), hard);
    }
}

fn stop_on_signals(stop: Sender<EndReason>) {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        signals.add(signal);
    }
    if signals.thread_block().is_err() {
        return;
    }
    thread::spawn(move || {
        while signals.wait().is_ok() {
            // Nobody listens any more once the window is closed.
            let _ = stop.send(EndReason::Stopped);
        }
    });
}

/// Passes on control lines; the end of the input is one too.
fn follow_control(input: impl BufRead, stop: &Sender<EndReason>) {
    for line in input.lines().map_while(Result::ok) {
        if let Ok(Control::Stop) = serde_json::from_str(&line) {
            let _ = stop.send(EndReason::Stopped);
        }
    }
    let _ = stop.send(EndReason::PluginGone);
}
