//! What `--local` says where this is not Linux.

#![cfg(not(target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[allow(dead_code, reason = "what the other tests share is more than this needs")]
mod common;

use common::{finish, folder, plugin};

#[test]
fn local_is_refused_and_leaves_nothing() {
    let folder = folder();
    for target in [["--pid", "1"], ["--", "sleep"]] {
        let done = finish(plugin(folder.path()).args(["record", "--local"]).args(target));
        assert_eq!(done.code, 1, "{done:?}");
        assert!(done.stderr.starts_with("error: --local works on Linux only, and this is "), "{}", done.stderr);
        assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
    }
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);
}
