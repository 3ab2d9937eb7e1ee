//! A report for people: what is missing first, then per process the threads, the functions and the waits.

use std::fmt::Write as _;

use aiprof_capture::manifest::Outcome;

use super::model::{FunctionReport, Functions, Kind, ProcessReport, Report, Site, TimeSplit, WaitReport};
use crate::{
    record::progress::reason_words,
    strings::printable,
    table::{Align, Table, WIDTH, cut},
};

/// Frames of a stack that are shown, leaf first.
const STACK_FRAMES: usize = 4;
/// Reasons that are named in a thread's row.
const THREAD_REASONS: usize = 2;

/// The text, tables of `top` rows.
#[must_use]
pub fn render(report: &Report, top: usize) -> String {
    let mut text = heading(report);
    text.push_str(&missing(report));
    let observed = report.processes.iter().any(|process| process.time.observed_ns > 0);
    if report.samples == 0 && !observed {
        text.push_str("\nThe profile is empty: no sample and no thread state was recorded.\n");
        return text;
    }
    let busy = |process: &&ProcessReport| process.samples > 0 || process.time.observed_ns > 0;
    let busy: Vec<_> = report.processes.iter().filter(busy).collect();
    if busy.len() > 1 {
        let _ = write!(text, "\nALL {} PROCESSES, {} on a CPU\n", busy.len(), duration(report.sampled_ns));
        text.push_str(&functions(&report.functions, top));
    }
    for process in busy.iter().take(top) {
        text.push_str(&process_text(process, top));
    }
    let silent = report.processes.len() - busy.len().min(top);
    if silent > 0 {
        let _ = write!(text, "\n{silent} more processes: see them with --top or -o json.\n");
    }
    text
}

fn heading(report: &Report) -> String {
    let capture = &report.capture;
    let mut text = format!(
        "{:.1} s at {} Hz from {}",
        capture.duration_ms as f64 / 1000.0,
        capture.frequency_hz,
        printable(&capture.started_at),
    );
    let host = &capture.host;
    if !host.hostname.is_empty() {
        let _ = write!(text, " on {}", printable(&host.hostname));
    }
    if !host.kernel.is_empty() {
        let _ = write!(text, " (Linux {}, {} CPUs)", printable(&host.kernel), host.cpus);
    }
    let _ = write!(text, "; {}.", reason_words(capture.end_reason));
    wrapped(&text, 0)
}

/// What is missing, partial or lost; nothing when all is there.
fn missing(report: &Report) -> String {
    let quality = &report.quality;
    let mut sentences = Vec::new();
    for (dimension, outcome) in &quality.dimensions {
        let name = dimension.name();
        match outcome {
            Outcome::Complete => {}
            Outcome::Partial { reasons } => sentences.push(format!("{name} is partial: {}", reasons.join("; "))),
            Outcome::Refused { reason } => sentences.push(format!("no {name}: {reason}")),
        }
    }
    for (name, stream) in &quality.streams {
        if stream.lost > 0 {
            sentences.push(format!("{name}: {} lost, {} kept", stream.lost, stream.records));
        }
        if stream.thinned > 0 {
            sentences.push(format!("{name}: {} left out to stay cheap, {} kept", stream.thinned, stream.records));
        }
    }
    for process in &report.processes {
        for (dimension, outcome) in &process.dimensions {
            if let Outcome::Refused { reason } = outcome {
                sentences.push(format!("process {}: no {}: {reason}", process.pid, dimension.name()));
            }
        }
    }
    let mut text = String::new();
    for (heading, sentences) in [("MISSING", &sentences), ("NOTES", &quality.notes)] {
        if !sentences.is_empty() {
            let _ = write!(text, "\n{heading}\n");
            for sentence in sentences {
                text.push_str(&wrapped(&printable(sentence), 2));
            }
        }
    }
    text
}

fn process_text(process: &ProcessReport, top: usize) -> String {
    let mut title = format!("PROCESS {} {}", process.pid, printable(&process.name));
    if let Some(python) = &process.python {
        let _ = write!(title, ", {}", printable(python));
    }
    if let Some(milliseconds) = process.exited_after_ms {
        let _ = write!(title, ", ended after {:.1} s", milliseconds as f64 / 1000.0);
    }
    let mut text = format!("\n{}\n", cut(&title, WIDTH));
    text.push_str(&threads(process, top));
    if process.samples == 0 {
        text.push_str("\n  No samples: it was not on a CPU at any tick of the sampling clock.\n");
    }
    text.push_str(&functions(&process.functions, top));
    text.push_str(&waits(&process.waits));
    text
}

