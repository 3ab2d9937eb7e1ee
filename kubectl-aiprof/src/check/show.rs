//! The answer of `check` as a table and as JSON.

use std::fmt::Write as _;

use aiprof_capture::inspect::Inspection;
use serde::Serialize;
use unicode_width::UnicodeWidthStr as _;

use super::verdict::Row;

/// All that was found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The pod; empty if it may not be read.
    pub pod: String,
    /// Its namespace.
    pub namespace: String,
    /// The container.
    pub container: String,
    /// Its node.
    pub node: Option<String>,
    /// Each check, in the order in which they were made.
    pub checks: Vec<Row>,
    /// The Role that is missing, as YAML.
    pub role: Option<String>,
    /// What the profiler saw, if it could be asked.
    pub inspection: Option<Inspection>,
}

impl Report {
    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let rows =
            self.checks.iter().map(|row| vec![row.check.clone(), row.verdict.word().to_owned(), row.because.clone()]);
        let mut text = String::new();
        let lines = table(&["CHECK", "VERDICT", "BECAUSE"], rows);
        let mut lines = lines.lines();
        text.push_str(lines.next().unwrap_or_default());
        text.push('\n');
        for (line, row) in lines.zip(&self.checks) {
            text.push_str(line);
            text.push('\n');
            if !row.fix.is_empty() {
                let _ = writeln!(text, "{:14}fix: {}", "", row.fix);
            }
        }
        if let Some(role) = &self.role {
            let _ = writeln!(text, "\nSomebody with the right to must grant this:\n{role}");
        }
        text
    }

    /// For programs.
    #[must_use]
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }
}

/// Columns set to the left; the last is as long as it is.
#[must_use]
pub fn table(headings: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut all = vec![headings.iter().map(|&heading| heading.to_owned()).collect::<Vec<_>>()];
    all.extend(rows);
    let width =
        |column: usize| all.iter().filter_map(|row| row.get(column)).map(|cell| cell.width()).max().unwrap_or(0);
    let widths: Vec<_> = (0..headings.len()).map(width).collect();
    let mut text = String::new();
    for row in &all {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.push_str(&" ".repeat(width.saturating_sub(cell.width()) + 2));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            pod: "vllm-0".to_owned(),
            checks: vec![Row::works("rights", "get pods"), Row::refused("python", "no BTF", "another node")],
            role: Some("kind: Role".to_owned()),
            ..Report::default()
        }
    }

    #[test]
    fn each_refusal_is_followed_by_its_fix() {
        let expected = "\
CHECK   VERDICT  BECAUSE
rights  works    get pods
python  refused  no BTF
              fix: another node

Somebody with the right to must grant this:
kind: Role
";
        assert_eq!(report().text(), expected);
    }

    #[test]
    fn programs_get_the_same() {
        let json: serde_json::Value = serde_json::from_str(&report().json()).unwrap();
        assert_eq!(json["checks"][1]["verdict"], "refused");
        assert_eq!(json["checks"][1]["fix"], "another node");
        assert_eq!(json["pod"], "vllm-0");
    }
}
