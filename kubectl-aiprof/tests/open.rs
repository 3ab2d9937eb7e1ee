//! `open` and `report` of archives that are whole, torn, or something else.

// They record processes of this machine.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Stdio},
};

use aiprof_capture::archive::Archive;
use common::{finish, folder, plugin, record};
use percent_encoding::percent_decode_str;
use tempfile::TempDir;

const NAME: &str = "x.aiprof.tar.gz";
const UI: &str = "https://ui.perfetto.dev";

/// A folder with an archive in it.
fn archive() -> TempDir {
    let folder = folder();
    let done = finish(record(folder.path(), "whole").args(["-d", "100ms", "-o", NAME, "--", "sleep", "60"]));
    assert_eq!(done.code, 0, "{done:?}");
    folder
}

/// `open` on any free port, once it has printed its link: the process, the link, and the trace's host and path.
fn serve(folder: &Path, arguments: &[&str]) -> (Child, String, String, String) {
    let mut child = plugin(folder)
        .args(["open", NAME, "--no-browser", "--port", "0"])
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut link = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut link).unwrap();
    let link = link.trim().to_owned();
    let encoded = link.split_once("#!/?url=").unwrap().1;
    let address = percent_decode_str(encoded).decode_utf8().unwrap().into_owned();
    let (host, path) = address.strip_prefix("http://").unwrap().split_once('/').unwrap();
    (child, link.clone(), host.to_owned(), format!("/{path}"))
}

/// Status line and headers, and the body.
fn ask(host: &str, method: &str, path: &str, origin: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(host).unwrap();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    (String::from_utf8(answer[..end].to_vec()).unwrap().to_lowercase(), answer[end + 4..].to_vec())
}

