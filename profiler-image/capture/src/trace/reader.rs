//! Perfetto packets in, events out.

use std::{
    collections::{HashMap, VecDeque},
    io::Read,
    sync::Arc,
};

use super::{
    block::{Packets, TraceError},
    names::{PARENT, RUNNABLE, RUNNING, SEQUENCE, SYSCALL_RATE_TRACK, TrackKind, annotation},
    proto::{self, TracePacket, TrackEvent},
    resolve::Tables,
    syscalls,
};
use crate::event::{
    ClockSnapshot, Event, Frame, FrameKind, Process, PythonBegin, PythonEnd, Sample, Stack, StateSlice, SyscallRate,
    SyscallSlice, Thread, ThreadState, Wait, Waker,
};

/// Most tracks that are kept.
const MAX_TRACKS: usize = 1 << 20;

/// A track of ours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Track {
    kind: Option<TrackKind>,
    pub(super) pid: u32,
    pub(super) tid: u32,
}

/// A slice that has begun, of a track whose slices do not nest.
enum Open {
    State(StateSlice),
    Syscall(SyscallSlice),
}

impl Open {
    fn end(self, end_ns: u64) -> Event {
        match self {
            Self::State(slice) => Event::State(StateSlice { end_ns, ..slice }),
            Self::Syscall(slice) => Event::Syscall(SyscallSlice { end_ns, ..slice }),
        }
    }

    const fn thread(&self) -> (u32, u32) {
        match self {
            Self::State(slice) => (slice.pid, slice.tid),
            Self::Syscall(slice) => (slice.pid, slice.tid),
        }
    }
}

/// Reads the events that a [`TraceWriter`](super::TraceWriter) wrote, in their order. After an error there is nothing more.
///
/// Memory is bounded: one packet at a time, with limits for its length, for what a block decompresses to, and for what a trace
/// may define. Packets and tracks of other kinds are passed over.
pub struct TraceReader<R> {
    packets: Packets<R>,
    tables: Option<Tables>,
    tracks: HashMap<u64, Track>,
    /// Slices that have begun.
    open: HashMap<u64, Open>,
    /// Events read but not given.
    ready: VecDeque<Event>,
    done: bool,
}

impl<R: Read> TraceReader<R> {
    /// A reader of a whole trace file. The source is buffered here.
    pub fn new(source: R) -> Self {
        Self {
            packets: Packets::new(source),
            tables: None,
            tracks: HashMap::new(),
            open: HashMap::new(),
            ready: VecDeque::new(),
            done: false,
        }
    }

