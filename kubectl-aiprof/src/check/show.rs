//! The answer of `check` as a table and as JSON.

use std::fmt::Write as _;

use aiprof_capture::inspect::Inspection;
use serde::Serialize;

use super::verdict::Row;
use crate::table::{Align, Table};

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
        let headings = ["CHECK", "VERDICT", "BECAUSE"];
        let mut table = Table::new(0, &headings.map(|heading| (Align::Left, heading))).uncut();
        for row in &self.checks {
            table.row([row.check.clone(), row.verdict.word().to_owned(), row.because.clone()]);
        }
        let mut text = String::new();
        let lines = table.render();
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::json;

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
        let json: serde_json::Value = serde_json::from_str(&json(&report())).unwrap();
        assert_eq!(json["checks"][1]["verdict"], "refused");
        assert_eq!(json["checks"][1]["fix"], "another node");
        assert_eq!(json["pod"], "vllm-0");
    }
}
