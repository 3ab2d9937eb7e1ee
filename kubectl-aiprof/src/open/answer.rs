//! Which request gets the trace: a GET of one unguessable path, from one origin. Everything else gets 404, as the UI wants it for its
//! question whether a native trace processor listens here (`POST /status`). Does no I/O.

use std::io;

use hyper::{
    HeaderMap, Method, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, HeaderName, HeaderValue, ORIGIN, VARY,
    },
};

use crate::strings::hex;

/// Asks whether a page of a public address may reach a private one; the draft's name, which browsers still send.
const REQUEST_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-request-private-network");
/// Allows it.
const ALLOW_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");

/// Decides over the requests of one trace.
#[derive(Clone, Debug)]
pub struct TraceAnswers {
    origin: String,
    path: String,
}

/// What a request gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Headers, without those of the body.
    pub headers: HeaderMap,
    /// Whether the trace is the body; else it is empty.
    pub trace: bool,
}

impl TraceAnswers {
    /// Answers for the UI at `origin` about a trace of this `name`, under a new random path.
    ///
    /// # Errors
    /// The kernel gives no random bytes.
    pub fn new(origin: String, name: &str) -> io::Result<Self> {
        let mut random = [0_u8; 16];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        Ok(Self { origin, path: format!("/{}/{name}", hex(&random)) })
    }

    /// The trace's path.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What a request gets.
    #[must_use]
    pub fn answer(&self, method: &Method, path_and_query: &str, request: &HeaderMap) -> Answer {
        let mut headers = HeaderMap::new();
        if let Ok(origin) = HeaderValue::from_str(&self.origin) {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        }
        headers.insert(VARY, HeaderValue::from_static("Origin"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let ours =
            path_and_query == self.path && request.get(ORIGIN).is_some_and(|origin| origin == self.origin.as_str());
        let status = match *method {
            Method::GET if ours => StatusCode::OK,
            Method::OPTIONS if ours => {
                headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET"));
                if request.contains_key(REQUEST_PRIVATE_NETWORK) {
                    headers.insert(ALLOW_PRIVATE_NETWORK, HeaderValue::from_static("true"));
                }
                StatusCode::NO_CONTENT
            }
            _ => StatusCode::NOT_FOUND,
        };
        Answer { status, headers, trace: status == StatusCode::OK }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UI: &str = "https://ui.perfetto.dev";

    fn ask(answers: &TraceAnswers, method: &Method, path: &str, origin: Option<&str>) -> Answer {
        let mut headers = HeaderMap::new();
        if let Some(origin) = origin {
            headers.insert(ORIGIN, HeaderValue::from_str(origin).unwrap());
        }
        headers.insert(REQUEST_PRIVATE_NETWORK, HeaderValue::from_static("true"));
        answers.answer(method, path, &headers)
    }

    fn answers() -> TraceAnswers {
        TraceAnswers::new(UI.to_owned(), "x.perfetto-trace").unwrap()
    }

    #[test]
    fn only_the_ui_gets_the_trace_and_only_by_its_path() {
        let answers = answers();
        let path = answers.path().to_owned();
        assert!(ask(&answers, &Method::GET, &path, Some(UI)).trace);
        for (method, path, origin) in [
            (Method::GET, path.as_str(), Some("https://evil.example")),
            (Method::GET, &path, Some("null")),
            (Method::GET, &path, None),
            (Method::HEAD, &path, Some(UI)),
            (Method::POST, &path, Some(UI)),
            (Method::GET, "/", Some(UI)),
            (Method::GET, &path[..path.len() - 1], Some(UI)),
            (Method::GET, &format!("{path}?x"), Some(UI)),
            (Method::POST, "/status", Some(UI)),
        ] {
            let answer = ask(&answers, &method, path, origin);
            assert_eq!((answer.status, answer.trace), (StatusCode::NOT_FOUND, false), "{method} {path} {origin:?}");
            assert_eq!(answer.headers[ACCESS_CONTROL_ALLOW_ORIGIN], UI);
        }
    }

    #[test]
    fn a_preflight_may_pass_to_the_private_network() {
        let answers = answers();
        let answer = ask(&answers, &Method::OPTIONS, answers.path(), Some(UI));
        assert_eq!(answer.status, StatusCode::NO_CONTENT);
        assert_eq!(answer.headers[ALLOW_PRIVATE_NETWORK], "true");
        assert_eq!(ask(&answers, &Method::OPTIONS, "/status", Some(UI)).status, StatusCode::NOT_FOUND);
    }

    #[test]
    fn every_run_has_its_own_path() {
        let (first, second) = (answers(), answers());
        assert_ne!(first.path(), second.path());
        assert_eq!(first.path().len(), "/".len() + 32 + "/x.perfetto-trace".len());
    }
}
