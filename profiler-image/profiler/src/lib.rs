//! The profiler that runs beside the target.
pub mod kernel;
