//! `check` and `ps`.

use serde_json::{Value, json};

use crate::harness::{BUSY, Namespace, stderr, stdout};

/// The row of a check in the JSON of `check`.
pub(crate) fn row(report: &Value, check: &str) -> Value {
    let rows = report["checks"].as_array().cloned().unwrap_or_default();
    rows.into_iter().find(|row| row["check"] == check).unwrap_or_else(|| panic!("no row {check}: {report:#}"))
}

#[test]
fn check_tells_dimension_by_dimension_what_works() {
    let namespace = Namespace::with_busy_pod();
    let text = namespace.answer(&["check", "x"]);
    let mut lines = text.lines();
    assert!(lines.next().is_some_and(|line| line.starts_with("CHECK ")), "{text}");
    let first: Vec<&str> = lines.clone().filter_map(|line| line.split_whitespace().next()).collect();
    let expected =
        ["rights", "pod", "node", "admission", "memory", "python", "cpu", "syscalls", "cuda-api", "cuda-kernels"];
    assert_eq!(first, expected, "{text}");
    let report: Value = serde_json::from_str(&namespace.answer(&["check", "x", "-o", "json"])).expect("JSON");
    for check in &expected[..7] {
        assert_eq!(row(&report, check)["verdict"], "works", "{report:#}");
    }
    assert!(row(&report, "python")["because"].as_str().is_some_and(|text| text.contains("CPython 3.")), "{report:#}");
    assert_eq!(row(&report, "node")["because"], "linux/amd64", "{report:#}");
    assert_eq!((&report["pod"], &report["container"]), (&json!("x"), &json!("app")));
    assert_eq!(report["inspection"]["architecture"], std::env::consts::ARCH);
    assert_eq!(namespace.profilers("x").len(), 1);
}

#[test]
fn check_tells_why_a_pod_without_python_is_none() {
    let namespace = Namespace::new();
    let app = json!({"name": "app", "image": namespace.cluster.image, "imagePullPolicy": "IfNotPresent", "command": ["sleep", "1000"]});
    namespace.pod("x", &json!({"containers": [app]}));
    let output = namespace.aiprof(&["check", "x", "-o", "json"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let python = row(&report, "python");
    assert_eq!((&python["verdict"], &row(&report, "cpu")["verdict"]), (&json!("refused"), &json!("works")));
    assert_eq!(python["because"], "no process in this container runs CPython");
    let text = namespace.refusal(&["record", "x", "-d", "1s"]);
    assert!(text.contains("Python"), "{text}");
}

#[test]
fn check_tells_why_a_pod_is_no_target() {
    let namespace = Namespace::new();
    let mut app = namespace.python("app", BUSY);
    app["image"] = json!("localhost/nowhere:1");
    namespace.begin_pod(&json!({"name": "x"}), &json!({"containers": [app]}));
    let output = namespace.aiprof(&["check", "x", "-o", "json"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(&output)));
    let pod = row(&report, "pod");
    assert_eq!((&pod["verdict"], &row(&report, "rights")["verdict"]), (&json!("refused"), &json!("works")));
    assert!(pod["because"].as_str().is_some_and(|text| text.starts_with("pod x is Pending")), "{pod}");
    assert_eq!(row(&report, "python")["because"], "the pod is no target");
}

#[test]
fn check_tells_little_memory_before_a_capture_finds_it() {
    let namespace = Namespace::new();
    namespace.limited_pod("x", &json!({"memory": "64Mi"}));
    let output = namespace.aiprof(&["check", "x", "-o", "json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(&output)));
    let memory = row(&report, "memory");
    assert_eq!(memory["verdict"], "refused", "{report:#}");
    assert!(memory["because"].as_str().is_some_and(|text| text.contains("left of the pod's limit")), "{memory}");
    assert_ne!(output.status.code(), Some(0));
}

/// A program with a name of its own, three threads, and what looks like the CUDA driver mapped.
const CUDA: &str = "
import mmap, threading, time
with open('/tmp/libcuda.so.1', 'wb') as file:
    file.write(bytes(8192))
with open('/tmp/libcuda.so.1', 'r+b') as file:
    code = mmap.mmap(file.fileno(), 8192, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)
for _ in range(2):
    threading.Thread(target=time.sleep, args=(10000,), daemon=True).start()
print('up', flush=True)
end = time.process_time() + 1
while time.process_time() < end:
    pass
time.sleep(10000)
";

#[test]
fn ps_lists_what_could_be_recorded() {
    let namespace = Namespace::new();
    let containers = json!([namespace.python("app", CUDA)]);
    namespace.pod("x", &json!({"containers": containers}));
    let text = namespace.answer(&["ps", "x"]);
    let headings: Vec<&str> = text.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(headings, ["PID", "PYTHON", "CUDA", "THREADS", "CPU", "MEMORY", "TITLE"], "{text}");
    assert_eq!(text.lines().count(), 2, "no process of ours is listed: {text}");
    let fields: Vec<&str> = text.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    assert_eq!(fields[..2], ["1", "CPython"], "{text}");
    assert_eq!(fields[3..5], ["yes", "3"], "{text}");

    let output = namespace.aiprof(&["ps", "x", "-o", "json"]);
    let seen: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    let process = &seen[0];
    assert_eq!((&process["pid"], &process["threads"]), (&json!(1), &json!(3)), "{seen:#}");
    assert!(process["python"].as_str().is_some_and(|text| text.starts_with("CPython 3.")), "{seen:#}");
    assert_eq!(process["libcuda"], "/tmp/libcuda.so.1", "{seen:#}");
    assert!(process["cpu_ms"].as_u64() > Some(0) && process["rss_bytes"].as_u64() > Some(1 << 20), "{seen:#}");
    assert!(process["title"].as_str().is_some_and(|text| text.contains("python")), "{seen:#}");
    assert_eq!(seen.as_array().map(Vec::len), Some(1));
}

#[test]
fn ps_tells_a_process_without_cuda_and_one_without_python() {
    let namespace = Namespace::new();
    let program = "import subprocess\nsubprocess.Popen(['sleep', '10000'])\n".to_owned() + BUSY;
    namespace.python_pod("x", &program);
    let seen: Value = serde_json::from_str(&namespace.answer(&["ps", "x", "-o", "json"])).expect("JSON");
    let find = |word: &str| {
        let all = seen.as_array().cloned().unwrap_or_default();
        all.into_iter().find(|one| one["title"].as_str().is_some_and(|title| title.contains(word)))
    };
    let (python, sleep) = (find("python").expect("python3"), find("sleep").expect("sleep"));
    assert_eq!((&python["libcuda"], &sleep["python"]), (&Value::Null, &Value::Null), "{seen:#}");
    assert_eq!(sleep["parent_pid"], python["pid"]);
}
