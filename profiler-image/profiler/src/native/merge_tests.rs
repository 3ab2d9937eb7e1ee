use aiprof_capture::event::FrameKind;

use super::*;

fn frame(kind: FrameKind, function: &str) -> Arc<Frame> {
    let (function, file) = function.split_once('@').unwrap_or((function, "libpython"));
    Arc::new(Frame { kind, function: function.into(), file: file.into(), ..Frame::default() })
}

/// Frames by name, separated by spaces and leaf first. Native: `E` is the evaluator, `name@file` one of another file.
/// `^name` is one that the evaluator's caller called. Python: `!` marks an entry. A part that ends in `...` is cut.
fn merged(kernel: &str, native: &str, python: &str) -> String {
    let split = |part: &str| {
        let cut = part.strip_suffix("...");
        let names = cut.unwrap_or(part).split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>();
        (names, cut.is_none())
    };
    let kernel: Vec<_> = split(kernel).0.iter().map(|name| frame(FrameKind::Kernel, name)).collect();
    let (native, native_whole) = split(native);
    let entered: Vec<usize> =
        native.iter().enumerate().filter(|(_, name)| name.starts_with('^')).map(|(index, _)| index).collect();
    let native: Vec<_> = native
        .iter()
        .map(|name| name.trim_start_matches('^'))
        .map(|name| frame(FrameKind::Native, if name == "E" { "_PyEval_EvalFrameDefault" } else { name }))
        .collect();
    let (python, python_whole) = split(python);
    let python: Vec<_> =
        python.iter().map(|name| (frame(FrameKind::Python, name.trim_end_matches('!')), name.ends_with('!'))).collect();
    let stack = merge(
        &kernel,
        Part { frames: &native, whole: native_whole },
        &entered,
        Part { frames: &python, whole: python_whole },
    );
    let names = stack.iter().map(|frame| frame.function.replace("_PyEval_EvalFrameDefault", "E"));
    names.collect::<Vec<_>>().join(" ")
}

#[test]
fn rows_take_the_place_of_calls() {
    assert_eq!(
        merged("k1 k2", "read@libc os_read E slot_tp_call E main", "c b! a!"),
        "k1 k2 read os_read c b slot_tp_call a main"
    );
}

#[test]
fn a_call_of_the_evaluator_tells_it_without_its_name() {
    assert_eq!(
        merged(
            "",
            "leaf@c ^libpython+0x44a libpython+0x5c8 slot ^libpython+0x44a libpython+0x5c8 main x+0x1@x",
            "c b! a!"
        ),
        "leaf c b slot a main x+0x1"
    );
    // With symbols both say the same.
    assert_eq!(merged("", "leaf@c _TAIL_CALL_X ^E main", "b a!"), "leaf b a main");
    assert_eq!(merged("", "leaf@c ^E main", "b a!"), "leaf b a main");
}

#[test]
fn native_frames_without_an_evaluator_do_not_lie_between_python() {
    assert_eq!(merged("k", "+0x44a +0x5c8 main", "b a!"), "k +0x44a b a");
}

#[test]
fn parts_may_be_missing() {
    assert_eq!(merged("", "", ""), "");
    assert_eq!(merged("k", "a@x b@x", ""), "k a b");
    assert_eq!(merged("k", "", "b a!"), "k b a");
    assert_eq!(merged("", "E main", ""), "E main");
}

#[test]
fn a_cut_native_stack_is_followed_by_the_rest_of_python() {
    assert_eq!(merged("", "leaf@c E glue...", "d c! b! a!"), "leaf d c glue b a");
    assert_eq!(merged("", "leaf@c ...", "b! a!"), "leaf b a");
}

#[test]
fn a_cut_python_stack_ends_the_whole() {
    assert_eq!(merged("", "leaf@c E x E main", "d c..."), "leaf d c");
    assert_eq!(merged("", "leaf@c E x E y E main", "d! c..."), "leaf d x c");
}

#[test]
fn more_rows_than_calls_are_all_kept() {
    assert_eq!(merged("", "leaf@c E main", "c! b! a!"), "leaf c main b a");
}

