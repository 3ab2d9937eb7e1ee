//! Names of kernel addresses, from `/proc/kallsyms`, and what of a kernel stack is worth showing.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
    sync::Arc,
};

use aiprof_capture::event::{Frame, FrameKind};

use super::trim;

/// Addresses this far behind the symbol before them belong to something that has no symbol.
const MAX_FUNCTION_BYTES: u64 = 1 << 20;
/// `kallsyms` is read up to here; kernels have some 200,000 symbols.
const MAX_SYMBOLS: usize = 2 << 20;
const MAX_NAME_BYTES: usize = 512;
/// From here on addresses are no code but marks (`PERF_CONTEXT_*`, `PERF_MAX_STACK_DEPTH`'s errors) in a call chain.
const FIRST_MARK: u64 = u64::MAX - 4094;

/// Function names of the running kernel.
#[derive(Debug, Default)]
pub struct KernelSymbols {
    /// Sorted; with the byte in `names` at which the name starts.
    addresses: Vec<u64>,
    name_starts: Vec<u32>,
    names: String,
    hidden: Option<Arc<str>>,
    frames: HashMap<u32, Arc<Frame>>,
    unknown: Option<Arc<Frame>>,
}

impl KernelSymbols {
    /// Reads `/proc/kallsyms`. What goes wrong is told by [`Self::hidden`]; frames are then `[kernel]`.
    #[must_use]
    pub fn load() -> Self {
        Self::load_from(Path::new("/proc/kallsyms"))
    }

    fn load_from(path: &Path) -> Self {
        let read = File::open(path).and_then(|file| Self::parse(BufReader::with_capacity(64 << 10, file)));
        read.unwrap_or_else(|error| Self::without(&format!("cannot read {}: {error}", path.display())))
    }

    fn without(reason: &str) -> Self {
        Self { hidden: Some(reason.into()), ..Self::default() }
    }

    /// Parses the text of `kallsyms`: lines of `address type name [module]`.
    pub fn parse(mut text: impl BufRead) -> io::Result<Self> {
        let mut functions: Vec<(u64, u32)> = Vec::new();
        let mut names = String::new();
        let (mut line, mut lines) = (String::new(), 0_usize);
        while lines < MAX_SYMBOLS && text.read_line(&mut line)? > 0 {
            lines += 1;
            let mut fields = line.split_ascii_whitespace();
            let address = fields.next().and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or_default();
            if let (Some("t" | "T" | "w" | "W"), Some(name)) = (fields.next(), fields.next())
                && address != 0
                && name.len() <= MAX_NAME_BYTES
                && let Ok(start) = u32::try_from(names.len())
            {
                functions.push((address, start));
                names.push_str(name);
                names.push('\n');
            }
            line.clear();
        }
        if functions.is_empty() {
            return Ok(Self::without(if lines == 0 {
                "/proc/kallsyms is empty"
            } else {
                "the kernel hides its addresses from us (kernel.kptr_restrict, or CAP_SYSLOG is missing)"
            }));
        }
        // Stable: of several names for an address the first stays first.
        functions.sort_by_key(|(address, _)| *address);
        functions.dedup_by_key(|(address, _)| *address);
        names.shrink_to_fit();
        let (addresses, name_starts) = functions.into_iter().unzip();
        Ok(Self { addresses, name_starts, names, ..Self::default() })
    }

    /// Why there are no names, if there are none.
    #[must_use]
    pub fn hidden(&self) -> Option<&Arc<str>> {
        self.hidden.as_ref()
    }

    /// The function at `address`.
    #[must_use]
    pub fn name(&self, address: u64) -> Option<&str> {
        self.find(address).map(|index| self.name_at(index))
    }

    fn find(&self, address: u64) -> Option<usize> {
        let index = self.addresses.partition_point(|start| *start <= address).checked_sub(1)?;
        (address - self.addresses[index] < MAX_FUNCTION_BYTES).then_some(index)
    }

    fn name_at(&self, index: usize) -> &str {
        let rest = &self.names[self.name_starts[index] as usize..];
        rest.split_once('\n').map_or(rest, |(name, _)| name)
    }

    /// The names of a stack, leaf first, without the frames of the tracing that took it.
    fn functions(&self, addresses: &[u64]) -> impl Iterator<Item = Option<usize>> {
        let found =
            |index: usize, address: u64| self.find(if index == 0 { address } else { address.saturating_sub(1) });
        let named = |(index, address): (usize, &u64)| found(index, *address).map(|symbol| self.name_at(symbol));
        let skip = trim::tracing_frames(addresses.iter().enumerate().map(named));
        (skip..addresses.len())
            .filter(|index| addresses[*index] < FIRST_MARK)
            .map(move |index| found(index, addresses[index]))
    }

