//! The commands that take a pod, where there is no cluster: each fails with one sentence that says what to do.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[allow(dead_code, reason = "what the other tests share is more than these need")]
mod common;

use std::{fs, path::Path, process::Command};

use common::{finish, folder, plugin};

/// The plugin without any kubeconfig but the one in `folder`.
fn alone(folder: &Path) -> Command {
    let mut command = plugin(folder);
    command
        .env("HOME", folder)
        .env("USERPROFILE", folder)
        .env("KUBECONFIG", folder.join("config"))
        .env_remove("KUBERNETES_SERVICE_HOST")
        .env_remove("AIPROF_PROFILER");
    command
}

#[test]
fn without_a_kubeconfig_it_says_where_to_get_one() {
    let folder = folder();
    for command in ["record", "check", "ps"] {
        let done = finish(alone(folder.path()).args([command, "pod/x"]));
        assert_eq!(done.code, 1, "{done:?}");
        assert!(done.stderr.starts_with("error: no cluster to speak to: "), "{}", done.stderr);
        assert!(done.stderr.contains("--kubeconfig FILE"), "{}", done.stderr);
        assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
    }
}

#[test]
fn a_server_that_does_not_answer_is_named() {
    let folder = folder();
    let kubeconfig = "{apiVersion: v1, kind: Config, current-context: a, \
        clusters: [{name: c, cluster: {server: 'http://127.0.0.1:9'}}], users: [{name: u, user: {}}], \
        contexts: [{name: a, context: {cluster: c, user: u}}]}";
    fs::write(folder.path().join("config"), kubeconfig).unwrap();
    let done = finish(alone(folder.path()).args(["record", "deploy/x", "--progress", "json"]));
    assert_eq!(done.code, 1, "{done:?}");
    let line: serde_json::Value = serde_json::from_str(done.stderr.trim()).unwrap();
    let message = line["message"].as_str().unwrap();
    assert_eq!(line["event"], "error");
    assert!(message.contains("cannot reach the API server http://127.0.0.1:9: "), "{message}");
    // Nothing is left where the archive would have been.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}
