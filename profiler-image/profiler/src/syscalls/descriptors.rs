//! What a process's file descriptors stand for, as `/proc` tells within a second of the call.
//!
//! A descriptor that is closed and used again meanwhile is told by its new use: `/proc` cannot tell of the past.

use std::{
    collections::HashMap,
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use procfs::{
    net::{TcpState, UdpState},
    process::Process,
};

/// How long an answer holds.
const HOLDS: Duration = Duration::from_secs(1);
/// Answers that are kept; at this many all are let go.
const MAX_KEPT: usize = 1 << 14;
/// Longest path shown, in bytes.
const MAX_PATH: usize = 256;

/// Descriptors of all processes.
#[derive(Debug, Default)]
pub struct Descriptors {
    known: HashMap<(u32, i32), Answer>,
    sockets: HashMap<u32, (Instant, Sockets)>,
}

/// When it was found, and what.
type Answer = (Instant, Option<Arc<str>>);
/// Sockets by inode.
type Sockets = HashMap<u64, Arc<str>>;

impl Descriptors {
    /// What `descriptor` of the process stands for; none if it cannot be told, such as when it is closed already.
    pub fn describe(&mut self, pid: u32, descriptor: i32) -> Option<Arc<str>> {
        if descriptor < 0 {
            return None;
        }
        let now = Instant::now();
        if let Some((since, known)) = self.known.get(&(pid, descriptor))
            && now.duration_since(*since) < HOLDS
        {
            return known.clone();
        }
        let link = fs::read_link(format!("/proc/{pid}/fd/{descriptor}")).ok();
        let what = link.map(|link| {
            let link = link.to_string_lossy();
            match socket_inode(&link) {
                Some(inode) => self.socket(pid, inode, now),
                None => file(&link).into(),
            }
        });
        if self.known.len() >= MAX_KEPT {
            self.known.clear();
        }
        self.known.insert((pid, descriptor), (now, what.clone()));
        what
    }

    /// The process has ended, or runs another program.
    pub fn forget(&mut self, pid: u32) {
        self.known.retain(|(of, _), _| *of != pid);
        self.sockets.remove(&pid);
    }

    fn socket(&mut self, pid: u32, inode: u64, now: Instant) -> Arc<str> {
        let (since, sockets) = self.sockets.entry(pid).or_insert_with(|| (now, sockets_of(pid)));
        if !sockets.contains_key(&inode) && now.duration_since(*since) >= HOLDS {
            (*since, *sockets) = (now, sockets_of(pid));
        }
        sockets.get(&inode).cloned().unwrap_or_else(|| "socket".into())
    }
}

/// All sockets of the process's network namespace, by inode.
fn sockets_of(pid: u32) -> Sockets {
    let mut sockets = Sockets::new();
    let Ok(process) = Process::new(pid as i32) else { return sockets };
    for entry in [process.tcp(), process.tcp6()].into_iter().flatten().flatten() {
        let text = if entry.state == TcpState::Listen {
            format!("tcp listening on {}", entry.local_address)
        } else {
            format!("tcp {} to {}", entry.local_address, entry.remote_address)
        };
        sockets.insert(entry.inode, text.into());
    }
    for entry in [process.udp(), process.udp6()].into_iter().flatten().flatten() {
        let text = if entry.state == UdpState::Established {
            format!("udp {} to {}", entry.local_address, entry.remote_address)
        } else {
            format!("udp {}", entry.local_address)
        };
        sockets.insert(entry.inode, text.into());
    }
    for entry in process.unix().into_iter().flatten() {
        let text = entry.path.map_or_else(|| "unix socket".to_owned(), |path| format!("unix {}", path.display()));
        sockets.insert(entry.inode, text.into());
    }
    sockets
}

fn socket_inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// A link's text without numbers that say nothing: a path, `pipe`, `eventfd`.
fn file(link: &str) -> String {
    if link.starts_with("pipe:[") {
        return "pipe".to_owned();
    }
    if let Some(kind) = link.strip_prefix("anon_inode:") {
        let kind = kind.trim_start_matches('[').trim_end_matches(']');
        return if kind == "eventpoll" { "epoll".to_owned() } else { kind.to_owned() };
    }
    link[..link.floor_char_boundary(MAX_PATH)].to_owned()
}

#[cfg(test)]
mod tests {
    use std::{
        io::pipe,
        net::{TcpListener, TcpStream},
        os::fd::AsRawFd,
    };

    use super::*;

    #[test]
    fn links_read_as_people_call_them() {
        assert_eq!(file("pipe:[123]"), "pipe");
        assert_eq!(file("anon_inode:[eventfd]"), "eventfd");
        assert_eq!(file("anon_inode:[eventpoll]"), "epoll");
        assert_eq!(file("anon_inode:inotify"), "inotify");
        assert_eq!(file("/dev/nvidia0"), "/dev/nvidia0");
        assert_eq!(socket_inode("socket:[77]"), Some(77));
        assert_eq!(socket_inode("/socket:[77]"), None);
    }

    #[test]
    fn own_descriptors_are_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).unwrap();
        let (reader, _writer) = pipe().unwrap();
        let mut descriptors = Descriptors::default();
        let mut told = |fd: i32| descriptors.describe(std::process::id(), fd);
        assert_eq!(told(listener.as_raw_fd()).as_deref(), Some(&*format!("tcp listening on {address}")));
        let connected = format!("tcp {} to {address}", stream.local_addr().unwrap());
        assert_eq!(told(stream.as_raw_fd()).as_deref(), Some(&*connected));
        assert_eq!(told(reader.as_raw_fd()).as_deref(), Some("pipe"));
        assert_eq!(told(-1), None);
        assert_eq!(told(1_000_000), None);
    }
}
