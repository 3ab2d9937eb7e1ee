//! The promises of the plugin in a cluster, one test each. They run the binary that `AIPROF` names, and pass on a real cluster as on
//! the stand-in; what only the stand-in can be told to do is left out there, and said.

#[path = "../harness/mod.rs"]
mod harness;

mod account;
mod check;
mod errors;
mod life;
mod lost;
mod rights;
mod shapes;
mod stream;
mod target;
