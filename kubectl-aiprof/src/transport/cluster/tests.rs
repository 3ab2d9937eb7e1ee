//! A profiler that outlives its sessions, behind a way that breaks, without a cluster.

use std::sync::{Arc, Mutex};

use aiprof_capture::{
    attach::Attach,
    frame::{Encoder, FrameKind},
    request::PROTOCOL_VERSION,
};
use futures_util::FutureExt as _;

use super::*;
use crate::{cluster::exec::Streams, transport::way::Way};

/// What the other end has and what was said to it.
#[derive(Default)]
struct Pod {
    stream: Vec<u8>,
    /// Each session breaks after so many bytes; those after the last do not.
    cuts: Vec<usize>,
    /// What the first sessions get instead of being opened.
    refusals: Vec<Break>,
    attached: Vec<Attach>,
    lines: Vec<String>,
    gone: Option<String>,
}

#[derive(Clone, Default)]
struct Stand(Arc<Mutex<Pod>>);

impl Way for Stand {
    async fn open(&self) -> Result<Session, Break> {
        {
            let mut pod = self.0.lock().unwrap();
            if !pod.refusals.is_empty() {
                return Err(pod.refusals.remove(0));
            }
        }
        let (stdin, inside_in) = duplex(1 << 10);
        let (mut inside_out, stdout) = duplex(1 << 10);
        let (mut inside_err, stderr) = duplex(1 << 10);
        let pod = Arc::clone(&self.0);
        let end = tokio::spawn(async move {
            let mut lines = BufReader::new(inside_in).lines();
            let attach: Attach = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
            let (bytes, cut) = {
                let mut pod = pod.lock().unwrap();
                pod.attached.push(attach.clone());
                let cut = (!pod.cuts.is_empty()).then(|| pod.cuts.remove(0));
                (pod.stream[attach.from as usize..].to_vec(), cut)
            };
            inside_err.write_all(b"{\"event\":\"warn").await.unwrap();
            let upto = cut.unwrap_or(bytes.len()).min(bytes.len());
            inside_out.write_all(&bytes[..upto]).await.unwrap();
            if cut.is_some() {
                // The driver reads what was sent before it sees the break, or asks for it again.
                return SessionEnd::Broken;
            }
            while let Ok(Some(line)) = lines.next_line().await {
                pod.lock().unwrap().lines.push(line.clone());
                if line.contains("leave") {
                    return SessionEnd::Exited(0);
                }
            }
            SessionEnd::Broken
        });
        let end = end.map(|end| end.unwrap_or(SessionEnd::Broken)).boxed();
        let streams = Streams { stdin: Box::new(stdin), stdout: Box::new(stdout), stderr: Box::new(stderr), end };
        Ok(Session { streams, process: None })
    }

    async fn look(&self) -> Look {
        match &self.0.lock().unwrap().gone {
            Some(why) => Look::Gone(why.clone()),
            None => Look::Alive,
        }
    }
}

fn stream() -> Vec<u8> {
    let mut encoder = Encoder::new();
    let frames = (0..100u8).map(|number| encoder.frame(FrameKind::Trace, &[number; 1000])).collect::<Vec<_>>();
    [frames.concat(), encoder.frame(FrameKind::End, b"")].concat()
}

async fn ask(connection: &mut Connection) {
    let request = Request {
        protocol: PROTOCOL_VERSION,
        pids: vec![7],
        container_id: None,
        processes: vec![],
        duration_ms: None,
        frequency_hz: 99,
        collect: vec![],
        syscall_min_ns: 0,
    };
    let line = serde_json::to_string(&request).unwrap() + "\n";
    connection.requests.write_all(line.as_bytes()).await.unwrap();
}

async fn read_all(connection: &mut Connection) -> (Vec<u8>, String) {
    let (mut capture, mut progress) = (Vec::new(), String::new());
    let (read, said) =
        tokio::join!(connection.capture.read_to_end(&mut capture), connection.progress.read_to_string(&mut progress));
    read.unwrap();
    said.unwrap();
    (capture, progress)
}

