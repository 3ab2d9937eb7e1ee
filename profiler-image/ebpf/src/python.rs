//! The Python stack of the running thread, walked where it stands: the thread cannot run meanwhile, so the chain holds still.
//!
//! The thread state comes from the thread's own pthread key, which is set whether the GIL is held or not.

use aiprof_ebpf_types::{EntryRule, MAX_PYTHON_FRAMES, PythonFrame, PythonLayout, PythonStatus, code_identity};
use aya_ebpf::helpers::generated::bpf_probe_read_user;

use crate::maps::{SCRATCH, Scratch};

/// Walks the stack of the thread with this thread pointer into the body of the scratch at `slot`, leaf first. Returns how many
/// frames there are.
#[inline(always)]
pub(crate) fn walk(
    layout: &PythonLayout,
    thread_pointer: u64,
    slot: u32,
    scratch: &mut Scratch,
) -> (usize, PythonStatus) {
    let Some(mut frame) = first_frame(layout, thread_pointer) else { return (0, PythonStatus::ReadFailed) };
    if frame == NO_THREAD_STATE {
        return (0, PythonStatus::NoThreadState);
    }
    scratch.layout = *layout;
    set_count(scratch, 0);
    // Shims take iterations too; seldom more than a handful, at most one for each Python frame.
    for _ in 0..2 * MAX_PYTHON_FRAMES {
        if frame == 0 {
            return (frames(scratch), PythonStatus::Complete);
        }
        frame = aiprof_python_frame(slot, frame);
        if frame == READ_FAILED {
            return (frames(scratch), PythonStatus::ReadFailed);
        }
        if frame == FULL {
            break;
        }
    }
    (frames(scratch), PythonStatus::Cut)
}

/// Returned in place of a frame's address, which is a multiple of 8.
const READ_FAILED: u64 = 1;
const FULL: u64 = 2;

/// Appends the frame at `frame` to the body of the scratch at `slot`, and returns the address of the next, or why there is none.
///
/// A global function: the verifier looks at it once, and not at each of the loop's iterations in each program, which took four
/// fifths of the time to load them.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn aiprof_python_frame(slot: u32, frame: u64) -> u64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(slot) else { return READ_FAILED };
    // SAFETY: a live map value of this CPU, which the caller has for itself.
    let scratch = unsafe { &mut *scratch };
    let layout = scratch.layout;
    let length = u32::from(layout.frame_read) & 0x7f;
    if !read_user(scratch.frame.as_mut_ptr().cast(), length, frame) {
        return READ_FAILED;
    }
    let previous: u64 = field(&scratch.frame, layout.frame_previous);
    if previous & 7 != 0 {
        return READ_FAILED;
    }
    if layout.entry_rule == EntryRule::ShimFrame as u8
        && field::<u8>(&scratch.frame, layout.frame_owner) >= PythonLayout::FIRST_SHIM_OWNER
    {
        mark_entry(scratch);
        return previous;
    }
    if frames(scratch) >= MAX_PYTHON_FRAMES {
        return FULL;
    }
    if !push_frame(&layout, scratch) {
        return READ_FAILED;
    }
    if layout.entry_rule == EntryRule::EveryFrame as u8
        || (layout.entry_rule == EntryRule::EntryByte as u8 && field::<u8>(&scratch.frame, layout.frame_entry) != 0)
    {
        mark_entry(scratch);
    }
    previous
}

/// Python frames written so far; at most [`MAX_PYTHON_FRAMES`].
#[inline(always)]
fn frames(scratch: &Scratch) -> usize {
    // SAFETY: a live field; volatile since `aiprof_python_frame` changes it behind the reference that `walk` holds.
    (unsafe { (&raw const scratch.python_frames).read_volatile() } as usize).min(MAX_PYTHON_FRAMES)
}

#[inline(always)]
fn set_count(scratch: &mut Scratch, count: u32) {
    // SAFETY: as in `frames`.
    unsafe { (&raw mut scratch.python_frames).write_volatile(count) };
}

