//! The contract between the plugin and the profiler, and between both and whoever reads an archive later.
//!
//! - [`request`]: what to capture, written by the plugin to the profiler's standard input.
//! - [`progress`]: what is going on, NDJSON on the profiler's standard error.
//! - [`frame`]: the capture itself, checksummed frames on the profiler's standard output.
//! - [`event`]: what a trace is made of, in the profiler's own words.
//! - [`trace`]: those events as a Perfetto trace, written and read.
//! - [`manifest`]: what was asked and what was got.
//! - [`archive`]: `NAME.aiprof.tar.gz`, the manifest and the trace in one file.

pub mod archive;
pub mod attach;
pub mod event;
pub mod frame;
pub mod inspect;
pub mod manifest;
pub mod progress;
pub mod request;
pub mod trace;
