//! The container as the API takes it, and its states as the API gives them.

use super::*;
use crate::cluster::client::{self, tests::target};

fn props(image: ImageSource, privileged: bool) -> ClusterProps {
    ClusterProps { image, privileged, ..client::tests::props() }
}

fn pod(command: &str, state: &Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "vllm-0"},
        "spec": {"containers": [], "ephemeralContainers": [
            {"name": "debugger-1", "command": ["sh"], "targetContainerName": "server"},
            {"name": "aiprof-abcde", "command": [command], "targetContainerName": "server"},
        ]},
        "status": {"ephemeralContainerStatuses": [
            {"name": "debugger-1", "state": {"running": {}}},
            {"name": "aiprof-abcde", "state": state},
        ]},
    }))
    .unwrap()
}

fn sentence(state: &Value) -> String {
    match judge(&pod("/bin/sh", state), "aiprof-abcde") {
        Progress::Failed(error) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn names_are_ours_and_differ() {
    let names = [new_name().unwrap(), new_name().unwrap()];
    assert_ne!(names[0], names[1]);
    for name in names {
        let letters = name.strip_prefix(NAME_PREFIX).unwrap();
        assert!(letters.len() == 5 && letters.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()));
    }
}

#[test]
fn the_targets_image_waits_for_the_profiler_as_root_with_few_capabilities() {
    let container = describe("aiprof-abcde", &target(), &props(ImageSource::Auto, false));
    let patch = patch(&container);
    let patched = &patch["spec"]["ephemeralContainers"][0];
    assert_eq!(patched["image"], "vllm:2");
    assert_eq!(patched["targetContainerName"], "server");
    let expected =
        ["/bin/sh", "-c", WAIT_FOR_UPLOAD, "sh", "/tmp/.aiprof/profiler", "serve", "--socket", "/tmp/.aiprof/socket"];
    let command = container.command.clone().unwrap();
    assert_eq!(command[..8], expected);
    assert_eq!(command[8..], ["--lease", "60", "--spool-bytes", "268435456"]);
    assert_eq!(
        patched["securityContext"],
        json!({
            "runAsUser": 0, "runAsNonRoot": false, "allowPrivilegeEscalation": true, "readOnlyRootFilesystem": false,
            "capabilities": {"drop": ["ALL"], "add": CAPABILITIES},
        })
    );
    assert!(patched.get("stdin").is_none() && patched.get("tty").is_none());
}

#[test]
fn an_image_of_ours_runs_the_profiler_at_once() {
    let container = describe("aiprof-abcde", &target(), &props(ImageSource::Image("r/p:1".to_owned()), true));
    assert_eq!(container.image.as_deref(), Some("r/p:1"));
    assert_eq!(container.command.unwrap()[..2], ["/aiprof-profiler", "serve"]);
    let little = PodTarget { storage_bytes: Some(32 << 20), ..target() };
    let container = describe("aiprof-abcde", &little, &props(ImageSource::Image("r/p:1".to_owned()), true));
    assert_eq!(container.command.unwrap()[6..], ["--spool-bytes", "0"]);
    let security = container.security_context.unwrap();
    assert_eq!((security.privileged, security.capabilities), (Some(true), None));
}

#[cfg(unix)]
#[test]
fn the_script_ends_as_the_shells_have_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a b/c/p");
    let run = |script: &str| {
        let mut shell = std::process::Command::new("/bin/sh");
        shell.args(["-c", script, "sh"]).arg(&path).args(["serve", "--socket", "x y"]).output().unwrap()
    };
    assert_eq!(run(&WAIT_FOR_UPLOAD.replace("600", "2")).status.code(), Some(121));
    // Its folder is there by now.
    std::fs::write(&path, "#!/bin/sh\nprintf '%s,' \"$@\"\n").unwrap();
    std::process::Command::new("chmod").arg("755").arg(&path).status().unwrap();
    assert_eq!(String::from_utf8(run(WAIT_FOR_UPLOAD).stdout).unwrap(), "serve,--socket,x y,");
}

#[test]
fn only_a_running_container_of_ours_is_used_again() {
    let auto = props(ImageSource::Auto, false);
    let running = json!({"running": {}});
    let found = living(&pod("/bin/sh", &running), &target(), &auto);
    assert_eq!(found, [Living { name: "aiprof-abcde".to_owned(), uploaded: true }]);
    assert_eq!(found[0].program(), UPLOADED);
    assert!(!living(&pod(IN_IMAGE, &running), &target(), &auto)[0].uploaded);
    assert_eq!(living(&pod("sh", &json!({"terminated": {"exitCode": 0}})), &target(), &auto), []);
    assert_eq!(living(&pod("sh", &running), &target(), &props(ImageSource::Auto, true)), []);
    let other = PodTarget { container: "proxy".to_owned(), ..target() };
    assert_eq!(living(&pod("sh", &running), &other, &auto), []);
}

#[test]
fn reasons_that_never_pass_are_told_at_once() {
    for (reason, hint) in [
        ("ErrImagePull", "check --image"),
        ("ImagePullBackOff", "check --image"),
        ("InvalidImageName", "check --image"),
        ("ErrImageNeverPull", "load the image on the node"),
        ("CreateContainerConfigError", "describe pod"),
        ("RunContainerError", "describe pod"),
    ] {
        let text = sentence(&json!({"waiting": {"reason": reason, "message": "because"}}));
        assert!(text.contains(&format!("does not start: {reason}: because; ")) && text.contains(hint), "{text}");
    }
    let creating = judge(&pod("sh", &json!({"waiting": {"reason": "ContainerCreating"}})), "aiprof-abcde");
    assert_eq!(creating, Progress::Starting("ContainerCreating".to_owned()));
    assert_eq!(judge(&pod("sh", &json!({"running": {}})), "aiprof-abcde"), Progress::Running);
    assert!(matches!(judge(&pod("sh", &json!({})), "aiprof-zzzzz"), Progress::Starting(_)));
}

#[test]
fn an_image_without_a_shell_leads_to_another_image() {
    for message in [
        "failed to create containerd task: exec: \"/bin/sh\": stat /bin/sh: no such file or directory: unknown",
        "exec: \"sh\": executable file not found in $PATH",
    ] {
        let text = sentence(&json!({"terminated": {"exitCode": 128, "reason": "StartError", "message": message}}));
        assert!(text.contains("has no shell") && text.contains("--image REF"), "{text}");
    }
    let message = "exec: \"/aiprof-profiler\": stat /aiprof-profiler: no such file or directory";
    let text = sentence(&json!({"terminated": {"exitCode": 128, "reason": "StartError", "message": message}}));
    assert!(text.contains("does not hold /aiprof-profiler"), "{text}");
    let text = sentence(&json!({"terminated": {"exitCode": 1, "reason": "Error"}}));
    assert_eq!(text, "the profiler's container aiprof-abcde ended: Error, exit code 1");
}
