//! ELF files that cannot be read, are broken on purpose, or are large.

use std::{collections::HashMap, fs, io, process::Command};

use aiprof_ebpf_types::UserRegisters;
use aiprof_profiler::{
    maps::Mapping,
    native::{KernelSymbols, MAX_FRAMES, ProcessAccess, ProcessChange, Stacks},
};

/// A process whose files are what a test says.
struct Made(HashMap<u64, Vec<u8>>);

impl ProcessAccess for Made {
    fn open(&self, _pid: u32, mapping: &Mapping) -> io::Result<fs::File> {
        let content = self.0.get(&mapping.inode).ok_or(io::ErrorKind::PermissionDenied)?;
        let mut file = tempfile::tempfile()?;
        io::Write::write_all(&mut file, content)?;
        Ok(file)
    }

    fn read_memory(&self, _pid: u32, _address: u64, _buffer: &mut [u8]) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

/// A small generator of numbers (xorshift64*), so that a failure can be had again.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

#[test]
fn unreadable_files_are_known_by_path() {
    let mut stacks = Stacks::with(Box::new(Made(HashMap::new())), KernelSymbols::default());
    let maps = b"7f0000001000-7f0000002000 r-xp 00001000 08:01 7 /opt/libfoo.so\n7f0000003000-7f0000004000 r-xp 00000000 00:00 0 \n";
    stacks.process_changed(1, ProcessChange::Maps(maps));
    let mut ask = |ip| stacks.native(1, &UserRegisters { ip, ..UserRegisters::default() }, &[]).frames[0].clone();
    let frame = ask(0x7f00_0000_1234);
    assert_eq!((&*frame.function, &*frame.file, frame.address), ("libfoo.so+0x1234", "/opt/libfoo.so", 0x1234));
    assert_eq!(&*ask(0x7f00_0000_3010).function, "[anonymous code]");
    assert_eq!(&*ask(0x10).function, "[unknown]");
}

#[test]
fn garbage_neither_panics_nor_loops() {
    let libc = fs::read_to_string("/proc/self/maps").unwrap();
    let libc = libc
        .lines()
        .find_map(|line| line.split_ascii_whitespace().last().filter(|path| path.contains("libc.so")))
        .unwrap();
    let libc = fs::read(libc).unwrap();
    let mut numbers = Numbers(0x1234_5678_9abc_def1);
    for round in 0..60 {
        // The first rounds: garbage stacks over a sound file; then broken files.
        let mut file = libc.clone();
        if round >= 20 {
            for _ in 0..1 << numbers.below(14) {
                let end = if numbers.below(2) == 0 { 4096 } else { file.len() as u64 };
                let place = numbers.below(end) as usize;
                file[place] = numbers.next() as u8;
            }
            // Headers point at it, so it decides most.
            let place = 0x18 + numbers.below(0x40 - 0x18) as usize;
            file[place] ^= 1 << numbers.below(8);
        }
        if round >= 40 {
            file.truncate(numbers.below(file.len() as u64) as usize);
        }
        let mut stacks = Stacks::with(Box::new(Made(HashMap::from([(7, file)]))), KernelSymbols::default());
        let maps = b"7f0000000000-7f0000200000 r-xp 00000000 08:01 7 /opt/libc.so\n7f0000300000-7f0000400000 rwxp 00000000 00:00 0 \n";
        stacks.process_changed(1, ProcessChange::Maps(maps));
        for _ in 0..300 {
            let mut word = || match numbers.below(4) {
                0 => 0x7f00_0000_0000 + numbers.below(0x40_0000),
                1 => 0x7ffe_0000_0000 + numbers.below(0x4000),
                2 => numbers.next(),
                _ => numbers.below(16),
            };
            let registers = UserRegisters { ip: word(), sp: word(), fp: word(), lr: word() };
            let stack: Vec<u8> = (0..word() % 2048).flat_map(|_| word().to_le_bytes()).collect();
            let stack = stacks.native(1, &registers, &stack);
            assert!((1..=MAX_FRAMES).contains(&stack.frames.len()));
            assert!(stack.frames.iter().all(|frame| !frame.function.is_empty()));
        }
    }
}

#[test]
fn a_large_library_takes_little_memory() {
    let Some((library, address, name)) = large_library() else {
        eprintln!("not checked: rustc's driver library is not there");
        return;
    };
    let text = format!("7f0000000000-7f0020000000 r-xp 00000000 08:01 7 {}\n", library.display());
    let mut stacks = Stacks::with(Box::new(OneFile(library)), KernelSymbols::default());
    stacks.process_changed(1, ProcessChange::Maps(text.as_bytes()));
    let before = resident_bytes();
    let registers = UserRegisters { ip: 0x7f00_0000_0000 + address, ..UserRegisters::default() };
    let stack = stacks.native(1, &registers, &[]);
    assert!(!stack.frames[0].function.contains("+0x"), "{name} at {address:#x}: {}", stack.frames[0].function);
    let grown = resident_bytes().saturating_sub(before);
    eprintln!("{} kB more resident", grown >> 10);
    // 165,000 symbols at 12 bytes, and what the unwinder touched of 6 MB of tables. Other tests run beside this one.
    assert!(grown < 16 << 20, "{grown} bytes");
}

struct OneFile(std::path::PathBuf);

impl ProcessAccess for OneFile {
    fn open(&self, _pid: u32, _mapping: &Mapping) -> io::Result<fs::File> {
        fs::File::open(&self.0)
    }

    fn read_memory(&self, _pid: u32, _address: u64, _buffer: &mut [u8]) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

/// The largest library at hand, with the address and the name of one of its functions.
fn large_library() -> Option<(std::path::PathBuf, u64, String)> {
    let output = Command::new("rustc").args(["--print", "sysroot"]).output().ok()?;
    let folder = std::path::Path::new(std::str::from_utf8(&output.stdout).ok()?.trim()).join("lib");
    let library = fs::read_dir(folder)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("librustc_driver")))?;
    let symbols = Command::new("nm").args(["-D", "--defined-only"]).arg(&library).output().ok()?;
    let text = String::from_utf8(symbols.stdout).ok()?;
    let function = text.lines().find_map(|line| {
        let (address, name) = line.split_once(" T ")?;
        Some((u64::from_str_radix(address, 16).ok()?, name.to_owned()))
    });
    function.map(|(address, name)| (library, address, name))
}

fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/statm").expect("procfs");
    let pages = status.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.expect("a number") * 4096
}
