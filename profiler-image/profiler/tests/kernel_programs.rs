//! The in-kernel programs in the kernel that runs this: they load, and tell of this process and of no other.
//!
//! Needs root. Without it the test says that it was left out, and with `CI=true` it fails.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use aiprof_ebpf_types::{
    MAX_STACK_BYTES, Settings, StackTrigger, SyscallKey, SyscallRecord, ThreadEvent, ThreadEventKind,
};
use aiprof_profiler::{
    kernel::{
        programs::{self, Programs, kernel_offsets},
        rings,
    },
    privilege,
};
use aya::maps::{MapData, RingBuf};
use syscalls::Sysno;

/// Whether this process may load programs.
fn may_load() -> bool {
    let missing = privilege::missing();
    if missing.is_empty() {
        return true;
    }
    let why = format!("the in-kernel programs need {}", missing.join(", "));
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{why}, and in CI they must be tested");
    eprintln!("left out: {why}");
    false
}

/// Has this process call a system call of the C library by number, as nothing else of it does.
fn call(number: Sysno, argument: i64) -> i64 {
    // SAFETY: the calls that the tests make take no pointer.
    unsafe { libc::syscall(number as i64, argument) }
}

/// Does the work in a thread of its own, whose calls are no other's.
fn in_own_thread<T: Send>(work: impl FnOnce() -> T + Send) -> (u32, T) {
    thread::scope(|scope| scope.spawn(|| (own_tid(), work())).join().expect("a thread that ends"))
}

/// Of one kind.
const CALLS: u64 = 20_000;

#[test]
fn all_calls_are_in_the_sums_and_long_ones_are_told_by_themselves() {
    if !may_load() {
        return;
    }
    let mut settings = settings(1000);
    programs::want_syscalls(&mut settings, 20_000_000);
    let mut programs = Programs::load(&settings).expect("programs that load");
    let (mut stacks, _) = programs.rings().expect("rings");
    let mut ring = programs.syscall_ring().expect("a ring");
    programs.add_target(std::process::id()).expect("a target");
    programs.attach(50).expect("programs that attach");
    programs.attach_syscalls().expect("programs of system calls that attach");

    let (tid, ()) = in_own_thread(|| {
        for _ in 0..CALLS {
            call(Sysno::getppid, 0);
        }
        for _ in 0..CALLS / 10 {
            assert_eq!(call(Sysno::close, -1), -1);
        }
        thread::sleep(Duration::from_millis(50));
    });
    end(&mut programs);

    let read = programs.syscall_sums().unwrap();
    let sum = |number: Sysno| {
        let found = read.sums.iter().find(|(key, _)| (key.tid, key.number) == (tid, number as u32));
        found.unwrap_or_else(|| panic!("no sum of {number}")).1
    };
    let calls = sum(Sysno::getppid);
    assert_eq!((calls.count, calls.errors, calls.pid), (CALLS, 0, std::process::id()));
    assert_eq!(calls.histogram.iter().sum::<u64>(), CALLS);
    assert!(calls.total_ns > 0 && calls.max_ns * CALLS >= calls.total_ns);
    let failed = sum(Sysno::close);
    assert_eq!((failed.count, failed.errors), (CALLS / 10, CALLS / 10));
    let key = SyscallKey { tid, number: Sysno::close as u32 };
    let errors: Vec<(u32, u64)> =
        read.errors.iter().filter(|(error, _)| error.call == key).map(|(error, count)| (error.errno, *count)).collect();
    assert_eq!(errors, [(libc::EBADF as u32, CALLS / 10)]);

    let records =
        std::iter::from_fn(|| ring.next().map(|bytes| rings::syscall_record(&bytes).expect("a whole record")));
    let long: Vec<SyscallRecord> = records.filter(|record| record.tid == tid && record.start_ns != 0).collect();
    let [slept] = &long[..] else { panic!("{long:?}") };
    assert_eq!((slept.number, slept.result), (Sysno::clock_nanosleep as u32, 0));
    assert!(slept.end_ns - slept.start_ns >= 50_000_000);
    assert_eq!(sum(Sysno::clock_nanosleep).total_ns, slept.end_ns - slept.start_ns);
    // Its stack was taken when it fell asleep, and not once more.
    let mut taken = Vec::new();
    while let Some(bytes) = stacks.next() {
        let record = rings::stack_record(&bytes).expect("a whole record");
        if record.header.tid == tid && (slept.start_ns..=slept.end_ns).contains(&record.header.timestamp_ns) {
            taken.push(record.trigger);
        }
    }
    assert_eq!(taken, [StackTrigger::SwitchOut]);
    let counters = programs.counters().unwrap();
    assert_eq!((counters.syscalls_uncounted, counters.syscall_records_lost), (0, 0));
}

fn settings(switch_stacks_per_second: u32) -> Settings {
    Settings {
        offsets: kernel_offsets().expect("type data"),
        pid_namespace: fs::metadata("/proc/self/ns/pid").expect("procfs").ino() as u32,
        switch_stacks_per_second,
        sample_stack_bytes: MAX_STACK_BYTES as u32,
        switch_stack_bytes: 4096,
        syscall_records_per_second: 0,
        syscall_min_ns: 0,
    }
}

type Ring = RingBuf<MapData>;

/// Loaded programs and their rings of stacks and thread events; attached, with this process as their target if it is to be.
fn attached(switch_stacks_per_second: u32, frequency_hz: u32, is_target: bool) -> (Programs, Ring, Ring) {
    let mut programs = Programs::load(&settings(switch_stacks_per_second)).expect("programs that load");
    let (stacks, threads) = programs.rings().expect("rings");
    if is_target {
        programs.add_target(std::process::id()).expect("a target");
    }
    programs.attach(frequency_hz).expect("programs that attach");
    (programs, stacks, threads)
}

