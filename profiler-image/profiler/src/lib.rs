//! The profiler that runs beside the target.

pub mod maps;
pub mod native;
