//! The life of the profiler's container: used again while it lives, and never longer there than it is of use.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Namespace, wait_for, wait_long_for};

/// A profiler that nobody attends ends after so long.
const LEASE: Duration = Duration::from_mins(1);
/// It may take so long to end, and for the cluster to say so.
const MARGIN: Duration = Duration::from_secs(20);

fn state(namespace: &Namespace, index: usize) -> Value {
    let name = namespace.profilers("x")[index]["name"].as_str().expect("a name").to_owned();
    namespace.ephemeral_state("x", &name)
}

#[test]
fn a_living_container_is_used_again_and_ends_after_the_capture() {
    let namespace = Namespace::with_busy_pod();
    namespace.answer(&["check", "x"]);
    assert!(!state(&namespace, 0)["running"].is_null());
    let recording = namespace.record(&["x", "-d", "1s"]);
    recording.assert_complete();
    assert!(recording.text().contains("again"), "{}", recording.text());
    assert_eq!(namespace.profilers("x").len(), 1);
    namespace.assert_unharmed("x", "app");
    // That one has ended, and so the next capture needs another.
    namespace.record(&["x", "-d", "1s"]).assert_complete();
    assert_eq!(namespace.profilers("x").len(), 2);
    namespace.assert_unharmed("x", "app");
}

#[test]
fn an_interrupt_keeps_what_was_recorded_and_ends_the_container() {
    let namespace = Namespace::with_busy_pod();
    let mut live = namespace.begin_record(&["x", "-d", "10m"]);
    live.let_arrive(8);
    live.signal(Signal::INT);
    let recording = live.finish();
    recording.assert_complete();
    assert_eq!(recording.manifest()["end_reason"], "stopped");
    namespace.assert_unharmed("x", "app");
}

#[test]
fn a_second_interrupt_gives_up_and_ends_the_container() {
    let namespace = Namespace::with_busy_pod();
    let mut live = namespace.begin_record(&["x", "-d", "10m"]);
    live.let_arrive(8);
    live.signal(Signal::INT);
    let (said, _) = live.event("note");
    assert!(said["message"].as_str().is_some_and(|text| text.contains("Ctrl-C again gives it up")), "{said}");
    live.signal(Signal::INT);
    let recording = live.finish();
    // All of it may have arrived before.
    if recording.code == Some(130) {
        assert!(!recording.archive().exists(), "{}", recording.text());
    } else {
        recording.assert_complete();
    }
    namespace.assert_unharmed("x", "app");
}

#[test]
fn an_interrupt_before_the_window_opens_leaves_no_archive() {
    let namespace = Namespace::with_busy_pod();
    let mut live = namespace.begin_record(&["x", "-d", "10m"]);
    live.event("note");
    live.signal(Signal::INT);
    let recording = live.finish();
    assert_eq!(recording.code, Some(130), "{}", recording.text());
    assert!(!recording.archive().exists());
    // Whatever was added by then does not stay.
    let gone = || namespace.profilers("x").is_empty() || namespace.profilers_have_ended("x");
    wait_long_for("the end of the container", LEASE + MARGIN, gone);
    assert_eq!(namespace.restarts("x", "app"), 0);
}

#[test]
fn without_its_plugin_the_container_ends_within_the_lease() {
    let namespace = Namespace::with_busy_pod();
    let mut live = namespace.begin_record(&["x", "-d", "10m"]);
    live.event("started");
    live.event("tick");
    live.signal(Signal::KILL);
    assert_eq!(live.finish().code, None);
    wait_for("the container to be seen", || !state(&namespace, 0)["running"].is_null());
    wait_long_for("the end of the lease", LEASE + MARGIN, || namespace.profilers_have_ended("x"));
    namespace.assert_unharmed("x", "app");
}

#[test]
fn after_a_plugin_that_was_killed_the_next_one_uses_the_container_again() {
    let namespace = Namespace::with_busy_pod();
    let mut live = namespace.begin_record(&["x", "-d", "10m"]);
    live.event("started");
    live.event("tick");
    live.signal(Signal::KILL);
    live.finish();
    let recording = namespace.record(&["x", "-d", "2s"]);
    recording.assert_complete();
    assert_eq!(namespace.profilers("x").len(), 1, "{}", recording.text());
    assert!(recording.manifest()["duration_ms"].as_u64() < Some(4000), "{}", recording.manifest());
    namespace.assert_unharmed("x", "app");
}
