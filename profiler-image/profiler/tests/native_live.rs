//! Stacks of real processes, frame by frame as gdb sees them.

mod native_support;

use std::{fs, process::Command, sync::Arc};

use aiprof_capture::event::{Frame, FrameKind};
use aiprof_profiler::native::{
    KernelSymbols, LiveProcesses, NativeStack, ProcessChange, Stacks, UnwindEnd,
    merge::{Part, merge},
};
use native_support::{DEEP_PYTHON, Snapshot, Target, compile, python};

const STACK_BYTES: usize = 16 << 10;

fn stacks() -> Stacks {
    Stacks::with(Box::new(LiveProcesses), KernelSymbols::default())
}

fn names(stack: &NativeStack) -> Vec<&str> {
    stack.frames.iter().map(|frame| &*frame.function).collect()
}

/// The stack, after it was compared with gdb's.
fn compare_with_gdb(target: &Target) -> NativeStack {
    let mut stacks = stacks();
    stacks.process_changed(target.pid(), ProcessChange::Maps(&target.maps()));
    let Snapshot { registers, stack } = target.snapshot(STACK_BYTES);
    let ours = stacks.native(target.pid(), &registers, &stack);
    let gdb = target.gdb();
    assert_eq!(ours.end, UnwindEnd::Root, "{:?}\ngdb: {gdb:#?}", names(&ours));
    assert_eq!(ours.frames.len(), gdb.len(), "{:#?}\ngdb: {gdb:#?}", names(&ours));
    for (index, (frame, (address, name))) in ours.frames.iter().zip(&gdb).enumerate() {
        // Mappings start at pages: the last twelve bits are the same in file and memory.
        let lookup = address - u64::from(index > 0);
        assert_eq!(frame.address & 0xfff, lookup & 0xfff, "frame {index}: {frame:?}, gdb: {address:#x} {name}");
        if name.is_empty() || frame.function.contains('+') {
            // Without .symtab gdb names a static function after the one before it.
            continue;
        }
        // One function may have several names.
        let plain = |name: &str| {
            name.split('.')
                .next()
                .unwrap_or_default()
                .trim_start_matches('_')
                .trim_start_matches("GI_")
                .trim_matches('_')
                .trim_end_matches("_impl")
                .to_owned()
        };
        assert_eq!(plain(&frame.function), plain(name), "frame {index} of {:#?}\ngdb: {gdb:#?}", names(&ours));
    }
    ours
}

const NESTED: &str = r#"
#include <stdio.h>
#include <unistd.h>
#include <stdlib.h>
__attribute__((noinline)) int leaf(int value) { puts("parked"); fflush(stdout); pause(); return value + 1; }
__attribute__((noinline)) int middle(int value) { char space[3000]; space[value] = 1; return leaf(value) + space[value]; }
int compare(const void *a, const void *b) { return middle(*(const int *)a) - *(const int *)b; }
__attribute__((noinline)) int outer(int value) { int pair[2] = {value, 2}; qsort(pair, 2, sizeof *pair, compare); return pair[0]; }
int main(int count, char **arguments) { return outer(count); }
"#;

#[test]
fn c_without_frame_pointers() {
    let folder = tempfile::tempdir().unwrap();
    let mut target = Target::start(&mut Command::new(compile(folder.path(), "nested", NESTED, &[])));
    target.wait_until_parked();
    let stack = compare_with_gdb(&target);
    let names = names(&stack);
    let wanted = ["leaf", "middle", "compare", "outer", "main", "_start"];
    let found: Vec<_> = names.iter().filter(|name| wanted.contains(name)).collect();
    assert_eq!(found, wanted.iter().collect::<Vec<_>>(), "{names:?}");
    let leaf = stack.frames.iter().find(|frame| &*frame.function == "leaf").unwrap();
    assert_eq!(&*leaf.file, folder.path().join("nested").to_str().unwrap());
    assert_eq!(leaf.kind, FrameKind::Native);
    assert!(!leaf.build_id.is_empty() && leaf.build_id.chars().all(|digit| digit.is_ascii_hexdigit()));
}