#[tokio::test]
async fn three_cuts_lose_nothing() {
    let stand = Stand::default();
    *stand.0.lock().unwrap() = Pod { stream: stream(), cuts: vec![100, 30_000, 1], ..Pod::default() };
    let mut connection = connect(stand.clone()).unwrap();
    ask(&mut connection).await;
    let (capture, progress) = read_all(&mut connection).await;
    assert_eq!(connection.life.ended().await, Ended::Exited(0));
    assert!(capture == stream());
    let pod = stand.0.lock().unwrap();
    assert_eq!(pod.attached.len(), 4);
    assert_eq!(pod.attached[0].request.as_ref().unwrap().pids, [7]);
    assert!(
        pod.attached[1..].iter().all(|attach| attach.request.is_none() && attach.capture == pod.attached[0].capture)
    );
    assert_eq!(pod.lines.last().map(String::as_str), Some("{\"control\":\"leave\"}"));
    // A line that was cut stands alone.
    assert!(progress.lines().all(|line| line == "{\"event\":\"warn"), "{progress}");
}

#[tokio::test]
async fn a_stop_reaches_the_profiler() {
    let stand = Stand::default();
    let mut connection = connect(stand.clone()).unwrap();
    ask(&mut connection).await;
    connection.requests.write_all(b"\"stop\"\n").await.unwrap();
    while !stand.0.lock().unwrap().lines.iter().any(|line| line == "{\"control\":\"stop\"}") {
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn giving_up_says_leave_and_ends() {
    let stand = Stand::default();
    let mut connection = connect(stand.clone()).unwrap();
    ask(&mut connection).await;
    while stand.0.lock().unwrap().attached.is_empty() {
        sleep(Duration::from_millis(5)).await;
    }
    connection.life.kill();
    let ended = timeout(Duration::from_secs(2), connection.life.ended()).await.unwrap();
    assert_eq!(ended, Ended::Exited(0));
    assert!(stand.0.lock().unwrap().lines.iter().any(|line| line.contains("leave")));
}

#[tokio::test]
async fn a_dropped_connection_gives_up_too() {
    let stand = Stand::default();
    let mut connection = connect(stand.clone()).unwrap();
    ask(&mut connection).await;
    while stand.0.lock().unwrap().attached.is_empty() {
        sleep(Duration::from_millis(5)).await;
    }
    drop(connection);
    while !stand.0.lock().unwrap().lines.iter().any(|line| line.contains("leave")) {
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_arrived_before_the_pod_was_gone_is_given() {
    let stand = Stand::default();
    let gone = "pod a was deleted while it was recorded".to_owned();
    *stand.0.lock().unwrap() = Pod { stream: stream(), cuts: vec![900], gone: Some(gone.clone()), ..Pod::default() };
    let mut connection = connect(stand).unwrap();
    ask(&mut connection).await;
    let (capture, _) = read_all(&mut connection).await;
    assert_eq!(capture, stream()[..900]);
    assert_eq!(connection.life.ended().await, Ended::Lost(gone));
}

#[tokio::test]
async fn a_refusal_for_now_is_tried_again_and_one_for_good_is_not() {
    let stand = Stand::default();
    let refusals = vec![Break::Broken("502".to_owned()), Break::Refused("cannot run x: forbidden".to_owned())];
    *stand.0.lock().unwrap() = Pod { stream: stream(), refusals, ..Pod::default() };
    let mut connection = connect(stand.clone()).unwrap();
    ask(&mut connection).await;
    assert_eq!(connection.life.ended().await, Ended::Lost("cannot run x: forbidden".to_owned()));
    assert!(stand.0.lock().unwrap().attached.is_empty());
}

#[test]
fn an_image_without_the_profiler_is_told() {
    let how = session_break(Some(SessionEnd::NotRun("exec: \"/x\": stat /x: no such file or directory".to_owned())));
    assert!(matches!(how, Break::Refused(why) if why.contains("--image")));
}
