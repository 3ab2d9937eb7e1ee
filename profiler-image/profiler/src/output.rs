//! What leaves a capture: frames and progress lines, on the standard streams or wherever else somebody listens.
//!
//! A thread of its own writes the frames, so that a slow reader does not keep the rings from being drained. What waits to be
//! written is bounded; beyond that the capture waits too, and what the rings lose meanwhile is counted.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use aiprof_capture::{
    frame::{Encoder, FrameKind},
    progress::Progress,
};

/// Blocks of some 100 KiB that may wait to be written.
const MAX_WAITING: usize = 32;

/// Hears how a capture goes on.
pub trait Listener: std::fmt::Debug + Send {
    /// Takes a line; never waits for long.
    fn hear(&self, line: &Progress);
}

/// Writes progress lines to standard error.
#[derive(Clone, Copy, Debug)]
pub struct StandardError;

impl Listener for StandardError {
    fn hear(&self, line: &Progress) {
        progress(line);
    }
}

/// Writes frames and progress.
#[derive(Debug)]
pub struct Output {
    listener: Box<dyn Listener>,
    encoder: Encoder,
    frames: SyncSender<Vec<u8>>,
    writer: JoinHandle<()>,
    broken: Arc<AtomicBool>,
    trace_bytes: u64,
}

impl Output {
    /// Starts writing frames to `sink`; `listener` hears the progress.
    pub fn new(mut sink: impl Write + Send + 'static, listener: impl Listener + 'static) -> Self {
        let (frames, waiting) = sync_channel::<Vec<u8>>(MAX_WAITING);
        let broken = Arc::new(AtomicBool::new(false));
        let failed = Arc::clone(&broken);
        let writer = std::thread::spawn(move || {
            for frame in waiting {
                if sink.write_all(&frame).and_then(|()| sink.flush()).is_err() {
                    failed.store(true, Ordering::Relaxed);
                    // Dropping the receiver lets later sends fail instead of wait.
                    return;
                }
            }
        });
        Self { listener: Box::new(listener), encoder: Encoder::new(), frames, writer, broken, trace_bytes: 0 }
    }

    /// Sends a frame.
    pub fn frame(&mut self, kind: FrameKind, payload: &[u8]) {
        if kind == FrameKind::Trace {
            self.trace_bytes += payload.len() as u64;
        }
        if self.frames.send(self.encoder.frame(kind, payload)).is_err() {
            self.broken.store(true, Ordering::Relaxed);
        }
    }

    /// Tells how the capture goes on.
    pub fn progress(&self, line: &Progress) {
        self.listener.hear(line);
    }

    /// Whether the reader has gone.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Trace bytes sent so far.
    #[must_use]
    pub fn trace_bytes(&self) -> u64 {
        self.trace_bytes
    }

    /// Waits until everything is written.
    pub fn finish(self) {
        drop(self.frames);
        // A writer that panicked has nothing more to write either.
        let _ = self.writer.join();
    }
}

/// Writes a progress line to standard error; a reader that has gone does not end the capture, the control channel does.
pub fn progress(line: &Progress) {
    if let Ok(json) = serde_json::to_string(line) {
        let _ = writeln!(io::stderr().lock(), "{json}");
    }
}

#[cfg(test)]
mod tests {
    use aiprof_capture::frame::Decoder;

    use super::*;

    #[test]
    fn frames_arrive_in_order() {
        let (reader, writer) = io::pipe().unwrap();
        let mut output = Output::new(writer, StandardError);
        output.frame(FrameKind::Trace, b"one");
        output.frame(FrameKind::Trace, b"two");
        output.frame(FrameKind::End, b"");
        assert_eq!(output.trace_bytes(), 6);
        output.finish();
        let mut decoder = Decoder::new();
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut { reader }, &mut bytes).unwrap();
        decoder.push(&bytes);
        let mut payloads = Vec::new();
        while let Ok(Some(frame)) = decoder.next() {
            payloads.push((frame.kind, frame.offset, frame.payload));
        }
        assert_eq!(payloads.len(), 3);
        assert_eq!(payloads[1], (FrameKind::Trace, 3, b"two".to_vec()));
    }

    #[test]
    fn a_reader_that_has_gone_is_noticed_and_nothing_waits() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut output = Output::new(writer, StandardError);
        for _ in 0..MAX_WAITING * 4 {
            output.frame(FrameKind::Trace, &[0; 4096]);
        }
        assert!(output.is_broken());
        output.finish();
    }
}
