//! The kernel's sums of system calls, read again and again, as what was added in between.
//!
//! Takes what the maps hold and gives events; touches no map.

use std::collections::{BTreeMap, HashMap, HashSet};

use aiprof_capture::event::{Event, SyscallRate, SyscallSum as SumEvent};
use aiprof_ebpf_types::{HISTOGRAM_CELLS, HISTOGRAM_FIRST_BITS, SyscallErrorKey, SyscallKey, SyscallSum};

use super::{errno_name, name};
use crate::kernel::programs::SyscallSums;

/// What is known of all sums.
#[derive(Debug, Default)]
pub struct SumTable {
    read_ns: u64,
    known: HashMap<SyscallKey, Known>,
    /// Failures before the window.
    errors_before: HashMap<SyscallErrorKey, u64>,
    /// Threads that have ended since the last reading.
    ended: HashSet<u32>,
    /// Processes that made calls in the last interval.
    active: HashSet<u32>,
    /// Calls in all sums so far.
    pub calls: u64,
}

#[derive(Debug, Default)]
struct Known {
    count: u64,
    errors: u64,
    total_ns: u64,
    /// Before the window; none if there was nothing.
    before: Option<Box<SyscallSum>>,
}

impl SumTable {
    /// The window opens: what was counted before is left out.
    pub fn open(&mut self, at_ns: u64, read: SyscallSums) {
        self.read_ns = at_ns;
        self.errors_before = read.errors.into_iter().collect();
        for (key, sum) in read.sums {
            let SyscallSum { count, errors, total_ns, .. } = sum;
            self.known.insert(key, Known { count, errors, total_ns, before: Some(Box::new(sum)) });
        }
    }

    /// A thread has ended: its sums grow no more.
    pub fn ended(&mut self, tid: u32) {
        self.ended.insert(tid);
    }

    /// Tells what was added until `at_ns`, and of ended threads, or of all if this is the last time, how their calls spread. Returns
    /// the sums that are told for good.
    pub fn update(&mut self, at_ns: u64, read: &SyscallSums, last: bool, out: &mut Vec<Event>) -> Vec<SyscallKey> {
        let ended = std::mem::take(&mut self.ended);
        let mut by_process: BTreeMap<u32, u64> = self.active.drain().map(|pid| (pid, 0)).collect();
        let mut finished = Vec::new();
        for (key, sum) in &read.sums {
            let known = self.known.entry(*key).or_default();
            let final_ = last || ended.contains(&key.tid);
            let count = sum.count.saturating_sub(known.count);
            let before = known.before.as_deref();
            let any_at_all = sum.count > before.map_or(0, |before| before.count);
            if count > 0 || (final_ && any_at_all) {
                let mut event = SumEvent {
                    timestamp_ns: at_ns,
                    pid: sum.pid,
                    tid: key.tid,
                    name: name(key.number),
                    count,
                    errors: sum.errors.saturating_sub(known.errors),
                    total_ns: sum.total_ns.saturating_sub(known.total_ns),
                    max_ns: sum.max_ns,
                    ..SumEvent::default()
                };
                if final_ {
                    event.histogram = histogram(sum, before);
                    event.errnos = self.errnos(*key, &read.errors);
                }
                out.push(Event::SyscallSum(event));
            }
            self.calls += count;
            *by_process.entry(sum.pid).or_default() += count;
            if ended.contains(&key.tid) {
                self.known.remove(key);
                finished.push(*key);
            } else if let Some(known) = self.known.get_mut(key) {
                (known.count, known.errors, known.total_ns) = (sum.count, sum.errors, sum.total_ns);
            }
        }
        self.rates(at_ns, by_process, out);
        finished
    }

    /// Failures of one sum within the window.
    fn errnos(&self, key: SyscallKey, errors: &[(SyscallErrorKey, u64)]) -> Vec<(std::sync::Arc<str>, u64)> {
        let of_key = errors.iter().filter(|(error, _)| error.call == key);
        let within = of_key.filter_map(|(error, count)| {
            let before = self.errors_before.get(error).copied().unwrap_or_default();
            Some((error.errno, count.checked_sub(before).filter(|count| *count > 0)?))
        });
        let sorted: BTreeMap<u32, u64> = within.collect();
        sorted.into_iter().map(|(errno, count)| (errno_name(errno), count)).collect()
    }

    fn rates(&mut self, at_ns: u64, by_process: BTreeMap<u32, u64>, out: &mut Vec<Event>) {
        let interval_ns = at_ns.saturating_sub(self.read_ns);
        if interval_ns > 0 {
            for (pid, count) in by_process {
                let per_second = count as f64 * 1e9 / interval_ns as f64;
                out.push(Event::SyscallRate(SyscallRate { timestamp_ns: self.read_ns, pid, per_second }));
                if count > 0 {
                    self.active.insert(pid);
                }
            }
        }
        self.read_ns = at_ns;
    }
}

