//! `ps`: the processes of a pod that could be recorded.

use std::io::{self, Write as _};

use aiprof_capture::inspect::{Inspection, SeenProcess};

use super::{CheckError, CheckProps, inspect, runtime};
use crate::{
    cluster::{self, Cluster, ClusterError, ClusterProps},
    format::{OutputFormat, json},
    strings::printable,
    table::{Align, Table},
};

/// Lists them.
///
/// # Errors
/// There is no profiler in the pod to ask.
pub fn run(props: &CheckProps) -> Result<(), CheckError> {
    let inspection = runtime()?.block_on(look(&props.cluster))?;
    let text = match props.format {
        OutputFormat::Text => text(&inspection),
        OutputFormat::Json => json(&inspection.processes),
    };
    // Nobody may read it.
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(())
}

async fn look(props: &ClusterProps) -> Result<Inspection, ClusterError> {
    let cluster = Cluster::find(props).await?;
    let profiler = cluster::prepare(&cluster, props, true, &mut |sentence| eprintln!("{sentence}")).await?;
    inspect(&profiler).await
}

fn text(inspection: &Inspection) -> String {
    let headings = ["PID", "PYTHON", "CUDA", "THREADS", "CPU", "MEMORY", "TITLE"];
    let mut table = Table::new(0, &headings.map(|heading| (Align::Left, heading))).uncut();
    inspection.processes.iter().for_each(|process| table.row(row(process)));
    table.render()
}

fn row(process: &SeenProcess) -> [String; 7] {
    let python = match (&process.python, &process.python_refused) {
        (_, Some(why)) => format!("refused: {}", printable(why)),
        (Some(python), None) => printable(python),
        (None, None) => "no".to_owned(),
    };
    [
        process.pid.to_string(),
        python,
        if process.libcuda.is_some() { "yes" } else { "no" }.to_owned(),
        process.threads.to_string(),
        cpu(process.cpu_ms),
        format!("{} MiB", process.rss_bytes >> 20),
        printable(&process.title),
    ]
}

/// `3.2 s`, `12 min`, `5 h 12 min`.
fn cpu(milliseconds: u64) -> String {
    let minutes = milliseconds / 60_000;
    match minutes {
        0 => format!("{}.{} s", milliseconds / 1000, milliseconds % 1000 / 100),
        1..60 => format!("{minutes} min"),
        _ => format!("{} h {} min", minutes / 60, minutes % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_listed_with_what_can_be_read_of_them() {
        let inspection = Inspection {
            processes: vec![
                SeenProcess {
                    pid: 7,
                    title: "VLLM::EngineCore".to_owned(),
                    python: Some("CPython 3.12.1".to_owned()),
                    libcuda: Some("/usr/lib/libcuda.so.1".to_owned()),
                    threads: 51,
                    cpu_ms: 3_250,
                    rss_bytes: 5 << 20,
                    ..SeenProcess::default()
                },
                SeenProcess { pid: 19, title: "\x1b[2J".to_owned(), cpu_ms: 4_000_000, ..SeenProcess::default() },
            ],
            ..Inspection::default()
        };
        let expected = "\
PID  PYTHON          CUDA  THREADS  CPU        MEMORY  TITLE
7    CPython 3.12.1  yes   51       3.2 s      5 MiB   VLLM::EngineCore
19   no              no    0        1 h 6 min  0 MiB   \u{fffd}[2J
";
        assert_eq!(text(&inspection), expected);
        let parsed: Vec<SeenProcess> = serde_json::from_str(&json(&inspection.processes)).unwrap();
        assert_eq!(parsed, inspection.processes);
    }
}
