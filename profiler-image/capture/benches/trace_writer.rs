//! What writing a sample costs: `cargo bench -p aiprof-capture`. The time is that of one sample of 40 frames, all known before,
//! with its share of the compression.

#![expect(missing_docs, reason = "the group's macro makes a public function")]

use std::sync::Arc;

use aiprof_capture::{
    event::{Event, Frame, FrameKind, Sample, Stack},
    trace::TraceWriter,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const FRAMES: u32 = 40;

fn sample(frames: Arc<[Arc<Frame>]>) -> Sample {
    Sample { timestamp_ns: 1_000_000_000_000, pid: 4242, tid: 4243, cpu: 3, stack: Stack { frames, cut: false } }
}

fn frame(depth: u32) -> Arc<Frame> {
    Arc::new(Frame {
        kind: FrameKind::Python,
        function: format!("Engine.function_{depth}").into(),
        file: "/usr/lib/python3/dist-packages/engine/core.py".into(),
        line: depth + 1,
        ..Frame::default()
    })
}

fn push(c: &mut Criterion) {
    let mut group = c.benchmark_group("trace_writer");
    group.throughput(Throughput::Elements(1));
    let shared: Vec<_> = (0..FRAMES).map(frame).collect();
    for (name, leaves) in [("same_stack", 1), ("hundred_stacks", 100)] {
        let mut samples: Vec<_> = (0..leaves)
            .map(|leaf| {
                let mut frames = shared.clone();
                frames[0] = frame(FRAMES + leaf);
                Event::Sample(sample(frames.into()))
            })
            .collect();
        let mut writer = TraceWriter::new(99);
        let mut next = 0;
        group.bench_function(name, |b| {
            b.iter(|| {
                next = (next + 1) % samples.len();
                if let Event::Sample(sample) = &mut samples[next] {
                    sample.timestamp_ns += 10_101_010;
                }
                writer.push(&samples[next]);
                writer.take_ready()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, push);
criterion_main!(benches);
