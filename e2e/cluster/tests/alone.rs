//! What is measured: how soon a recording begins, and that one from a pod tells the same as a local one. In a test binary of its own,
//! so that nothing else of the suite runs beside it.

mod harness;

use std::{
    collections::BTreeSet,
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use harness::{
    Namespace, left_out,
    plugin::{Live, binary, share},
};
use rustix::process::geteuid;
use serde_json::Value;

/// Held by each test, so that they run one after the other.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From the command to the open window, container and upload included.
const LIMIT: Duration = Duration::from_secs(3);

#[test]
fn the_window_opens_within_three_seconds_of_the_command() {
    let _alone = alone();
    let namespace = Namespace::with_busy_pod();
    let mut times: Vec<Duration> = (0..3)
        .map(|_| {
            let mut live = namespace.begin_record(&["pod/x", "-d", "1s"]);
            let (_, after) = live.event("started");
            live.finish().assert_complete();
            // The next one begins with a container of its own.
            namespace.assert_unharmed("x", "app");
            after
        })
        .collect();
    println!("open after {times:?}");
    times.sort();
    assert!(times[1] <= LIMIT, "open after {times:?}");
}

/// Two functions that are busy in the proportion 3:1, and a thread that waits.
const SHARES: &str = "
import threading, time
def count(to):
    total = 0
    for number in range(to):
        total += number
def heavy():
    total = 0
    for number in range(60000):
        total += number
def light():
    total = 0
    for number in range(20000):
        total += number
def pause():
    while True:
        time.sleep(0.02)
threading.Thread(target=pause, name='pause', daemon=True).start()
print('up', flush=True)
while True:
    heavy()
    light()
";

#[test]
fn a_recording_from_a_pod_equals_a_local_one() {
    let _alone = alone();
    let namespace = Namespace::new();
    namespace.python_pod("x", SHARES);
    let remote = namespace.record(&["pod/x", "-d", "5s"]);
    remote.assert_complete();
    namespace.assert_unharmed("x", "app");
    if !geteuid().is_root() {
        left_out("the comparison with a local recording, which takes root");
        return;
    }
    let mut command = Command::new(binary());
    command.args(["record", "--local", "-d", "5s"]);
    let local = Live::begin_with(&mut command, &["python3", "-c", SHARES]).finish();
    local.assert_complete();

    let (ours, theirs) = (remote.report(), local.report());
    let counts = [&ours, &theirs].map(|report| report["samples"].as_u64().unwrap_or_default() as f64);
    assert!(counts.iter().all(|count| *count > 100.0), "{counts:?} samples");
    for function in ["heavy", "light", "<module>"] {
        let [here, there] = [&ours, &theirs].map(|report| share(report, function).unwrap_or_default());
        // Four standard deviations of the difference of two samples.
        let mean = f64::midpoint(here, there);
        let deviation = (mean * (1.0 - mean) * (1.0 / counts[0] + 1.0 / counts[1])).sqrt();
        assert!((here - there).abs() <= 4.0 * deviation, "{function}: {here} in the pod, {there} locally");
    }
    // The waiting thread is told alike.
    let waits = |report: &Value| {
        let rows = report["processes"][0]["waits"].as_array().cloned().unwrap_or_default();
        rows.iter()
            .any(|row| row["stack"].as_array().is_some_and(|stack| stack.iter().any(|one| one["function"] == "pause")))
    };
    assert!(waits(&ours) && waits(&theirs), "{}", ours["processes"][0]["waits"]);

    let (ours, theirs) = (remote.manifest(), local.manifest());
    let (mut here, there) = (fields("", &ours), fields("", &theirs));
    assert!(here.remove(".request.container_id"), "only in a pod it is said which container is meant: {ours}");
    assert_eq!(here, there);
    assert_eq!((&ours["dimensions"], &ours["end_reason"]), (&theirs["dimensions"], &theirs["end_reason"]));
    assert_eq!(ours["request"]["collect"], theirs["request"]["collect"]);
}

/// Paths of all fields of a JSON object; of a list of objects those of its first one.
fn fields(at: &str, value: &Value) -> BTreeSet<String> {
    match value {
        Value::Object(object) => object.iter().flat_map(|(key, value)| fields(&format!("{at}.{key}"), value)).collect(),
        Value::Array(list) if list.first().is_some_and(Value::is_object) => fields(&format!("{at}[]"), &list[0]),
        _ => BTreeSet::from([at.to_owned()]),
    }
}
