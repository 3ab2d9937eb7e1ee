//! The profiler that runs beside the target: finds the processes, loads the in-kernel programs, joins what they report with what
//! user space knows, and streams the capture out.
//!
//! - [`session`]: one capture from request to archive; where everything meets.
//! - [`dimensions`]: what can be recorded, one file each.
//! - [`kernel`]: the in-kernel programs, their settings and their records.
//! - [`python`], [`native`]: from addresses to names; know nothing of the capture.
//! - [`syscalls`]: from numbers and registers to names, flags and files, and sums of calls.
//! - [`timeline`]: from records to slices.
//! - [`memory`], [`maps`], [`process`], [`container`], [`privilege`]: what the system tells.
//! - [`output`]: what leaves; [`resident`]: a capture that outlives its connections.
//! - [`inspect`], [`headroom`], [`verify`]: what there is before a capture.

pub mod container;
pub mod dimensions;
pub mod headroom;
pub mod inspect;
pub mod kernel;
pub mod maps;
pub mod memory;
pub mod native;
pub mod output;
pub mod privilege;
pub mod process;
pub mod python;
pub mod resident;
pub mod session;
pub mod syscalls;
pub mod timeline;
pub mod verify;
