//! The capture on the wire: frames on the profiler's standard output.
//!
//! Filled in by the next commits: see [`FrameKind`].
