//! The names of threads: the kernel's, and for a thread that has none of its own the Python function that it runs.
//!
//! Up to 3.13, CPython tells the kernel no thread names: all threads of a process are called as its first.

use std::collections::HashMap;

use aiprof_capture::event::{Event, Thread};

use crate::{
    process,
    timeline::{Input, InputKind, PythonStack},
};

/// The threads that have a name in the trace.
#[derive(Debug, Default)]
pub(super) struct Threads {
    known: HashMap<u32, Name>,
}

#[derive(Debug)]
struct Name {
    comm: String,
    /// Whether it goes by its process's name only.
    borrowed: bool,
}

impl Threads {
    /// Names a thread when it is first seen.
    pub(super) fn see(&mut self, pid: u32, tid: u32, events: &mut Vec<Event>) {
        if self.known.contains_key(&tid) {
            return;
        }
        let comm = process::thread_name(pid, tid);
        let borrowed = tid != pid && self.known.get(&pid).is_some_and(|first| first.comm == comm);
        events.push(Event::Thread(Thread { pid, tid, name: comm.clone() }));
        self.known.insert(tid, Name { comm, borrowed });
    }

    /// Follows what happens to a thread: names it by its function once that is seen, forgets it when it ends.
    pub(super) fn follow(&mut self, input: &Input, events: &mut Vec<Event>) {
        let Input { pid, tid, ref kind, .. } = *input;
        match kind {
            InputKind::SwitchOut { dead: true, .. } => {
                self.known.remove(&tid);
            }
            InputKind::Stack(observation) => {
                let Some(name) = self.known.get_mut(&tid).filter(|name| name.borrowed) else { return };
                if let Some(function) = observation.python.as_ref().and_then(first_function) {
                    events.push(Event::Thread(Thread { pid, tid, name: function }));
                    name.borrowed = false;
                }
            }
            _ => {}
        }
    }
}

/// The outermost function that is not the start of every thread.
fn first_function(stack: &PythonStack) -> Option<String> {
    let is_start = |file: &str| file.ends_with("/threading.py");
    stack.iter().map(|call| &call.frame).find(|frame| !is_start(&frame.file)).map(|frame| frame.function.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use aiprof_capture::event::{Frame, FrameKind, Stack};

    use super::*;
    use crate::timeline::{Observation, PythonCall};

    fn seen(tid: u32, frames: &[(&str, &str)]) -> Input {
        let call = |(function, file): &(&str, &str)| PythonCall {
            code: (1, 1),
            frame: Arc::new(Frame {
                kind: FrameKind::Python,
                function: (*function).into(),
                file: (*file).into(),
                ..Frame::default()
            }),
        };
        let observation = Observation {
            stack: Stack::default(),
            python: Some(frames.iter().map(call).collect()),
            leaving: false,
            wait_function: None,
        };
        Input { timestamp_ns: 1, pid: 1, tid, kind: InputKind::Stack(Box::new(observation)) }
    }

    #[test]
    fn a_thread_without_a_name_of_its_own_goes_by_its_function() {
        let name = |comm: &str, borrowed| Name { comm: comm.to_owned(), borrowed };
        let known = HashMap::from([(1, name("python3", false)), (2, name("python3", true)), (3, name("own", false))]);
        let mut threads = Threads { known };
        let mut events = Vec::new();
        let start = ("Thread._bootstrap", "/usr/lib/python3.12/threading.py");
        threads.follow(&seen(2, &[start]), &mut events);
        assert!(events.is_empty());
        for tid in [1, 2, 3, 2] {
            threads.follow(&seen(tid, &[start, ("serve", "/srv/server.py"), ("poll", "/srv/server.py")]), &mut events);
        }
        let [Event::Thread(named)] = &events[..] else { panic!("{events:?}") };
        assert_eq!((named.tid, named.name.as_str()), (2, "serve"));
    }
}
