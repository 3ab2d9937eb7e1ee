use aiprof_ebpf_types::*;
use aiprof_profiler::kernel::{programs::*, rings::*};
fn main() {
    let pid: u32 = std::env::args().nth(1).unwrap().parse().unwrap();
    let offsets = kernel_offsets().unwrap();
    println!("{offsets:?}");
    let ino = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata("/proc/self/ns/pid").unwrap());
    let s = Settings { offsets, pid_namespace: ino as u32, switch_stacks_per_second: 1000, sample_stack_bytes: 16384, switch_stack_bytes: 8192 };
    let mut p = match Programs::load(&s) { Ok(p) => p, Err(e) => { println!("{e}"); return } };
    let (mut stacks, mut threads) = p.rings().unwrap();
    p.add_target(pid).unwrap();
    p.attach(99).unwrap();
    println!("{:?}", p.snapshot());
    std::thread::sleep(std::time::Duration::from_secs(2));
    println!("{:?}", p.counters());
    let mut n = 0;
    while let Some(r) = stacks.next() { let r = stack_record(&r).unwrap(); n += 1; if n < 4 { println!("{:?} {:?} {:x?} {}", r.header, r.python_status, r.kernel, r.stack.len()); } }
    let mut m = 0;
    while let Some(r) = threads.next() { let r = thread_event(&r).unwrap(); m += 1; if m < 6 { println!("{r:?}"); } }
    println!("{n} {m}");
}
