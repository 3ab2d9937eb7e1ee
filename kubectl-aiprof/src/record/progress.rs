//! Progress for the user: a bar, plain lines, NDJSON, or nothing. All of it on standard error.

use std::{
    fmt::Write as _,
    io::{IsTerminal as _, Write as _},
    time::Duration,
};

use aiprof_capture::progress::{EndReason, Progress};
use indicatif::{HumanBytes, HumanCount, HumanDuration, ProgressBar, ProgressStyle};

use super::session::ProgressLine;
use crate::strings::printable;

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgressMode {
    /// A bar on a terminal, else plain lines.
    Auto,
    /// Plain lines.
    Plain,
    /// One JSON object a line.
    Json,
    /// Errors only.
    None,
}

/// Plain lines come this often while the window is open, in milliseconds.
const PLAIN_INTERVAL_MS: u64 = 5_000;

/// Where progress is shown.
#[derive(Debug)]
pub enum Display {
    /// A bar.
    Bar(ProgressBar),
    /// Plain lines.
    Plain {
        /// When the next line about an open window is due, in milliseconds since its opening.
        next_ms: u64,
        /// How long the window will be.
        duration_ms: Option<u64>,
    },
    /// One JSON object a line.
    Json,
    /// Nothing.
    Silent,
}

impl Display {
    /// The display of a mode on this process's standard error.
    #[must_use]
    pub fn new(mode: ProgressMode) -> Self {
        match mode {
            ProgressMode::Auto if std::io::stderr().is_terminal() => {
                let style = ProgressStyle::with_template("starting the profiler")
                    .unwrap_or_else(|_| ProgressStyle::default_spinner());
                Self::Bar(ProgressBar::new_spinner().with_style(style))
            }
            ProgressMode::Auto | ProgressMode::Plain => Self::Plain { next_ms: PLAIN_INTERVAL_MS, duration_ms: None },
            ProgressMode::Json => Self::Json,
            ProgressMode::None => Self::Silent,
        }
    }

    /// Shows a line of the profiler's.
    pub fn show(&mut self, line: &ProgressLine) {
        match self {
            Self::Bar(bar) => show_on_bar(bar, &line.progress),
            Self::Plain { next_ms, duration_ms } => show_plain(&line.progress, next_ms, duration_ms),
            Self::Json => write_line(&line.raw),
            Self::Silent => {}
        }
    }

    /// Shows a sentence of the plugin's own, in which nothing is wrong.
    pub fn say(&self, message: &str) {
        self.tell(&Progress::Note { message: message.to_owned() });
    }

    /// Shows a warning of the plugin's own.
    pub fn warn(&self, message: &str) {
        self.tell(&Progress::Warning { message: message.to_owned() });
    }

