//! A profiler in a pod. What is written to it and what it says goes through exec sessions of `aiprof-profiler attach`, one after
//! another where one breaks; [`Resume`] says what comes next, this file does it.

use std::{
    future::{Future, pending},
    io,
    pin::Pin,
    time::{Duration, Instant},
};

use aiprof_capture::request::{Control, Request};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, Lines, duplex},
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    Connection, Ended, Life,
    resume::{Break, Look, Resume, Step},
    way::{Session, Way, session_break},
};
use crate::{
    cluster::exec::{PIPE_BYTES, SessionEnd},
    strings::hex,
};

/// A session that does not open within so long is given up.
const OPEN: Duration = Duration::from_secs(15);
/// A line that cannot be sent for so long means that the session is broken.
const SEND: Duration = Duration::from_secs(10);
/// After a session's status, what it still said has so long to arrive.
const REST: Duration = Duration::from_millis(200);
/// Letters of a capture's id.
const ID_BYTES: usize = 8;

/// A capture over sessions of this way. Needs a tokio runtime, in which it runs until the connection is dropped.
///
/// # Errors
/// The system gives no random bytes.
pub fn connect(way: impl Way) -> io::Result<Connection> {
    let mut id = [0; ID_BYTES];
    getrandom::fill(&mut id).map_err(io::Error::other)?;
    let id = hex(&id);
    let (requests, request_lines) = duplex(PIPE_BYTES);
    let (capture_in, capture) = duplex(PIPE_BYTES);
    let (progress_in, progress) = duplex(PIPE_BYTES);
    let (kill, killed) = watch::channel(false);
    let (tell, ended) = watch::channel(None);
    let driver = Driver {
        way,
        resume: Resume::new(id),
        begun: Instant::now(),
        session: None,
        requests: Some(BufReader::new(request_lines).lines()),
        capture: capture_in,
        progress: progress_in,
        line_open: false,
    };
    tokio::spawn(async move {
        let ended = driver.drive(killed).await;
        // Nobody may wait for it any more.
        let _ = tell.send(Some(ended));
    });
    Ok(Connection {
        requests: Box::new(requests),
        capture: Box::new(capture),
        progress: Box::new(progress),
        life: Box::new(ClusterLife { kill, ended }),
    })
}

struct ClusterLife {
    kill: watch::Sender<bool>,
    ended: watch::Receiver<Option<Ended>>,
}

impl Life for ClusterLife {
    fn ended(&mut self) -> Pin<Box<dyn Future<Output = Ended> + '_>> {
        Box::pin(async {
            match self.ended.wait_for(Option::is_some).await {
                Ok(ended) => ended.clone().unwrap_or_else(|| Ended::Unknown("nobody knows".to_owned())),
                Err(_) => Ended::Unknown("its sessions are not kept any more".to_owned()),
            }
        })
    }

    fn kill(&mut self) {
        let _ = self.kill.send(true);
    }
}

/// Does what [`Resume`] says.
struct Driver<W> {
    way: W,
    resume: Resume,
    begun: Instant,
    session: Option<OpenSession>,
    requests: Option<Lines<BufReader<DuplexStream>>>,
    capture: DuplexStream,
    progress: DuplexStream,
    /// Whether the last progress line has no end yet.
    line_open: bool,
}

struct OpenSession {
    session: Session,
    stdout_open: bool,
    stderr_open: bool,
    end: Option<SessionEnd>,
}

/// Something that happened.
enum Event {
    Capture(io::Result<usize>),
    Progress(io::Result<usize>),
    End(SessionEnd),
    /// The rest of an ended session has arrived, or will not.
    Rest,
    Request(Option<String>),
    Killed,
    Time,
}

impl<W: Way> Driver<W> {
    async fn drive(mut self, mut killed: watch::Receiver<bool>) -> Ended {
        let (mut capture, mut progress) = (Vec::with_capacity(PIPE_BYTES), Vec::with_capacity(PIPE_BYTES));
        let mut told = false;
        loop {
            let now = self.begun.elapsed();
            match self.resume.step(now) {
                Step::Done(ended) => return ended,
                Step::Close => self.session = None,
                Step::Look => {
                    let look = tokio::select! {
                        look = self.way.look() => look,
                        () = kill(&mut killed, told) => {
                            told = true;
                            self.resume.leave();
                            Look::Unknown("given up".to_owned())
                        }
                    };
                    self.resume.looked(look);
                }
                Step::Open(attach) => {
                    let line = serde_json::to_vec(&attach).unwrap_or_default();
                    let opened = tokio::select! {
                        opened = timeout(OPEN, self.way.open()) => opened,
                        () = kill(&mut killed, told) => {
                            told = true;
                            self.resume.leave();
                            Ok(Err(Break::Broken("given up".to_owned())))
                        }
                    };
                    let late = || Err(Break::Broken(format!("no session within {} s", OPEN.as_secs())));
                    match opened.unwrap_or_else(|_| late()) {
                        Ok(session) => {
                            self.session =
                                Some(OpenSession { session, stdout_open: true, stderr_open: true, end: None });
                            self.resume.opened(self.begun.elapsed());
                            self.end_line().await;
                            self.send(line).await;
                        }
                        Err(how) => self.resume.broken(how, self.begun.elapsed()),
                    }
                }
                Step::Send(control) => self.send(serde_json::to_vec(&control).unwrap_or_default()).await,
                Step::Wait(until) => {
                    let event =
                        self.wait(until.saturating_sub(now), &mut capture, &mut progress, &mut killed, told).await;
                    told |= matches!(event, Event::Killed);
                    self.happened(event, &mut capture, &mut progress).await;
                }
            }
        }
    }