    fn next_event(&mut self) -> Result<Option<Event>, TraceError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            let Some(packet) = self.packets.next()? else {
                return match self.open.values().next().map(Open::thread) {
                    None => Ok(None),
                    Some((pid, tid)) => Err(unpaired(pid, tid, "begins a slice that does not end")),
                };
            };
            self.packet(packet)?;
        }
    }

    fn packet(&mut self, packet: TracePacket) -> Result<(), TraceError> {
        if packet.trusted_packet_sequence_id != Some(SEQUENCE) {
            return Ok(());
        }
        let flags = packet.sequence_flags.unwrap_or_default();
        if flags & proto::STATE_CLEARED != 0 {
            self.tables = Some(Tables::new());
        }
        let Some(tables) = &mut self.tables else {
            return Err(missing("trace", "start: its first packet does not begin a state"));
        };
        if let Some(data) = packet.interned_data {
            tables.define(data)?;
        }
        if let Some(snapshot) = &packet.clock_snapshot {
            self.ready.push_back(Event::Clock(clock(snapshot)?));
        }
        if let Some(descriptor) = packet.track_descriptor {
            self.describe(descriptor)?;
        }
        let timestamp = |what| packet.timestamp.ok_or_else(|| missing(what, "timestamp"));
        if let Some(perf) = &packet.perf_sample {
            let timestamp_ns = timestamp("sample")?;
            self.sample(timestamp_ns, perf)?;
        }
        if let Some(event) = &packet.track_event {
            let timestamp_ns = timestamp("track event")?;
            self.track_event(timestamp_ns, event)?;
        }
        Ok(())
    }

    fn tables(&self) -> Result<&Tables, TraceError> {
        self.tables.as_ref().ok_or_else(|| missing("trace", "incremental state"))
    }

    fn sample(&mut self, timestamp_ns: u64, perf: &proto::PerfSample) -> Result<(), TraceError> {
        let iid = perf.callstack_iid.ok_or_else(|| missing("sample", "callstack"))?;
        let sample = Sample {
            timestamp_ns,
            pid: perf.pid.ok_or_else(|| missing("sample", "process"))?,
            tid: perf.tid.ok_or_else(|| missing("sample", "thread"))?,
            cpu: perf.cpu.ok_or_else(|| missing("sample", "CPU"))?,
            stack: self.tables()?.callstack(iid)?.clone(),
        };
        self.ready.push_back(Event::Sample(sample));
        Ok(())
    }

    fn describe(&mut self, descriptor: proto::TrackDescriptor) -> Result<(), TraceError> {
        let uuid = descriptor.uuid.ok_or_else(|| missing("track", "id"))?;
        let track = if let Some(process) = descriptor.process {
            let pid = process.pid.ok_or_else(|| missing("process", "id"))? as u32;
            if let Some(name) = process.process_name {
                let parent = descriptor.description.as_deref().and_then(|text| text.strip_prefix(PARENT));
                self.ready.push_back(Event::Process(Process {
                    pid,
                    parent_pid: parent.and_then(|parent| parent.parse().ok()).unwrap_or_default(),
                    name,
                }));
            }
            Track { kind: Some(TrackKind::Process), pid, tid: pid }
        } else if let Some(thread) = descriptor.thread {
            let pid = thread.pid.ok_or_else(|| missing("thread", "process"))? as u32;
            let tid = thread.tid.ok_or_else(|| missing("thread", "id"))? as u32;
            if let Some(name) = thread.thread_name {
                self.ready.push_back(Event::Thread(Thread { pid, tid, name }));
            }
            Track { kind: Some(TrackKind::Thread), pid, tid }
        } else {
            self.child(&descriptor)
        };
        self.tracks.insert(uuid, track);
        if self.tracks.len() > MAX_TRACKS {
            return Err(TraceError::TooMany { what: "tracks", limit: MAX_TRACKS });
        }
        Ok(())
    }

    fn child(&self, descriptor: &proto::TrackDescriptor) -> Track {
        let none = Track { kind: None, pid: 0, tid: 0 };
        let Some(&parent) = self.tracks.get(&descriptor.parent_uuid.unwrap_or_default()) else { return none };
        let name = descriptor.name.as_deref().unwrap_or_default();
        let kind = match parent.kind {
            Some(TrackKind::Thread) => TrackKind::OF_THREAD.into_iter().find(|kind| kind.name() == name),
            Some(TrackKind::Process) if name == SYSCALL_RATE_TRACK => Some(TrackKind::SyscallRate),
            _ => None,
        };
        Track { kind, ..parent }
    }

    fn track_event(&mut self, timestamp_ns: u64, event: &TrackEvent) -> Result<(), TraceError> {
        let uuid = event.track_uuid.ok_or_else(|| missing("track event", "track"))?;
        let track = *self.tracks.get(&uuid).ok_or(TraceError::Undefined { table: "track", iid: uuid })?;
        match (track.kind, event.r#type) {
            (Some(TrackKind::State | TrackKind::Syscalls), Some(proto::SLICE_BEGIN)) => {
                let slice = self.begin_slice(timestamp_ns, track, event)?;
                if self.open.insert(uuid, slice).is_some() {
                    return Err(unpaired(track.pid, track.tid, "begins a slice within another"));
                }
            }
            (Some(TrackKind::State | TrackKind::Syscalls), Some(proto::SLICE_END)) => {
                let slice = self
                    .open
                    .remove(&uuid)
                    .ok_or_else(|| unpaired(track.pid, track.tid, "ends a slice that did not begin"))?;
                self.ready.push_back(slice.end(timestamp_ns));
            }
            (Some(TrackKind::SyscallSums), Some(proto::INSTANT)) => {
                let tables = self.tables()?;
                let name = tables.event_name(event.name_iid.unwrap_or_default())?;
                let sum = syscalls::sum(timestamp_ns, track, name, &Annotations::of(event, tables)?)?;
                self.ready.push_back(Event::SyscallSum(sum));
            }
            (Some(TrackKind::SyscallRate), Some(proto::COUNTER)) => {
                let per_second = event.double_counter_value.ok_or_else(|| missing("counter", "value"))?;
                self.ready.push_back(Event::SyscallRate(SyscallRate { timestamp_ns, pid: track.pid, per_second }));
            }
            (Some(TrackKind::Python), Some(proto::SLICE_BEGIN)) => {
                let begin = self.begin_python(timestamp_ns, track, event)?;
                self.ready.push_back(Event::PythonBegin(begin));
            }
            (Some(TrackKind::Python), Some(proto::SLICE_END)) => {
                self.ready.push_back(Event::PythonEnd(PythonEnd { timestamp_ns, pid: track.pid, tid: track.tid }));
            }
            _ => {}
        }
        Ok(())
    }

    fn begin_slice(&self, start_ns: u64, track: Track, event: &TrackEvent) -> Result<Open, TraceError> {
        let tables = self.tables()?;
        let name = tables.event_name(event.name_iid.unwrap_or_default())?;
        let annotations = Annotations::of(event, tables)?;
        let stack: Option<Stack> = match annotations.get(annotation::CALLSTACK) {
            Some(Value::Number(iid)) => Some(tables.callstack(*iid)?.clone()),
            _ => None,
        };
        Ok(if track.kind == Some(TrackKind::Syscalls) {
            Open::Syscall(syscalls::begin(start_ns, track, name, &annotations, stack))
        } else {
            Open::State(StateSlice {
                pid: track.pid,
                tid: track.tid,
                start_ns,
                end_ns: start_ns,
                state: state(name, &annotations),
                stack,
            })
        })
    }

    fn begin_python(&self, timestamp_ns: u64, track: Track, event: &TrackEvent) -> Result<PythonBegin, TraceError> {
        let tables = self.tables()?;
        let annotations = Annotations::of(event, tables)?;
        let function = Frame {
            kind: FrameKind::Python,
            function: Arc::clone(tables.event_name(event.name_iid.unwrap_or_default())?),
            file: annotations.text(annotation::FILE).unwrap_or_default(),
            line: annotations.number(annotation::LINE).unwrap_or_default(),
            ..Frame::default()
        };
        Ok(PythonBegin { timestamp_ns, pid: track.pid, tid: track.tid, function: Arc::new(function) })
    }
}