fn threads(process: &ProcessReport, top: usize) -> String {
    if process.time.observed_ns == 0 {
        return String::new();
    }
    let columns = [
        (Align::Right, "TID"),
        (Align::Left, "THREAD"),
        (Align::Right, "RUNNING"),
        (Align::Right, ""),
        (Align::Right, "RUNNABLE"),
        (Align::Right, ""),
        (Align::Right, "WAITING"),
        (Align::Right, ""),
        (Align::Left, "MOSTLY FOR"),
    ];
    let mut table = Table::new(2, &columns);
    let row = |tid: String, name: String, time: &TimeSplit, reasons: String| {
        [
            tid,
            cut(&name, 20),
            duration(time.running_ns),
            percent(time.running_share),
            duration(time.runnable_ns),
            percent(time.runnable_share),
            duration(time.waiting_ns),
            percent(time.waiting_share),
            reasons,
        ]
    };
    for thread in process.threads.iter().take(top) {
        let reasons: Vec<_> =
            thread.wait_reasons.iter().take(THREAD_REASONS).map(|wait| printable(&wait.reason)).collect();
        table.row(row(thread.tid.to_string(), printable(&thread.name), &thread.time, reasons.join(", ")));
    }
    if process.threads.len() > 1 {
        let all = format!("all {} threads", process.threads.len());
        table.row(row(String::new(), all, &process.time, String::new()));
    }
    let mut text = format!("\n{}", table.render());
    let delay = process.time.scheduling_delay;
    if delay.count > 0 {
        let _ = writeln!(
            text,
            "  Waited for a CPU {} ({} preempted): mean {}, longest {}.",
            if delay.count == 1 { "once".to_owned() } else { format!("{} times", delay.count) },
            delay.preempted_count,
            duration(delay.mean_ns),
            duration(delay.longest_ns),
        );
    }
    text
}

fn functions(functions: &Functions, top: usize) -> String {
    let tables = [
        ("PYTHON FUNCTIONS BY SELF TIME", &functions.python_by_self, true),
        ("PYTHON FUNCTIONS BY TOTAL TIME", &functions.python_by_total, true),
        ("NATIVE FUNCTIONS BY SELF TIME", &functions.native_by_self, false),
        ("KERNEL FUNCTIONS BY SELF TIME", &functions.kernel_by_self, false),
    ];
    let mut text = String::new();
    for (title, rows, with_total) in tables {
        if !rows.is_empty() {
            let _ = write!(text, "\n  {title}\n{}", function_table(rows, with_total, top));
        }
    }
    text
}

fn function_table(rows: &[FunctionReport], with_total: bool, top: usize) -> String {
    let mut columns = vec![(Align::Right, "SELF"), (Align::Right, "")];
    if with_total {
        columns.extend([(Align::Right, "TOTAL"), (Align::Right, "")]);
    }
    columns.push((Align::Left, "FUNCTION"));
    let mut table = Table::new(2, &columns);
    for row in rows.iter().take(top) {
        let mut cells = vec![duration(row.self_ns), percent(row.self_share)];
        if with_total {
            cells.extend([duration(row.total_ns), percent(row.total_share)]);
        }
        cells.push(place(&row.function, &row.file, row.line));
        table.row(cells);
    }
    table.render()
}

fn waits(waits: &[WaitReport]) -> String {
    if waits.is_empty() {
        return String::new();
    }
    let columns = [
        (Align::Right, "TOTAL"),
        (Align::Right, ""),
        (Align::Right, "COUNT"),
        (Align::Right, "LONGEST"),
        (Align::Left, "REASON AND STACK, INNERMOST FIRST"),
    ];
    let mut table = Table::new(2, &columns);
    for row in waits {
        let wait = &row.wait;
        table.row([
            duration(wait.total_ns),
            percent(row.share),
            wait.count.to_string(),
            duration(wait.longest_ns),
            format!("{}: {}", printable(&wait.reason), stack(&row.stack)),
        ]);
    }
    format!("\n  WAITS\n{}", table.render())
}

fn stack(stack: &[Site]) -> String {
    if stack.is_empty() {
        return "(no stack)".to_owned();
    }
    let mut shown: Vec<String> = stack.iter().take(STACK_FRAMES).map(short_place).collect();
    if stack.len() > STACK_FRAMES {
        shown.push(format!("{} more", stack.len() - STACK_FRAMES));
    }
    shown.join(" < ")
}

fn short_place(site: &Site) -> String {
    let function = printable(&site.function);
    match site.kind {
        Kind::Python => format!("{function} ({}:{})", printable(file_name(&site.file)), site.line),
        Kind::Native | Kind::Kernel => function,
    }
}

/// `function  folder/file.py:12`, with no more of the path than tells files apart.
fn place(function: &str, file: &str, line: u32) -> String {
    let function = cut(&printable(function), 60);
    let parts: Vec<&str> = file.rsplitn(3, '/').take(2).collect();
    let file = parts.into_iter().rev().collect::<Vec<_>>().join("/");
    match (file.is_empty(), line) {
        (true, _) => function,
        (false, 0) => format!("{function}  {}", printable(&file)),
        (false, line) => format!("{function}  {}:{line}", printable(&file)),
    }
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// `1.23 s`, `45.6 ms` or `7.8 us`.
fn duration(duration_ns: u64) -> String {
    let ns = duration_ns as f64;
    match duration_ns {
        0 => "0".to_owned(),
        1..1_000_000 => format!("{:.1} us", ns / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", ns / 1e6),
        _ => format!("{:.2} s", ns / 1e9),
    }
}

fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

/// A sentence in lines of the width, the later ones indented further.
fn wrapped(sentence: &str, indent: usize) -> String {
    let mut text = String::new();
    let mut line = " ".repeat(indent);
    let mut empty = true;
    for word in sentence.split_whitespace() {
        if !empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            text.push_str(&line);
            text.push('\n');
            line = " ".repeat(indent + 2);
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    text.push_str(&line);
    text.push('\n');
    text
}

#[cfg(test)]
mod tests;