    async fn wait(
        &mut self,
        patience: Duration,
        capture: &mut Vec<u8>,
        progress: &mut Vec<u8>,
        killed: &mut watch::Receiver<bool>,
        told: bool,
    ) -> Event {
        let request = next_line(&mut self.requests);
        let Some(open) = &mut self.session else {
            return tokio::select! {
                line = request => Event::Request(line),
                () = kill(killed, told) => Event::Killed,
                () = sleep(patience) => Event::Time,
            };
        };
        let OpenSession { session, stdout_open, stderr_open, end } = open;
        let over = end.is_some();
        let said_all = over && !*stdout_open && !*stderr_open;
        tokio::select! {
            read = session.streams.stdout.read_buf(capture), if *stdout_open => Event::Capture(read),
            read = session.streams.stderr.read_buf(progress), if *stderr_open => Event::Progress(read),
            how = &mut session.streams.end, if !over => Event::End(how),
            () = std::future::ready(()), if said_all => Event::Rest,
            () = sleep(REST), if over => Event::Rest,
            line = request => Event::Request(line),
            () = kill(killed, told) => Event::Killed,
            () = sleep(patience) => Event::Time,
        }
    }

    async fn happened(&mut self, event: Event, capture: &mut Vec<u8>, progress: &mut Vec<u8>) {
        match event {
            Event::Capture(Ok(read)) if read > 0 => {
                self.resume.capture_bytes(capture, self.begun.elapsed());
                // Whoever reads it may have gone, and then says so by ending this.
                let _ = self.capture.write_all(capture).await;
                capture.clear();
            }
            Event::Progress(Ok(read)) if read > 0 => {
                self.resume.progress_bytes(progress, self.begun.elapsed());
                self.line_open = progress.last() != Some(&b'\n');
                let _ = self.progress.write_all(progress).await;
                progress.clear();
            }
            Event::Capture(_) => self.close_stream(|open| open.stdout_open = false),
            Event::Progress(_) => self.close_stream(|open| open.stderr_open = false),
            Event::End(how) => self.close_stream(|open| open.end = Some(how)),
            Event::Rest => {
                let how = self.session.take().and_then(|open| open.end);
                self.resume.broken(session_break(how), self.begun.elapsed());
            }
            Event::Request(Some(line)) => match serde_json::from_str::<Control>(&line) {
                Ok(Control::Stop) => self.resume.stop(),
                Err(_) => match serde_json::from_str::<Request>(&line) {
                    Ok(request) => self.resume.request(request, self.begun.elapsed()),
                    Err(_) => self.resume.leave(),
                },
            },
            // Whoever asked has gone.
            Event::Request(None) => {
                self.requests = None;
                self.resume.leave();
            }
            Event::Killed => self.resume.leave(),
            Event::Time => {}
        }
    }

    fn close_stream(&mut self, close: impl FnOnce(&mut OpenSession)) {
        if let Some(open) = &mut self.session {
            close(open);
        }
    }

    async fn send(&mut self, mut line: Vec<u8>) {
        let Some(open) = &mut self.session else { return };
        line.push(b'\n');
        let stdin = &mut open.session.streams.stdin;
        let sent = timeout(SEND, async {
            stdin.write_all(&line).await?;
            stdin.flush().await
        });
        // A session that has ended says how by its status.
        if sent.await.is_err() {
            self.session = None;
            let why = format!("a line could not be sent for {} s", SEND.as_secs());
            self.resume.broken(Break::Broken(why), self.begun.elapsed());
        }
    }

    /// Ends a progress line that was cut in the middle, so that the next one stands alone.
    async fn end_line(&mut self) {
        if std::mem::take(&mut self.line_open) {
            let _ = self.progress.write_all(b"\n").await;
        }
    }
}

async fn next_line(lines: &mut Option<Lines<BufReader<DuplexStream>>>) -> Option<String> {
    match lines {
        Some(lines) => lines.next_line().await.unwrap_or_default(),
        None => pending().await,
    }
}

/// Waits until the connection is killed or dropped; never again after that.
async fn kill(killed: &mut watch::Receiver<bool>, told: bool) {
    if told {
        pending::<()>().await;
    }
    // An error: the connection was dropped.
    let _ = killed.wait_for(|killed| *killed).await;
}

#[cfg(test)]
mod tests;
