//! Native and kernel stacks: from registers, copied stack bytes and kernel addresses to named frames, and one merged
//! stack with the Python frames.
//!
//! [`Stacks`] is the door: it is told of processes and their mappings, and turns what the kernel side copied into frames.
//! Nothing is read of a process or a file before an address falls into it; names can still be had after the process ended.

mod call;
mod elf;
mod index;
mod kernel;
pub mod merge;
mod modules;
mod symbols;
mod trim;
mod unwind;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use aiprof_capture::event::{Frame, FrameKind};
use aiprof_ebpf_types::UserRegisters;

pub use self::{
    kernel::KernelSymbols,
    merge::merge,
    modules::{LiveProcesses, ProcessAccess},
    unwind::{MAX_FRAMES, UnwindEnd},
};
use self::{
    modules::Images,
    unwind::{AddressSpace, Opener, Place},
};

/// Named addresses that are kept; at this many all are let go and named anew as they come.
const MAX_CACHED_FRAMES: usize = 1 << 16;
/// Ended processes that are still known, for records that were under way when they ended.
const MAX_ENDED: usize = 32;
const FIRST_REFRESH_DELAY: Duration = Duration::from_millis(100);
const LAST_REFRESH_DELAY: Duration = Duration::from_mins(1);

/// What happened to a process. Texts are those of `/proc/PID/maps`.
#[derive(Clone, Copy, Debug)]
pub enum ProcessChange<'a> {
    /// It is seen for the first time, or its mappings were read again.
    Maps(&'a [u8]),
    /// It runs another program now, with these mappings.
    Exec(&'a [u8]),
    /// It was made by `parent` and maps the same.
    Fork {
        /// The process that made it.
        parent: u32,
    },
    /// It ended. Its stacks can be named for a while yet.
    Exit,
}

/// A native stack.
#[derive(Clone, Debug, PartialEq)]
pub struct NativeStack {
    /// Leaf first.
    pub frames: Vec<Arc<Frame>>,
    /// Those, by index, whose caller calls CPython's evaluator by its name.
    pub entered: Vec<usize>,
    /// How the walk ended.
    pub end: UnwindEnd,
    /// The stack led to an address outside of all known mappings, so they may be out of date: read `/proc/PID/maps`
    /// again, tell [`Stacks::process_changed`], and ask again with the same registers and bytes. Not said more often
    /// than is worth it, so it can be followed each time.
    pub refresh: bool,
}

impl NativeStack {
    /// Whether no outer frame is missing.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.end == UnwindEnd::Root
    }
}

/// Turns what was copied of threads into frames.
pub struct Stacks {
    access: Box<dyn ProcessAccess>,
    images: Images,
    processes: HashMap<u32, Process>,
    ended: VecDeque<u32>,
    frames: HashMap<(u32, u64), Named>,
    kernel: KernelSymbols,
    anonymous: Arc<Frame>,
    unknown: Arc<Frame>,
    addresses: Vec<u64>,
}

/// A frame, and whether its code at the address looked up calls CPython's evaluator.
struct Named {
    frame: Arc<Frame>,
    calls_evaluator: bool,
}

struct Process {
    space: AddressSpace,
    backoff: Backoff,
    ended: bool,
}

impl Process {
    fn new(space: AddressSpace) -> Self {
        Self { space, backoff: Backoff::default(), ended: false }
    }
}

impl Default for Stacks {
    fn default() -> Self {
        Self::new()
    }
}

