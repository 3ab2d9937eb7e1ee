//! How soon a recording begins. In a test binary of its own, so that nothing else runs beside it.

mod harness;

use std::time::Duration;

use harness::{BUSY, Namespace};

/// From the command to the open window, container and upload included.
const LIMIT: Duration = Duration::from_secs(3);

#[test]
fn the_window_opens_within_three_seconds_of_the_command() {
    let namespace = Namespace::new();
    namespace.python_pod("x", BUSY);
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
