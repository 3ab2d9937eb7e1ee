//! `aiprof-profiler`: a capture on the standard streams (`--stdio`), or one behind a socket (`serve`, `attach`); and what there is
//! to know before one (`inspect`, `verify`).

use std::{
    fs,
    io::{self, BufRead, BufReader, Read},
    path::PathBuf,
    process::ExitCode,
    sync::mpsc::{self, Sender},
    thread,
    time::Duration,
};

use aiprof_capture::{
    progress::{EndReason, Progress},
    request::{Control, Request},
};
use aiprof_profiler::{
    inspect,
    output::{Output, StandardError, progress},
    resident::{
        attach,
        serve::{DEFAULT_SPOOL_BYTES, DEFAULT_UNATTENDED, Ended, Options, Server},
    },
    session::{self, Failure},
    verify,
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

const USAGE: &str = "aiprof-profiler is started by `kubectl aiprof`; use that, or one of
  aiprof-profiler --stdio
  aiprof-profiler serve --socket PATH --lease SECONDS [--spool-bytes BYTES]
  aiprof-profiler attach --socket PATH
  aiprof-profiler inspect [--container ID]
  aiprof-profiler verify --sha256 HEX
  aiprof-profiler --version";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["--stdio"] => stdio(),
        ["serve", options @ ..] => serve_options(options).map_or_else(usage, |options| serve(&options)),
        ["attach", "--socket", socket] => {
            name_self();
            ExitCode::from(attach::bridge(socket.as_ref()))
        }
        ["inspect"] => print_inspection(None),
        ["inspect", "--container", id] => print_inspection(Some(id)),
        ["verify", "--sha256", hex] => match verify::own(hex) {
            Ok(()) => say("ok"),
            Err(sentence) => fail(&sentence),
        },
        ["--version"] => say(&format!("aiprof-profiler {}", env!("CARGO_PKG_VERSION"))),
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

fn say(line: &str) -> ExitCode {
    // A reader that has gone is no reason to panic.
    match io::Write::write_all(&mut io::stdout(), format!("{line}\n").as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn fail(sentence: &str) -> ExitCode {
    eprintln!("{sentence}");
    ExitCode::FAILURE
}

fn stdio() -> ExitCode {
    match capture_on_stdio() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { message, hint }) => {
            progress(&Progress::Error { message, hint });
            ExitCode::FAILURE
        }
    }
}

fn capture_on_stdio() -> Result<(), Failure> {
    settle();
    let (stop, control) = mpsc::channel();
    // Before any other thread starts, so that all inherit the mask.
    let signalled = stop.clone();
    on_signals(move || {
        // Nobody listens any more once the window is closed.
        let _ = signalled.send(EndReason::Stopped);
    });
    let mut input = BufReader::new(io::stdin());
    let mut line = String::new();
    let unreadable = |what: String| Failure {
        message: format!("the request cannot be read: {what}"),
        hint: "use plugin and profiler of the same version".to_owned(),
    };
    (&mut input).take(MAX_REQUEST).read_line(&mut line).map_err(|error| unreadable(error.to_string()))?;
    let request: Request = serde_json::from_str(&line).map_err(|error| unreadable(error.to_string()))?;
    thread::spawn(move || follow_control(input, &stop));
    session::run(&request, &control, Output::new(io::stdout(), StandardError))
}

/// The words after `serve`; none if they are not as [`USAGE`] says.
fn serve_options(words: &[&str]) -> Option<Options> {
    let (mut socket, mut lease, mut spool_bytes) = (None, None, DEFAULT_SPOOL_BYTES);
    for option in words.chunks(2) {
        match option {
            ["--socket", path] => socket = Some(PathBuf::from(path)),
            ["--lease", seconds] => lease = seconds.parse().ok().filter(|seconds| *seconds > 0),
            ["--spool-bytes", bytes] => spool_bytes = bytes.parse().ok()?,
            _ => return None,
        }
    }
    Some(Options { socket: socket?, lease: Duration::from_secs(lease?), unattended: DEFAULT_UNATTENDED, spool_bytes })
}

fn serve(options: &Options) -> ExitCode {
    settle();
    let server = match Server::bind(options, session::run) {
        Ok(server) => server,
        Err(error) => return fail(&format!("no socket can be had at {}: {error}", options.socket.display())),
    };
    // Before any other thread starts, so that all inherit the mask.
    let stopper = server.stopper();
    on_signals(move || stopper.stop());
    match server.run() {
        Ok(Ended::Lease) => {
            eprintln!("nobody was attached for {} s", options.lease.as_secs());
            ExitCode::SUCCESS
        }
        Ok(Ended::Left | Ended::Asked) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("no thread can be started: {error}")),
    }
}

fn print_inspection(container_id: Option<&str>) -> ExitCode {
    settle();
    match serde_json::to_string(&inspect::inspect(container_id)) {
        Ok(json) => say(&json),
        Err(error) => fail(&format!("what was found cannot be written: {error}")),
    }
}

/// What comes before any work beside a target.
fn settle() {
    name_self();
    be_first_to_go();
    allow_many_files();
}

/// Started from a file without a name, its own would be a number.
fn name_self() {
    let _ = prctl::set_name(c"aiprof-profiler");
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

/// From now on the signals that end a process do this instead.
fn on_signals(act: impl Fn() + Send + 'static) {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        signals.add(signal);
    }
    if signals.thread_block().is_err() {
        return;
    }
    thread::spawn(move || {
        while signals.wait().is_ok() {
            act();
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
