//! Judges what the API and a profiler say: works, degraded or refused, why, and what to do. Pure.

use std::fmt::Write as _;

use aiprof_capture::{
    inspect::{Inspection, LEAST_MEMORY_BYTES, SeenProcess},
    request::Dimension,
};
use serde::Serialize;

use crate::{EXIT_FAILED, EXIT_PARTIAL, cluster::access::Answer, strings::printable};

/// `kernel.yama.ptrace_scope` at which nobody may read another process.
const YAMA_NONE: u32 = 3;

/// How well something works, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// All of it.
    Works,
    /// Not in this version, and not asked for by default.
    NotYet,
    /// Some of it.
    Degraded,
    /// None of it.
    Refused,
}

impl Verdict {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Works => "works",
            Self::NotYet => "not yet",
            Self::Degraded => "degraded",
            Self::Refused => "refused",
        }
    }

    /// The exit code of `check` when this is the worst.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Works | Self::NotYet => 0,
            Self::Degraded => EXIT_PARTIAL,
            Self::Refused => EXIT_FAILED,
        }
    }
}

/// One line of the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// What was checked: a dimension, or what comes before all of them.
    pub check: String,
    /// How well it works.
    pub verdict: Verdict,
    /// Why, or what was found.
    pub because: String,
    /// What to do; may be empty.
    pub fix: String,
}

impl Row {
    /// Something that works.
    #[must_use]
    pub fn works(check: &str, found: &str) -> Self {
        Self::new(check, Verdict::Works, found, "")
    }

    /// Something that does not.
    #[must_use]
    pub fn refused(check: &str, because: &str, fix: &str) -> Self {
        Self::new(check, Verdict::Refused, because, fix)
    }

    fn new(check: &str, verdict: Verdict, because: &str, fix: &str) -> Self {
        Self { check: check.to_owned(), verdict, because: because.to_owned(), fix: fix.to_owned() }
    }
}

/// The worst of all.
#[must_use]
pub fn worst(rows: &[Row]) -> Verdict {
    rows.iter().map(|row| row.verdict).max().unwrap_or(Verdict::Works)
}

/// What the user may do.
#[must_use]
pub fn rights(answers: &[Answer]) -> Row {
    let missing: Vec<_> = answers.iter().filter(|answer| !answer.allowed).collect();
    if missing.is_empty() {
        let all: Vec<_> = answers.iter().map(|answer| answer.right.as_str()).collect();
        return Row::works("rights", &all.join(", "));
    }
    let words = missing.iter().map(|answer| match printable(answer.reason.trim()) {
        reason if reason.is_empty() => format!("may not {}", answer.right),
        reason => format!("may not {} ({reason})", answer.right),
    });
    Row::refused("rights", &words.collect::<Vec<_>>().join(", "), "the Role below")
}

/// The dimensions when nobody could look inside.
#[must_use]
pub fn not_tried(because: &str) -> Vec<Row> {
    let mut rows: Vec<_> = [Dimension::Python, Dimension::Cpu, Dimension::Syscalls]
        .map(|dimension| Row::refused(dimension.name(), because, ""))
        .to_vec();
    rows.extend(not_yet(&[]));
    rows
}

/// The dimensions as a profiler in the pod sees them, and what it found around them.
#[must_use]
pub fn inside(inspection: &Inspection) -> Vec<Row> {
    let mut rows = vec![memory(inspection.memory_headroom_bytes)];
    let obstacle = obstacle(inspection);
    rows.push(match &obstacle {
        Some((because, fix)) => Row::refused(Dimension::Python.name(), because, fix),
        None => python(inspection),
    });
    let kernel = format!("kernel {}, {}", printable(&inspection.kernel), printable(&inspection.architecture));
    let on_request = format!("{kernel}; on request: --collect python,cpu,syscalls");
    for (dimension, because) in [(Dimension::Cpu, kernel), (Dimension::Syscalls, on_request)] {
        rows.push(match &obstacle {
            Some((because, fix)) => Row::refused(dimension.name(), because, fix),
            None => Row::works(dimension.name(), &because),
        });
    }
    rows.extend(not_yet(&inspection.processes));
    rows
}

/// What keeps every dimension from working.
fn obstacle(inspection: &Inspection) -> Option<(String, String)> {
    if !inspection.missing_capabilities.is_empty() {
        let missing = inspection.missing_capabilities.iter().map(|name| printable(name)).collect::<Vec<_>>().join(", ");
        let because = format!("the container lacks the capabilities {missing}");
        return Some((because, "let the policy of the cluster grant them, or try --privileged".to_owned()));
    }
    if let Some(why) = &inspection.no_btf {
        let because = format!("kernel {} has no readable BTF: {}", printable(&inspection.kernel), printable(why));
        return Some((because, "a node whose kernel has CONFIG_DEBUG_INFO_BTF=y".to_owned()));
    }
    let why = inspection.programs.as_ref()?;
    let seccomp = if inspection.seccomp { " (a seccomp filter is on)" } else { "" };
    let because = format!("the in-kernel programs do not load{seccomp}: {}", printable(why));
    Some((because, "try --privileged, or another node".to_owned()))
}

