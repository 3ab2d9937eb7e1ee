//! The command line: clap's structs and what each of them means in plain `…Props`. No logic of any command is here.

mod examples;
mod pod;

use std::{
    ffi::OsString,
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};

use aiprof_capture::request::Dimension;
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum, error::ErrorKind};
use clap_complete::Shell;

use self::{
    examples::{COMPLETION_EXAMPLES, EXAMPLES, OPEN_EXAMPLES, RECORD_EXAMPLES, REPORT_EXAMPLES},
    pod::{CheckArgs, PodArgs, PsArgs},
};
use crate::{
    check::CheckProps,
    format::OutputFormat,
    open::{OpenProps, UiSource},
    record::{ProgressMode, RecordProps, Target},
    report::ReportProps,
};

/// How long a capture is when nobody says.
const DEFAULT_DURATION: Duration = Duration::from_secs(30);
/// The longest capture: a trace of a day is more than any reader opens.
const MAX_DURATION: Duration = Duration::from_hours(24);
/// The shortest: below it nothing would be sampled.
const MIN_DURATION: Duration = Duration::from_millis(100);

/// As [`DEFAULT_SYSCALL_MIN_NS`](aiprof_capture::request::DEFAULT_SYSCALL_MIN_NS), in the words of the command line.
const DEFAULT_SYSCALL_MIN: &str = "50us";
/// Longer, it would leave out what a person looks for.
const MAX_SYSCALL_MIN: Duration = Duration::from_mins(1);

/// Profile a running Python process, in a pod or here: what every thread did, on one timeline.
#[derive(Debug, Parser)]
#[command(name = "kubectl-aiprof", bin_name = "kubectl aiprof", version, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Record(Box<RecordArgs>),
    Check(CheckArgs),
    Ps(PsArgs),
    Open(OpenArgs),
    Report(ReportArgs),
    Completion(CompletionArgs),
}

/// Record what a process does into an archive.
#[derive(Debug, Args)]
#[command(after_help = RECORD_EXAMPLES)]
struct RecordArgs {
    #[command(flatten)]
    pod: PodArgs,
    /// Record processes of this machine (Linux only), not of a pod.
    #[arg(long)]
    local: bool,
    /// Record the process with this id; may be given more than once.
    #[arg(long = "pid", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4_194_304))]
    pids: Vec<u32>,
    /// Record the Python processes whose name or command line contains this; may be given more than once.
    #[arg(long = "process", value_name = "PATTERN", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    processes: Vec<String>,
    /// How long, such as 30s, 1m30s or 500ms [default: 30s; for a COMMAND, until it ends].
    #[arg(short, long, value_name = "DURATION", value_parser = parse_duration)]
    duration: Option<Duration>,
    /// What to record, separated by commas: python, cpu, syscalls.
    #[arg(
        long,
        value_name = "DIMENSIONS",
        value_delimiter = ',',
        default_value = "python,cpu",
        hide_possible_values = true
    )]
    collect: Vec<CollectArg>,
    /// Show system calls that take at least this long one by one; shorter ones are in the sums.
    #[arg(long, value_name = "DURATION", default_value = DEFAULT_SYSCALL_MIN, value_parser = parse_syscall_min)]
    syscall_min: Duration,
    /// Samples a second of each busy CPU.
    #[arg(long, value_name = "HZ", default_value_t = 99, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    frequency: u32,
    /// Where to write the archive [default: NAME.aiprof.tar.gz in this folder].
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Show the result in the Perfetto UI.
    #[arg(long)]
    open: bool,
    /// How to show progress.
    #[arg(long, value_enum, default_value_t = ProgressArg::Auto)]
    progress: ProgressArg,
    /// The profiler to run instead of the one that this binary carries.
    #[arg(long, value_name = "PATH", env = "AIPROF_PROFILER", hide = true)]
    profiler: Option<PathBuf>,
    /// A program to start and to record, after `--`.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CollectArg {
    Python,
    Cpu,
    Syscalls,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ProgressArg {
    /// Bars on a terminal, else plain lines.
    Auto,
    /// Plain lines.
    Plain,
    /// One JSON object a line on standard error.
    Json,
    /// Errors only.
    None,
}

/// Show the trace of an archive in the Perfetto UI.
#[derive(Debug, Args)]
#[command(after_help = OPEN_EXAMPLES)]
struct OpenArgs {
    /// What `record` wrote.
    archive: PathBuf,
    /// Port of 127.0.0.1 from which the UI fetches the trace; <https://ui.perfetto.dev> may use 9001 only.
    #[arg(long, default_value_t = 9001)]
    port: u16,
    /// Another Perfetto UI: its address, or a folder that holds it.
    #[arg(long, value_name = "URL|DIR")]
    ui: Option<String>,
    /// Print the link, start no browser.
    #[arg(long)]
    no_browser: bool,
}

/// Sum up an archive: where the time went.
#[derive(Debug, Args)]
#[command(after_help = REPORT_EXAMPLES)]
struct ReportArgs {
    /// What `record` wrote.
    archive: PathBuf,
    /// Form of the report; docs/report-json.md says what is in its JSON.
    #[arg(short, long, value_enum, default_value_t = FormatArg::Text)]
    output: FormatArg,
    /// Rows of each table.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    top: u32,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FormatArg {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl From<FormatArg> for OutputFormat {
    fn from(argument: FormatArg) -> Self {
        match argument {
            FormatArg::Text => Self::Text,
            FormatArg::Json => Self::Json,
        }
    }
}

/// Print a script that completes commands and flags.
#[derive(Debug, Args)]
#[command(after_help = COMPLETION_EXAMPLES)]
struct CompletionArgs {
    /// Shell to print it for.
    shell: Shell,
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// `record`.
    Record(RecordProps),
    /// `check`.
    Check(CheckProps),
    /// `ps`.
    Ps(CheckProps),
    /// `open`.
    Open(OpenProps),
    /// `report`.
    Report(ReportProps),
    /// `completion`.
    Completion(Shell),
}