    /// The frames of a stack of kernel addresses, leaf first, without those of the tracing that took it. Without names:
    /// one frame `[kernel]` for all.
    pub fn frames(&mut self, addresses: &[u64]) -> Vec<Arc<Frame>> {
        let found: Vec<Option<usize>> = self.functions(addresses).collect();
        let mut frames: Vec<Arc<Frame>> = Vec::with_capacity(found.len());
        for symbol in found {
            let frame = match symbol {
                // Symbols are fewer than 2^32, see MAX_SYMBOLS.
                Some(index) => {
                    let known = self.frames.get(&(index as u32)).cloned();
                    let frame = known.unwrap_or_else(|| kernel_frame(self.name_at(index)));
                    self.frames.entry(index as u32).or_insert(frame).clone()
                }
                None => self.unknown.get_or_insert_with(|| kernel_frame("[kernel]")).clone(),
            };
            // A row of unknown ones says no more than one.
            if symbol.is_some() || frames.last().is_none_or(|last| !Arc::ptr_eq(last, &frame)) {
                frames.push(frame);
            }
        }
        frames
    }

    /// The innermost function of a stack that tells what a thread waits for: the scheduler's own are passed over.
    /// `None` without names, or when there is none but the scheduler's.
    pub fn wait_function(&mut self, addresses: &[u64]) -> Option<Arc<str>> {
        let frames = self.frames(addresses);
        let told =
            frames.iter().find(|frame| &*frame.function != "[kernel]" && !trim::is_scheduler(&frame.function))?;
        Some(told.function.clone())
    }
}

fn kernel_frame(name: &str) -> Arc<Frame> {
    Arc::new(Frame { kind: FrameKind::Kernel, function: name.into(), ..Frame::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symbols() -> KernelSymbols {
        let text = "ffffffff81000000 T do_nanosleep\n\
            ffffffff81001000 t schedule\n\
            ffffffff81001000 T schedule_alias\n\
            ffffffff81002000 T __schedule\n\
            ffffffff81003000 D some_data\n\
            ffffffffa0000000 t bpf_prog_6deef7357e7b4530_switch\t[bpf]\n\
            ffffffff81004000 T bpf_trace_run4\n\
            ffffffff81005000 W __x64_sys_clock_nanosleep\n\
            torn";
        KernelSymbols::parse(text.as_bytes()).unwrap()
    }

    fn functions(frames: &[Arc<Frame>]) -> Vec<&str> {
        frames.iter().map(|frame| &*frame.function).collect()
    }

    const SLEEP: [u64; 6] = [
        0xffff_ffff_a000_0010,
        0xffff_ffff_8100_4010,
        0xffff_ffff_8100_2010,
        0xffff_ffff_8100_1010,
        // A return address at the end of its function.
        0xffff_ffff_8100_1000,
        0xffff_ffff_8100_5010,
    ];

    #[test]
    fn names_a_switch_without_the_tracing() {
        let mut symbols = symbols();
        let expected = ["__schedule", "schedule", "do_nanosleep", "__x64_sys_clock_nanosleep"];
        assert_eq!(functions(&symbols.frames(&SLEEP)), expected);
        assert_eq!(symbols.wait_function(&SLEEP).as_deref(), Some("do_nanosleep"));
        let (first, second) = (symbols.frames(&SLEEP), symbols.frames(&SLEEP));
        assert!(first.iter().zip(&second).all(|(first, second)| Arc::ptr_eq(first, second)));
    }

    #[test]
    fn marks_and_strays_are_no_functions() {
        let mut symbols = symbols();
        let stack = [0xffff_ffff_ffff_ff80, 0xffff_ffff_8100_0010, 1, 2, 0xffff_ffff_f000_0000];
        assert_eq!(functions(&symbols.frames(&stack)), ["do_nanosleep", "[kernel]"]);
        assert!(symbols.frames(&[]).is_empty());
    }

    #[test]
    fn hidden_addresses_have_a_reason() {
        let text = "0000000000000000 T do_nanosleep\n0000000000000000 t schedule\n";
        let mut symbols = KernelSymbols::parse(text.as_bytes()).unwrap();
        assert!(symbols.hidden().unwrap().contains("kptr_restrict"));
        assert_eq!(functions(&symbols.frames(&SLEEP)), ["[kernel]"]);
        assert_eq!(symbols.wait_function(&SLEEP), None);
        let missing = KernelSymbols::load_from(Path::new("/nonexistent/kallsyms"));
        assert!(missing.hidden().unwrap().contains("/nonexistent/kallsyms"));
    }

    #[test]
    fn reads_this_kernel() {
        let symbols = KernelSymbols::load();
        if let Some(reason) = symbols.hidden() {
            eprintln!("not checked: {reason}");
            return;
        }
        let index = (0..symbols.addresses.len()).find(|index| symbols.name_at(*index) == "schedule").unwrap();
        assert_eq!(symbols.name(symbols.addresses[index] + 1), Some("schedule"));
    }
}