#[test]
fn c_at_a_fixed_address_and_static() {
    let folder = tempfile::tempdir().unwrap();
    for (name, flags) in
        [("fixed", &["-no-pie"][..]), ("static", &["-static"]), ("bare", &["-no-pie", "-Wl,--no-eh-frame-hdr"])]
    {
        let mut target = Target::start(&mut Command::new(compile(folder.path(), name, NESTED, flags)));
        target.wait_until_parked();
        let stack = compare_with_gdb(&target);
        assert!(names(&stack).contains(&"middle"), "{name}: {:?}", names(&stack));
    }
}

#[test]
fn cpython_merged() {
    for version in ["3.12", "3.9", "3.13"] {
        let Some(python) = python(version) else {
            eprintln!("not checked: no CPython {version}");
            continue;
        };
        let mut target = Target::start(Command::new(python).args(["-c", DEEP_PYTHON]));
        target.wait_until_parked();
        let stack = compare_with_gdb(&target);
        assert!(stack.frames.len() >= 20, "{:#?}", names(&stack));
        let calls = stack.frames.iter().filter(|frame| frame.function.starts_with("_PyEval_EvalFrameDefault")).count();
        // From 3.11 on, Python calls Python within one evaluator: only calls from C begin another.
        assert_eq!(calls, if version == "3.9" { 11 } else { 3 }, "{:#?}", names(&stack));
        if version == "3.9" {
            continue;
        }
        let entries = ["<lambda>", "Meter.__call__", "<module>"];
        let functions = [
            "park",
            "down",
            "down",
            "down",
            "down",
            "<lambda>",
            "by_sort",
            "Meter.read",
            "Meter.__call__",
            "main",
            "<module>",
        ];
        let frames: Vec<(Arc<Frame>, bool)> = functions
            .iter()
            .map(|name| {
                let frame = Frame { kind: FrameKind::Python, function: (*name).into(), ..Frame::default() };
                (Arc::new(frame), entries.contains(name))
            })
            .collect();
        let merged = merge(
            &[],
            Part { frames: &stack.frames, whole: true },
            &stack.entered,
            Part { frames: &frames, whole: true },
        );
        let merged: Vec<_> = merged.iter().map(|frame| &*frame.function).collect();
        let place = |wanted: &str| {
            merged.iter().position(|name| *name == wanted).unwrap_or_else(|| panic!("{wanted}: {merged:#?}"))
        };
        assert!(
            !merged.iter().any(|name| name.starts_with("_PyEval_Eval") || name.starts_with("PyObject_Vectorcall")),
            "{merged:#?}"
        );
        assert!(place("park") < place("<lambda>") && place("<lambda>") < place("by_sort"), "{merged:#?}");
        assert!((place("<lambda>")..place("by_sort")).any(|index| merged[index].contains("sort")), "{merged:#?}");
        assert!(
            place("Meter.__call__") < place("slot_tp_call") && place("slot_tp_call") < place("main"),
            "{merged:#?}"
        );
        assert!(place("<module>") < place("_start"), "{merged:#?}");
    }
}

const LATE: &str = r#"
#include <dlfcn.h>
#include <stdio.h>
#include <unistd.h>
static void park(void) { puts("parked"); fflush(stdout); getchar(); }
int main(int count, char **arguments) {
    park();
    void *library = dlopen(arguments[1], RTLD_NOW);
    if (!library) { fprintf(stderr, "%s\n", dlerror()); return 1; }
    int (*run)(void (*)(void)) = (int (*)(void (*)(void)))dlsym(library, "run_late");
    if (count > 2) { unlink(arguments[1]); rename(arguments[2], arguments[1]); }
    return run(park);
}
"#;

const LIBRARY: &str = r"
static __attribute__((noinline)) int hidden(void (*call)(void)) { call(); return 1; }
int run_late(void (*call)(void)) { return hidden(call) + 1; }
";

