//! `kubectl aiprof`: reads the command line, runs one command, prints one sentence if it fails.

use std::process::ExitCode;

fn main() -> ExitCode {
    kubectl_aiprof::main()
}