fn python(inspection: &Inspection) -> Row {
    let name = Dimension::Python.name();
    if inspection.yama.is_some_and(|scope| scope >= YAMA_NONE) {
        let fix = "a node with kernel.yama.ptrace_scope of 2 or less";
        return Row::refused(name, "kernel.yama.ptrace_scope is 3: nobody may read another process", fix);
    }
    let (mut read, mut refused) = (Vec::new(), Vec::new());
    for process in &inspection.processes {
        match (&process.python, &process.python_refused) {
            (_, Some(why)) => refused.push(format!("pid {}: {}", process.pid, printable(why))),
            (Some(python), None) => read.push(format!("pid {} {}", process.pid, printable(python))),
            (None, None) => {}
        }
    }
    match (read.is_empty(), refused.is_empty()) {
        (false, true) => Row::works(name, &few(&read)),
        (false, false) => Row::new(name, Verdict::Degraded, &format!("cannot read {}", few(&refused)), ""),
        (true, false) => Row::refused(name, &format!("cannot read {}", few(&refused)), ""),
        (true, true) => Row::refused(name, "no process in this container runs CPython", "another container: -c NAME"),
    }
}

fn memory(headroom_bytes: Option<u64>) -> Row {
    match headroom_bytes {
        None => Row::works("memory", "the pod has no limit"),
        Some(bytes) if bytes < LEAST_MEMORY_BYTES => Row::refused(
            "memory",
            &format!("only {} MiB are left of the pod's limit", bytes >> 20),
            "raise the pod's memory limit",
        ),
        Some(bytes) => Row::works("memory", &format!("{} MiB are left of the pod's limit", bytes >> 20)),
    }
}

/// The dimensions that this version does not record.
fn not_yet(processes: &[SeenProcess]) -> Vec<Row> {
    let cuda = processes.iter().any(|process| process.libcuda.is_some());
    let found = if cuda { "; CUDA is in use here" } else { "" };
    let row = |dimension: Dimension| {
        Row::new(dimension.name(), Verdict::NotYet, &format!("this version does not record it{found}"), "")
    };
    vec![row(Dimension::CudaApi), row(Dimension::CudaKernels)]
}

/// The first three, and how many more there are.
fn few(words: &[String]) -> String {
    let mut text = words.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
    if words.len() > 3 {
        let _ = write!(text, " and {} more", words.len() - 3);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Inspection {
        Inspection {
            kernel: "6.1.0".to_owned(),
            architecture: "x86_64".to_owned(),
            processes: vec![
                SeenProcess { pid: 1, title: "sh".to_owned(), ..SeenProcess::default() },
                SeenProcess { pid: 7, python: Some("CPython 3.12.1".to_owned()), ..SeenProcess::default() },
            ],
            ..Inspection::default()
        }
    }

    fn row(inspection: &Inspection, check: &str) -> Row {
        inside(inspection).into_iter().find(|row| row.check == check).unwrap()
    }

    #[test]
    fn a_pod_with_python_works() {
        let rows = inside(&seen());
        assert_eq!(
            rows.iter().map(|row| row.check.as_str()).collect::<Vec<_>>(),
            ["memory", "python", "cpu", "syscalls", "cuda-api", "cuda-kernels"]
        );
        assert_eq!(worst(&rows).exit_code(), 0);
        assert_eq!(row(&seen(), "python").because, "pid 7 CPython 3.12.1");
    }

    #[test]
    fn what_stands_in_the_way_of_all_refuses_all() {
        let obstacles: [fn(&mut Inspection); 3] = [
            |seen| seen.missing_capabilities = vec!["CAP_SYS_ADMIN".to_owned()],
            |seen| seen.no_btf = Some("no such file".to_owned()),
            |seen| seen.programs = Some("EPERM".to_owned()),
        ];
        for (change, word) in obstacles.into_iter().zip(["CAP_SYS_ADMIN", "BTF", "EPERM"]) {
            let mut inspection = seen();
            change(&mut inspection);
            for check in ["python", "cpu"] {
                let row = row(&inspection, check);
                assert_eq!(row.verdict, Verdict::Refused);
                assert!(row.because.contains(word) && !row.fix.is_empty(), "{row:?}");
            }
            assert_eq!(worst(&inside(&inspection)).exit_code(), 1);
        }
    }

    #[test]
    fn python_is_judged_by_its_processes() {
        let mut inspection = seen();
        inspection.processes[0].python_refused = Some("CPython 3.7 is too old".to_owned());
        let degraded = row(&inspection, "python");
        assert_eq!(
            (degraded.verdict.exit_code(), degraded.because.as_str()),
            (3, "cannot read pid 1: CPython 3.7 is too old")
        );
        inspection.processes.truncate(1);
        assert_eq!(row(&inspection, "python").verdict, Verdict::Refused);
        inspection.processes.clear();
        assert!(row(&inspection, "python").because.contains("no process"));
        assert!(row(&Inspection { yama: Some(3), ..seen() }, "python").because.contains("ptrace_scope is 3"));
    }

    #[test]
    fn little_memory_is_told() {
        let inspection = Inspection { memory_headroom_bytes: Some(10 << 20), ..seen() };
        let memory = row(&inspection, "memory");
        assert_eq!(memory.verdict, Verdict::Refused);
        assert_eq!(memory.because, "only 10 MiB are left of the pod's limit");
    }

    #[test]
    fn missing_rights_are_named_with_the_reason() {
        let answer =
            |right: &str, allowed, reason: &str| Answer { right: right.to_owned(), allowed, reason: reason.to_owned() };
        let row = rights(&[answer("get pods", true, ""), answer("create pods/exec", false, "no rule")]);
        assert_eq!(row.because, "may not create pods/exec (no rule)");
        assert_eq!(rights(&[answer("get pods", true, "")]).verdict, Verdict::Works);
    }
}
