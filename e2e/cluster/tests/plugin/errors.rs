//! What cannot work ends soon, with one sentence in the API's own words and exit code 1; a wrong command line with 2.

use std::{fs, net::TcpListener, time::Instant};

use aiprof_e2e::{Faults, Waiting};
use serde_json::{Value, json};

use crate::harness::{BUSY, Namespace, left_out, plugin::sentence, stderr, stdout, wait_for};

const RECORD: [&str; 4] = ["record", "x", "-d", "1s"];

#[test]
fn what_is_not_there() {
    let namespace = Namespace::new();
    let text = namespace.refusal(&RECORD);
    assert!(text.starts_with("cannot read pod x: pods \"x\" not found; see `kubectl get pods -n "), "{text}");
    for (target, resource) in
        [("deploy/web", "deployments.apps"), ("sts/web", "statefulsets.apps"), ("job/web", "jobs.batch")]
    {
        let text = namespace.refusal(&["ps", target]);
        assert!(text.contains(&format!("cannot read {target}: {resource} \"web\" not found")), "{text}");
    }
    let text = namespace.refusal(&["ps", "-l", "app=web"]);
    assert!(text.starts_with("-l app=web has no pods in namespace "), "{text}");
    namespace.python_pod("x", BUSY);
    let text = namespace.refusal(&["record", "x", "-c", "nope", "-d", "1s"]);
    assert_eq!(text, "pod x has no container nope: it has app");
}

#[test]
fn a_deployment_without_a_ready_pod() {
    let namespace = Namespace::new();
    let mut app = namespace.python("app", BUSY);
    app["image"] = json!("localhost/nowhere:1");
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [app], "terminationGracePeriodSeconds": 1}});
    let spec = json!({"selector": {"matchLabels": {"app": "web"}}, "template": template});
    namespace
        .create(&json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec}));
    let text = || namespace.refusal(&["record", "deploy/web", "-d", "1s"]);
    wait_for("the reason", || text().contains("Image"));
    let text = text();
    assert!(text.starts_with("no pod of deploy/web is ready (web-"), "{text}");
    assert!(text.contains("is ErrImagePull") || text.contains("is ImagePullBackOff"), "{text}");
}

#[test]
fn what_has_ended_or_not_begun() {
    let namespace = Namespace::new();
    let done = namespace.python("done", "pass");
    let containers = json!([namespace.python("app", BUSY), done]);
    namespace.begin_pod(&json!({"name": "x"}), &json!({"containers": containers, "restartPolicy": "Never"}));
    let terminated = |pod: &str, index: usize| {
        let pod = namespace.get(&format!("pod/{pod}"));
        !pod["status"]["containerStatuses"][index]["state"]["terminated"].is_null()
    };
    wait_for("the end of a container", || terminated("x", 1) && namespace.get("pod/x")["status"]["phase"] == "Running");
    let text = namespace.refusal(&["record", "x", "-c", "done", "-d", "1s"]);
    assert_eq!(text, "container done of pod x does not run: it has ended (Completed, exit code 0)");

    let spec = json!({"containers": [namespace.python("app", "pass")], "restartPolicy": "Never"});
    namespace.begin_pod(&json!({"name": "over"}), &spec);
    wait_for("the end of the pod", || namespace.get("pod/over")["status"]["phase"] == "Succeeded");
    let text = namespace.refusal(&["record", "over", "-d", "1s"]);
    assert!(text.starts_with("pod over is Succeeded") && text.contains("not Running"), "{text}");

    let mut app = namespace.python("app", BUSY);
    app["image"] = json!("localhost/nowhere:1");
    namespace.begin_pod(&json!({"name": "young"}), &json!({"containers": [app]}));
    let text = namespace.refusal(&["record", "young", "-d", "1s"]);
    assert!(text.starts_with("pod young is Pending"), "{text}");
}

#[test]
fn an_image_that_cannot_be_had() {
    let namespace = Namespace::with_busy_pod();
    let text = namespace.refusal(&["record", "x", "-d", "1s", "--image", "localhost/nowhere:1"]);
    assert!(
        text.contains(" does not start: ErrImagePull: ") || text.contains(" does not start: ImagePullBackOff: "),
        "{text}"
    );
    assert!(text.contains("localhost/nowhere:1") && text.contains("check --image"), "{text}");
    let text = namespace.refusal(&["record", "x", "-d", "1s", "--image", &namespace.cluster.image]);
    assert!(text.contains("/aiprof-profiler") && text.contains("give another --image"), "{text}");
    let text = namespace.refusal(&["record", "x", "-d", "1s", "--image", "Not An Image"]);
    assert!(text.contains("Invalid"), "{text}");
    assert_eq!(namespace.restarts("x", "app"), 0);
}

#[test]
fn a_kubelet_that_does_not_start_the_container() {
    let namespace = Namespace::new();
    let Some(stand_in) = namespace.cluster.stand_in() else {
        return left_out("a real kubelet starts it");
    };
    namespace.python_pod("x", BUSY);
    for (reason, message) in [
        ("ErrImageNeverPull", "Container image \"i:1\" is not present with pull policy of Never"),
        ("CreateContainerConfigError", "container has runAsNonRoot and image will run as root"),
        ("CreateContainerError", "no space left on device"),
        ("InvalidImageName", "Failed to apply default image tag \"I\""),
    ] {
        let waiting = Waiting { reason: reason.into(), message: message.into() };
        stand_in.set_faults(&namespace.name, Faults { waiting: Some(waiting), ..Faults::default() });
        let begun = Instant::now();
        let text = namespace.refusal(&RECORD);
        assert!(text.contains(&format!(" does not start: {reason}: {message}; ")), "{text}");
        assert!(begun.elapsed().as_secs() < 20, "what does not pass is not waited for");
    }
}

