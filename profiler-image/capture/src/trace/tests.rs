//! What is written is read again; what is torn or hostile is refused.

use std::{io::Write, sync::Arc};

use prost::Message;

use super::{
    block::{self, MAX_BLOCK, MAX_PACKET},
    intern::{MAX_FRAMES, MAX_STRING, append_packet},
    proto::{self, TracePacket},
    *,
};
use crate::event::{
    Argument, ClockSnapshot, Event, Frame, FrameKind, Process, PythonBegin, PythonEnd, Sample, Stack, StateSlice,
    SyscallRate, SyscallSlice, SyscallSum, Thread, ThreadState, Wait, Waker,
};

fn write<'a>(events: impl IntoIterator<Item = &'a Event>) -> Vec<u8> {
    let mut writer = TraceWriter::new(99);
    let mut bytes = Vec::new();
    for event in events {
        writer.push(event);
        bytes.extend(writer.take_ready().unwrap_or_default());
    }
    bytes.extend(writer.flush());
    bytes
}

fn read(bytes: &[u8]) -> Result<Vec<Event>, TraceError> {
    TraceReader::new(bytes).collect()
}

fn kernel(function: &str) -> Arc<Frame> {
    Arc::new(Frame { kind: FrameKind::Kernel, function: function.into(), ..Frame::default() })
}

fn native(function: &str, address: u64, build_id: &str) -> Arc<Frame> {
    Arc::new(Frame {
        kind: FrameKind::Native,
        function: function.into(),
        file: "/usr/lib/libc.so.6".into(),
        address,
        build_id: build_id.into(),
        ..Frame::default()
    })
}

fn python(function: &str, line: u32) -> Arc<Frame> {
    Arc::new(Frame {
        kind: FrameKind::Python,
        function: function.into(),
        file: "/app/server.py".into(),
        line,
        ..Frame::default()
    })
}

fn stack(frames: Vec<Arc<Frame>>, cut: bool) -> Stack {
    Stack { frames: frames.into(), cut }
}

fn sample(timestamp_ns: u64, stack: Stack) -> Event {
    Event::Sample(Sample { timestamp_ns, pid: 7, tid: 8, cpu: 1, stack })
}

fn state(start_ns: u64, state: ThreadState, stack: Option<Stack>) -> Event {
    Event::State(StateSlice { pid: 7, tid: 8, start_ns, end_ns: start_ns + 10, state, stack })
}

fn waiting(reason: &str, uninterruptible: bool, names: bool) -> ThreadState {
    ThreadState::Waiting(Wait {
        reason: reason.into(),
        syscall: names.then(|| "futex".into()),
        on: names.then(|| "0x7f00".into()),
        kernel_function: names.then(|| "futex_wait_queue".into()),
        uninterruptible,
    })
}

fn syscalls(stack: &Stack) -> Vec<Event> {
    let slice = SyscallSlice {
        pid: 7,
        tid: 8,
        start_ns: 3_060,
        end_ns: 3_090,
        name: "recvfrom".into(),
        result: Some(-11),
        error: Some("EAGAIN".into()),
        began_before: true,
        arguments: vec![
            ("fd".into(), Argument::Number(-1)),
            ("file".into(), Argument::Text("tcp 10.0.0.1:80 to 10.0.0.2:9".into())),
            ("address".into(), Argument::Address(u64::MAX)),
        ],
        stack: Some(stack.clone()),
    };
    let unfinished = SyscallSlice { start_ns: 3_090, pid: 9, tid: 9, ..SyscallSlice::default() };
    let sum = SyscallSum {
        timestamp_ns: 3_100,
        pid: 7,
        tid: 8,
        name: "read".into(),
        count: 500_000,
        errors: 3,
        total_ns: u64::MAX,
        max_ns: 1 << 40,
        errnos: vec![("EAGAIN".into(), 2), ("EINTR".into(), 1)],
        histogram: vec![(128, 499_999), (1 << 38, 1)],
    };
    let short = SyscallSum { errnos: vec![], histogram: vec![], ..sum.clone() };
    let rate = SyscallRate { timestamp_ns: 3_000, pid: 7, per_second: 500_000.5 };
    vec![
        Event::Syscall(SyscallSlice { end_ns: 3_095, ..unfinished }),
        Event::Syscall(slice),
        Event::SyscallSum(short),
        Event::SyscallSum(sum),
        Event::SyscallRate(rate),
    ]
}

