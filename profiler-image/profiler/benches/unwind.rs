//! What it costs to turn a copied stack into frames: one of CPython, about fifty native frames, from 16 KiB.

#![allow(missing_docs, reason = "criterion makes public functions")]

#[path = "../tests/native_support/mod.rs"]
mod native_support;

use std::{hint::black_box, process::Command};

use aiprof_profiler::native::{KernelSymbols, LiveProcesses, ProcessChange, Stacks};
use criterion::{Criterion, criterion_group, criterion_main};
use native_support::{DEEP_PYTHON, Target, python};

fn unwind(criterion: &mut Criterion) {
    let Some(python) = ["3.12", "3.13", "3.11"].into_iter().find_map(python) else {
        eprintln!("not measured: no CPython of pyenv's is there");
        return;
    };
    let mut target = Target::start(Command::new(python).args(["-c", DEEP_PYTHON]));
    target.wait_until_parked();
    let (maps, snapshot) = (target.maps(), target.snapshot(16 << 10));
    let mut stacks = Stacks::with(Box::new(LiveProcesses), KernelSymbols::default());
    stacks.process_changed(target.pid(), ProcessChange::Maps(&maps));
    let mut native = || stacks.native(target.pid(), black_box(&snapshot.registers), black_box(&snapshot.stack));
    let stack = native();
    assert!(stack.is_whole());
    criterion.bench_function(&format!("cpython/{} frames", stack.frames.len()), |bencher| {
        bencher.iter(&mut native);
    });

    let kernel = KernelSymbols::load();
    let mut stacks = Stacks::with(Box::new(LiveProcesses), kernel);
    criterion.bench_function("cpython/first stack of a process", |bencher| {
        bencher.iter(|| {
            stacks.process_changed(target.pid(), ProcessChange::Exec(&maps));
            stacks.native(target.pid(), &snapshot.registers, &snapshot.stack)
        });
    });
}

criterion_group!(benches, unwind);
criterion_main!(benches);
