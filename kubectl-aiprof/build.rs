//! Puts the profiler into the plugin: compressed, as `$OUT_DIR/profiler-x86_64.gz`, empty if there is none yet.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-env-changed=AIPROF_PROFILER_X86_64");
    let variable = |name: &str| env::var_os(name).map(PathBuf::from);
    let output = variable("OUT_DIR").ok_or_else(|| io::Error::other("OUT_DIR is not set"))?;
    let built =
        variable("CARGO_MANIFEST_DIR").unwrap_or_default().join("../target/profiler-image/x86_64/aiprof-profiler");
    let profiler = match variable("AIPROF_PROFILER_X86_64") {
        Some(given) => Some(given),
        None => built.exists().then_some(built),
    };
    // Without a profiler only the variable, which `make build` sets, brings this back: a path that does not exist would do so each time.
    println!("cargo::rerun-if-changed=build.rs");
    if let Some(path) = &profiler {
        println!("cargo::rerun-if-changed={}", path.display());
    }
    let compressed = match &profiler {
        Some(path) => compress(path)?,
        None => Vec::new(),
    };
    fs::write(output.join("profiler-x86_64.gz"), compressed)
}

fn compress(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = fs::File::open(path).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot read the profiler {}: {error}", path.display()))
    })?;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    io::copy(&mut file, &mut encoder)?;
    encoder.finish()
}
