//! Serves the trace, and the files of a self-hosted UI beside it, until the UI has the trace.

use std::{
    fs::File,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    answer::TraceAnswers,
    body::{Answered, FileBody},
    site::Site,
};

/// The last bytes have so long to reach the UI after they were handed to the kernel.
const TRACE_GRACE: Duration = Duration::from_millis(300);
/// A self-hosted UI is served on until it has asked for nothing for so long.
const SITE_GRACE: Duration = Duration::from_secs(5);
/// After a failed accept, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Returns once the whole trace was sent and what the UI wants besides was served.
pub async fn serve(listener: TcpListener, answers: TraceAnswers, trace: File, site: Option<(TcpListener, Site)>) {
    let (sent, mut sent_once) = mpsc::channel(1);
    let (asked, mut asked_again) = mpsc::channel(1);
    let mut tasks = JoinSet::new();
    tasks.spawn(serve_trace(listener, Arc::new(answers), Arc::new(trace), sent));
    let has_site = site.is_some();
    if let Some((listener, site)) = site {
        tasks.spawn(serve_site(listener, Arc::new(site), asked));
    }
    // The tasks never end by themselves, so neither channel closes before this returns.
    let _ = sent_once.recv().await;
    sleep(TRACE_GRACE).await;
    if has_site {
        while let Ok(Some(())) = timeout(SITE_GRACE, asked_again.recv()).await {}
    }
}

async fn serve_trace(listener: TcpListener, answers: Arc<TraceAnswers>, trace: Arc<File>, sent: mpsc::Sender<()>) {
    let mut connections = JoinSet::new();
    loop {
        let stream = accept(&listener, &mut connections).await;
        let (answers, trace, sent) = (Arc::clone(&answers), Arc::clone(&trace), sent.clone());
        connections.spawn(async move {
            if serve_trace_once(stream, &answers, &trace).await {
                let _ = sent.try_send(());
            }
        });
    }
}

/// Serves one request of one connection; says whether the whole trace went out.
async fn serve_trace_once(stream: TcpStream, answers: &TraceAnswers, trace: &Arc<File>) -> bool {
    let is_trace = AtomicBool::new(false);
    let service = service_fn(|request: Request<Incoming>| {
        let path = request.uri().path_and_query().map_or("", |path| path.as_str());
        let answer = answers.answer(request.method(), path, request.headers());
        let body = if answer.trace { FileBody::new(Arc::clone(trace)) } else { Ok(FileBody::empty()) };
        is_trace.fetch_or(answer.trace && body.is_ok(), Ordering::Relaxed);
        let status = if body.is_ok() { answer.status } else { StatusCode::INTERNAL_SERVER_ERROR };
        let mut response = Response::new(body.unwrap_or_else(|_| FileBody::empty()));
        *response.status_mut() = status;
        *response.headers_mut() = answer.headers;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        async { Answered::Ok(response) }
    });
    // Without keep-alive the connection ends well only after its one answer is written whole.
    let served = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
    served.is_ok() && is_trace.load(Ordering::Relaxed)
}

async fn serve_site(listener: TcpListener, site: Arc<Site>, asked: mpsc::Sender<()>) {
    let mut connections = JoinSet::new();
    loop {
        let stream = accept(&listener, &mut connections).await;
        let (site, asked) = (Arc::clone(&site), asked.clone());
        connections.spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let _ = asked.try_send(());
                let response = site.respond(request.method(), request.uri().path());
                async { Answered::Ok(response) }
            });
            // A browser that breaks off needs no answer.
            let _ =
                http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// The next connection; ends what is over of the earlier ones.
async fn accept(listener: &TcpListener, connections: &mut JoinSet<()>) -> TcpStream {
    loop {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}
