//! CPython as the in-kernel walker sees it: where to find the frame chain, and what it reports of each frame.

/// One Python frame as the walker found it, leaf first in a stack.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct PythonFrame {
    /// Address of the `PyCodeObject`, with [`PythonFrame::ENTRY`] in its lowest bit.
    code_and_entry: u64,
    /// Where in the bytecode the frame stands, in the unit of its version:
    /// bytes up to 3.9 (`f_lasti`), code units on 3.10 (`f_lasti`), and from 3.11 on bytes from `co_code_adaptive`
    /// (`prev_instr` on 3.11 and 3.12, which may be -2 before the first instruction; `instr_ptr` from 3.13 on).
    pub instruction: i32,
    /// [`code_identity`] of the code object when the frame was seen.
    pub identity: u32,
}

impl PythonFrame {
    /// Set in the lowest bit of the code address (objects are 16-byte aligned) when this frame is the outermost Python
    /// frame of one C call of the evaluator, so that native and Python stacks can be merged.
    pub const ENTRY: u64 = 1;

    /// A frame of `code`, not yet known to be an entry.
    #[inline(always)]
    #[must_use]
    pub const fn new(code: u64, instruction: i32, identity: u32) -> Self {
        Self { code_and_entry: code & !Self::ENTRY, instruction, identity }
    }

    /// Address of the `PyCodeObject`.
    #[inline(always)]
    #[must_use]
    pub const fn code(&self) -> u64 {
        self.code_and_entry & !Self::ENTRY
    }

    /// Whether the frame is the outermost one of its evaluator call.
    #[inline(always)]
    #[must_use]
    pub const fn is_entry(&self) -> bool {
        self.code_and_entry & Self::ENTRY != 0
    }

    /// Marks the frame as the outermost one of its evaluator call.
    #[inline(always)]
    pub const fn set_entry(&mut self) {
        self.code_and_entry |= Self::ENTRY;
    }
}

/// How a version of CPython marks the outermost Python frame of one C call of the evaluator.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryRule {
    /// Up to 3.10: each frame has an evaluator call of its own.
    EveryFrame = 0,
    /// 3.11: `_PyInterpreterFrame.is_entry`, read at [`PythonLayout::frame_entry`].
    EntryByte = 1,
    /// From 3.12 on: a shim frame (owner >= 3) follows the entry frame in the chain; it is no Python frame itself.
    ShimFrame = 2,
}

/// Where the walker finds things in one CPython process. Offsets are in bytes; `i32` ones may be -1 for "not there".
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct PythonLayout {
    /// musl: offset from the thread pointer of the pointer to the thread's TSD array; glibc: -1, the slots lie in `struct pthread`.
    pub tsd_array: i32,
    /// The thread state's slot: offset from the thread pointer (glibc) or from the TSD array (musl).
    pub tsd_slot: i32,
    /// `PyThreadState.frame` (up to 3.10), `.cframe` (3.11, 3.12) or `.current_frame` (from 3.13).
    pub thread_state_frame: u32,
    /// `_PyCFrame.current_frame` on 3.11 and 3.12; -1 where the field above is the frame itself.
    pub cframe_current_frame: i32,
    /// `f_code` or `f_executable`; its two lowest bits are a tag from 3.14 on and zero before.
    pub frame_code: u16,
    /// `f_back` or `previous`.
    pub frame_previous: u16,
    /// `f_lasti`, `prev_instr` or `instr_ptr`.
    pub frame_instruction: u16,
    /// `owner` (one byte), read for [`EntryRule::ShimFrame`].
    pub frame_owner: u16,
    /// `is_entry` (one byte), read for [`EntryRule::EntryByte`].
    pub frame_entry: u16,
    /// Bytes to read of a frame, the fields above included; at most [`PythonLayout::MAX_FRAME_READ`].
    pub frame_read: u16,
    /// `co_code_adaptive`; 0 where [`Self::frame_instruction`] holds an `i32` index and not a pointer (up to 3.10).
    pub code_bytecode: u16,
    /// `co_flags`, the start of what is read of a code object.
    pub code_flags: u16,
    /// `co_firstlineno`.
    pub code_first_line: u16,
    /// `co_version` (from 3.12 on); 0 where there is none.
    pub code_version: u16,
    /// `co_filename`.
    pub code_filename: u16,
    /// `co_name`; with its 8 bytes the end of what is read of a code object.
    pub code_name: u16,
    /// An [`EntryRule`].
    pub entry_rule: u8,
    /// Zero.
    pub padding: [u8; 7],
}

impl PythonLayout {
    /// The most that is read of one frame.
    pub const MAX_FRAME_READ: usize = 112;
    /// The most that is read of one code object, from `co_flags` to `co_name`.
    pub const MAX_CODE_READ: usize = 96;
    /// Frames whose owner is at least this are shims or sentinels (`FRAME_OWNED_BY_INTERPRETER`, `FRAME_OWNED_BY_CSTACK`).
    pub const FIRST_SHIM_OWNER: u8 = 3;
}

/// Tells a code object from a later one at the same address: `co_version` where the version has one (unique for each
/// live code object), else a mix of fields that seldom agree in two. Computed alike in the kernel and in user space.
#[inline(always)]
#[must_use]
pub const fn code_identity(version: u32, flags: u32, first_line: u32, filename: u64, name: u64) -> u32 {
    // 64-bit multiply-and-fold by the golden ratio; one round for each word.
    const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;
    if version != 0 {
        return version;
    }
    let mut mix = ((flags as u64) << 32 | first_line as u64).wrapping_mul(MULTIPLIER);
    mix = (mix ^ (mix >> 29) ^ filename).wrapping_mul(MULTIPLIER);
    mix = (mix ^ (mix >> 29) ^ name).wrapping_mul(MULTIPLIER);
    (mix >> 32) as u32
}
