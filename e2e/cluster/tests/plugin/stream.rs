//! The stream from the pod: cut, idle, and refused where it would cost the target its memory.

use aiprof_e2e::{Cut, Faults};
use serde_json::json;

use crate::harness::{BUSY, Namespace, left_out, wait_for};

const NO_ORDERS: &str = "a real cluster cuts no connection on order";

#[test]
fn a_stream_that_is_cut_three_times_is_whole() {
    let namespace = Namespace::new();
    let Some(stand_in) = namespace.cluster.stand_in() else { return left_out(NO_ORDERS) };
    namespace.python_pod("x", BUSY);
    let cut = Cut { after_bytes: 1000, times: 3, command: "attach".into() };
    stand_in.set_faults(&namespace.name, Faults { cut: Some(cut), ..Faults::default() });
    let recording = namespace.record(&["x", "-d", "5s"]);
    recording.assert_complete();
    assert_eq!(stand_in.cut_so_far(&namespace.name), 3, "{}", recording.text());
    // Without a gap: the states of the one thread fill the window.
    let observed_ms =
        recording.report()["processes"][0]["time"]["observed_ns"].as_u64().unwrap_or_default() / 1_000_000;
    assert!((4_900..5_500).contains(&observed_ms), "{observed_ms} ms of 5000");
    namespace.assert_unharmed("x", "app");
}

#[test]
fn connections_that_break_at_any_moment_lose_nothing() {
    let namespace = Namespace::new();
    let Some(stand_in) = namespace.cluster.stand_in() else { return left_out(NO_ORDERS) };
    namespace.python_pod("x", BUSY);
    // Long enough for three new connections on a busy machine.
    let mut live = namespace.begin_record(&["x", "-d", "15s"]);
    live.event("started");
    for count in 1..=3 {
        live.event("tick");
        wait_for("a cut connection", || {
            stand_in.cut_now(&namespace.name);
            stand_in.cut_so_far(&namespace.name) >= count
        });
    }
    live.finish().assert_complete();
    namespace.assert_unharmed("x", "app");
}

#[test]
fn a_connection_is_never_idle_for_long() {
    let namespace = Namespace::new();
    let Some(stand_in) = namespace.cluster.stand_in() else { return left_out(NO_ORDERS) };
    // A target that does next to nothing, so that its trace keeps nobody awake.
    namespace.python_pod("x", "import time\nprint('up', flush=True)\nwhile True:\n    time.sleep(5)\n");
    stand_in.set_faults(&namespace.name, Faults { idle_timeout_ms: 8000, ..Faults::default() });
    let recording = namespace.record(&["x", "-d", "20s"]);
    assert_eq!(stand_in.cut_so_far(&namespace.name), 0, "{}", recording.text());
    assert!(recording.manifest()["duration_ms"].as_u64() >= Some(19_900), "{}", recording.manifest());
}

#[test]
fn a_pod_without_memory_to_spare_is_refused_with_the_reason() {
    let namespace = Namespace::new();
    namespace.limited_pod("x", &json!({"memory": "64Mi"}));
    let text = namespace.refusal(&["record", "x", "-d", "1s"]);
    assert!(text.contains("the memory limit leaves ") && text.contains("a capture needs 64 MiB"), "{text}");
    assert!(text.contains("raise"), "{text}");
    assert_eq!(namespace.restarts("x", "app"), 0);
}

#[test]
fn a_pod_without_disk_to_spare_is_refused_with_the_reason() {
    let namespace = Namespace::new();
    namespace.limited_pod("x", &json!({"ephemeral-storage": "8Mi"}));
    let text = namespace.refusal(&["record", "x", "-d", "1s"]);
    assert!(text.contains("of the 8 MiB of ephemeral storage that the pod may use it would take "), "{text}");
    assert!(namespace.profilers("x").is_empty(), "nothing is added to the pod");
    // With an image of the profiler nothing is written.
    if let Some(image) = namespace.cluster.profiler_image() {
        namespace.record(&["x", "-d", "1s", "--image", image]).assert_complete();
        namespace.assert_unharmed("x", "app");
    }
}
