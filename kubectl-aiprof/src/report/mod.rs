//! `report`: where the time went, computed from the trace of an archive.
//!
//! [`analysis`] takes events and gives a [`model::Report`]; [`text`] makes it readable. Both are pure.

pub mod analysis;
pub mod functions;
pub mod model;
pub mod text;
pub mod waits;

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use aiprof_capture::{
    archive::{Archive, ArchiveError},
    trace::{TraceError, TraceReader},
};
use thiserror::Error;

use self::analysis::Analysis;
use crate::{advice::advice, format::OutputFormat};

/// What to sum up and how.
#[derive(Clone, Debug)]
pub struct ReportProps {
    /// The archive.
    pub archive: PathBuf,
    /// In which form.
    pub format: OutputFormat,
    /// Rows of each table.
    pub top: usize,
}

/// Why there is no report.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReportError {
    /// No archive of ours, or a torn one.
    #[error("{0}{advice}", advice = advice(.0))]
    Archive(#[from] ArchiveError),
    /// The trace in it is damaged.
    #[error(
        "cannot read the trace of {path}: {source}; record again, or look at what is readable with `kubectl aiprof open`"
    )]
    Trace {
        /// The archive.
        path: PathBuf,
        /// Why not.
        source: TraceError,
    },
    /// Standard output takes no more.
    #[error("cannot write the report: {0}")]
    Write(#[source] io::Error),
}

/// Prints the report of an archive.
pub fn run(props: &ReportProps) -> Result<(), ReportError> {
    let archive = Archive::open(&props.archive)?;
    let mut analysis = Analysis::new(archive.manifest(), props.top);
    for event in TraceReader::new(archive.trace()?) {
        match event {
            Ok(event) => analysis.add(&event),
            Err(TraceError::Io(source)) => {
                let path = props.archive.clone();
                return Err(ArchiveError::Torn { path, source }.into());
            }
            // The manifest of a torn capture says so already; what came before is worth a report.
            Err(source) if analysis.torn() => {
                analysis.note_damage(&source.to_string());
                break;
            }
            Err(source) => {
                return Err(ReportError::Trace { path: props.archive.clone(), source });
            }
        }
    }
    let report = analysis.finish();
    let mut output = match props.format {
        OutputFormat::Text => text::render(&report, props.top),
        OutputFormat::Json => {
            serde_json::to_string_pretty(&report).map_err(|error| ReportError::Write(error.into()))?
        }
    };
    if !output.ends_with('\n') {
        output.push('\n');
    }
    match io::stdout().lock().write_all(output.as_bytes()) {
        // Whoever read it, such as `head`, has enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(ReportError::Write),
    }
}