/// Every kind of event with every kind of content.
fn events() -> Vec<Event> {
    let mixed = stack(
        vec![
            kernel("do_futex"),
            native("pthread_cond_wait", 0x1234, "00ff5a"),
            python("Queue.get", 171),
            python("<module>", 3),
            native("main", 0x10, ""),
        ],
        false,
    );
    let mut events = vec![
        Event::Clock(ClockSnapshot { boottime_ns: 1_000, monotonic_ns: 900, realtime_ns: 1_700_000_000_000_000_000 }),
        Event::Process(Process { pid: 7, parent_pid: 1, name: "VLLM::Worker_TP0".into() }),
        Event::Process(Process { pid: 9, ..Process::default() }),
        Event::Thread(Thread { pid: 7, tid: 8, name: "worker".into() }),
        sample(2_000, mixed.clone()),
        sample(2_001, stack(mixed.frames.to_vec(), true)),
        sample(2_002, stack(vec![], false)),
        sample(2_003, stack(vec![], true)),
        sample(2_004, stack(vec![python("Queue.get", 172)], false)),
        state(3_000, ThreadState::Running { cpu: Some(0) }, None),
        state(3_010, ThreadState::Running { cpu: None }, None),
    ];
    for (preempted, waker) in [(true, None), (false, Some(Waker { pid: 7, tid: 9 }))] {
        events.push(state(3_020, ThreadState::Runnable { preempted, waker }, None));
    }
    events.push(state(3_040, waiting("futex", false, true), Some(mixed.clone())));
    events.push(state(3_050, waiting("", true, false), Some(stack(vec![], false))));
    events.extend(syscalls(&mixed));
    for timestamp_ns in [4_000, 4_001] {
        events.push(Event::PythonBegin(PythonBegin {
            timestamp_ns,
            pid: 7,
            tid: 8,
            function: python("Queue.get", timestamp_ns as u32),
        }));
    }
    for timestamp_ns in [4_002, 4_003] {
        events.push(Event::PythonEnd(PythonEnd { timestamp_ns, pid: 7, tid: 8 }));
    }
    events
}

#[test]
fn every_event_comes_back() {
    let events = events();
    assert_eq!(read(&write(&events)).unwrap(), events);
}

#[test]
fn events_come_back_after_any_flush() {
    let events = events();
    let mut writer = TraceWriter::new(99);
    let mut bytes = Vec::new();
    for event in &events {
        writer.push(event);
        bytes.extend(writer.flush());
        assert!(writer.flush().is_empty(), "nothing is written twice");
    }
    assert_eq!(read(&bytes).unwrap(), events);
}

#[test]
fn an_event_of_an_undescribed_thread_makes_no_thread_event() {
    let event = state(1, ThreadState::Running { cpu: None }, None);
    assert_eq!(read(&write([&event])).unwrap(), [event]);
}

#[test]
fn interning_starts_anew_when_full_and_stays_bounded() {
    let events: Vec<Event> = (0..20_000)
        .map(|index| {
            let frames = (0..4).map(|depth| python(&format!("function_{index}_{depth}"), depth)).collect();
            sample(index, stack(frames, false))
        })
        .collect();
    let bytes = write(&events);
    let resets = packets(&bytes).iter().filter(|packet| packet.sequence_flags == Some(proto::STATE_CLEARED)).count();
    assert!((3..20).contains(&resets), "{resets} states");
    assert_eq!(read(&bytes).unwrap(), events);
}

#[test]
fn a_known_stack_costs_a_few_bytes() {
    let frames: Vec<_> = (0..40).map(|depth| python("f", depth)).collect();
    let events: Vec<_> = (0..1_000).map(|index| sample(index, stack(frames.clone(), false))).collect();
    let packets = packets(&write(&events));
    let size: usize = packets.iter().skip(2).map(TracePacket::encoded_len).sum();
    assert!(size < 1_000 * 32, "{size} bytes");
}

/// All packets, blocks opened.
#[test]
fn what_was_flushed_can_be_read_and_interning_goes_on() {
    let mut writer = TraceWriter::new(99);
    let (mut bytes, mut pushed, mut blocks) = (Vec::new(), Vec::new(), Vec::new());
    for second in 0..20 {
        for each in 0..10 {
            let frames = (0..40).map(|line| python("handle", line)).collect();
            pushed.push(sample(second * 1_000_000_000 + each, stack(frames, false)));
            writer.push(&pushed[pushed.len() - 1]);
            assert_eq!(writer.take_ready(), None, "a block is far from full");
        }
        let block = writer.flush();
        blocks.push(block.len());
        bytes.extend(block);
        assert!(writer.flush().is_empty(), "there was more");
        assert_eq!(read(&bytes).unwrap(), pushed);
    }
    assert!(blocks[1..].iter().all(|block| block * 3 < blocks[0]), "{blocks:?}");
}

