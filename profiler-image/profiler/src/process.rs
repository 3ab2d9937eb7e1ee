//! What `/proc` says of processes and threads.

use std::{fs, path::Path};

use procfs::process::{Process, Syscall, all_processes};

/// Longest title kept, in bytes.
const MAX_TITLE: usize = 200;

/// A process as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its id.
    pub pid: u32,
    /// The title it has given itself, else its program, and for an interpreter its script.
    pub name: String,
    /// All arguments, for matching only: they may hold secrets.
    pub command_line: String,
}

/// Every process that can be seen, kernel threads left out.
#[must_use]
pub fn list() -> Vec<Listed> {
    let Ok(processes) = all_processes() else { return Vec::new() };
    let listed = processes.flatten().filter_map(|process| {
        let arguments = process.cmdline().ok().filter(|each| !each.is_empty())?;
        let name = title(&arguments).unwrap_or_default();
        Some(Listed { pid: process.pid as u32, name, command_line: arguments.join(" ") })
    });
    listed.collect()
}

/// Whether the process is there and has not ended (a zombie has).
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    let stat = open(pid).and_then(|process| process.stat().ok());
    // Other threads may go on when the first one has ended.
    stat.is_some_and(|stat| !matches!(stat.state, 'Z' | 'X') || stat.num_threads > 1)
}

/// The name to show for a process: the title it has given itself, else its program, and for an interpreter its script.
/// Arguments are left out: they may hold secrets.
#[must_use]
pub fn name(pid: u32) -> String {
    let process = open(pid);
    let from_arguments = process.as_ref().and_then(|each| title(&each.cmdline().ok()?));
    let from_comm = || Some(process.as_ref()?.stat().ok()?.comm);
    from_arguments.or_else(from_comm).unwrap_or_else(|| format!("process {pid}"))
}

/// The parent's id; 0 when it cannot be seen.
#[must_use]
pub fn parent(pid: u32) -> u32 {
    open(pid).and_then(|process| process.stat().ok()).map_or(0, |stat| stat.ppid.max(0) as u32)
}

/// Ids and kernel names of a process's threads.
#[must_use]
pub fn threads(pid: u32) -> Vec<(u32, String)> {
    let Some(tasks) = open(pid).and_then(|process| process.tasks().ok()) else { return Vec::new() };
    tasks.flatten().map(|task| (task.tid as u32, thread_name(pid, task.tid as u32))).collect()
}

/// The kernel's name of a thread; empty when it has gone.
#[must_use]
pub fn thread_name(pid: u32, tid: u32) -> String {
    let comm = fs::read(format!("/proc/{pid}/task/{tid}/comm")).unwrap_or_default();
    String::from_utf8_lossy(&comm).trim_end().to_owned()
}

/// The system call that a sleeping thread is in and its arguments; none when it is in none, runs, or has gone.
#[must_use]
pub fn syscall(pid: u32, tid: u32) -> Option<(u32, [u64; 6])> {
    let task = open(pid)?.task_from_tid(tid as i32).ok()?;
    match task.syscall().ok()? {
        Syscall::Blocked { syscall_number, argument_registers, .. } => {
            Some((u32::try_from(syscall_number).ok()?, argument_registers))
        }
        _ => None,
    }
}

/// Switches of a thread so far, voluntary and not; none when it has gone.
#[must_use]
pub fn switches(pid: u32, tid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).ok()?;
    let count = |key: &str| -> Option<u64> {
        status.lines().find_map(|line| line.strip_prefix(key))?.trim_start_matches(':').trim().parse().ok()
    };
    Some(count("voluntary_ctxt_switches")? + count("nonvoluntary_ctxt_switches")?)
}

fn open(pid: u32) -> Option<Process> {
    Process::new(i32::try_from(pid).ok()?).ok()
}

/// The title that these arguments make; none if they are empty.
fn title(arguments: &[String]) -> Option<String> {
    let base = |path: &str| {
        Path::new(path).file_name().map_or_else(|| path.to_owned(), |name| name.to_string_lossy().into_owned())
    };
    let mut words = arguments.iter().map(String::as_str).filter(|word| !word.is_empty());
    let first = words.next()?;
    let rest: Vec<&str> = words.collect();
    let mut title = if rest.is_empty() && first.contains(' ') { first.to_owned() } else { base(first) };
    if title.starts_with("python") {
        match script(&rest) {
            Some(Script::File(path)) => title = format!("{title} {}", base(path)),
            Some(Script::Module(name)) => title = format!("{title} -m {name}"),
            Some(Script::Inline) => title.push_str(" -c"),
            None => {}
        }
    }
    if title.len() > MAX_TITLE {
        title.truncate(title.floor_char_boundary(MAX_TITLE));
    }
    Some(title)
}

enum Script<'a> {
    File(&'a str),
    Module(&'a str),
    Inline,
}

/// What a Python interpreter runs, from its arguments (`python --help`).
fn script<'a>(arguments: &[&'a str]) -> Option<Script<'a>> {
    let mut words = arguments.iter().copied();
    while let Some(word) = words.next() {
        match word {
            "-m" => return words.next().map(Script::Module),
            "-c" => return Some(Script::Inline),
            // Options with a value of their own.
            "-W" | "-X" | "--check-hash-based-pycs" => {
                words.next();
            }
            _ if word.starts_with("-m") => return Some(Script::Module(&word[2..])),
            _ if word.starts_with('-') && word.len() > 1 => {}
            _ => return Some(Script::File(word)),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn titled(words: &[&str]) -> Option<String> {
        title(&words.iter().map(|each| (*each).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_title_names_program_and_script_but_no_arguments() {
        assert_eq!(
            titled(&["/usr/bin/python3.12", "-u", "/srv/server.py", "--key", "s3cret"]).unwrap(),
            "python3.12 server.py"
        );
        assert_eq!(
            titled(&["python3", "-X", "dev", "-m", "vllm.entrypoints.openai.api_server", "--model", "x"]).unwrap(),
            "python3 -m vllm.entrypoints.openai.api_server"
        );
        assert_eq!(titled(&["python3", "-c", "print('s3cret')"]).unwrap(), "python3 -c");
        assert_eq!(titled(&["/bin/sleep", "60"]).unwrap(), "sleep");
        assert_eq!(titled(&["python3"]).unwrap(), "python3");
    }

    #[test]
    fn a_title_that_the_process_set_is_kept_whole() {
        assert_eq!(titled(&["VLLM::Worker_TP0", "", ""]).unwrap(), "VLLM::Worker_TP0");
        assert_eq!(titled(&["nginx: worker process", ""]).unwrap(), "nginx: worker process");
        assert_eq!(titled(&["", ""]), None);
        assert_eq!(titled(&["ü".repeat(150).as_str(), ""]).unwrap().len(), MAX_TITLE);
    }

    #[test]
    fn this_process_is_alive_and_listed() {
        let own = std::process::id();
        assert!(is_alive(own));
        assert!(list().iter().any(|each| each.pid == own));
        assert!(threads(own).iter().any(|(tid, name)| *tid != 0 && !name.is_empty()));
        assert!(switches(own, own).is_some());
        assert!(!is_alive(u32::MAX));
    }
}