#[test]
fn a_container_that_never_gets_further_is_waited_for_a_minute() {
    let namespace = Namespace::new();
    let Some(stand_in) = namespace.cluster.stand_in() else {
        return left_out("a real kubelet starts it");
    };
    namespace.python_pod("x", BUSY);
    let waiting = Waiting { reason: "ContainerCreating".into(), message: String::new() };
    stand_in.set_faults(&namespace.name, Faults { waiting: Some(waiting), ..Faults::default() });
    let text = namespace.refusal(&RECORD);
    assert!(text.contains("did not start within 60 s: ContainerCreating; see `kubectl describe pod`"), "{text}");
}

#[test]
fn a_cluster_without_ephemeral_containers() {
    let namespace = Namespace::new();
    let Some(stand_in) = namespace.cluster.stand_in() else {
        return left_out("a real cluster has them");
    };
    namespace.python_pod("x", BUSY);
    stand_in.set_faults(&namespace.name, Faults { no_ephemeral_containers: true, ..Faults::default() });
    let text = namespace.refusal(&RECORD);
    assert_eq!(
        text,
        "this cluster has no ephemeral containers (the server could not find the requested resource): \
         Kubernetes 1.25 or newer is needed, with the feature on"
    );
}

#[test]
fn a_node_of_another_kind() {
    let namespace = Namespace::new();
    let Some(stand_in) = namespace.cluster.stand_in() else {
        return left_out("a real cluster may have no such node");
    };
    namespace.python_pod("x", BUSY);
    for (label, value, text) in [
        ("os", "windows", "pod x runs on windows: only Linux can be profiled"),
        ("arch", "arm64", "pod x runs on a node of architecture arm64: only amd64 can be profiled"),
    ] {
        let node = format!("{}-{value}", namespace.name);
        stand_in.script(
            "nodes",
            "",
            &node,
            &json!({"metadata": {"labels": {format!("kubernetes.io/{label}"): value}}}),
        );
        stand_in.script("pods", &namespace.name, "x", &json!({"spec": {"nodeName": node}}));
        assert_eq!(namespace.refusal(&RECORD), text);
        assert_eq!(namespace.refusal(&["ps", "x"]), text);
        let output = namespace.aiprof(&["check", "x"]);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(stdout(&output).contains(text), "{}", stdout(&output));
    }
    assert!(namespace.profilers("x").is_empty());
}

#[test]
fn an_api_server_that_cannot_be_reached() {
    let namespace = Namespace::new();
    // Nobody listens on a port that was just given back.
    let closed = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let path = namespace.kubeconfig("closed", |config| to(config, &format!("https://{closed}")));
    let text = sentence(&namespace.aiprof_as(&path, &RECORD));
    assert!(text.starts_with(&format!("cannot reach the API server https://{closed}: ")), "{text}");
    assert!(text.contains("refused"), "{text}");

    // Somebody takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("an address");
    for scheme in ["http", "https"] {
        let path = namespace.kubeconfig(scheme, |config| to(config, &format!("{scheme}://{address}")));
        let text = sentence(&namespace.aiprof_as(&path, &RECORD));
        assert!(text.contains(&format!("{scheme}://{address}")), "{text}");
    }
}

fn to(config: &mut Value, server: &str) {
    config["clusters"][0]["cluster"]["server"] = json!(server);
}

#[test]
fn a_kubeconfig_that_cannot_be_used() {
    let namespace = Namespace::new();
    let folder = tempfile::tempdir().expect("a folder");
    let garbage = folder.path().join("garbage");
    fs::write(&garbage, "{{{ no yaml").expect("a file");
    let missing = folder.path().join("missing");
    for (path, words) in [(&garbage, "cannot be used"), (&missing, "cannot be read: No such file")] {
        let flag = ["record", "x", "-d", "1s", "--kubeconfig", path.to_str().expect("a path")];
        let text = namespace.refusal(&flag);
        assert!(text.starts_with("no cluster to speak to: ") && text.contains(words), "{text}");
        let text = sentence(&namespace.aiprof_as(path, &RECORD));
        assert!(text.starts_with("no cluster to speak to: "), "{text}");
    }
    let text = namespace.refusal(&["record", "x", "-d", "1s", "--context", "nowhere"]);
    assert!(text.contains("has no context \"nowhere\""), "{text}");
}

#[test]
fn a_wrong_command_line_ends_with_2() {
    let namespace = Namespace::new();
    for arguments in [
        &["record"][..],
        &["record", "x", "-l", "app=x"],
        &["record", "service/x"],
        &["record", "x", "--duration", "soon"],
        &["record", "x", "--image", ""],
        &["record", "x", "--unknown"],
        &["record", "x", "--collect", "tea"],
        &["record", "x", "--", "python3"],
        &["record", "X_y"],
        &["check"],
        &["ps", "x", "-o", "yaml"],
        &["unknown"],
    ] {
        let output = namespace.aiprof(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).starts_with("error: "), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn programs_are_told_the_same_as_people() {
    let namespace = Namespace::new();
    let recording = namespace.record(&RECORD[1..]);
    assert_eq!(recording.code, Some(1));
    let last: Value = serde_json::from_str(recording.said.last().expect("a line")).expect("JSON");
    assert_eq!(last["event"], "error", "{last}");
    assert!(last["message"].as_str().is_some_and(|text| text.contains("pods \"x\" not found")), "{last}");
    assert!(!recording.archive().exists());
}
