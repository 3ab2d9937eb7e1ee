//! The code of one process, and the walk up a thread's copied stack by it.

use std::{fmt, mem, sync::Arc};

use aiprof_ebpf_types::UserRegisters;
use framehop::{CacheNative, FrameAddress, MayAllocateDuringUnwind, UnwindRegsNative, Unwinder, UnwinderNative};

use super::modules::{Image, Images, ProcessAccess, TableBytes, is_vdso};
use crate::maps::{self, Mapping};

/// Frames of one stack at most.
pub const MAX_FRAMES: usize = 256;
/// The kernel's own default limit of mappings is 65,530.
const MAX_REGIONS: usize = 1 << 17;

/// How the walk up a stack ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnwindEnd {
    /// At the thread's first function: the stack is whole.
    Root,
    /// At the end of the copied bytes, or at [`MAX_FRAMES`]: outer frames are missing.
    Cut,
    /// At a frame whose caller could not be found; outer frames are missing. With that frame's index.
    Failed(usize),
}

/// A mapping that holds code.
#[derive(Clone)]
pub(super) struct Region {
    mapping: Mapping,
    code: Code,
}

/// What is known of a region's code.
#[derive(Clone)]
pub(super) enum Code {
    /// Nothing yet: no address fell into it.
    Unread,
    /// A file's. The bias is to be taken off an address to get the file's own.
    Image { image: Arc<Image>, bias: u64 },
    /// Made at run time.
    Anonymous,
}

/// Where an address lies.
pub(super) enum Place<'a> {
    /// In a file, at this address of its own.
    Image(&'a Image, u64),
    /// In code made at run time.
    Anonymous,
    /// In no code that we know.
    Nowhere,
}

/// The code of one process.
pub(super) struct AddressSpace {
    /// Sorted, without overlap.
    regions: Vec<Region>,
    unwinder: UnwinderNative<TableBytes, MayAllocateDuringUnwind>,
    cache: CacheNative<MayAllocateDuringUnwind>,
}

impl fmt::Debug for AddressSpace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("AddressSpace").field("regions", &self.regions.len()).finish_non_exhaustive()
    }
}

impl AddressSpace {
    /// From the text of `/proc/PID/maps`.
    pub(super) fn new(maps: &[u8]) -> Self {
        Self { regions: parse_regions(maps), unwinder: UnwinderNative::new(), cache: CacheNative::new() }
    }

    /// A copy for a child process, which maps the same.
    pub(super) fn fork(&self) -> Self {
        Self { regions: self.regions.clone(), unwinder: self.unwinder.clone(), cache: CacheNative::new() }
    }

    /// Takes over new maps text; what did not change stays open. Whether there is code that was not there before.
    pub(super) fn refresh(&mut self, maps: &[u8]) -> bool {
        let mut old = mem::replace(&mut self.regions, parse_regions(maps)).into_iter().peekable();
        let mut grown = false;
        for region in &mut self.regions {
            while let Some(gone) = old.next_if(|old| old.mapping.start < region.mapping.start) {
                self.unwinder.remove_module(gone.mapping.start);
            }
            match old.next_if(|old| old.mapping.start == region.mapping.start) {
                Some(same) if same_code(&same.mapping, &region.mapping) => region.code = same.code,
                Some(other) => {
                    self.unwinder.remove_module(other.mapping.start);
                    grown = true;
                }
                None => grown = true,
            }
        }
        old.for_each(|gone| self.unwinder.remove_module(gone.mapping.start));
        grown
    }

    fn find(&self, address: u64) -> Option<usize> {
        let index = self.regions.partition_point(|region| region.mapping.start <= address).checked_sub(1)?;
        (address < self.regions[index].mapping.end).then_some(index)
    }