/// Ends the recording; nothing is written to the rings any more.
fn end(programs: &mut Programs) {
    programs.detach();
    thread::sleep(Duration::from_millis(20));
}

/// All thread events that are in the ring.
fn events(ring: &mut Ring) -> Vec<(ThreadEventKind, ThreadEvent)> {
    std::iter::from_fn(|| ring.next().map(|bytes| rings::thread_event(&bytes).expect("a whole record"))).collect()
}

fn busy(duration: Duration) {
    let until = Instant::now() + duration;
    while Instant::now() < until {
        std::hint::spin_loop();
    }
}

fn own_tid() -> u32 {
    nix::unistd::gettid().as_raw() as u32
}

/// Threads and triggers of the stacks that are in the ring; all are of this process, with user stack and registers.
fn stacks(ring: &mut Ring) -> Vec<(u32, StackTrigger)> {
    let mut stacks = Vec::new();
    while let Some(bytes) = ring.next() {
        let record = rings::stack_record(&bytes).expect("a whole record");
        assert_eq!(record.header.pid, std::process::id());
        assert!(!record.stack.is_empty() && record.stack.len() <= MAX_STACK_BYTES);
        assert!(record.header.registers.ip != 0 && record.header.registers.sp != 0);
        if record.trigger == StackTrigger::SwitchOut {
            assert!(record.stack.len() <= 4096 && !record.kernel.is_empty());
        }
        stacks.push((record.header.tid, record.trigger));
    }
    stacks
}

#[test]
fn this_process_is_seen_and_no_other() {
    if !may_load() {
        return;
    }
    let (mut programs, mut stack_ring, mut thread_ring) = attached(1000, 200, true);

    let found = programs.snapshot().unwrap();
    assert!(found.iter().all(|thread| thread.pid == std::process::id()));
    assert!(found.iter().any(|thread| thread.tid == own_tid()));

    let worker = thread::spawn(|| {
        busy(Duration::from_millis(400));
        thread::sleep(Duration::from_millis(50));
        own_tid()
    });
    // Another program runs meanwhile, as a child that is a target by its parent, and ends.
    assert!(Command::new("true").status().unwrap().success());
    let tid = worker.join().unwrap();
    end(&mut programs);

    let mut kinds = Vec::new();
    let mut pids = Vec::new();
    for (kind, event) in events(&mut thread_ring) {
        kinds.push((kind, event.tid, event.other_tid));
        pids.push(event.pid);
    }
    let seen = |wanted: ThreadEventKind, of: u32| kinds.iter().any(|(kind, tid, _)| *kind == wanted && *tid == of);
    assert!(kinds.iter().any(|(kind, _, other)| *kind == ThreadEventKind::Fork && *other == tid));
    for kind in [ThreadEventKind::SwitchIn, ThreadEventKind::SwitchOut, ThreadEventKind::Exit] {
        assert!(seen(kind, tid), "{kind:?} of the new thread");
    }
    assert!(kinds.iter().any(|(kind, ..)| *kind == ThreadEventKind::Exec), "the child's program");
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 2, "this process and its child: {pids:?}");

    // The child's own stacks are of another process.
    let (mut samples, mut switches) = (0, 0);
    while let Some(bytes) = stack_ring.next() {
        let record = rings::stack_record(&bytes).expect("a whole record");
        assert!(pids.contains(&record.header.pid));
        samples += u64::from(record.header.tid == tid && record.trigger == StackTrigger::Sample);
        switches += u64::from(record.header.tid == tid && record.trigger == StackTrigger::SwitchOut);
    }
    // 200 Hz for as long as it had a CPU, which it may have shared.
    assert!((10..=90).contains(&samples), "{samples} samples of 400 ms");
    assert!(switches >= 1, "the wait has no stack");
    let counters = programs.counters().unwrap();
    assert_eq!((counters.stacks_lost, counters.thread_events_lost), (0, 0));
    assert!(counters.samples >= samples && counters.samples_ns > 0 && counters.switches_ns > 0);
}

#[test]
fn stacks_at_switches_are_thinned_and_counted() {
    if !may_load() {
        return;
    }
    let (mut programs, mut stack_ring, mut thread_ring) = attached(20, 50, true);
    for _ in 0..1000 {
        thread::sleep(Duration::from_micros(200));
    }
    end(&mut programs);

    let taken =
        stacks(&mut stack_ring).iter().filter(|(_, trigger)| *trigger == StackTrigger::SwitchOut).count() as u64;
    let is_own_out =
        |(kind, event): &(ThreadEventKind, ThreadEvent)| *kind == ThreadEventKind::SwitchOut && event.tid == own_tid();
    let outs = events(&mut thread_ring).iter().filter(|each| is_own_out(each)).count();
    let counters = programs.counters().unwrap();
    assert!(outs >= 1000, "states are never thinned: {outs} switches");
    assert_eq!(counters.switch_stacks, taken);
    assert!(counters.switch_stacks_thinned > counters.switch_stacks, "{counters:?}");
}

#[test]
fn nothing_is_seen_without_a_target() {
    if !may_load() {
        return;
    }
    let (mut programs, mut stack_ring, mut thread_ring) = attached(1000, 200, false);
    busy(Duration::from_millis(100));
    thread::sleep(Duration::from_millis(10));
    assert!(programs.snapshot().unwrap().is_empty());
    programs.detach();
    assert!(thread_ring.next().is_none());
    assert_eq!(stacks(&mut stack_ring), []);
    assert_eq!(programs.counters().unwrap().samples, 0);
}
