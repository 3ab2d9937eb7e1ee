//! The few lines on standard output at the end of `record`, and what its exit code says of a manifest.

use std::{fmt::Write as _, path::Path};

use aiprof_capture::{
    manifest::{Manifest, Outcome},
    progress::EndReason,
};
use indicatif::{HumanBytes, HumanCount};

use super::progress::reason_words;
use crate::strings::printable;

/// The most processes that are listed.
const MAX_PROCESSES: usize = 10;

/// What is missing of what was asked, one sentence each; empty when nothing is. The trace is of `trace_bytes`.
#[must_use]
pub fn missing(manifest: &Manifest, trace_bytes: u64) -> Vec<String> {
    let mut missing = Vec::new();
    for dimension in &manifest.request.collect {
        let name = dimension.name();
        match manifest.dimensions.get(dimension) {
            Some(Outcome::Complete) => {}
            Some(Outcome::Partial { reasons }) => {
                missing.extend(reasons.iter().map(|reason| format!("{name} is partial: {}", printable(reason))));
                if reasons.is_empty() {
                    missing.push(format!("{name} is partial"));
                }
            }
            Some(Outcome::Refused { reason }) => missing.push(format!("no {name}: {}", printable(reason))),
            None => missing.push(format!("no {name}: the capture does not say why")),
        }
    }
    if manifest.end_reason == EndReason::Terminated {
        let after = manifest.duration_ms as f64 / 1000.0;
        let of = manifest.request.duration_ms.map(|asked| format!(" of {:.1} s", asked as f64 / 1000.0));
        let why = reason_words(manifest.end_reason);
        missing.push(format!("the window was closed after {after:.1} s{}: {why}", of.unwrap_or_default()));
    }
    if manifest.processes.is_empty() {
        missing.push("no process was seen".to_owned());
    }
    let streams = &manifest.streams;
    if trace_bytes == 0 || !streams.is_empty() && streams.values().all(|stream| stream.records == 0) {
        missing.push("the capture is empty: nothing was recorded in its window".to_owned());
    }
    missing
}

/// The summary of an archive of `archive_bytes` at `path`.
#[must_use]
pub fn summary(path: &Path, archive_bytes: u64, manifest: &Manifest) -> String {
    let mut text = String::new();
    let path = path.display().to_string();
    let seconds = manifest.duration_ms as f64 / 1000.0;
    let _ = write!(text, "{path}  {}, {seconds:.1} s", HumanBytes(archive_bytes));
    if manifest.end_reason != EndReason::Duration {
        let _ = write!(text, " ({})", reason_words(manifest.end_reason));
    }
    text.push('\n');
    for process in manifest.processes.iter().take(MAX_PROCESSES) {
        let python = process.python.as_deref().unwrap_or("no Python");
        let _ = write!(text, "  process {} {}, {}", process.pid, printable(&process.name), printable(python));
        if let Some(milliseconds) = process.exited_after_ms {
            let _ = write!(text, ", ended after {:.1} s", milliseconds as f64 / 1000.0);
        }
        text.push('\n');
    }
    if manifest.processes.len() > MAX_PROCESSES {
        let _ = writeln!(text, "  and {} more processes", manifest.processes.len() - MAX_PROCESSES);
    }
    for (name, stream) in &manifest.streams {
        let _ = write!(text, "  {} {}", HumanCount(stream.records), printable(name));
        if stream.lost > 0 {
            let _ = write!(text, ", {} lost", HumanCount(stream.lost));
        }
        if stream.thinned > 0 {
            let _ = write!(text, ", {} left out to stay cheap", HumanCount(stream.thinned));
        }
        text.push('\n');
    }
    for note in &manifest.notes {
        let _ = writeln!(text, "  note: {}", printable(note));
    }
    let path = shell_word(&path);
    let _ = write!(text, "Next:\n  kubectl aiprof open {path}\n  kubectl aiprof report {path}\n");
    text
}

/// A path as a shell reads it back.
fn shell_word(path: &str) -> String {
    let plain = |char: char| char.is_alphanumeric() || "/._-+:@%=".contains(char);
    if path.chars().all(plain) { path.to_owned() } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::manifest;

    #[test]
    fn a_complete_capture_misses_nothing() {
        assert_eq!(missing(&manifest(), 1), Vec::<String>::new());
    }

    #[test]
    fn what_was_asked_and_is_not_there_is_named() {
        let mut manifest = manifest();
        manifest.dimensions.clear();
        manifest.processes.clear();
        let missing = missing(&manifest, 0);
        assert_eq!(missing.len(), 4, "{missing:?}");
        assert!(missing[0].starts_with("no python:"));
    }

    #[test]
    fn a_window_that_the_end_of_the_pod_closed_is_missing_its_rest() {
        let mut manifest = manifest();
        (manifest.end_reason, manifest.duration_ms, manifest.request.duration_ms) =
            (EndReason::Terminated, 3_250, Some(30_000));
        let expected = "the window was closed after 3.2 s of 30.0 s: the profiler was told to end, as it is when its pod is deleted";
        assert_eq!(missing(&manifest, 1), [expected]);
        manifest.request.duration_ms = None;
        assert_eq!(missing(&manifest, 1).len(), 1);
        // Whoever stopped it has got what was asked for.
        manifest.end_reason = EndReason::Stopped;
        assert_eq!(missing(&manifest, 1), Vec::<String>::new());
    }

    #[test]
    fn the_summary_names_the_file_and_what_to_do_next() {
        let text = summary(Path::new("my server.aiprof.tar.gz"), 2048, &manifest());
        assert!(text.starts_with("my server.aiprof.tar.gz  2.00 KiB, 1.0 s\n"), "{text}");
        assert!(text.contains("process 42 server.py, CPython 3.12.1\n"), "{text}");
        assert!(text.contains("kubectl aiprof open 'my server.aiprof.tar.gz'"), "{text}");
    }
}
