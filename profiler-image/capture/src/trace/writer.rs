//! Events in, Perfetto packets out.

use std::{
    collections::{HashMap, HashSet},
    io::Write,
};

use flate2::{Compression, write::ZlibEncoder};

use super::{
    intern::{Interner, append_packet, clip},
    names::{self, PARENT, SEQUENCE, TrackKind, annotation, track_uuid},
    proto,
};
use crate::event::{
    ClockSnapshot, Event, FrameKind, Process, PythonBegin, PythonEnd, Sample, Stack, StateSlice, Thread, ThreadState,
};

/// Uncompressed size from which gathered packets become a block.
const BLOCK_BYTES: usize = 256 << 10;
/// Threads whose tracks are remembered as described; more only repeat descriptions.
const MAX_THREADS: usize = 64 << 10;

/// Which tracks of a thread were described.
#[derive(Clone, Copy, Debug, Default)]
struct Described {
    thread: bool,
    /// By [`TrackKind::OF_THREAD`].
    children: [bool; TrackKind::OF_THREAD.len()],
}

/// Writes events as a Perfetto trace: a file is all that [`Self::take_ready`] and [`Self::flush`] give, one after the other.
///
/// Memory is bounded however many events come, if what is ready is taken: the tables of what was written before start anew
/// when they are full. Strings are clipped at 4 KiB and stacks cut at 1,024 frames. Equal frames are best shared, as one
/// [`Arc`](std::sync::Arc): they are then known by their address.
///
/// ```
/// use aiprof_capture::{event::{Event, Process}, trace::{TraceReader, TraceWriter}};
///
/// let event = Event::Process(Process { pid: 1, parent_pid: 0, name: "server".into() });
/// let mut writer = TraceWriter::new(99);
/// writer.push(&event);
/// let bytes = writer.flush();
/// let events: Result<Vec<_>, _> = TraceReader::new(&*bytes).collect();
/// assert_eq!(events.unwrap(), [event]);
/// ```
#[derive(Debug)]
pub struct TraceWriter {
    frequency_hz: u32,
    interner: Interner,
    threads: HashMap<(u32, u32), Described>,
    /// Processes whose counter was described.
    counters: HashSet<u32>,
    started: bool,
    /// Packets that are not in a block yet.
    packets: Vec<u8>,
    /// Blocks that were not taken yet.
    ready: Vec<u8>,
}

impl TraceWriter {
    /// A writer at the start of a trace whose samples come `frequency_hz` times a second.
    #[must_use]
    pub fn new(frequency_hz: u32) -> Self {
        Self {
            frequency_hz,
            interner: Interner::default(),
            threads: HashMap::new(),
            counters: HashSet::new(),
            started: false,
            packets: Vec::with_capacity(BLOCK_BYTES + BLOCK_BYTES / 4),
            ready: Vec::new(),
        }
    }

    /// Adds an event. Ask for [`Self::take_ready`] after it.
    pub fn push(&mut self, event: &Event) {
        if !self.started || self.interner.is_full() {
            self.begin_state();
        }
        match event {
            Event::Clock(clock) => self.clock(clock),
            Event::Process(process) => self.process(process),
            Event::Thread(thread) => self.thread(thread),
            Event::Sample(sample) => self.sample(sample),
            Event::State(slice) => self.state(slice),
            Event::PythonBegin(begin) => self.python_begin(begin),
            Event::PythonEnd(end) => self.python_end(*end),
            Event::Syscall(slice) => self.syscall(slice),
            Event::SyscallSum(sum) => self.syscall_sum(sum),
            Event::SyscallRate(rate) => self.syscall_rate(rate),
        }
        if self.packets.len() >= BLOCK_BYTES {
            self.seal();
        }
    }

    /// The next bytes of the file, once about 256 KiB of packets have gathered (some 30 KiB compressed).
    pub fn take_ready(&mut self) -> Option<Vec<u8>> {
        (!self.ready.is_empty()).then(|| std::mem::take(&mut self.ready))
    }

    /// The next bytes of the file, with all events so far; empty when there are none. More events may follow, and what was interned
    /// stays so: a flush costs the bytes of a block's head and what a smaller block compresses worse.
    #[must_use]
    pub fn flush(&mut self) -> Vec<u8> {
        self.seal();
        std::mem::take(&mut self.ready)
    }

