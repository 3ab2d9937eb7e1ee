//! Compiles the in-kernel programs for `bpfel-unknown-none`, so that the profiler can carry them inside itself.
//!
//! Needs the `rust-src` of the compiler in use and `bpf-linker` 0.10; `make setup` brings both.

use std::{env, path::PathBuf, process::Command};

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let architecture = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH");
    let cargo = env::var_os("CARGO").expect("cargo sets CARGO");
    for watched in ["../ebpf/src", "../ebpf/Cargo.toml", "../ebpf-types/src", "../../Cargo.lock"] {
        println!("cargo:rerun-if-changed={watched}");
    }
    let target = out.join("ebpf");
    let flags = [
        "-Clinker=bpf-linker".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        format!("--cfg=bpf_target_arch=\"{architecture}\""),
    ];
    let status = Command::new(cargo)
        .current_dir("../ebpf")
        .args(["build", "--profile=bpf", "--target=bpfel-unknown-none", "-Zbuild-std=core", "--locked"])
        .arg("--target-dir")
        .arg(&target)
        // build-std is unstable; the in-kernel code itself uses no unstable feature.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        // The outer build's wrappers and flags are for another target.
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .status()
        .expect("cannot run cargo for the in-kernel programs");
    assert!(
        status.success(),
        "the in-kernel programs did not build: `make setup` installs rust-src and bpf-linker, which they need"
    );
    println!("cargo:rustc-env=AIPROF_EBPF_OBJECT={}", target.join("bpfel-unknown-none/bpf/aiprof-ebpf").display());
}
