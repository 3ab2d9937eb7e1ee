//! `pods/NAME/exec` and `attach` over WebSocket: the subprotocols `v5.channel.k8s.io` and `v4.channel.k8s.io`. The first byte of each
//! message names its channel; version 5 adds the close signal, channel 255, whose payload is the channel that is closed.

use std::{process::Stdio, sync::Arc, time::Duration};

use axum::{
    body::Bytes,
    extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code},
    response::Response,
};
use futures_util::{SinkExt, StreamExt, stream::SplitSink};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStdin, Command},
    sync::{Notify, mpsc},
};

use crate::{api::Asked, faults::Board, logs, node::text, podman, server::App, status::Refusal};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const CLOSE: u8 = 255;
const V5: &str = "v5.channel.k8s.io";
const V4: &str = "v4.channel.k8s.io";
/// Bytes of output in one message, as a kubelet sends them.
const CHUNK_BYTES: usize = 32 << 10;
/// How long the client of a broken connection may still run, so that what it runs sees the end of its standard input first.
const BROKEN_GRACE: Duration = Duration::from_secs(5);

/// Takes the connection over.
pub(crate) fn answer(app: &Arc<App>, asked: &Asked, upgrade: WebSocketUpgrade) -> Result<Response, Refusal> {
    let (pod, container) = logs::container(app, asked)?;
    let words: Vec<String> =
        asked.query.iter().filter(|(key, _)| key == "command").map(|(_, value)| value.clone()).collect();
    let attach = asked.attributes.subresource == "attach";
    if !attach && words.is_empty() {
        return Err(Refusal::bad_request("you must specify at least 1 command for the container"));
    }
    let running = !logs::status_of(&pod, &container)["state"]["running"].is_null();
    let name = app.node.container(&text(&pod["metadata"]["uid"]), &container).filter(|_| running);
    let command = name.map(|name| command(&name, attach, asked, &words));
    let wants_stdin = asked.is_on("stdin");
    let orders = Orders { board: app.board.clone(), namespace: asked.attributes.namespace.clone() };
    let upgrade =
        if orders.board.get(&orders.namespace).only_v4 { upgrade.protocols([V4]) } else { upgrade.protocols([V5, V4]) };
    Ok(upgrade.on_upgrade(move |socket| async move {
        let Some(command) = command else {
            let why = format!("unable to upgrade connection: container not found (\"{container}\")");
            finish(&mut socket.split().0, &Refusal::internal(why).body()).await;
            return;
        };
        serve(socket, command, wants_stdin, &words, &orders).await;
    }))
}