impl<R: Read> Iterator for TraceReader<R> {
    type Item = Result<Event, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let next = self.next_event().transpose();
        self.done = !matches!(next, Some(Ok(_)));
        next
    }
}

fn clock(snapshot: &proto::ClockSnapshot) -> Result<ClockSnapshot, TraceError> {
    let of = |id, name| {
        snapshot
            .clocks
            .iter()
            .find(|clock| clock.clock_id == Some(id))
            .and_then(|clock| clock.timestamp)
            .ok_or_else(|| missing("clock snapshot", name))
    };
    Ok(ClockSnapshot {
        boottime_ns: of(proto::CLOCK_BOOTTIME, "BOOTTIME")?,
        monotonic_ns: of(proto::CLOCK_MONOTONIC, "MONOTONIC")?,
        realtime_ns: of(proto::CLOCK_REALTIME, "REALTIME")?,
    })
}

fn state(name: &str, annotations: &Annotations) -> ThreadState {
    match name {
        RUNNING => ThreadState::Running { cpu: annotations.number(annotation::CPU) },
        RUNNABLE => ThreadState::Runnable {
            preempted: annotations.flag(annotation::PREEMPTED),
            waker: annotations
                .number(annotation::WAKER_PID)
                .zip(annotations.number(annotation::WAKER_TID))
                .map(|(pid, tid)| Waker { pid, tid }),
        },
        _ => ThreadState::Waiting(Wait {
            reason: annotations.text(annotation::REASON).unwrap_or_default(),
            syscall: annotations.text(annotation::SYSCALL),
            on: annotations.text(annotation::ON),
            kernel_function: annotations.text(annotation::KERNEL_FUNCTION),
            uninterruptible: annotations.flag(annotation::UNINTERRUPTIBLE),
        }),
    }
}

/// The annotations of one event, by name.
pub(super) struct Annotations(Vec<(Arc<str>, Value)>);

pub(super) enum Value {
    Flag(bool),
    Number(u64),
    Signed(i64),
    Address(u64),
    Text(Arc<str>),
    Other,
}

impl Annotations {
    fn of(event: &TrackEvent, tables: &Tables) -> Result<Self, TraceError> {
        let annotations = event.debug_annotations.iter().map(|annotation| {
            let name = tables.annotation_name(annotation.name_iid.unwrap_or_default())?;
            let value = if let Some(value) = annotation.bool_value {
                Value::Flag(value)
            } else if let Some(value) = annotation.uint_value {
                Value::Number(value)
            } else if let Some(value) = annotation.int_value {
                Value::Signed(value)
            } else if let Some(value) = annotation.pointer_value {
                Value::Address(value)
            } else if let Some(iid) = annotation.string_value_iid {
                Value::Text(Arc::clone(tables.annotation_value(iid)?))
            } else {
                Value::Other
            };
            Ok((Arc::clone(name), value))
        });
        annotations.collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(found, _)| **found == *name).map(|(_, value)| value)
    }

    /// Those whose names begin so, under the rest of their names.
    pub(super) fn with_prefix<'a>(&'a self, prefix: &'static str) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.0.iter().filter_map(move |(name, value)| Some((name.strip_prefix(prefix)?, value)))
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some(Value::Flag(true)))
    }

    fn number(&self, name: &str) -> Option<u32> {
        match self.get(name) {
            Some(Value::Number(number)) => u32::try_from(*number).ok(),
            _ => None,
        }
    }

    pub(super) fn text(&self, name: &str) -> Option<Arc<str>> {
        match self.get(name) {
            Some(Value::Text(text)) => Some(Arc::clone(text)),
            _ => None,
        }
    }
}

fn missing(packet: &'static str, field: &'static str) -> TraceError {
    TraceError::Missing { packet, field }
}

fn unpaired(pid: u32, tid: u32, what: &'static str) -> TraceError {
    TraceError::Unpaired { pid, tid, what }
}
