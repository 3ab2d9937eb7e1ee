//! System calls: sums of all of them, and each long one by itself.

use std::{collections::HashSet, time::Duration};

use aiprof_capture::{
    event::{Event, SyscallSlice},
    request::Dimension as Kind,
};
use aiprof_ebpf_types::{Counters, SyscallRecord};

use super::{Admission, Dimension, Entry, Losses};
use crate::{
    kernel::programs::{Programs, ProgramsError},
    syscalls::{self, Descriptors, SumTable},
};

/// The dimension.
#[derive(Debug)]
pub struct Syscalls {
    min_ns: u64,
    refused: Option<String>,
    opened_ns: u64,
    sums: SumTable,
    /// Threads that were there when the window opened and have not been seen to return from a call since.
    found: HashSet<u32>,
    /// Slices told.
    pub slices: u64,
    /// Records of calls that ended before the window opened, or that a new thread or process returned from without having made them.
    pub passed_over: u64,
    /// Records of calls whose beginning should have been seen and was not.
    unseen: u64,
}

impl Syscalls {
    /// Tells calls from `min_ns` on one by one.
    #[must_use]
    pub fn new(min_ns: u64) -> Self {
        Self {
            min_ns,
            refused: None,
            opened_ns: 0,
            sums: SumTable::default(),
            found: HashSet::new(),
            slices: 0,
            passed_over: 0,
            unseen: 0,
        }
    }

    /// The kernel does not let it work.
    pub fn refuse(&mut self, reason: &str) {
        self.refused = Some(reason.to_owned());
    }

    /// The window opens; these threads are there.
    pub fn open(
        &mut self,
        opened_ns: u64,
        threads: impl Iterator<Item = u32>,
        programs: &Programs,
    ) -> Result<(), ProgramsError> {
        self.opened_ns = opened_ns;
        self.found = threads.collect();
        self.sums.open(opened_ns, programs.syscall_sums()?);
        Ok(())
    }

    /// The slice of a record, if it makes one.
    pub fn take(&mut self, record: &SyscallRecord, descriptors: &mut Descriptors) -> Option<SyscallSlice> {
        let SyscallRecord { tid, number, result, .. } = *record;
        let was_found = self.found.remove(&tid);
        if record.end_ns < self.opened_ns || (record.start_ns == 0 && syscalls::returns_in_child(number, result)) {
            self.passed_over += 1;
            return None;
        }
        if record.start_ns == 0 && !was_found {
            self.unseen += 1;
            return None;
        }
        self.slices += 1;
        Some(self.within(record, Some(result), descriptors))
    }

    /// The slice of a call that has not ended when the window closes, at the record's end.
    pub fn in_flight(&mut self, record: &SyscallRecord, descriptors: &mut Descriptors) -> SyscallSlice {
        self.slices += 1;
        self.within(record, None, descriptors)
    }

    fn within(&self, record: &SyscallRecord, result: Option<i64>, descriptors: &mut Descriptors) -> SyscallSlice {
        let mut slice = syscalls::slice(record, result, descriptors);
        if slice.start_ns < self.opened_ns {
            slice.start_ns = self.opened_ns;
            slice.began_before = true;
        }
        slice
    }

    /// A thread has ended.
    pub fn ended(&mut self, tid: u32) {
        self.sums.ended(tid);
    }

    /// Reads the sums and tells what was added to them; all there is to say of them if this is the last time.
    pub fn tell_sums(
        &mut self,
        at_ns: u64,
        last: bool,
        programs: &mut Programs,
        events: &mut Vec<Event>,
    ) -> Result<(), ProgramsError> {
        let read = programs.syscall_sums()?;
        let told: HashSet<_> = self.sums.update(at_ns, &read, last, events).into_iter().collect();
        if !told.is_empty() {
            let errors: Vec<_> =
                read.errors.iter().map(|(key, _)| *key).filter(|key| told.contains(&key.call)).collect();
            programs.remove_syscall_sums(&told.into_iter().collect::<Vec<_>>(), &errors);
        }
        Ok(())
    }

    /// Calls in the sums.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.sums.calls
    }
}

impl Dimension for Syscalls {
    fn kind(&self) -> Kind {
        Kind::Syscalls
    }

    fn enter(&mut self, _: u32, _: Entry, _: &mut Programs) -> Admission {
        match &self.refused {
            Some(reason) => Admission::Refused(reason.clone()),
            None => Admission::Works(None),
        }
    }

    fn leave(&mut self, _: u32) {}

    fn losses(&self, counters: &Counters) -> Losses {
        let mut losses = Losses::default();
        if self.refused.is_some() {
            return losses;
        }
        let calls = self.calls();
        losses.notes.push(format!(
            "all {calls} system calls are in the sums, those of at least {} are slices too",
            humantime::format_duration(Duration::from_nanos(self.min_ns))
        ));
        let mut lost = |missing: u64, sentence: &str| {
            if missing > 0 {
                losses.partial.push(format!("{missing} {sentence}"));
            }
        };
        lost(counters.syscalls_uncounted, "system calls are in no sum: the table of sums was full");
        lost(counters.syscall_errors_uncounted, "failed system calls are not told apart by errno: that table was full");
        lost(counters.syscall_records_lost, "long system calls are in the sums only: their ring was full");
        let unpaired = counters.syscalls_unpaired + self.unseen;
        losses.add(unpaired, calls, "system calls are left out: their beginning was not seen");
        if counters.syscall_records_thinned > 0 {
            losses.notes.push(format!(
                "{} long system calls are in the sums only, to stay within the budget: --syscall-min sets which are long",
                counters.syscall_records_thinned
            ));
        }
        losses
    }
}

#[cfg(test)]
mod tests {
    use ::syscalls::Sysno;

    use super::*;

    fn record(start_ns: u64, end_ns: u64, call: Sysno, result: i64) -> SyscallRecord {
        SyscallRecord { start_ns, end_ns, result, pid: 7, tid: 8, number: call as u32, ..SyscallRecord::default() }
    }

    fn opened() -> Syscalls {
        Syscalls { opened_ns: 1_000, found: HashSet::from([8]), ..Syscalls::new(50) }
    }

    #[test]
    fn a_call_that_began_before_the_window_begins_with_it_and_says_so() {
        for start_ns in [0, 900] {
            let slice = opened().take(&record(start_ns, 1_200, Sysno::read, 3), &mut Descriptors::default()).unwrap();
            assert_eq!((slice.start_ns, slice.end_ns, slice.began_before), (1_000, 1_200, true));
        }
    }

    #[test]
    fn only_the_first_call_of_a_thread_that_was_there_may_have_begun_before() {
        let (mut dimension, mut descriptors) = (opened(), Descriptors::default());
        assert!(!dimension.take(&record(1_100, 1_200, Sysno::read, 3), &mut descriptors).unwrap().began_before);
        assert_eq!(dimension.take(&record(0, 1_300, Sysno::read, 3), &mut descriptors), None);
        assert_eq!((dimension.unseen, dimension.slices), (1, 1));
    }

    #[test]
    fn what_a_new_thread_returns_from_is_none_of_its_calls() {
        let mut dimension = opened();
        assert_eq!(dimension.take(&record(0, 1_300, Sysno::clone3, 0), &mut Descriptors::default()), None);
        assert_eq!((dimension.unseen, dimension.passed_over), (0, 1));
    }

    #[test]
    fn a_call_in_flight_has_no_result() {
        let slice = opened().in_flight(&record(1_100, 1_500, Sysno::futex, 0), &mut Descriptors::default());
        assert_eq!((slice.result, slice.error, slice.began_before), (None, None, false));
    }
}
