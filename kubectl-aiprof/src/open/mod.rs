//! `open`: hands the trace of an archive to the Perfetto UI in the user's browser. The trace goes over the loopback interface and
//! nowhere else.
//!
//! [`answer`] decides what a request gets, without I/O; [`server`] serves; [`body`] streams a file; [`site`] is a self-hosted UI.

pub mod answer;
pub mod body;
pub mod server;
pub mod site;

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use aiprof_capture::archive::{Archive, ArchiveError};
use hyper::Uri;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use thiserror::Error;
use tokio::net::TcpListener;

use self::{answer::TraceAnswers, site::Site};
use crate::{advice::advice, platform::Signals};

/// The only port of this machine from which <https://ui.perfetto.dev> may fetch.
pub const DEFAULT_PORT: u16 = 9001;
/// The trace is unpacked in pieces of so many bytes.
const PIECE_BYTES: usize = 256 << 10;
/// The public UI.
const PUBLIC_UI: &str = "https://ui.perfetto.dev";

/// What to open and how.
#[derive(Clone, Debug)]
pub struct OpenProps {
    /// The archive.
    pub archive: PathBuf,
    /// Port of 127.0.0.1 for the trace.
    pub port: u16,
    /// Which UI.
    pub ui: UiSource,
    /// Whether to start a browser.
    pub browser: bool,
}

/// Where the UI comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UiSource {
    /// An address, `http` or `https`.
    Address(String),
    /// A folder, served from here.
    Folder(PathBuf),
}

impl Default for UiSource {
    fn default() -> Self {
        Self::Address(PUBLIC_UI.to_owned())
    }
}

/// Why the trace cannot be shown.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No archive of ours, or a torn one.
    #[error("{0}{advice}", advice = advice(.0))]
    Archive(#[from] ArchiveError),
    /// The trace cannot be taken out of the archive.
    #[error(
        "cannot unpack the trace of {path}: {source}; if the disk of {folder} is full, free some space or set TMPDIR"
    )]
    Unpack {
        /// The archive.
        path: PathBuf,
        /// Where it is unpacked to.
        folder: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Somebody else has the port.
    #[error(
        "port {port} of 127.0.0.1 is in use: end what uses it (often a `trace_processor` or another `kubectl aiprof open`), \
         or give --port with a --ui of your own, since {PUBLIC_UI} may fetch from port {DEFAULT_PORT} only"
    )]
    PortTaken {
        /// The port.
        port: u16,
    },
    /// The port cannot be had.
    #[error("cannot listen on port {port} of 127.0.0.1: {source}; choose another with --port and a --ui of your own")]
    Listen {
        /// The port.
        port: u16,
        /// Why not.
        source: io::Error,
    },
    /// `--ui` is no address.
    #[error("{address:?} is not the address of a UI: write it as https://perfetto.example.com")]
    Address {
        /// As given.
        address: String,
    },
    /// `--ui` is no folder with a UI.
    #[error("{folder} holds no UI: {source}; give the folder in which the UI's index.html is")]
    Folder {
        /// As given.
        folder: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// This machine refuses what every program needs.
    #[error("cannot begin: {0}")]
    Machine(#[source] io::Error),
}

/// Serves the trace until the UI has it, or until Ctrl-C.
pub fn run(props: &OpenProps) -> Result<(), OpenError> {
    let trace = unpack(&props.archive)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(OpenError::Machine)?;
    runtime.block_on(show(props, trace))
}

async fn show(props: &OpenProps, trace: File) -> Result<(), OpenError> {
    let (site, ui) = match &props.ui {
        UiSource::Address(address) => (None, address.trim_end_matches('/').to_owned()),
        UiSource::Folder(folder) => {
            let site = Site::open(folder).map_err(|source| OpenError::Folder { folder: folder.clone(), source })?;
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(OpenError::Machine)?;
            let address = listener.local_addr().map_err(OpenError::Machine)?;
            (Some((listener, site)), format!("http://{address}"))
        }
    };
    let origin = origin(&ui).ok_or_else(|| OpenError::Address { address: ui.clone() })?;
    let listener = listen(props.port).await?;
    let address = listener.local_addr().map_err(OpenError::Machine)?;
    let answers = TraceAnswers::new(origin, &trace_name(&props.archive)).map_err(OpenError::Machine)?;
    let link = link(&ui, address, answers.path());
    // `record`, which may have run before, took them from their usual meaning.
    let mut signals = Signals::listen().map_err(OpenError::Machine)?;
    // Nobody may read it, but a browser comes all the same.
    let _ = io::stdout().write_all(announcement(&link, props.browser).as_bytes());
    eprintln!("Waiting for the UI to fetch the trace (Ctrl-C to end)");
    tokio::select! {
        () = server::serve(listener, answers, trace, site) => eprintln!("The UI has the trace"),
        () = signals.next() => {}
    }
    Ok(())
}

/// What is told of the link; starts the browser.
fn announcement(link: &str, browser: bool) -> String {
    if !browser {
        return format!("{link}\n");
    }
    match open::that_detached(link) {
        Ok(()) => format!(
            "Opening {link}\n\
             If the browser asks whether the page may reach this machine, allow it: that is how it gets the trace.\n"
        ),
        Err(_) => format!("No browser could be started: open this link yourself:\n{link}\n"),
    }
}

async fn listen(port: u16) -> Result<TcpListener, OpenError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => OpenError::PortTaken { port },
        _ => OpenError::Listen { port, source },
    })
}