    /// Makes a block of the gathered packets: a packet that holds them compressed.
    fn seal(&mut self) {
        if self.packets.is_empty() {
            return;
        }
        let mut encoder = ZlibEncoder::new(Vec::with_capacity(self.packets.len() / 4), Compression::fast());
        let compressed =
            encoder.write_all(&self.packets).and_then(|()| encoder.finish()).expect("writing to a Vec cannot fail");
        self.packets.clear();
        let block = proto::TracePacket { compressed_packets: Some(compressed), ..proto::TracePacket::default() };
        append_packet(&block, &mut self.ready);
    }

    /// Voids all that was interned, and repeats the defaults.
    fn begin_state(&mut self) {
        self.interner = Interner::default();
        let timebase = proto::Timebase {
            frequency: Some(self.frequency_hz.into()),
            counter: Some(proto::SW_CPU_CLOCK),
            name: Some("cpu-clock".into()),
        };
        let packet = proto::TracePacket {
            trusted_packet_sequence_id: Some(SEQUENCE),
            sequence_flags: Some(proto::STATE_CLEARED),
            first_packet_on_sequence: (!self.started).then_some(true),
            trace_packet_defaults: Some(proto::TracePacketDefaults {
                perf_sample_defaults: Some(proto::PerfSampleDefaults { timebase: Some(timebase) }),
            }),
            ..proto::TracePacket::default()
        };
        append_packet(&packet, &mut self.packets);
        self.started = true;
    }

    /// Appends a packet, with what was newly interned for it.
    fn append(&mut self, packet: proto::TracePacket) {
        let packet = proto::TracePacket {
            trusted_packet_sequence_id: Some(SEQUENCE),
            sequence_flags: Some(proto::NEEDS_STATE),
            interned_data: self.interner.take_fresh(),
            ..packet
        };
        append_packet(&packet, &mut self.packets);
    }

    fn clock(&mut self, clock: &ClockSnapshot) {
        let clocks = [
            (proto::CLOCK_BOOTTIME, clock.boottime_ns),
            (proto::CLOCK_MONOTONIC, clock.monotonic_ns),
            (proto::CLOCK_REALTIME, clock.realtime_ns),
        ];
        self.append(proto::TracePacket {
            clock_snapshot: Some(proto::ClockSnapshot {
                clocks: clocks
                    .into_iter()
                    .map(|(clock_id, timestamp)| proto::Clock { clock_id: Some(clock_id), timestamp: Some(timestamp) })
                    .collect(),
                primary_trace_clock: Some(proto::CLOCK_BOOTTIME),
            }),
            ..proto::TracePacket::default()
        });
    }

    fn describe(&mut self, track: proto::TrackDescriptor) {
        self.append(proto::TracePacket { track_descriptor: Some(track), ..proto::TracePacket::default() });
    }

    fn process(&mut self, process: &Process) {
        self.describe(proto::TrackDescriptor {
            uuid: Some(track_uuid(TrackKind::Process, process.pid, process.pid)),
            process: Some(proto::ProcessDescriptor {
                pid: Some(process.pid as i32),
                process_name: Some(clip(&process.name).into()),
            }),
            // A process tree packet would be the standard place, but there a parent 2 means a kernel thread; not in a container.
            description: (process.parent_pid != 0).then(|| format!("{PARENT}{}", process.parent_pid)),
            ..proto::TrackDescriptor::default()
        });
    }

    fn thread(&mut self, thread: &Thread) {
        self.describe_thread(thread.pid, thread.tid, Some(&thread.name));
    }

    fn describe_thread(&mut self, pid: u32, tid: u32, name: Option<&str>) {
        self.described(pid, tid).thread = true;
        self.describe(proto::TrackDescriptor {
            uuid: Some(track_uuid(TrackKind::Thread, pid, tid)),
            thread: Some(proto::ThreadDescriptor {
                pid: Some(pid as i32),
                tid: Some(i64::from(tid)),
                thread_name: name.map(|name| clip(name).into()),
            }),
            child_ordering: Some(proto::ORDER_EXPLICIT),
            ..proto::TrackDescriptor::default()
        });
    }