fn command(name: &str, attach: bool, asked: &Asked, words: &[String]) -> Command {
    let mut command = podman::podman();
    if attach {
        command.args(["attach", "--sig-proxy=false"]);
        if !asked.is_on("stdin") {
            command.arg("--no-stdin");
        }
        command.arg(name);
    } else {
        command.arg("exec");
        if asked.is_on("stdin") {
            command.arg("--interactive");
        }
        if asked.is_on("tty") {
            command.arg("--tty");
        }
        command.arg(name).args(words);
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What is ordered for a connection: that of its namespace.
struct Orders {
    board: Arc<Board>,
    namespace: String,
}

/// What comes out of the process, by its channel.
type Output = (u8, Vec<u8>);

async fn serve(socket: WebSocket, mut command: Command, wants_stdin: bool, words: &[String], orders: &Orders) {
    if wants_stdin {
        command.stdin(Stdio::piped());
    }
    let (mut sink, mut messages) = socket.split();
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(why) => return finish(&mut sink, &Refusal::internal(why.to_string()).body()).await,
    };
    let (output, mut outputs) = mpsc::channel::<Output>(8);
    tokio::spawn(read(child.stdout.take(), STDOUT, output.clone()));
    tokio::spawn(read(child.stderr.take(), STDERR, output));
    let (to_stdin, stdin_chunks) = mpsc::channel::<Vec<u8>>(8);
    tokio::spawn(write(child.stdin.take(), stdin_chunks));

    let mut cuts = orders.board.cuts(&orders.namespace);
    let busy = Notify::new();
    let receiving = async {
        let mut to_stdin = Some(to_stdin);
        while let Some(Ok(message)) = messages.next().await {
            if matches!(message, Message::Binary(_) | Message::Ping(_)) {
                busy.notify_one();
            }
            let Message::Binary(bytes) = message else { continue };
            match bytes.split_first() {
                Some((&STDIN, chunk)) if !chunk.is_empty() => {
                    let gone = match &to_stdin {
                        Some(to) => to.send(chunk.to_vec()).await.is_err(),
                        None => false,
                    };
                    if gone {
                        to_stdin = None;
                    }
                }
                Some((&CLOSE, [STDIN])) => to_stdin = None,
                _ => {}
            }
        }
    };
    let sending = send(&mut sink, &mut outputs, words, orders, &busy);
    let (complete, cut) = tokio::select! {
        Sent { errors, cut } = sending => (errors, cut),
        () = receiving => (None, false),
        _ = cuts.changed() => (None, true),
        () = idle(orders, &busy) => (None, true),
    };
    drop(messages);
    if cut {
        orders.board.count_cut(&orders.namespace);
    }
    let Some(errors) = complete else {
        // Without a close frame: the client sees a connection that broke.
        drop(sink);
        drop(outputs);
        abandon(child).await;
        return;
    };
    let status = match child.wait().await {
        Ok(status) => exit_status(status.code().unwrap_or(255), &errors),
        Err(why) => Refusal::internal(why.to_string()).body(),
    };
    finish(&mut sink, &status).await;
}

/// Ends when nothing has come or gone for as long as a fault allows.
async fn idle(orders: &Orders, busy: &Notify) {
    loop {
        let limit = Duration::from_millis(orders.board.get(&orders.namespace).idle_timeout_ms);
        if limit.is_zero() {
            return std::future::pending().await;
        }
        if tokio::time::timeout(limit, busy.notified()).await.is_err() {
            return;
        }
    }
}

/// How the sending of output ended.
struct Sent {
    /// The first bytes of the errors; none if the way broke or was cut.
    errors: Option<Vec<u8>>,
    /// Whether it was cut on order.
    cut: bool,
}

/// Sends all output.
async fn send(
    sink: &mut SplitSink<WebSocket, Message>,
    outputs: &mut mpsc::Receiver<Output>,
    words: &[String],
    orders: &Orders,
    busy: &Notify,
) -> Sent {
    let Orders { board, namespace } = orders;
    let mut sent = 0_u64;
    let mut errors = Vec::new();
    while let Some((channel, mut chunk)) = outputs.recv().await {
        busy.notify_one();
        if channel == STDOUT {
            if let Some(after) = board.cut_after(namespace, words)
                && sent + chunk.len() as u64 > after
                && board.spend_cut(namespace)
            {
                chunk.truncate(after.saturating_sub(sent) as usize);
                let _ = sink.send(message(channel, &chunk)).await;
                return Sent { errors: None, cut: true };
            }
            sent += chunk.len() as u64;
        } else if errors.len() < 1024 {
            errors.extend_from_slice(&chunk);
        }
        // The runtime's own complaint is the status of the request, no output.
        if !(channel == STDERR && is_start_failure(&chunk)) && sink.send(message(channel, &chunk)).await.is_err() {
            return Sent { errors: None, cut: false };
        }
    }
    Sent { errors: Some(errors), cut: false }
}

fn message(channel: u8, chunk: &[u8]) -> Message {
    let mut bytes = Vec::with_capacity(chunk.len() + 1);
    bytes.push(channel);
    bytes.extend_from_slice(chunk);
    Message::Binary(Bytes::from(bytes))
}

fn is_start_failure(errors: &[u8]) -> bool {
    errors.starts_with(b"Error: runc: exec failed")
}

/// The Status that ends a session.
fn exit_status(code: i32, errors: &[u8]) -> Value {
    if matches!(code, 125..=127 | 255) && is_start_failure(errors) {
        let text = String::from_utf8_lossy(errors);
        let cause = text.trim().trim_start_matches("Error: runc: ");
        let cause = cause.split(": OCI runtime").next().unwrap_or_default();
        let why = format!(
            "error executing command in container: failed to exec in container: failed to start exec: OCI runtime exec failed: {cause}: unknown"
        );
        return Refusal::internal(why).body();
    }
    if code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    json!({
        "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: command terminated with exit code {code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}

async fn finish(sink: &mut SplitSink<WebSocket, Message>, status: &Value) {
    let _ = sink.send(message(ERROR, status.to_string().as_bytes())).await;
    let _ = sink.send(Message::Close(Some(CloseFrame { code: close_code::NORMAL, reason: "".into() }))).await;
    let _ = sink.close().await;
}

async fn read(from: Option<impl AsyncRead + Unpin>, channel: u8, to: mpsc::Sender<Output>) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; CHUNK_BYTES];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if to.send((channel, buffer[..length].to_vec())).await.is_err() {
            return;
        }
    }
}

/// Ends standard input when the sender is gone.
async fn write(to: Option<ChildStdin>, mut chunks: mpsc::Receiver<Vec<u8>>) {
    let Some(mut to) = to else { return };
    while let Some(chunk) = chunks.recv().await {
        if to.write_all(&chunk).await.is_err() {
            return;
        }
    }
}

/// The process is not killed, as on a real node: it sees the end of its standard input, and nobody reads what it writes.
async fn abandon(mut child: Child) {
    if tokio::time::timeout(BROKEN_GRACE, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_tells_a_command_that_failed_from_one_that_is_not_there() {
        assert_eq!(exit_status(0, b"")["status"], "Success");
        assert_eq!(exit_status(3, b"oops")["details"]["causes"][0]["message"], "3");
        assert_eq!(exit_status(127, b"sh: 1: nope: not found")["reason"], "NonZeroExitCode");
        let absent = b"Error: runc: exec failed: unable to start container process: exec: \"sh\": executable file not found in $PATH: \
            OCI runtime attempted to invoke a command that was not found";
        let status = exit_status(127, absent);
        assert_eq!(status["reason"], "InternalError");
        let message = status["message"].as_str().expect("a sentence");
        assert!(message.ends_with("exec: \"sh\": executable file not found in $PATH: unknown"), "{message}");
    }
}