#[test]
fn a_call_being_entered_has_no_row_yet() {
    // The innermost call stands in its first instructions: counted from the leaf, `b` would hang above `os_exec`.
    assert_eq!(merged("", "E os_exec E main", "b a!"), "E os_exec b a main");
    // It clears the locals of a frame already unlinked.
    assert_eq!(merged("", "free@libc dict_dealloc E slot E main", "a!"), "free dict_dealloc E slot a main");
}

#[test]
fn on_a_cut_stack_a_call_being_entered_is_not_told() {
    assert_eq!(merged("", "E x E...", "b! a!"), "b x a");
}

#[test]
fn parts_and_copies_of_the_evaluator_count() {
    for name in
        ["_PyEval_EvalFrameDefault.cold", "_PyEval_EvalFrameDefault.isra.0", "_PyEval_EvalFrameDefault.lto_priv.0"]
    {
        assert_eq!(merged("", &format!("x {name} main"), "b a!"), "x b a main", "{name}");
    }
    for name in ["_PyEval_EvalFrameDefaultly", "PyEval_EvalFrameDefault@x", "my_PyEval_EvalFrameDefault"] {
        assert_eq!(merged("", &format!("x {name} main"), "a!"), "x a", "{name}");
    }
}

#[test]
fn calls_may_follow_each_other_at_once() {
    // `_PyFunction_Vectorcall` jumps into the evaluator and leaves no frame.
    assert_eq!(merged("", "E E E main", "c! b! a!"), "c b a main");
}

#[test]
fn a_row_of_tail_calls_is_one_call() {
    assert_eq!(merged("", "x _TAIL_CALL_CALL _TAIL_CALL_START E main", "b a!"), "x b a main");
    assert_eq!(merged("", "x _TAIL_CALL_CALL y _TAIL_CALL_SEND E main", "b! a!"), "x b y a main");
    assert_eq!(merged("", "x _TAIL_CALL_CALL E E main", "b! a!"), "x b a main");
    assert_eq!(merged("", "x _TAIL_CALL_CALL E y _TAIL_CALL_CALL E main", "a!"), "x _TAIL_CALL_CALL y a main");
}

#[test]
fn call_glue_is_left_out() {
    let native = "time_sleep cfunction_vectorcall_O PyObject_Vectorcall E _PyEval_Vector _PyFunction_Vectorcall \
        _PyObject_Call.isra.0 slot_tp_call E PyEval_EvalCode run_eval_code_obj run_mod pyrun_file _PyRun_SimpleFile \
        pymain_run_file Py_RunMain Py_BytesMain __libc_start_main@libc _start@python";
    assert_eq!(merged("", native, "b! a!"), "time_sleep b slot_tp_call a __libc_start_main _start");
}

#[test]
fn glue_stays_where_it_tells_something() {
    // As the leaf, it is where the time is spent.
    assert_eq!(merged("", "_PyObject_MakeTpCall E main", "a!"), "_PyObject_MakeTpCall a main");
    // In another file it only has the same name.
    assert_eq!(merged("", "x call_function@app E main", "a!"), "x call_function a main");
    // Without Python frames there is nothing that it would repeat.
    assert_eq!(merged("", "x call_function E main", ""), "x call_function E main");
}

#[test]
fn frames_before_the_first_entry_belong_to_the_innermost_call() {
    assert_eq!(merged("", "x E y E main", "e d c! b a!"), "x e d c y b a main");
}

#[test]
fn python_frames_keep_their_order_and_number_whatever_comes() {
    let natives = ["", "E", "x E", "E E...", "x E y E main", "_TAIL_CALL_A E x", "x..."];
    let pythons = ["", "a", "b! a!", "c b a!", "c! b! a!", "c! b a..."];
    for native in natives {
        for python in pythons {
            let merged = merged("k", native, python);
            let names: Vec<_> = merged.split(' ').filter(|name| ["a", "b", "c"].contains(name)).collect();
            let wanted: Vec<_> = python.trim_end_matches("...").split_ascii_whitespace().collect();
            assert_eq!(names.join(" "), wanted.join(" ").replace('!', ""), "{native} / {python}: {merged}");
        }
    }
}