    fn tell(&self, progress: &Progress) {
        match self {
            Self::Bar(bar) => bar.println(sentence(progress).unwrap_or_default()),
            Self::Plain { .. } => write_line(&sentence(progress).unwrap_or_default()),
            Self::Json => write_json(progress),
            Self::Silent => {}
        }
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// Writes one event as a JSON line.
pub fn write_json(progress: &Progress) {
    if let Ok(line) = serde_json::to_string(progress) {
        write_line(&line);
    }
}

/// Writes one line; standard error may be closed, and then nobody reads it.
fn write_line(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn show_on_bar(bar: &ProgressBar, progress: &Progress) {
    match progress {
        Progress::Process { .. } | Progress::Note { .. } | Progress::Warning { .. } => {
            if let Some(sentence) = sentence(progress) {
                bar.println(sentence);
            }
        }
        Progress::Started { duration_ms, .. } => {
            let template = match duration_ms {
                Some(milliseconds) => {
                    bar.set_length(*milliseconds);
                    "recording [{bar:16}] {prefix}  {wide_msg}"
                }
                None => "recording {spinner} {prefix}  {wide_msg}",
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
        }
        Progress::Tick { elapsed_ms, .. } => {
            bar.set_prefix(elapsed(*elapsed_ms, bar.length()));
            bar.set_message(counts(progress));
            bar.set_position(*elapsed_ms);
            bar.tick();
        }
        Progress::Finishing { .. } => bar.set_prefix("writing"),
        Progress::Error { .. } => bar.finish_and_clear(),
    }
}

fn show_plain(progress: &Progress, next_ms: &mut u64, window_ms: &mut Option<u64>) {
    match progress {
        Progress::Tick { elapsed_ms, .. } => {
            if *elapsed_ms >= *next_ms {
                *next_ms = elapsed_ms.saturating_add(PLAIN_INTERVAL_MS);
                write_line(&format!("{}  {}", elapsed(*elapsed_ms, *window_ms), counts(progress)));
            }
        }
        Progress::Started { duration_ms, .. } => {
            *window_ms = *duration_ms;
            write_line(&sentence(progress).unwrap_or_default());
        }
        _ => {
            if let Some(sentence) = sentence(progress) {
                write_line(&sentence);
            }
        }
    }
}

/// An event in words; the profiler's error is told at the end by the command itself.
fn sentence(progress: &Progress) -> Option<String> {
    Some(match progress {
        Progress::Process { pid, name, python } => {
            let python = python.as_deref().unwrap_or("no Python that can be read");
            format!("process {pid} {} ({})", printable(name), printable(python))
        }
        Progress::Note { message } => printable(message),
        Progress::Warning { message } => format!("warning: {}", printable(message)),
        Progress::Started { duration_ms, processes, threads } => {
            let until = match duration_ms {
                Some(milliseconds) => format!("for {}", seconds(*milliseconds)),
                None => "until it ends or Ctrl-C".to_owned(),
            };
            format!(
                "recording {}, {} {until}",
                counted(*processes, "process", "processes"),
                counted(*threads, "thread", "threads")
            )
        }
        Progress::Finishing { reason } => format!("writing the archive: {}", reason_words(*reason)),
        Progress::Tick { .. } | Progress::Error { .. } => return None,
    })
}

/// `1 process`, `2 processes`.
fn counted(count: u32, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Why a window closed, in words.
#[must_use]
pub const fn reason_words(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Duration => "its time was over",
        EndReason::Stopped => "it was stopped",
        EndReason::TargetExited => "the recorded processes have ended",
        EndReason::PluginGone => "the asking side had gone",
        EndReason::Terminated => "the profiler was told to end, as it is when its pod is deleted",
        EndReason::ProfilerDied => "the profiler died",
    }
}

fn counts(progress: &Progress) -> String {
    let Progress::Tick { trace_bytes, samples, switches, lost, .. } = progress else {
        return String::new();
    };
    let mut text =
        format!("{} samples, {} switches, {}", HumanCount(*samples), HumanCount(*switches), HumanBytes(*trace_bytes));
    if *lost > 0 {
        let _ = write!(text, ", {} lost", HumanCount(*lost));
    }
    text
}

fn elapsed(elapsed_ms: u64, of_ms: Option<u64>) -> String {
    match of_ms {
        Some(of_ms) => format!("{} of {}", seconds(elapsed_ms), seconds(of_ms)),
        None => seconds(elapsed_ms),
    }
}

/// `12.3 s`, or `10 minutes` for long ones.
fn seconds(milliseconds: u64) -> String {
    if milliseconds >= 600_000 {
        return HumanDuration(Duration::from_millis(milliseconds)).to_string();
    }
    format!("{}.{} s", milliseconds / 1000, milliseconds % 1000 / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_name_losses_only_where_there_are_some() {
        let tick = |lost| Progress::Tick { elapsed_ms: 1, trace_bytes: 2048, samples: 1234, switches: 5, lost };
        assert_eq!(counts(&tick(0)), "1,234 samples, 5 switches, 2.00 KiB");
        assert!(counts(&tick(7)).ends_with(", 7 lost"));
    }

    #[test]
    fn times_are_short() {
        assert_eq!(elapsed(1_250, Some(10_000)), "1.2 s of 10.0 s");
        assert_eq!(elapsed(90, None), "0.0 s");
    }

    #[test]
    fn names_from_the_target_cannot_steer_the_terminal() {
        let progress = Progress::Process { pid: 1, name: "\x1b[2J".into(), python: None };
        assert!(!sentence(&progress).unwrap().contains('\x1b'));
    }
}