/// Reads the code object of the frame in scratch and appends the finished frame.
#[inline(always)]
fn push_frame(layout: &PythonLayout, scratch: &mut Scratch) -> bool {
    // The two lowest bits are a tag from 3.14 on, and always zero before.
    let code = field::<u64>(&scratch.frame, layout.frame_code) & !3;
    // From a multiple of 8 on, so that the fields keep their alignment.
    let start = layout.code_flags & !7;
    let length = u32::from(layout.code_name.wrapping_sub(start) + 8) & 0x7f;
    if !read_user(scratch.code.as_mut_ptr().cast(), length, code + u64::from(start)) {
        return false;
    }
    let version =
        if layout.code_version == 0 { 0 } else { field(&scratch.code, layout.code_version.wrapping_sub(start)) };
    let identity = code_identity(
        version,
        field(&scratch.code, layout.code_flags & 7),
        field(&scratch.code, layout.code_first_line.wrapping_sub(start)),
        field(&scratch.code, layout.code_filename.wrapping_sub(start)),
        field(&scratch.code, layout.code_name.wrapping_sub(start)),
    );
    let instruction = if layout.code_bytecode == 0 {
        field::<i32>(&scratch.frame, layout.frame_instruction)
    } else {
        let address: u64 = field(&scratch.frame, layout.frame_instruction);
        address.wrapping_sub(code + u64::from(layout.code_bytecode)) as i32
    };
    let index = frames(scratch);
    if index >= MAX_PYTHON_FRAMES {
        return false;
    }
    // SAFETY: the index is below MAX_PYTHON_FRAMES.
    unsafe { frame_slot(scratch, index).write(PythonFrame::new(code, instruction, identity)) };
    set_count(scratch, index as u32 + 1);
    true
}

/// The place of a frame in the body, which starts with room for `MAX_PYTHON_FRAMES` of them.
#[inline(always)]
#[expect(
    clippy::cast_ptr_alignment,
    reason = "the body follows a header of whole words in a map value, which is aligned to 8"
)]
unsafe fn frame_slot(scratch: &mut Scratch, index: usize) -> *mut PythonFrame {
    // SAFETY: the caller's index is below MAX_PYTHON_FRAMES.
    unsafe { scratch.body.as_mut_ptr().cast::<PythonFrame>().add(index) }
}

/// Marks the last frame as the outermost one of its evaluator call.
#[inline(always)]
fn mark_entry(scratch: &mut Scratch) {
    let count = frames(scratch);
    if count == 0 {
        return;
    }
    // SAFETY: as in `push_frame`, an index below MAX_PYTHON_FRAMES.
    unsafe { (*frame_slot(scratch, count - 1)).set_entry() };
}

/// Stands for a frame address where there is no thread state; frames are aligned, so it is none.
const NO_THREAD_STATE: u64 = 1;

/// The innermost frame of the thread with this thread pointer, 0 if it runs no Python now; none where a read failed.
#[inline(always)]
fn first_frame(layout: &PythonLayout, thread_pointer: u64) -> Option<u64> {
    let array = if layout.tsd_array == -1 {
        thread_pointer
    } else {
        pointer(thread_pointer.wrapping_add_signed(i64::from(layout.tsd_array)))?
    };
    let thread_state = pointer(array.wrapping_add_signed(i64::from(layout.tsd_slot)))?;
    if thread_state == 0 {
        return Some(NO_THREAD_STATE);
    }
    let frame = pointer(thread_state + u64::from(layout.thread_state_frame))?;
    if layout.cframe_current_frame >= 0 && frame != 0 {
        return pointer(frame + layout.cframe_current_frame as u64);
    }
    Some(frame)
}

/// A pointer in the target's memory; none where it cannot be read.
#[inline(always)]
fn pointer(address: u64) -> Option<u64> {
    let mut value = 0u64;
    // SAFETY: the helper checks the address, and writes 8 bytes at most.
    let failed = unsafe { bpf_probe_read_user((&raw mut value).cast(), 8, address as *const _) };
    (failed == 0).then_some(value)
}

/// Reads the target's memory into scratch.
#[inline(always)]
fn read_user(into: *mut u8, length: u32, address: u64) -> bool {
    // SAFETY: callers mask the length to below the size of the scratch field.
    unsafe { bpf_probe_read_user(into.cast(), length, address as *const _) == 0 }
}

/// A field of what was read, at an offset below 128 that is a multiple of its size.
#[inline(always)]
fn field<T: Copy>(words: &[u64; 17], offset: u16) -> T {
    // SAFETY: 127 and the 8 bytes of the largest T lie within the 136; CPython aligns its fields.
    unsafe { *words.as_ptr().byte_add(usize::from(offset & 0x7f)).cast::<T>() }
}
