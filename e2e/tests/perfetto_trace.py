"""Reads a Perfetto trace on its own, by the protobuf that Perfetto's project publishes, and not by any code of ours.

Times are nanoseconds of CLOCK_BOOTTIME, as they stand in the trace. Stacks are leaf first.
"""
import json
import re
import tarfile
import zlib
from dataclasses import dataclass, field

from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as proto

CLEARED = 1  # SEQ_INCREMENTAL_STATE_CLEARED
TABLES = (
    "event_categories", "event_names", "debug_annotation_names", "debug_annotation_string_values", "function_names",
    "frames", "callstacks", "mappings", "mapping_paths", "build_ids", "source_paths",
)


@dataclass(frozen=True)
class Frame:
    kind: str  # python, native, kernel or marker
    function: str
    file: str
    line: int

    @property
    def place(self) -> tuple[str, str, int]:
        return self.function, self.file, self.line


@dataclass
class Slice:
    track: str
    pid: int
    tid: int
    start: int
    end: "int | None"
    name: str
    depth: int
    arguments: dict[str, object] = field(default_factory=dict)
    stack: "list[Frame] | None" = None


@dataclass
class Counter:
    track: str
    pid: int
    ts: int
    value: float


@dataclass
class Sample:
    ts: int
    pid: int
    tid: int
    cpu: int
    stack: list[Frame]

    def python(self) -> list[Frame]:
        return [frame for frame in self.stack if frame.kind == "python"]


@dataclass
class Track:
    name: str
    pid: int
    tid: int