/// The filled cells, by the time that their calls stay below.
fn histogram(sum: &SyscallSum, before: Option<&SyscallSum>) -> Vec<(u64, u64)> {
    let cells = (0..HISTOGRAM_CELLS).map(|cell| {
        let count = sum.histogram[cell].saturating_sub(before.map_or(0, |before| before.histogram[cell]));
        (1 << (HISTOGRAM_FIRST_BITS + cell as u32), count)
    });
    cells.filter(|(_, count)| *count > 0).collect()
}

#[cfg(test)]
mod tests {
    use aiprof_ebpf_types::histogram_cell;
    use syscalls::Sysno;

    use super::*;

    fn key(tid: u32, call: Sysno) -> SyscallKey {
        SyscallKey { tid, number: call as u32 }
    }

    fn sum(count: u64, errors: u64, each_ns: u64) -> SyscallSum {
        let mut sum =
            SyscallSum { pid: 7, count, errors, total_ns: count * each_ns, max_ns: each_ns, ..SyscallSum::default() };
        sum.histogram[histogram_cell(each_ns)] = count;
        sum
    }

    fn read(sums: &[(SyscallKey, SyscallSum)], errors: &[(SyscallKey, u32, u64)]) -> SyscallSums {
        let errors = errors
            .iter()
            .map(|(call, errno, count)| (SyscallErrorKey { call: *call, errno: *errno, padding: 0 }, *count));
        SyscallSums { sums: sums.to_vec(), errors: errors.collect() }
    }

    fn sums(events: &[Event]) -> Vec<&SumEvent> {
        events.iter().filter_map(|event| if let Event::SyscallSum(sum) = event { Some(sum) } else { None }).collect()
    }

    fn rates(events: &[Event]) -> Vec<(u64, f64)> {
        let rate = |event: &Event| match event {
            Event::SyscallRate(rate) => Some((rate.timestamp_ns, rate.per_second)),
            _ => None,
        };
        events.iter().filter_map(rate).collect()
    }

    #[test]
    fn what_is_told_adds_up_to_what_was_counted_within_the_window() {
        let (call, second) = (key(8, Sysno::read), 1_000_000_000);
        let mut table = SumTable::default();
        table.open(second, read(&[(call, sum(10, 4, 100))], &[(call, 11, 4)]));
        let mut events = Vec::new();
        table.update(2 * second, &read(&[(call, sum(110, 5, 100))], &[(call, 11, 5)]), false, &mut events);
        table.update(3 * second, &read(&[(call, sum(110, 5, 100))], &[(call, 11, 5)]), false, &mut events);
        assert!(sums(&events)[0].histogram.is_empty());
        let errors = [(call, 11, 5), (call, 4, 2)];
        table.update(4 * second, &read(&[(call, sum(160, 7, 100))], &errors), true, &mut events);
        let told = sums(&events);
        assert_eq!(told.iter().map(|sum| (sum.count, sum.errors)).collect::<Vec<_>>(), [(100, 1), (50, 2)]);
        assert_eq!(told.iter().map(|sum| sum.total_ns).sum::<u64>(), 15_000);
        assert_eq!(told[1].histogram, [(128, 150)]);
        assert_eq!(told[1].errnos, [("EINTR".into(), 2), ("EAGAIN".into(), 1)]);
        assert_eq!(table.calls, 150);
        // A rate stands at the start of its interval, and a last one says that it is over.
        assert_eq!(rates(&events), [(second, 100.0), (2 * second, 0.0), (3 * second, 50.0)]);
    }

    #[test]
    fn a_thread_that_has_ended_is_told_for_good_and_its_number_may_come_again() {
        let call = key(8, Sysno::futex);
        let mut table = SumTable::default();
        table.open(1, SyscallSums::default());
        let mut events = Vec::new();
        assert!(table.update(2, &read(&[(call, sum(5, 0, 1 << 20))], &[]), false, &mut events).is_empty());
        table.ended(8);
        let finished = table.update(3, &read(&[(call, sum(6, 0, 1 << 20))], &[]), false, &mut events);
        assert_eq!(finished, [call]);
        assert_eq!(sums(&events).last().unwrap().histogram, [(1 << 21, 6)]);
        table.update(4, &read(&[(call, sum(2, 0, 1 << 50))], &[]), true, &mut events);
        let last = *sums(&events).last().unwrap();
        assert_eq!((last.count, &last.histogram[..]), (2, &[(1 << 38, 2)][..]));
    }

    #[test]
    fn calls_before_the_window_only_are_not_told() {
        let call = key(8, Sysno::read);
        let mut table = SumTable::default();
        table.open(1, read(&[(call, sum(10, 0, 100))], &[]));
        let mut events = Vec::new();
        table.update(2, &read(&[(call, sum(10, 0, 100))], &[]), true, &mut events);
        assert!(sums(&events).is_empty());
    }
}
