//! The CPython interpreters that tests run against, and child processes of them.

#![allow(dead_code, reason = "no test needs all of it")]

use std::{
    env,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// Minor versions of CPython 3 that are supported.
pub(crate) const MINORS: [u8; 7] = [8, 9, 10, 11, 12, 13, 14];

/// The interpreter of this minor version: the one named in `AIPROF_PYTHON_3_N`, else that of pyenv. Says so on stderr
/// when there is none.
pub(crate) fn python(minor: u8) -> Option<PathBuf> {
    let variable = format!("AIPROF_PYTHON_3_{minor}");
    let named = env::var_os(&variable).map(PathBuf::from);
    let found = named.or_else(|| {
        let root = env::var_os("PYENV_ROOT").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".pyenv")))?;
        let folders = std::fs::read_dir(root.join("versions")).ok()?;
        let mut found: Vec<_> = folders
            .filter_map(|folder| Some(folder.ok()?.path()))
            .filter(|path| {
                path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&format!("3.{minor}.")))
            })
            .map(|path| path.join(format!("bin/python3.{minor}")))
            .filter(|path| path.exists())
            .collect();
        found.sort();
        found.pop()
    });
    if found.is_none() {
        eprintln!("SKIPPED: no CPython 3.{minor} here; set {variable} to one");
    }
    found
}

/// All interpreters there are; at least one, or the test would show nothing.
pub(crate) fn pythons() -> Vec<(u8, PathBuf)> {
    let found: Vec<_> = MINORS.iter().filter_map(|minor| Some((*minor, python(*minor)?))).collect();
    assert!(!found.is_empty(), "no CPython at all to test against");
    found
}

/// A script of `tests/python`.
pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(name)
}

/// A running script; killed when dropped.
pub(crate) struct Target(pub(crate) Child);

impl Target {
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(command: &mut Command) -> Target {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    Target(child.unwrap_or_else(|error| panic!("{command:?}: {error}")))
}

/// Starts a script; it does not run anything yet, maybe.
pub(crate) fn start(python: &Path, name: &str) -> Target {
    spawn(Command::new(python).args(["-I", "-X", "utf8"]).arg(script(name)))
}

/// Starts a script and waits for its line `END`; gives the lines before it.
pub(crate) fn start_and_wait(python: &Path, name: &str) -> (Target, Vec<String>) {
    let mut target = start(python, name);
    let lines = wait(&mut target);
    (target, lines)
}

/// Starts a command and waits for its line `END`.
pub(crate) fn ready(command: &mut Command) -> Target {
    let mut target = spawn(command);
    wait(&mut target);
    target
}

fn wait(target: &mut Target) -> Vec<String> {
    let mut lines = Vec::new();
    for line in BufReader::new(target.0.stdout.take().expect("piped")).lines() {
        let line = line.expect("a line of UTF-8");
        if line == "END" {
            return lines;
        }
        lines.push(line);
    }
    panic!("the target ended after {lines:?}");
}