fn packets(bytes: &[u8]) -> Vec<TracePacket> {
    let mut packets = Vec::new();
    let mut source = block::Packets::new(bytes);
    while let Some(packet) = source.next().unwrap() {
        packets.push(packet);
    }
    packets
}

#[test]
fn blocks_are_ready_in_time_and_of_bounded_size() {
    let mut writer = TraceWriter::new(99);
    let frame = python("f", 1);
    let mut blocks = Vec::new();
    for index in 0..40_000 {
        writer.push(&sample(index, stack(vec![Arc::clone(&frame)], false)));
        blocks.extend(writer.take_ready());
    }
    assert!(blocks.len() >= 2, "{} blocks", blocks.len());
    for block in blocks {
        let bytes: usize = packets(&block).iter().map(|packet| packet.encoded_len() + 2).sum();
        assert!((256 << 10..300 << 10).contains(&bytes), "{bytes} bytes in a block");
    }
}

#[test]
fn long_strings_and_deep_stacks_are_clipped_and_packets_stay_small() {
    let long = |depth: usize| Frame {
        kind: FrameKind::Python,
        function: format!("{depth}{}", "é".repeat(MAX_STRING)).into(),
        file: format!("/{depth}/{}", "x".repeat(2 * MAX_STRING)).into(),
        ..Frame::default()
    };
    let frames = (0..2 * MAX_FRAMES).map(|depth| Arc::new(long(depth))).collect();
    let bytes = write([&sample(1, stack(frames, false))]);
    for packet in packets(&bytes) {
        assert!(packet.encoded_len() < 128 << 10, "{} bytes", packet.encoded_len());
    }
    let events = read(&bytes).unwrap();
    let [Event::Sample(sample)] = &events[..] else { panic!("{} events", events.len()) };
    assert!(sample.stack.cut);
    assert_eq!(sample.stack.frames.len(), MAX_FRAMES);
    assert!(sample.stack.frames.iter().all(|frame| frame.file.len() == MAX_STRING));
    assert!(sample.stack.frames[0].function.starts_with("0é"), "the leaf is kept");
}

#[test]
fn a_trace_cut_anywhere_gives_its_first_events_or_an_error() {
    let events = events();
    let bytes = write(&events);
    for length in 0..bytes.len() {
        let read: Vec<_> = TraceReader::new(&bytes[..length]).collect();
        if length == 0 {
            assert!(read.is_empty());
            continue;
        }
        assert!(matches!(read.last(), Some(Err(TraceError::Truncated { .. }))), "{length}: {read:?}");
    }
    let mut plain = Vec::new();
    let mut ends = vec![0];
    for packet in packets(&bytes) {
        append_packet(&packet, &mut plain);
        ends.push(plain.len());
    }
    assert_eq!(read(&plain).unwrap(), events, "blocks are not needed");
    for length in 0..plain.len() {
        let mut read: Vec<_> = TraceReader::new(&plain[..length]).collect();
        let end = read.pop_if(|last| last.is_err());
        assert_eq!(ends.contains(&length), !matches!(end, Some(Err(TraceError::Truncated { .. }))), "{length}");
        let read: Vec<Event> = read.into_iter().map(Result::unwrap).collect();
        assert_eq!(read, events[..read.len()], "{length}");
    }
}

#[test]
fn no_damage_makes_a_reader_panic() {
    let mut plain = Vec::new();
    for packet in packets(&write(&events())) {
        append_packet(&packet, &mut plain);
    }
    for at in 0..plain.len() {
        for flip in [0x01, 0x08, 0x80, 0xff] {
            let mut damaged = plain.clone();
            damaged[at] ^= flip;
            let _ = read(&damaged);
        }
    }
}

#[test]
fn a_damaged_block_is_an_error() {
    let bytes = write(&events());
    for at in 8..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        // Some bits of a compressed block mean nothing: without them its content is the same.
        if let Ok(read) = read(&damaged) {
            assert_eq!(read, events(), "byte {at}: the checksum of the block covers its content");
        }
    }
}

