//! System calls in a trace: how their events are written and read.

use std::sync::Arc;

use super::{
    block::TraceError,
    names::{self, TrackKind, annotation},
    proto,
    reader::{Annotations, Track, Value},
    writer::TraceWriter,
};
use crate::event::{Argument, FrameKind, Stack, SyscallRate, SyscallSlice, SyscallSum};

impl TraceWriter {
    pub(super) fn syscall(&mut self, slice: &SyscallSlice) {
        let track_uuid = self.child_track(TrackKind::Syscalls, slice.pid, slice.tid);
        let mut annotations = Vec::new();
        match slice.result {
            Some(result) => annotations
                .push(proto::DebugAnnotation { int_value: Some(result), ..self.annotation(annotation::RESULT) }),
            None => annotations.push(self.flag(annotation::UNFINISHED, true)),
        }
        if let Some(error) = &slice.error {
            annotations.push(self.text(annotation::ERROR, error));
        }
        if slice.began_before {
            annotations.push(self.flag(annotation::BEGAN_BEFORE, true));
        }
        for (name, value) in &slice.arguments {
            let argument = self.argument(&format!("{}{name}", annotation::ARGUMENT), value);
            annotations.push(argument);
        }
        if let Some(stack) = &slice.stack {
            if let Some(function) = python_function(stack) {
                annotations.push(self.text(annotation::PYTHON, &function));
            }
            self.annotate_stack(stack, &mut annotations);
        }
        self.slice(slice.start_ns, slice.end_ns, track_uuid, &slice.name, annotations);
    }

    fn argument(&mut self, name: &str, value: &Argument) -> proto::DebugAnnotation {
        match value {
            Argument::Number(number) => proto::DebugAnnotation { int_value: Some(*number), ..self.annotation(name) },
            Argument::Address(address) => {
                proto::DebugAnnotation { pointer_value: Some(*address), ..self.annotation(name) }
            }
            Argument::Text(text) => self.text(name, text),
        }
    }

    pub(super) fn syscall_sum(&mut self, sum: &SyscallSum) {
        let mut debug_annotations = vec![
            self.number(annotation::COUNT, sum.count),
            self.number(annotation::ERRORS, sum.errors),
            self.number(annotation::TOTAL_NS, sum.total_ns),
            self.number(annotation::MAX_NS, sum.max_ns),
        ];
        for (errno, count) in &sum.errnos {
            debug_annotations.push(self.number(&format!("{}{errno}", annotation::ERRNO), *count));
        }
        for (below_ns, count) in &sum.histogram {
            debug_annotations.push(self.number(&format!("{}{below_ns}", annotation::HISTOGRAM), *count));
        }
        let instant = proto::TrackEvent {
            r#type: Some(proto::INSTANT),
            track_uuid: Some(self.child_track(TrackKind::SyscallSums, sum.pid, sum.tid)),
            name_iid: Some(self.event_name(&sum.name)),
            debug_annotations,
            ..proto::TrackEvent::default()
        };
        self.event(sum.timestamp_ns, instant);
    }

    pub(super) fn syscall_rate(&mut self, rate: &SyscallRate) {
        let value = proto::TrackEvent {
            r#type: Some(proto::COUNTER),
            track_uuid: Some(self.counter_track(TrackKind::SyscallRate, rate.pid)),
            double_counter_value: Some(rate.per_second),
            ..proto::TrackEvent::default()
        };
        self.event(rate.timestamp_ns, value);
    }
}

/// The innermost Python function of a stack, with its line: `Engine.step (engine.py):12`.
fn python_function(stack: &Stack) -> Option<String> {
    let frame = stack.frames.iter().find(|frame| frame.kind == FrameKind::Python)?;
    let name = names::frame_name(frame);
    Some(if frame.line == 0 { name.into_owned() } else { format!("{name}:{}", frame.line) })
}

/// A slice that begins; its end is not known yet.
pub(super) fn begin(
    start_ns: u64,
    track: Track,
    name: &Arc<str>,
    annotations: &Annotations,
    stack: Option<Stack>,
) -> SyscallSlice {
    SyscallSlice {
        pid: track.pid,
        tid: track.tid,
        start_ns,
        end_ns: start_ns,
        name: Arc::clone(name),
        result: match annotations.get(annotation::RESULT) {
            Some(Value::Signed(result)) => Some(*result),
            _ => None,
        },
        error: annotations.text(annotation::ERROR),
        began_before: annotations.flag(annotation::BEGAN_BEFORE),
        arguments: annotations
            .with_prefix(annotation::ARGUMENT)
            .filter_map(|(name, value)| Some((name.into(), argument(value)?)))
            .collect(),
        stack,
    }
}

fn argument(value: &Value) -> Option<Argument> {
    match value {
        Value::Signed(number) => Some(Argument::Number(*number)),
        Value::Address(address) => Some(Argument::Address(*address)),
        Value::Text(text) => Some(Argument::Text(Arc::clone(text))),
        Value::Flag(_) | Value::Number(_) | Value::Other => None,
    }
}

pub(super) fn sum(
    timestamp_ns: u64,
    track: Track,
    name: &Arc<str>,
    annotations: &Annotations,
) -> Result<SyscallSum, TraceError> {
    let number = |name, field| match annotations.get(name) {
        Some(Value::Number(number)) => Ok(*number),
        _ => Err(TraceError::Missing { packet: "sum of system calls", field }),
    };
    let counts = |prefix| {
        annotations.with_prefix(prefix).filter_map(|(name, value)| match value {
            Value::Number(count) => Some((name, *count)),
            _ => None,
        })
    };
    Ok(SyscallSum {
        timestamp_ns,
        pid: track.pid,
        tid: track.tid,
        name: Arc::clone(name),
        count: number(annotation::COUNT, "count")?,
        errors: number(annotation::ERRORS, "count of errors")?,
        total_ns: number(annotation::TOTAL_NS, "time")?,
        max_ns: number(annotation::MAX_NS, "longest time")?,
        errnos: counts(annotation::ERRNO).map(|(name, count)| (name.into(), count)).collect(),
        histogram: counts(annotation::HISTOGRAM)
            .filter_map(|(below_ns, count)| Some((below_ns.parse().ok()?, count)))
            .collect(),
    })
}