#[test]
fn a_library_loaded_late_asks_for_a_refresh_once() {
    let folder = tempfile::tempdir().unwrap();
    let library = compile(folder.path(), "liblate.so", LIBRARY, &["-shared", "-fPIC"]);
    let mut target = Target::start(Command::new(compile(folder.path(), "late", LATE, &[])).arg(&library));
    target.wait_until_parked();
    let (mut stacks, pid) = (stacks(), target.pid());
    stacks.process_changed(pid, ProcessChange::Maps(&target.maps()));
    let Snapshot { registers, stack } = target.snapshot(STACK_BYTES);
    let before = stacks.native(pid, &registers, &stack);
    assert!(before.is_whole() && !before.refresh, "{:?}", names(&before));

    target.go_on();
    target.wait_until_parked();
    let Snapshot { registers, stack } = target.snapshot(STACK_BYTES);
    let stale = stacks.native(pid, &registers, &stack);
    assert!(stale.refresh && matches!(stale.end, UnwindEnd::Failed(_)), "{:?}", names(&stale));
    assert!(!stacks.native(pid, &registers, &stack).refresh, "asked twice at once");

    stacks.process_changed(pid, ProcessChange::Maps(&target.maps()));
    let fresh = stacks.native(pid, &registers, &stack);
    assert!(fresh.is_whole() && !fresh.refresh, "{:?}", names(&fresh));
    let place = |name: &str| names(&fresh).iter().position(|other| *other == name).expect(name);
    assert!(place("hidden") + 1 == place("run_late") && place("run_late") + 1 == place("main"));

    // A child process maps the same; after its end its stacks still have names.
    stacks.process_changed(1_000_000, ProcessChange::Fork { parent: pid });
    stacks.process_changed(1_000_000, ProcessChange::Exit);
    let again = stacks.native(1_000_000, &registers, &stack);
    assert_eq!(again, fresh);
    assert!(again.frames.iter().zip(&fresh.frames).all(|(again, fresh)| Arc::ptr_eq(again, fresh)));

    // Another program: nothing of the old one is left.
    stacks.process_changed(pid, ProcessChange::Exec(b""));
    assert_eq!(names(&stacks.native(pid, &registers, &stack)), ["[unknown]"]);
}

#[test]
fn a_library_deleted_and_replaced_keeps_its_own_names() {
    let folder = tempfile::tempdir().unwrap();
    let library = compile(folder.path(), "liblate.so", LIBRARY, &["-shared", "-fPIC"]);
    let other = compile(folder.path(), "other.so", &LIBRARY.replace("hidden", "impostor"), &["-shared", "-fPIC"]);
    let late = compile(folder.path(), "late", LATE, &[]);
    let mut target = Target::start(Command::new(late).arg(&library).arg(&other));
    target.wait_until_parked();
    target.go_on();
    target.wait_until_parked();
    let mut stacks = stacks();
    stacks.process_changed(target.pid(), ProcessChange::Maps(&target.maps()));
    let Snapshot { registers, stack } = target.snapshot(STACK_BYTES);
    let stack = stacks.native(target.pid(), &registers, &stack);
    let hidden = stack.frames.iter().find(|frame| frame.file.ends_with("/liblate.so")).expect("a frame of it");
    // map_files needs a capability; without it the library is known by its path only.
    if fs::read_dir(format!("/proc/{}/map_files", target.pid())).is_ok() {
        assert_eq!(&*hidden.function, "hidden", "{:?}", names(&stack));
    } else {
        assert!(hidden.function.starts_with("liblate.so+0x"), "{}", hidden.function);
    }
}

#[test]
fn short_copies_are_cut() {
    let folder = tempfile::tempdir().unwrap();
    let mut target = Target::start(&mut Command::new(compile(folder.path(), "nested", NESTED, &[])));
    target.wait_until_parked();
    let mut stacks = stacks();
    stacks.process_changed(target.pid(), ProcessChange::Maps(&target.maps()));
    let Snapshot { registers, stack } = target.snapshot(STACK_BYTES);
    let whole = stacks.native(target.pid(), &registers, &stack);
    for length in (0..2048).step_by(8) {
        let part = stacks.native(target.pid(), &registers, &stack[..length]);
        assert!(whole.frames.starts_with(&part.frames), "{length}: {:?}", names(&part));
        let wanted = if part.frames.len() == whole.frames.len() { UnwindEnd::Root } else { UnwindEnd::Cut };
        assert_eq!(part.end, wanted, "{length}: {:?}", names(&part));
        assert!(!part.refresh);
    }
}
