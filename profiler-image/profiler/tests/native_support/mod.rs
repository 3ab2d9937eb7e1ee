//! Real processes to unwind: children that are stopped where they wait, what is copied of them, and gdb's view of them.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    reason = "shared by tests and benchmarks, of which each uses its part"
)]

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use aiprof_ebpf_types::UserRegisters;

/// A child that is killed when dropped.
pub struct Target {
    child: Child,
    output: BufReader<ChildStdout>,
    input: ChildStdin,
}

/// What the kernel side would have copied.
pub struct Snapshot {
    pub registers: UserRegisters,
    pub stack: Vec<u8>,
}

impl Target {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the target starts");
        let output = BufReader::new(child.stdout.take().unwrap());
        let input = child.stdin.take().unwrap();
        Self { child, output, input }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the target has printed a line and then sleeps.
    pub fn wait_until_parked(&mut self) {
        let mut line = String::new();
        assert!(self.output.read_line(&mut line).unwrap() > 0, "the target ended");
        let start = Instant::now();
        loop {
            let state = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
            if state.rsplit_once(") ").unwrap().1.starts_with('S') {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "the target does not come to rest: {state}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Lets the target go on to its next step.
    pub fn go_on(&mut self) {
        self.input.write_all(b"\n").unwrap();
    }

    pub fn maps(&self) -> Vec<u8> {
        fs::read(format!("/proc/{}/maps", self.pid())).unwrap()
    }

    /// Registers and up to `bytes` of stack of the main thread, taken while it is stopped.
    pub fn snapshot(&self, bytes: usize) -> Snapshot {
        let pid = self.pid() as libc::pid_t;
        let null = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: plain system calls on a child of ours; `registers` is written by the kernel in full.
        let registers = unsafe {
            assert_eq!(libc::ptrace(libc::PTRACE_ATTACH, pid, null, null), 0, "{}", std::io::Error::last_os_error());
            let mut status = 0;
            assert_eq!(libc::waitpid(pid, &raw mut status, libc::__WALL), pid);
            let registers = read_registers(pid);
            assert_eq!(libc::ptrace(libc::PTRACE_DETACH, pid, null, null), 0);
            registers
        };
        let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
        let mut stack = vec![0; bytes];
        let mut done = 0;
        // Up to the end of the mapping.
        while done < bytes {
            let piece = (bytes - done).min(4096 - ((registers.sp as usize + done) & 4095));
            match memory.read_at(&mut stack[done..done + piece], registers.sp + done as u64) {
                Ok(count) if count > 0 => done += count,
                _ => break,
            }
        }
        stack.truncate(done);
        Snapshot { registers, stack }
    }

    /// gdb's backtrace of the main thread, leaf first: address and the name of the symbol there (empty without one).
    /// Inlined frames, which have no return address, are left out.
    pub fn gdb(&self) -> Vec<(u64, String)> {
        const SCRIPT: &str = "
import gdb
frame = gdb.newest_frame()
while frame is not None:
    if frame.type() != gdb.INLINE_FRAME:
        symbol = gdb.execute('info symbol %d' % (frame.pc() - (1 if frame.newer() else 0)), to_string=True)
        name = '' if symbol.startswith('No symbol') else symbol.split(' in section')[0].split(' + ')[0].strip()
        print('FRAME %d %s' % (frame.pc(), name))
    frame = frame.older()
";
        let mut script = tempfile::NamedTempFile::with_suffix(".py").unwrap();
        script.write_all(SCRIPT.as_bytes()).unwrap();
        let output = Command::new("gdb")
            .args(["--batch", "-nx", "-iex", "set debuginfod enabled off", "-ex", "set backtrace past-main on"])
            .args(["-p", &self.pid().to_string(), "-x"])
            .arg(script.path())
            .output()
            .expect("gdb is installed");
        let text = String::from_utf8_lossy(&output.stdout);
        let frames: Vec<_> = text
            .lines()
            .filter_map(|line| {
                let (address, name) = line.strip_prefix("FRAME ")?.split_once(' ')?;
                Some((address.parse().unwrap(), name.to_owned()))
            })
            .collect();
        assert!(!frames.is_empty(), "gdb said: {text}{}", String::from_utf8_lossy(&output.stderr));
        frames
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// # Safety
/// `pid` must be a tracee of ours that is stopped.
#[cfg(target_arch = "x86_64")]
unsafe fn read_registers(pid: libc::pid_t) -> UserRegisters {
    let mut registers = std::mem::MaybeUninit::<libc::user_regs_struct>::zeroed();
    let null = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: the kernel fills the structure, whose every bit pattern is valid.
    let registers = unsafe {
        assert_eq!(libc::ptrace(libc::PTRACE_GETREGS, pid, null, registers.as_mut_ptr()), 0);
        registers.assume_init()
    };
    UserRegisters { ip: registers.rip, sp: registers.rsp, fp: registers.rbp, lr: 0 }
}

/// # Safety
/// `pid` must be a tracee of ours that is stopped.
#[cfg(target_arch = "aarch64")]
unsafe fn read_registers(pid: libc::pid_t) -> UserRegisters {
    const NT_PRSTATUS: usize = 1;
    let mut registers = [0_u64; 34];
    let mut place = libc::iovec { iov_base: registers.as_mut_ptr().cast(), iov_len: std::mem::size_of_val(&registers) };
    // SAFETY: the kernel writes at most `iov_len` bytes, which `registers` has.
    let result = unsafe { libc::ptrace(libc::PTRACE_GETREGSET, pid, NT_PRSTATUS, &raw mut place) };
    assert_eq!(result, 0);
    UserRegisters { ip: registers[32], sp: registers[31], fp: registers[29], lr: registers[30] }
}

/// Compiles C as distributions do: optimised, without frame pointers.
pub fn compile(folder: &Path, name: &str, source: &str, flags: &[&str]) -> PathBuf {
    let (input, output) = (folder.join(format!("{name}.c")), folder.join(name));
    fs::write(&input, source).unwrap();
    let result = Command::new("gcc")
        .args(["-O2", "-fomit-frame-pointer", "-fno-optimize-sibling-calls", "-o"])
        .arg(&output)
        .arg(&input)
        .args(flags)
        .output()
        .expect("gcc is installed");
    assert!(result.status.success(), "{}", String::from_utf8_lossy(&result.stderr));
    output
}

/// A CPython of pyenv's, if there is one of that version.
pub fn python(version: &str) -> Option<PathBuf> {
    let versions = PathBuf::from(std::env::var_os("HOME")?).join(".pyenv/versions");
    let folder = fs::read_dir(versions)
        .ok()?
        .flatten()
        .find(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(&format!("{version}."))))?;
    Some(folder.path().join(format!("bin/python{version}")))
}

/// A program that parks ten Python calls deep, through calls from C into Python and back.
pub const DEEP_PYTHON: &str = "
import sys, time
class Meter:
    def __call__(self, value): return self.read(value)
    def read(self, value): return by_sort(value)
def park(value):
    print('parked', flush=True)
    sys.stdin.readline()
    time.sleep(1000)
def by_sort(value): return sorted([value], key=lambda item: down(item, 3))
def down(value, depth): return park(value) if depth == 0 else down(value, depth - 1)
def main(): return list(map(Meter(), [1]))
main()
";