    /// Where `address` lies, as far as it was read.
    pub(super) fn place(&self, address: u64) -> Place<'_> {
        match self.find(address).map(|index| &self.regions[index].code) {
            Some(Code::Image { image, bias }) => Place::Image(image, address.wrapping_sub(*bias)),
            Some(Code::Anonymous | Code::Unread) => Place::Anonymous,
            None => Place::Nowhere,
        }
    }

    /// Makes the code at `address` known to the unwinder. Whether there is any.
    fn prepare(&mut self, address: u64, open: &mut Opener<'_>) -> bool {
        let Some(index) = self.find(address) else { return false };
        let Region { mapping, code } = &mut self.regions[index];
        if matches!(code, Code::Unread) {
            *code = open.code(mapping);
            if let Code::Image { image, bias } = code
                && let Some(module) = image.unwind_module(mapping.start..mapping.end, *bias)
            {
                self.unwinder.add_module(module);
            }
        }
        true
    }

    /// Walks up from `registers` over `stack`, a copy of the memory from the stack pointer on. `addresses` gets the
    /// addresses to look up, leaf first: the instruction pointer, then the last byte of each call.
    ///
    /// The walk goes on only while it finds itself in code; only the leaf may lie outside (a call through a wild pointer).
    pub(super) fn unwind(
        &mut self,
        registers: &UserRegisters,
        stack: &[u8],
        open: &mut Opener<'_>,
        addresses: &mut Vec<u64>,
    ) -> UnwindEnd {
        addresses.clear();
        let stack_end = registers.sp.saturating_add(stack.len() as u64);
        let mut beyond = false;
        let mut read = |address: u64| {
            let start = address.checked_sub(registers.sp).ok_or(())?;
            let word = usize::try_from(start).ok().and_then(|start| stack.get(start..)?.first_chunk());
            beyond |= word.is_none() && address.saturating_add(8) > stack_end;
            word.map(|bytes| u64::from_le_bytes(*bytes)).ok_or(())
        };
        let mut native = native_registers(registers);
        let mut frame = FrameAddress::from_instruction_pointer(registers.ip);
        self.prepare(registers.ip, open);
        loop {
            addresses.push(frame.address_for_lookup());
            if addresses.len() == MAX_FRAMES {
                return UnwindEnd::Cut;
            }
            let next = self.unwinder.unwind_frame(frame, &mut native, &mut self.cache, &mut read);
            let failed = UnwindEnd::Failed(addresses.len() - 1);
            match next {
                Ok(None) => return UnwindEnd::Root,
                Ok(Some(address)) => match FrameAddress::from_return_address(address) {
                    Some(caller) if self.prepare(caller.address_for_lookup(), open) => frame = caller,
                    _ => return failed,
                },
                Err(_) if beyond => return UnwindEnd::Cut,
                Err(_) => return failed,
            }
        }
    }
}

/// Opens files of one process.
pub(super) struct Opener<'a> {
    pub(super) images: &'a mut Images,
    pub(super) access: &'a dyn ProcessAccess,
    pub(super) pid: u32,
}

impl Opener<'_> {
    fn code(&mut self, mapping: &Mapping) -> Code {
        if mapping.inode == 0 && !is_vdso(self.access, self.pid, mapping) {
            return Code::Anonymous;
        }
        let image = self.images.open(self.access, self.pid, mapping);
        let bias = image.bias(mapping.start, mapping.offset);
        Code::Image { image, bias }
    }
}

#[cfg(target_arch = "x86_64")]
fn native_registers(registers: &UserRegisters) -> UnwindRegsNative {
    UnwindRegsNative::new(registers.ip, registers.sp, registers.fp)
}

#[cfg(target_arch = "aarch64")]
fn native_registers(registers: &UserRegisters) -> UnwindRegsNative {
    UnwindRegsNative::new(registers.lr, registers.sp, registers.fp)
}

fn same_code(old: &Mapping, new: &Mapping) -> bool {
    old.end == new.end && old.offset == new.offset && (old.device, old.inode) == (new.device, new.inode)
}

fn parse_regions(text: &[u8]) -> Vec<Region> {
    let mut regions: Vec<Region> = maps::parse(text)
        .into_iter()
        .filter(|mapping| mapping.executable)
        .take(MAX_REGIONS)
        .map(|mapping| Region { mapping, code: Code::Unread })
        .collect();
    regions.sort_by_key(|region| region.mapping.start);
    // Text read while it changed may list something twice.
    regions.dedup_by(|next, kept| next.mapping.start < kept.mapping.end);
    regions
}