/// Reads a command line; on a usage error, `--help` and `--version` it prints and ends the process (2 or 0).
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Invocation {
    try_parse(arguments).unwrap_or_else(|error| error.exit())
}

fn try_parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, clap::Error> {
    Ok(match Cli::try_parse_from(arguments)?.command {
        Command::Record(args) => Invocation::Record(args.record_props()?),
        Command::Check(args) => Invocation::Check(args.check_props()?),
        Command::Ps(args) => Invocation::Ps(args.check_props()?),
        Command::Open(args) => Invocation::Open(args.open_props()),
        Command::Report(args) => Invocation::Report(args.report_props()),
        Command::Completion(args) => Invocation::Completion(args.shell),
    })
}

/// Writes the completion script of `shell`.
pub fn write_completion(shell: Shell, output: &mut dyn Write) -> io::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "kubectl-aiprof", &mut script);
    output.write_all(&script)
}

impl RecordArgs {
    fn record_props(self) -> Result<RecordProps, clap::Error> {
        let target = if self.local { self.local_target()? } else { self.pod_target()? };
        let duration = match (&target, self.duration) {
            (Target::Command { .. }, given) => given,
            (Target::Running { .. } | Target::Pod { .. }, given) => Some(given.unwrap_or(DEFAULT_DURATION)),
        };
        let mut collect: Vec<Dimension> = self.collect.into_iter().map(CollectArg::dimension).collect();
        collect.sort_unstable();
        collect.dedup();
        Ok(RecordProps {
            target,
            duration,
            frequency_hz: self.frequency,
            collect,
            syscall_min: self.syscall_min,
            output: self.output,
            open: self.open,
            progress: self.progress.progress_mode(),
            profiler: self.profiler,
        })
    }

    fn local_target(&self) -> Result<Target, clap::Error> {
        let usage = |message: &str| Err(usage_error("record", message));
        if self.pod.target.is_some() {
            return usage("--local takes no TARGET: a program to start goes after `--`");
        }
        if let Some(flag) = self.pod.given() {
            return usage(&format!("{flag} is for pods: not together with --local"));
        }
        let selects = !self.pids.is_empty() || !self.processes.is_empty();
        match (self.command.split_first(), selects) {
            (None, false) => usage("nothing to record: give --pid N, --process PATTERN or -- COMMAND"),
            (Some(_), true) => usage("--pid and --process choose running processes: not together with -- COMMAND"),
            (None, true) => Ok(Target::Running { pids: self.pids.clone(), processes: self.processes.clone() }),
            (Some((program, arguments)), false) => {
                Ok(Target::Command { program: program.clone(), arguments: arguments.to_vec() })
            }
        }
    }

    fn pod_target(&self) -> Result<Target, clap::Error> {
        if !self.command.is_empty() {
            return Err(usage_error("record", "a program after `--` is started on this machine: only with --local"));
        }
        if self.pod.target.is_none() && self.pod.given().is_none() {
            let message = "nothing to record: give a TARGET such as pod/NAME, \
                or --local with --pid N, --process PATTERN or -- COMMAND";
            return Err(usage_error("record", message));
        }
        let cluster = Box::new(self.pod.cluster_props("record", self.profiler.clone())?);
        Ok(Target::Pod { cluster, pids: self.pids.clone(), processes: self.processes.clone() })
    }
}

impl CollectArg {
    const fn dimension(self) -> Dimension {
        match self {
            Self::Python => Dimension::Python,
            Self::Cpu => Dimension::Cpu,
            Self::Syscalls => Dimension::Syscalls,
        }
    }
}

impl ProgressArg {
    const fn progress_mode(self) -> ProgressMode {
        match self {
            Self::Auto => ProgressMode::Auto,
            Self::Plain => ProgressMode::Plain,
            Self::Json => ProgressMode::Json,
            Self::None => ProgressMode::None,
        }
    }
}

impl OpenArgs {
    fn open_props(self) -> OpenProps {
        let ui = match self.ui {
            None => UiSource::default(),
            Some(ui) if ui.starts_with("http://") || ui.starts_with("https://") => UiSource::Address(ui),
            Some(ui) => UiSource::Folder(PathBuf::from(ui)),
        };
        OpenProps { archive: self.archive, port: self.port, ui, browser: !self.no_browser }
    }
}

impl ReportArgs {
    fn report_props(self) -> ReportProps {
        ReportProps { archive: self.archive, format: self.output.into(), top: self.top as usize }
    }
}

fn usage_error(subcommand: &str, message: &str) -> clap::Error {
    let mut command = Cli::command();
    command.build();
    match command.find_subcommand_mut(subcommand) {
        Some(subcommand) => subcommand.error(ErrorKind::MissingRequiredArgument, message),
        None => command.error(ErrorKind::MissingRequiredArgument, message),
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration =
        humantime::parse_duration(text).map_err(|_| "not a duration: write it as 30s, 1m30s or 500ms".to_owned())?;
    if duration < MIN_DURATION {
        return Err("too short: 100ms is the least".to_owned());
    }
    if duration > MAX_DURATION {
        return Err("too long: 24h is the most".to_owned());
    }
    Ok(duration)
}

fn parse_syscall_min(text: &str) -> Result<Duration, String> {
    let duration =
        humantime::parse_duration(text).map_err(|_| "not a duration: write it as 50us, 1ms or 0s".to_owned())?;
    if duration > MAX_SYSCALL_MIN { Err("too long: 1m is the most".to_owned()) } else { Ok(duration) }
}

#[cfg(test)]
mod tests;