    fn described(&mut self, pid: u32, tid: u32) -> &mut Described {
        if self.threads.len() >= MAX_THREADS && !self.threads.contains_key(&(pid, tid)) {
            self.threads.clear();
        }
        self.threads.entry((pid, tid)).or_default()
    }

    /// Describes a thread's child track unless that was done, and gives its id.
    pub(super) fn child_track(&mut self, kind: TrackKind, pid: u32, tid: u32) -> u64 {
        let uuid = track_uuid(kind, pid, tid);
        let Some(rank) = TrackKind::OF_THREAD.iter().position(|each| *each == kind) else { return uuid };
        let described = self.described(pid, tid);
        let no_thread = !described.thread;
        if std::mem::replace(&mut described.children[rank], true) {
            return uuid;
        }
        if no_thread {
            self.describe_thread(pid, tid, None);
        }
        self.describe(proto::TrackDescriptor {
            uuid: Some(uuid),
            name: Some(kind.name().into()),
            parent_uuid: Some(track_uuid(TrackKind::Thread, pid, tid)),
            sibling_order_rank: Some(rank as i32),
            ..proto::TrackDescriptor::default()
        });
        uuid
    }

    /// Describes a process's counter unless that was done, and gives its id.
    pub(super) fn counter_track(&mut self, kind: TrackKind, pid: u32) -> u64 {
        let uuid = track_uuid(kind, pid, pid);
        if self.counters.len() >= MAX_THREADS {
            self.counters.clear();
        }
        if self.counters.insert(pid) {
            self.describe(proto::TrackDescriptor {
                uuid: Some(uuid),
                name: Some(kind.name().into()),
                parent_uuid: Some(track_uuid(TrackKind::Process, pid, pid)),
                counter: Some(proto::CounterDescriptor::default()),
                ..proto::TrackDescriptor::default()
            });
        }
        uuid
    }

    fn callstack(&mut self, stack: &Stack) -> u64 {
        let Self { interner, packets, .. } = self;
        interner.callstack(stack, |interned_data| {
            let packet = proto::TracePacket {
                trusted_packet_sequence_id: Some(SEQUENCE),
                sequence_flags: Some(proto::NEEDS_STATE),
                interned_data: Some(interned_data),
                ..proto::TracePacket::default()
            };
            append_packet(&packet, packets);
        })
    }

    fn sample(&mut self, sample: &Sample) {
        let callstack = self.callstack(&sample.stack);
        let in_kernel = sample.stack.frames.first().is_some_and(|leaf| leaf.kind == FrameKind::Kernel);
        self.append(proto::TracePacket {
            timestamp: Some(sample.timestamp_ns),
            perf_sample: Some(proto::PerfSample {
                cpu: Some(sample.cpu),
                pid: Some(sample.pid),
                tid: Some(sample.tid),
                callstack_iid: Some(callstack),
                cpu_mode: Some(if in_kernel { proto::MODE_KERNEL } else { proto::MODE_USER }),
            }),
            ..proto::TracePacket::default()
        });
    }

    pub(super) fn event(&mut self, timestamp_ns: u64, event: proto::TrackEvent) {
        self.append(proto::TracePacket {
            timestamp: Some(timestamp_ns),
            track_event: Some(event),
            ..proto::TracePacket::default()
        });
    }

    pub(super) fn end_slice(&mut self, timestamp_ns: u64, track_uuid: u64) {
        let event = proto::TrackEvent {
            r#type: Some(proto::SLICE_END),
            track_uuid: Some(track_uuid),
            ..proto::TrackEvent::default()
        };
        self.event(timestamp_ns, event);
    }

    fn state(&mut self, slice: &StateSlice) {
        let track_uuid = self.child_track(TrackKind::State, slice.pid, slice.tid);
        let mut debug_annotations = self.state_annotations(&slice.state);
        if let Some(stack) = &slice.stack {
            self.annotate_stack(stack, &mut debug_annotations);
        }
        let name = names::state_name(&slice.state);
        self.slice(slice.start_ns, slice.end_ns, track_uuid, &name, debug_annotations);
    }