impl Stacks {
    /// For the processes of this machine and its kernel.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Box::new(LiveProcesses), KernelSymbols::load())
    }

    /// With another way into processes, and other kernel symbols.
    #[must_use]
    pub fn with(access: Box<dyn ProcessAccess>, kernel: KernelSymbols) -> Self {
        let frame =
            |function: &str| Arc::new(Frame { kind: FrameKind::Native, function: function.into(), ..Frame::default() });
        Self {
            access,
            images: Images::default(),
            processes: HashMap::new(),
            ended: VecDeque::new(),
            frames: HashMap::new(),
            kernel,
            anonymous: frame("[anonymous code]"),
            unknown: frame("[unknown]"),
            addresses: Vec::with_capacity(MAX_FRAMES),
        }
    }

    /// Tells of a change in process `pid`.
    pub fn process_changed(&mut self, pid: u32, change: ProcessChange<'_>) {
        match change {
            ProcessChange::Maps(text) => match self.processes.get_mut(&pid).filter(|process| !process.ended) {
                Some(process) => {
                    if process.space.refresh(text) {
                        process.backoff = Backoff { not_before: process.backoff.not_before, ..Backoff::default() };
                    }
                }
                None => self.insert(pid, AddressSpace::new(text)),
            },
            ProcessChange::Exec(text) => self.insert(pid, AddressSpace::new(text)),
            ProcessChange::Fork { parent } => {
                if let Some(space) = self.processes.get(&parent).map(|process| process.space.fork()) {
                    self.insert(pid, space);
                }
            }
            ProcessChange::Exit => {
                if let Some(process) = self.processes.get_mut(&pid).filter(|process| !process.ended) {
                    process.ended = true;
                    self.ended.push_back(pid);
                    if self.ended.len() > MAX_ENDED
                        && let Some(oldest) = self.ended.pop_front()
                    {
                        self.processes.remove(&oldest);
                    }
                }
            }
        }
    }

    fn insert(&mut self, pid: u32, space: AddressSpace) {
        if self.processes.insert(pid, Process::new(space)).is_some_and(|old| old.ended) {
            self.ended.retain(|ended| *ended != pid);
        }
    }

    /// The native stack of a thread of process `pid` that had `registers` in user mode; `stack` is a copy of its memory
    /// from the stack pointer on, of any length. A process that was never told of gives its leaf only, and asks for a
    /// refresh.
    pub fn native(&mut self, pid: u32, registers: &UserRegisters, stack: &[u8]) -> NativeStack {
        let Some(process) = self.processes.get_mut(&pid) else {
            return NativeStack {
                frames: vec![self.unknown.clone()],
                entered: Vec::new(),
                end: UnwindEnd::Failed(0),
                refresh: true,
            };
        };
        let mut open = Opener { images: &mut self.images, access: &*self.access, pid };
        let end = process.space.unwind(registers, stack, &mut open, &mut self.addresses);
        let mut outside = matches!(end, UnwindEnd::Failed(_));
        let mut frames = Vec::with_capacity(self.addresses.len());
        let mut entered = Vec::new();
        for (index, address) in self.addresses.iter().enumerate() {
            frames.push(match process.space.place(*address) {
                Place::Image(image, address) => {
                    if self.frames.len() >= MAX_CACHED_FRAMES {
                        self.frames.clear();
                    }
                    let frame = self.frames.entry((image.id, address));
                    let named = frame.or_insert_with(|| Named {
                        frame: Arc::new(image.frame(address)),
                        calls_evaluator: image.calls_evaluator(address),
                    });
                    if named.calls_evaluator && index > 0 {
                        entered.push(index - 1);
                    }
                    named.frame.clone()
                }
                Place::Anonymous => self.anonymous.clone(),
                Place::Nowhere => {
                    outside = true;
                    self.unknown.clone()
                }
            });
        }
        let refresh = outside && !process.ended && process.backoff.ask(Instant::now());
        NativeStack { frames, entered, end, refresh }
    }

    /// The frames of kernel return addresses, both leaf first, without those of the tracing that took the stack.
    pub fn kernel(&mut self, addresses: &[u64]) -> Vec<Arc<Frame>> {
        self.kernel.frames(addresses)
    }

    /// The innermost kernel function that tells what a thread waits for; see [`KernelSymbols::wait_function`].
    pub fn wait_function(&mut self, addresses: &[u64]) -> Option<Arc<str>> {
        self.kernel.wait_function(addresses)
    }

    /// Why kernel functions have no names, if they have none.
    #[must_use]
    pub fn kernel_hidden(&self) -> Option<&Arc<str>> {
        self.kernel.hidden()
    }
}

/// How often a process's mappings are asked for again: less and less while that brings nothing new.
#[derive(Clone, Copy, Debug)]
struct Backoff {
    not_before: Option<Instant>,
    delay: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { not_before: None, delay: FIRST_REFRESH_DELAY }
    }
}

impl Backoff {
    fn ask(&mut self, now: Instant) -> bool {
        if self.not_before.is_some_and(|time| now < time) {
            return false;
        }
        self.not_before = now.checked_add(self.delay);
        self.delay = (self.delay * 2).min(LAST_REFRESH_DELAY);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refreshes_are_asked_for_less_and_less() {
        let (start, mut backoff) = (Instant::now(), Backoff::default());
        let asked = (0..100_000).filter(|step| backoff.ask(start + Duration::from_millis(*step))).count();
        // At 0, 0.1, 0.3, 0.7, 1.5, 3.1, 6.3, 12.7, 25.5, 51.1 s.
        assert_eq!(asked, 10);
    }

    #[test]
    fn a_stranger_asks_for_its_maps() {
        let mut stacks = Stacks::with(Box::new(LiveProcesses), KernelSymbols::default());
        let stack = stacks.native(1, &UserRegisters::default(), &[]);
        assert!(stack.refresh && !stack.is_whole());
        assert_eq!(&*stack.frames[0].function, "[unknown]");
    }
}
