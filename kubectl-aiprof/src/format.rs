//! The forms in which a command can answer.

use serde::Serialize;

/// Form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// An answer for programs: JSON over several lines, with its end.
pub fn json(answer: &impl Serialize) -> String {
    // Only what has no form in JSON fails, such as a map whose keys are no text; no answer has one.
    let mut text = serde_json::to_string_pretty(answer).unwrap_or_default();
    text.push('\n');
    text
}