/// A file with one compressed block of these bytes.
fn block_of(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(content).unwrap();
    let mut bytes = Vec::new();
    let packet = TracePacket { compressed_packets: Some(encoder.finish().unwrap()), ..TracePacket::default() };
    append_packet(&packet, &mut bytes);
    bytes
}

#[test]
fn a_zip_bomb_is_refused() {
    // Packets of a megabyte of zeros in a field that is not ours.
    let mut padding = vec![0xa2, 0x06];
    prost::encoding::encode_varint(1_000_000, &mut padding);
    padding.resize(padding.len() + 1_000_000, 0);
    let mut packet = vec![0x0a];
    prost::encoding::encode_varint(padding.len() as u64, &mut packet);
    packet.extend(padding);
    let bomb = block_of(&packet.repeat(MAX_BLOCK as usize / packet.len() + 1));
    assert!(bomb.len() < 1 << 20);
    let error = read(&bomb).unwrap_err();
    assert!(matches!(error, TraceError::TooLong { what: "block", .. }), "{error}");

    let nested = block_of(&block_of(&[0x0a, 0x00]));
    assert!(matches!(read(&nested), Err(TraceError::NestedBlock)));
}

#[test]
fn a_long_packet_is_refused_before_it_is_read() {
    let mut bytes = vec![0x0a];
    prost::encoding::encode_varint(MAX_PACKET + 1, &mut bytes);
    assert!(matches!(read(&bytes), Err(TraceError::TooLong { what: "packet", .. })));
    let endless = [&[0x0a][..], &[0x80; 64]].concat();
    assert!(matches!(read(&endless), Err(TraceError::TooLong { what: "packet", .. })));
}

#[test]
fn other_files_are_named_as_such() {
    let error = read(b"{\"traceEvents\":[]}").unwrap_err();
    assert_eq!(
        error.to_string(),
        "this is not a Perfetto trace: expected a packet's first byte 0a at offset 0, found 7b"
    );
}

#[test]
fn wrong_wire_types_are_an_error() {
    // Field 8, timestamp, as length-delimited.
    let error = read(&[0x0a, 0x02, 0x42, 0x00]).unwrap_err();
    assert!(matches!(error, TraceError::Packet { offset: 0, .. }), "{error}");
}

/// A file of these packets, in our sequence, after one that begins a state.
fn file(packets: impl IntoIterator<Item = TracePacket>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let start = TracePacket { sequence_flags: Some(proto::STATE_CLEARED), ..TracePacket::default() };
    for packet in std::iter::once(start).chain(packets) {
        let packet = TracePacket { trusted_packet_sequence_id: Some(1), ..packet };
        append_packet(&packet, &mut bytes);
    }
    bytes
}

#[test]
fn undefined_numbers_are_an_error() {
    let sample = TracePacket {
        timestamp: Some(1),
        perf_sample: Some(proto::PerfSample {
            cpu: Some(0),
            pid: Some(1),
            tid: Some(1),
            callstack_iid: Some(5),
            cpu_mode: None,
        }),
        ..TracePacket::default()
    };
    let error = read(&file([sample.clone()])).unwrap_err();
    assert_eq!(error.to_string(), "the trace refers to callstack 5, which it did not define before");
    let untimed = TracePacket { timestamp: None, ..sample };
    assert_eq!(read(&file([untimed])).unwrap_err().to_string(), "a sample of the trace lacks its timestamp");
}

#[test]
fn definitions_are_bounded() {
    let define = |index: u64| TracePacket {
        interned_data: Some(proto::InternedData {
            event_names: vec![proto::InternedString { iid: index, value: vec![b'x'; 1 << 19] }],
            ..proto::InternedData::default()
        }),
        ..TracePacket::default()
    };
    assert!(read(&file((0..100).map(define))).is_ok());
    let error = read(&file((0..200).map(define))).unwrap_err();
    assert!(matches!(error, TraceError::TooMany { .. }), "{error}");
}

#[test]
fn packets_of_others_are_passed_over() {
    let mut bytes = Vec::new();
    let foreign = TracePacket {
        trusted_packet_sequence_id: Some(2),
        perf_sample: Some(proto::PerfSample::default()),
        ..TracePacket::default()
    };
    append_packet(&foreign, &mut bytes);
    let events = events();
    bytes.extend(write(&events));
    assert_eq!(read(&bytes).unwrap(), events);
}