    pub(super) fn annotate_stack(&mut self, stack: &Stack, annotations: &mut Vec<proto::DebugAnnotation>) {
        let callstack = self.callstack(stack);
        annotations.push(proto::DebugAnnotation {
            string_value_iid: Some(self.interner.stack_text(callstack, stack)),
            ..self.annotation(annotation::STACK)
        });
        annotations
            .push(proto::DebugAnnotation { uint_value: Some(callstack), ..self.annotation(annotation::CALLSTACK) });
    }

    /// Writes a whole slice.
    pub(super) fn slice(
        &mut self,
        start_ns: u64,
        end_ns: u64,
        track_uuid: u64,
        name: &str,
        debug_annotations: Vec<proto::DebugAnnotation>,
    ) {
        let begin = proto::TrackEvent {
            r#type: Some(proto::SLICE_BEGIN),
            track_uuid: Some(track_uuid),
            name_iid: Some(self.event_name(name)),
            debug_annotations,
            ..proto::TrackEvent::default()
        };
        self.event(start_ns, begin);
        self.end_slice(end_ns.max(start_ns), track_uuid);
    }

    pub(super) fn event_name(&mut self, name: &str) -> u64 {
        self.interner.event_name(name)
    }

    fn state_annotations(&mut self, state: &ThreadState) -> Vec<proto::DebugAnnotation> {
        match state {
            ThreadState::Running { cpu } => cpu.map(|cpu| self.number(annotation::CPU, cpu)).into_iter().collect(),
            ThreadState::Runnable { preempted, waker } => {
                let mut annotations = vec![self.flag(annotation::PREEMPTED, *preempted)];
                if let Some(waker) = waker {
                    annotations.push(self.number(annotation::WAKER_PID, waker.pid));
                    annotations.push(self.number(annotation::WAKER_TID, waker.tid));
                }
                annotations
            }
            ThreadState::Waiting(wait) => {
                let mut annotations = vec![
                    self.text(annotation::REASON, &wait.reason),
                    self.flag(annotation::UNINTERRUPTIBLE, wait.uninterruptible),
                ];
                if let Some(syscall) = &wait.syscall {
                    annotations.push(self.text(annotation::SYSCALL, syscall));
                }
                if let Some(on) = &wait.on {
                    annotations.push(self.text(annotation::ON, on));
                }
                if let Some(function) = &wait.kernel_function {
                    annotations.push(self.text(annotation::KERNEL_FUNCTION, function));
                }
                annotations
            }
        }
    }

    fn python_begin(&mut self, begin: &PythonBegin) {
        let function = &begin.function;
        let event = proto::TrackEvent {
            r#type: Some(proto::SLICE_BEGIN),
            track_uuid: Some(self.child_track(TrackKind::Python, begin.pid, begin.tid)),
            name_iid: Some(self.interner.event_name(&function.function)),
            debug_annotations: vec![
                self.text(annotation::FILE, &function.file),
                self.number(annotation::LINE, function.line),
            ],
            ..proto::TrackEvent::default()
        };
        self.event(begin.timestamp_ns, event);
    }

    fn python_end(&mut self, end: PythonEnd) {
        let track_uuid = self.child_track(TrackKind::Python, end.pid, end.tid);
        self.end_slice(end.timestamp_ns, track_uuid);
    }

    pub(super) fn annotation(&mut self, name: &str) -> proto::DebugAnnotation {
        proto::DebugAnnotation {
            name_iid: Some(self.interner.annotation_name(name)),
            ..proto::DebugAnnotation::default()
        }
    }

    pub(super) fn number(&mut self, name: &str, value: impl Into<u64>) -> proto::DebugAnnotation {
        proto::DebugAnnotation { uint_value: Some(value.into()), ..self.annotation(name) }
    }

    pub(super) fn flag(&mut self, name: &str, value: bool) -> proto::DebugAnnotation {
        proto::DebugAnnotation { bool_value: Some(value), ..self.annotation(name) }
    }

    pub(super) fn text(&mut self, name: &str, value: &str) -> proto::DebugAnnotation {
        proto::DebugAnnotation {
            string_value_iid: Some(self.interner.annotation_value(value)),
            ..self.annotation(name)
        }
    }
}
