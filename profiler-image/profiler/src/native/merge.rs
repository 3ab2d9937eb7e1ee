//! Joins the parts of one stack: kernel, native and Python frames, all leaf first, into one.
//!
//! Each C call of CPython's evaluator (`_PyEval_EvalFrameDefault`) runs a row of Python frames, of which the outermost is
//! marked as its entry; that row takes the evaluator's place in the native stack. Rows and calls are counted off
//! **from the leaf**, since outer frames may be missing on either side. When both sides are whole and there are more calls
//! than rows, they are counted off from the root: the innermost calls are then just being entered or left and have no
//! Python frame (in its first instructions, or while it clears the locals of a frame already unlinked), and stay native
//! frames. On a cut stack such a call cannot be told, and the rows are one call off for that instant.
//!
//! Python rows without a call follow at the outer end, calls without a row stay native frames. Where Python's side is cut, the
//! stack ends with it: whatever is further out has lost its place. What is left out is **call glue**: functions of the interpreter's own file that only carry a call from one Python function to
//! the next or to a C function (`_PyObject_MakeTpCall`, `cfunction_vectorcall_O`), or the program to its first
//! (`Py_RunMain`, `run_mod`). What tells something stays, such as `slot_tp_call`, `type_call`, `builtin_exec`,
//! `PyImport_ImportModuleLevelObject`, and always the leaf itself, where the time is spent. A stripped interpreter's functions
//! without a name tell nothing either, except at the leaf.

use std::sync::Arc;

use aiprof_capture::event::Frame;

use super::trim::plain;

/// CPython's evaluator.
pub(super) const EVALUATOR: &str = "_PyEval_EvalFrameDefault";

/// A Python frame as this module sees it.
pub trait PythonStackFrame {
    /// Whether it is the outermost of its evaluator call.
    fn is_entry(&self) -> bool;
    /// What it shows as.
    fn frame(&self) -> &Arc<Frame>;
}

impl PythonStackFrame for (Arc<Frame>, bool) {
    fn is_entry(&self) -> bool {
        self.1
    }

    fn frame(&self) -> &Arc<Frame> {
        &self.0
    }
}

/// A part of a stack, leaf first.
#[derive(Debug)]
pub struct Part<'a, F> {
    /// Frames.
    pub frames: &'a [F],
    /// Whether no outer frame is missing.
    pub whole: bool,
}

impl<F> Clone for Part<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F> Copy for Part<'_, F> {}

/// The merged stack, leaf first; see the module's description. `entered` are the native frames, by index, that the evaluator's
/// callers called: in a tail-calling build without symbols nothing else tells them.
#[must_use]
pub fn merge<P: PythonStackFrame>(
    kernel: &[Arc<Frame>],
    native: Part<'_, Arc<Frame>>,
    entered: &[usize],
    python: Part<'_, P>,
) -> Vec<Arc<Frame>> {
    let mut merged = Vec::with_capacity(kernel.len() + native.frames.len() + python.frames.len());
    merged.extend_from_slice(kernel);
    let calls: Vec<usize> = evaluator_calls(native.frames, entered).collect();
    let rows = python.frames.split_inclusive(PythonStackFrame::is_entry);
    let row_count = rows.clone().count();
    if row_count == 0 {
        merged.extend_from_slice(native.frames);
        return merged;
    }
    if calls.is_empty() && native.whole {
        // An interpreter that cannot be told from other code: nobody knows which frames lie between Python's.
        merged.extend(native.frames.first().cloned());
        merged.extend(python.frames.iter().map(|frame| frame.frame().clone()));
        return merged;
    }
    let without_row = if native.whole && python.whole { calls.len().saturating_sub(row_count) } else { 0 };
    let interpreter = calls.first().map(|call| &native.frames[*call].file);
    let mut calls = calls.into_iter().skip(without_row).peekable();
    let mut rows = rows.peekable();
    for (index, frame) in native.frames.iter().enumerate() {
        if rows.peek().is_none() && !python.whole {
            break;
        }
        if calls.next_if_eq(&index).is_some() {
            match rows.next() {
                Some(row) => merged.extend(row.iter().map(|frame| frame.frame().clone())),
                None => merged.push(frame.clone()),
            }
            continue;
        }
        // The frames of one call of a tail-calling evaluator behind its first.
        let same_call = index > 0 && is_tail_call(&native.frames[index - 1].function) && is_evaluator(&frame.function);
        let glue = index > 0 && Some(&frame.file) == interpreter && (is_glue(&frame.function) || is_unnamed(frame));
        if !(same_call || glue) {
            merged.push(frame.clone());
        }
    }
    merged.extend(rows.flatten().map(|frame| frame.frame().clone()));
    merged
}

/// The index of the innermost frame of each evaluator call.
fn evaluator_calls(native: &[Arc<Frame>], entered: &[usize]) -> impl Iterator<Item = usize> {
    // In a tail-calling build the evaluator calls the first instruction, and each instruction jumps to the next or calls
    // a helper: a row of them, with the evaluator at its outer end, is one call.
    let inner_is_part = |index: usize| index > 0 && is_tail_call(&native[index - 1].function);
    let is_call = move |index: &usize| is_evaluator(&native[*index].function) || entered.contains(index);
    (0..native.len()).filter(move |index| is_call(index) && !inner_is_part(*index))
}

fn is_tail_call(function: &str) -> bool {
    function.starts_with("_TAIL_CALL_")
}

fn is_evaluator(function: &str) -> bool {
    plain(function) == EVALUATOR || is_tail_call(function)
}

/// Whether a function goes by its file and address, for want of a symbol.
fn is_unnamed(frame: &Frame) -> bool {
    let file = frame.file.rsplit('/').next().unwrap_or_default();
    frame.function.strip_prefix(file).is_some_and(|rest| rest.starts_with("+0x"))
}

/// Whether a function of the interpreter only hands a call on.
fn is_glue(function: &str) -> bool {
    /// Starts of names.
    const FAMILIES: [&str; 13] = [
        "_PyObject_Call",
        "PyObject_Call",
        "_PyObject_FastCall",
        "_PyObject_Vectorcall",
        "PyObject_Vectorcall",
        "_PyFunction_",
        "PyEval_EvalCode",
        "_PyEval_",
        "cfunction_",
        "method_vectorcall",
        "_PyRun_",
        "PyRun_",
        "pymain_run_",
    ];
    const FUNCTIONS: [&str; 26] = [
        "_PyObject_MakeTpCall",
        "_PyVectorcall_Call",
        "PyVectorcall_Call",
        "_PyVectorcall_NargsAndKwnames",
        "PyEval_EvalFrame",
        "PyEval_EvalFrameEx",
        "PyCFunction_Call",
        "_PyCFunction_FastCallDict",
        "_PyCFunction_FastCallKeywords",
        "_PyMethodDef_RawFastCallKeywords",
        "_PyMethodDef_RawFastCallDict",
        "_PyMethodDescr_FastCallKeywords",
        "_PyMethodDescr_Vectorcall",
        "call_function",
        "do_call_core",
        "function_code_fastcall",
        "object_vacall",
        "object_call",
        "vectorcall_method",
        "vectorcall_maybe",
        "method_call",
        "run_eval_code_obj",
        "run_mod",
        "pyrun_file",
        "Py_RunMain",
        "Py_BytesMain",
    ];
    let function = plain(function);
    FUNCTIONS.contains(&function)
        || (FAMILIES.iter().any(|family| function.starts_with(family)) && !is_evaluator(function))
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
