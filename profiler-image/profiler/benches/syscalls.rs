//! What the recording of system calls costs a program that does nothing else: calls a second unrecorded, beside a recorded program,
//! and recorded, in turns. Needs root.
//!
//! ```text
//! cargo bench -p aiprof-profiler --bench syscalls
//! ```

use std::{
    hint::black_box,
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    time::{Duration, Instant},
};

use aiprof_capture::request::DEFAULT_SYSCALL_MIN_NS;
use aiprof_profiler::kernel::programs::{self, Programs};
use syscalls::Sysno;

/// How long each loop runs in each turn.
const SPELL: Duration = Duration::from_millis(200);
const TURNS: usize = 7;

/// What is done over and over.
type Loop<'a> = Box<dyn Fn() + 'a>;

/// Who is recorded.
#[derive(Clone, Copy)]
enum Recorded {
    Nobody,
    Others,
    This,
}

/// One system call that neither waits nor fails but for the futex, whose value is never the expected one.
fn call(number: Sysno, arguments: [usize; 3]) {
    // SAFETY: the loops below pass descriptors of their own and buffers that outlive the call.
    black_box(unsafe { libc::syscall(number as i64, arguments[0], arguments[1], arguments[2], 0) });
}

/// Nanoseconds of one call.
fn measure(loop_of: &dyn Fn()) -> f64 {
    let start = Instant::now();
    let mut calls = 0_u64;
    while start.elapsed() < SPELL {
        for _ in 0..1000 {
            loop_of();
        }
        calls += 1000;
    }
    start.elapsed().as_nanos() as f64 / calls as f64
}

fn recording(who: Recorded) -> Option<Programs> {
    if matches!(who, Recorded::Nobody) {
        return None;
    }
    let namespace = std::fs::metadata("/proc/self/ns/pid").expect("procfs").ino() as u32;
    let mut settings = programs::settings(namespace).expect("settings");
    programs::want_syscalls(&mut settings, DEFAULT_SYSCALL_MIN_NS);
    let mut programs = Programs::load(&settings).expect("programs that load");
    if matches!(who, Recorded::This) {
        programs.add_target(std::process::id()).expect("a target");
    }
    programs.attach(99).expect("programs that attach");
    programs.attach_syscalls().expect("programs that attach");
    Some(programs)
}

fn main() {
    let zero = std::fs::File::open("/dev/zero").expect("/dev/zero");
    let null = std::fs::File::options().write(true).open("/dev/null").expect("/dev/null");
    let (zero, null) = (zero.as_raw_fd() as usize, null.as_raw_fd() as usize);
    let page = vec![0_u8; 4096];
    let word = 0_u32;
    let buffer = page.as_ptr().addr();
    let address = (&raw const word).addr();
    let loops: [(&str, Loop<'_>); 5] = [
        ("getpid", Box::new(|| call(Sysno::getpid, [0; 3]))),
        ("read 4 KiB of /dev/zero", Box::new(|| call(Sysno::read, [zero, buffer, 4096]))),
        ("write to /dev/null", Box::new(|| call(Sysno::write, [null, buffer, 4096]))),
        ("futex that fails", Box::new(|| call(Sysno::futex, [address, libc::FUTEX_WAIT as usize, 1]))),
        (
            "all four",
            Box::new(|| {
                call(Sysno::getpid, [0; 3]);
                call(Sysno::read, [zero, buffer, 4096]);
                call(Sysno::write, [null, buffer, 4096]);
                call(Sysno::futex, [address, libc::FUTEX_WAIT as usize, 1]);
            }),
        ),
    ];
    let mut best = [[f64::INFINITY; 3]; 5];
    for _ in 0..TURNS {
        for (column, who) in [Recorded::Nobody, Recorded::Others, Recorded::This].into_iter().enumerate() {
            let recording = recording(who);
            for ((_, loop_of), best) in loops.iter().zip(&mut best) {
                best[column] = best[column].min(measure(loop_of));
            }
            drop(recording);
        }
    }
    println!("{:<26} {:>10} {:>10} {:>10} {:>6}", "nanoseconds", "unrecorded", "others", "recorded", "ratio");
    for ((name, _), [nobody, others, this]) in loops.iter().zip(best) {
        println!("{name:<26} {nobody:>10.0} {others:>10.0} {this:>10.0} {:>6.2}", nobody / this);
    }
}