/// The trace in an unnamed file.
fn unpack(path: &Path) -> Result<File, OpenError> {
    let mut trace = Archive::open(path)?.trace()?;
    let unpack_error = |source| OpenError::Unpack { path: path.to_owned(), folder: std::env::temp_dir(), source };
    let mut file = tempfile::tempfile().map_err(unpack_error)?;
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match trace.read(&mut piece) {
            Ok(0) => return Ok(file),
            Ok(read) => file.write_all(&piece[..read]).map_err(unpack_error)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => {
                return Err(ArchiveError::Torn { path: path.to_owned(), source }.into());
            }
        }
    }
}

/// The archive's name without its endings, as the UI will show it.
fn trace_name(archive: &Path) -> String {
    let name = archive.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_suffix(".aiprof.tar.gz").or_else(|| name.strip_suffix(".tar.gz")).unwrap_or(&name);
    let plain: String = name
        .chars()
        .map(|char| if char.is_ascii_alphanumeric() || "._-".contains(char) { char } else { '-' })
        .collect();
    format!("{plain}.perfetto-trace")
}

/// The origin of an address as browsers send it: scheme, host, and the port if it is not the scheme's own.
fn origin(address: &str) -> Option<String> {
    let uri: Uri = address.parse().ok()?;
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let host = uri.host().filter(|host| !host.is_empty())?.to_ascii_lowercase();
    let own = if scheme == "https" { 443 } else { 80 };
    match uri.port_u16() {
        Some(port) if port != own => Some(format!("{scheme}://{host}:{port}")),
        _ => Some(format!("{scheme}://{host}")),
    }
}

fn link(ui: &str, address: SocketAddr, path: &str) -> String {
    let trace = format!("http://{address}{path}");
    format!("{ui}/#!/?url={}", utf8_percent_encode(&trace, NON_ALPHANUMERIC))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_as_browsers_send_them() {
        assert_eq!(origin(PUBLIC_UI).as_deref(), Some(PUBLIC_UI));
        assert_eq!(origin("HTTPS://Perfetto.Example.com:443/ui").as_deref(), Some("https://perfetto.example.com"));
        assert_eq!(origin("http://127.0.0.1:10000").as_deref(), Some("http://127.0.0.1:10000"));
        assert_eq!(origin("https://"), None);
        assert_eq!(origin("https://a b"), None);
    }

    #[test]
    fn the_link_carries_the_traces_address() {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 9001));
        let link = link(PUBLIC_UI, address, "/ab/x.perfetto-trace");
        let expected =
            "https://ui.perfetto.dev/#!/?url=http%3A%2F%2F127%2E0%2E0%2E1%3A9001%2Fab%2Fx%2Eperfetto%2Dtrace";
        assert_eq!(link, expected);
    }

    #[test]
    fn the_traces_name_is_safe_in_an_address() {
        assert_eq!(trace_name(Path::new("/a/server.aiprof.tar.gz")), "server.perfetto-trace");
        assert_eq!(trace_name(Path::new("a b?.tar.gz")), "a-b-.perfetto-trace");
    }
}
