//! The kernel's side of the capture: where its structures lie, and the programs that run in it.

pub mod btf;
pub mod offsets;
pub mod programs;
pub mod rings;