class Trace:
    def __init__(self, data: bytes):
        self.processes: dict[int, str] = {}
        self.threads: dict[int, tuple[int, str]] = {}
        self.samples: list[Sample] = []
        self.slices: list[Slice] = []
        self.instants: list[Slice] = []
        self.counters: list[Counter] = []
        self.clocks: list[dict[int, int]] = []
        self._tracks: dict[int, Track] = {}
        self._parents: dict[int, int] = {}
        self._names: dict[int, str] = {}
        self._open: dict[int, list[Slice]] = {}
        self._tables: dict[int, dict[str, dict[int, object]]] = {}
        self._defaults: dict[int, object] = {}
        self._read(data)
        for stack in self._open.values():
            assert not stack, "slices that never end: %s" % stack[:3]
        self.samples.sort(key=lambda sample: sample.ts)
        self.slices.sort(key=lambda slice_: (slice_.start, slice_.depth))

    def of_thread(self, tid: int, track: str) -> list[Slice]:
        return [s for s in self.slices if s.tid == tid and s.track == track]

    def samples_of(self, pid: "int | None" = None, tid: "int | None" = None) -> list[Sample]:
        return [s for s in self.samples if pid in (None, s.pid) and tid in (None, s.tid)]

    def _read(self, data: bytes):
        trace = proto.Trace()
        trace.ParseFromString(data)
        for packet in trace.packet:
            if packet.HasField("compressed_packets"):
                self._read(zlib.decompress(packet.compressed_packets))
            else:
                self._packet(packet)

    def _packet(self, packet):
        sequence = packet.trusted_packet_sequence_id
        if packet.sequence_flags & CLEARED:
            self._tables[sequence] = {}
            self._defaults.pop(sequence, None)
        if packet.HasField("trace_packet_defaults"):
            self._defaults[sequence] = packet.trace_packet_defaults
        if packet.HasField("interned_data"):
            tables = self._tables.setdefault(sequence, {})
            for name in TABLES:
                for entry in getattr(packet.interned_data, name):
                    tables.setdefault(name, {})[entry.iid] = entry
        if packet.HasField("track_descriptor"):
            self._descriptor(packet.track_descriptor)
        if packet.HasField("clock_snapshot"):
            self.clocks.append({clock.clock_id: clock.timestamp for clock in packet.clock_snapshot.clocks})
        if packet.HasField("track_event"):
            self._event(sequence, packet)
        if packet.HasField("perf_sample"):
            sample = packet.perf_sample
            stack = self._stack(sequence, sample.callstack_iid)
            self.samples.append(Sample(packet.timestamp, sample.pid, sample.tid, sample.cpu, stack))
        if packet.HasField("stack_sample"):
            sample = packet.stack_sample
            stack = self._stack(sequence, sample.callstack_iid)
            task = sample.task_context
            self.samples.append(Sample(packet.timestamp, task.pid, task.tid, sample.execution_context.cpu, stack))

    def _descriptor(self, descriptor):
        pid = tid = 0
        if descriptor.HasField("process"):
            pid = descriptor.process.pid
            self.processes[pid] = descriptor.process.process_name or descriptor.name
        if descriptor.HasField("thread"):
            pid, tid = descriptor.thread.pid, descriptor.thread.tid
            self.threads[tid] = (pid, descriptor.thread.thread_name or descriptor.name)
        if descriptor.HasField("parent_uuid") and not pid:
            parent = self._tracks[descriptor.parent_uuid]
            pid, tid = parent.pid, parent.tid
        self._tracks[descriptor.uuid] = Track(descriptor.name or descriptor.static_name, pid, tid)

    def _event(self, sequence, packet):
        event = packet.track_event
        uuid = event.track_uuid
        if not uuid and sequence in self._defaults:
            uuid = self._defaults[sequence].track_event_defaults.track_uuid
        track = self._tracks[uuid]
        stack = self._open.setdefault(uuid, [])
        if event.type == proto.TrackEvent.TYPE_SLICE_BEGIN:
            name = event.name or self._entry(sequence, "event_names", event.name_iid).name
            slice_ = Slice(track.name, track.pid, track.tid, packet.timestamp, None, name, len(stack))
            slice_.arguments = self._arguments(sequence, event)
            callstack = event.callstack_iid or slice_.arguments.get("callstack_iid")
            if callstack:
                slice_.stack = self._stack(sequence, callstack)
            if stack:
                assert packet.timestamp >= stack[-1].start, "a slice begins before its parent: %s" % slice_
            stack.append(slice_)
            self.slices.append(slice_)
        elif event.type == proto.TrackEvent.TYPE_SLICE_END:
            assert stack, "a slice ends that never began, on track %s" % track
            stack[-1].end = packet.timestamp
            assert stack[-1].end >= stack[-1].start, "a slice of negative length: %s" % stack[-1]
            stack.pop()
        elif event.type == proto.TrackEvent.TYPE_INSTANT:
            name = event.name or self._entry(sequence, "event_names", event.name_iid).name
            instant = Slice(track.name, track.pid, track.tid, packet.timestamp, packet.timestamp, name, 0)
            instant.arguments = self._arguments(sequence, event)
            self.instants.append(instant)
        elif event.type == proto.TrackEvent.TYPE_COUNTER:
            self.counters.append(Counter(track.name, track.pid, packet.timestamp, event.double_counter_value))

    def _arguments(self, sequence, event):
        return {
            a.name or self._entry(sequence, "debug_annotation_names", a.name_iid).name: self._value(sequence, a)
            for a in event.debug_annotations
        }

    def _entry(self, sequence, table, iid):
        return self._tables[sequence][table][iid]

    def _value(self, sequence, annotation):
        kind = annotation.WhichOneof("value")
        if kind == "string_value_iid":
            return self._entry(sequence, "debug_annotation_string_values", annotation.string_value_iid).str.decode()
        return getattr(annotation, kind) if kind else None

    def _text(self, sequence, table, iid) -> str:
        return self._entry(sequence, table, iid).str.decode() if iid else ""

    def _stack(self, sequence, iid) -> list[Frame]:
        callstack = self._entry(sequence, "callstacks", iid)
        return [self._frame(sequence, frame) for frame in reversed(callstack.frame_ids)]

    def _frame(self, sequence, iid) -> Frame:
        frame = self._entry(sequence, "frames", iid)
        function = self._text(sequence, "function_names", frame.function_name_id)
        mapping = ""
        if frame.mapping_id:
            path = self._entry(sequence, "mappings", frame.mapping_id).path_string_ids
            mapping = "/" + "/".join(self._text(sequence, "mapping_paths", part).strip("/") for part in path)
        source = self._text(sequence, "source_paths", frame.source_path_iid)
        if mapping.strip("/") == "[kernel]":
            return Frame("kernel", re.sub(r" \[k\]$", "", function), "", 0)
        if mapping.strip("/") == "[aiprof]" and not source:
            return Frame("marker", function, "", 0)
        if frame.kind == proto.Frame.KIND_INTERPRETED or (source and frame.line_number):
            suffix = " (%s)" % source.rsplit("/", 1)[-1]
            if function.endswith(suffix):
                function = function[: -len(suffix)]
            return Frame("python", function, source, frame.line_number)
        return Frame("native", function, mapping, 0)


def read_archive(path) -> tuple[dict, Trace]:
    """The manifest and the trace of an archive."""
    with tarfile.open(path) as archive:
        members = {name.rsplit("/", 1)[-1]: name for name in archive.getnames()}
        manifest = json.load(archive.extractfile(members["manifest.json"]))
        trace = archive.extractfile(members["trace.perfetto-trace"]).read()
    return manifest, Trace(trace)