#[test]
fn the_ui_gets_the_trace_once_and_the_command_ends() {
    let folder = archive();
    let (mut child, link, host, path) = serve(folder.path(), &[]);
    assert!(link.starts_with("https://ui.perfetto.dev/#!/?url=http%3A%2F%2F127%2E0%2E0%2E1%3A"), "{link}");
    assert!(path.ends_with("/x.perfetto-trace") && path.len() > 32, "{path}");

    let (head, body) = ask(&host, "POST", "/status", UI);
    assert!(head.starts_with("http/1.1 404") && body.is_empty(), "{head}");
    assert!(head.contains("access-control-allow-origin: https://ui.perfetto.dev"), "{head}");
    assert!(ask(&host, "GET", &path, "https://evil.example").0.starts_with("http/1.1 404"));
    assert!(ask(&host, "GET", "/x.perfetto-trace", UI).0.starts_with("http/1.1 404"));
    assert!(child.try_wait().unwrap().is_none(), "it ended before the UI had the trace");

    let (head, body) = ask(&host, "GET", &path, UI);
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
    let mut expected = Vec::new();
    Archive::open(folder.path().join(NAME)).unwrap().trace().unwrap().read_to_end(&mut expected).unwrap();
    assert!(!expected.is_empty() && body == expected);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_folder_with_a_ui_is_served_beside_the_trace() {
    let folder = archive();
    fs::create_dir(folder.path().join("ui")).unwrap();
    fs::write(folder.path().join("ui/index.html"), "<html>").unwrap();
    let (mut child, link, host, path) = serve(folder.path(), &["--ui", "ui"]);
    let origin = link.split_once("/#!").unwrap().0.to_owned();
    let site = origin.strip_prefix("http://").unwrap();
    assert_ne!(site, host);
    let (head, body) = ask(site, "GET", "/", &origin);
    assert!(head.contains("content-type: text/html"), "{head}");
    assert_eq!(body, b"<html>");
    assert!(ask(site, "GET", "/../x.aiprof.tar.gz", &origin).0.starts_with("http/1.1 404"));
    assert!(ask(&host, "GET", &path, UI).0.starts_with("http/1.1 404"));
    assert!(ask(&host, "GET", &path, &origin).0.starts_with("http/1.1 200"));
    assert!(ask(site, "GET", "/index.html", &origin).0.starts_with("http/1.1 200"));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_port_in_use_is_an_error_that_names_it() {
    let folder = archive();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let done = finish(plugin(folder.path()).args(["open", NAME, "--no-browser", "--port", &port]));
    assert_eq!(done.code, 1);
    assert!(done.stderr.starts_with(&format!("error: port {port} of 127.0.0.1 is in use")), "{}", done.stderr);
    assert!(done.stderr.contains("--port") && done.stderr.contains("9001 only"), "{}", done.stderr);
}

#[test]
fn a_folder_without_a_ui_is_an_error() {
    let folder = archive();
    let done = finish(plugin(folder.path()).args(["open", NAME, "--no-browser", "--ui", "."]));
    assert_eq!(done.code, 1);
    assert!(done.stderr.starts_with("error: . holds no UI: there is no index.html in it"), "{}", done.stderr);
}

#[test]
fn archives_that_are_torn_missing_or_not_ours_are_errors() {
    let folder = archive();
    let bytes = fs::read(folder.path().join(NAME)).unwrap();
    fs::write(folder.path().join("torn"), &bytes[..bytes.len() - 20]).unwrap();
    fs::write(folder.path().join("short"), &bytes[..20]).unwrap();
    fs::write(folder.path().join("text"), "hello").unwrap();
    File::create(folder.path().join("empty")).unwrap();
    for command in [["open", "--no-browser"], ["report", "--top=3"]] {
        for (name, expected) in [
            ("torn", "torn or damaged"),
            ("short", "torn or damaged"),
            ("text", "is not a kubectl-aiprof archive"),
            ("empty", "is not a kubectl-aiprof archive"),
            ("missing", "cannot read missing: No such file or directory"),
        ] {
            let done = finish(plugin(folder.path()).args(command).arg(name));
            assert_eq!((done.code, done.stdout.as_str()), (1, ""), "{command:?} {name}");
            assert!(
                done.stderr.starts_with("error: ") && done.stderr.contains(expected),
                "{command:?} {name}: {}",
                done.stderr
            );
            assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
        }
    }
}

#[test]
fn a_report_is_text_or_json() {
    let folder = archive();
    let text = finish(plugin(folder.path()).args(["report", NAME]));
    assert_eq!(text.code, 0, "{text:?}");
    assert!(text.stdout.contains("PYTHON FUNCTIONS BY SELF TIME"), "{}", text.stdout);
    let json = finish(plugin(folder.path()).args(["report", NAME, "-o", "json"]));
    let report: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(report["schema"], 1);
    assert_eq!(report["processes"][0]["functions"]["python_by_self"][0]["function"], "work");
    assert_eq!(report["processes"][0]["functions"]["python_by_self"][0]["self_samples"], 2);
    assert_eq!(report["processes"][0]["time"]["running_share"], 0.5);
    assert_eq!(report["processes"][0]["waits"][0]["total_ns"], 500_000_000);
}

#[test]
fn usage_reads_like_kubectls() {
    let folder = folder();
    for (arguments, expected) in [
        (vec!["--help"], "Usage: kubectl aiprof <COMMAND>"),
        (vec!["record", "--help"], "kubectl aiprof record --local -- python3 server.py"),
        (vec!["record", "--help"], "kubectl aiprof record pod/vllm-0"),
        (vec!["check", "--help"], "Usage: kubectl aiprof check [OPTIONS] [TARGET]"),
        (vec!["ps", "--help"], "Usage: kubectl aiprof ps [OPTIONS] [TARGET]"),
        (vec!["open", "--help"], "Usage: kubectl aiprof open [OPTIONS] <ARCHIVE>"),
        (vec!["report", "--help"], "Usage: kubectl aiprof report [OPTIONS] <ARCHIVE>"),
        (vec!["--version"], concat!("kubectl-aiprof ", env!("CARGO_PKG_VERSION"))),
        (vec!["completion", "bash"], "kubectl-aiprof"),
    ] {
        let done = finish(plugin(folder.path()).args(&arguments));
        assert_eq!(done.code, 0, "{arguments:?}");
        assert!(done.stdout.contains(expected), "{arguments:?}: {}", done.stdout);
    }
    let done = finish(plugin(folder.path()).args(["record", "svc/server"]));
    assert_eq!(done.code, 2);
    assert!(done.stderr.contains("pod/NAME"), "{}", done.stderr);
}
