//! What runs beside the target: finds processes, loads the in-kernel programs, joins the streams, writes the capture.

pub mod maps;
pub mod memory;
pub mod python;
