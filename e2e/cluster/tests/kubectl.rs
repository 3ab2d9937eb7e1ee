//! The real kubectl against the cluster: what the stand-in answers must be what kubectl expects. These tests hold on a real cluster
//! too, which shows that they ask for nothing that only the stand-in has.

mod harness;

use harness::{BUSY, Namespace, stderr, stdout, wait_for};
use serde_json::{Value, json};

/// What the profiler's container asks for.
fn privileges() -> Value {
    json!({"runAsUser": 0, "runAsNonRoot": false, "allowPrivilegeEscalation": true, "capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN", "SYS_PTRACE"]}})
}

/// Adds an ephemeral container, as the plugin does.
fn add(namespace: &Namespace, container: &Value) {
    let (status, answer) = namespace.add_ephemeral("x", container, "", None);
    assert_eq!(status, 200, "{answer}");
}

/// Why one is refused.
fn refusal(namespace: &Namespace, container: &Value, query: &str) -> String {
    let (status, answer) = namespace.add_ephemeral("x", container, query, None);
    assert_ne!(status, 200, "{answer}");
    answer["message"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn exec_carries_input_output_errors_and_the_exit_code() {
    let namespace = Namespace::with_busy_pod();
    let output = namespace.kubectl(["exec", "x", "--", "sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(stdout(&output), "out\n");
    assert_eq!(stderr(&output), "err\ncommand terminated with exit code 3\n");

    let input: Vec<u8> = (0..3_000_000_u32).map(|index| (index * 7 % 251) as u8).collect();
    let output = namespace.kubectl_with(["exec", "-i", "x", "--", "cat"], &input);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(output.stdout == input, "{} of {} bytes came back, or others", output.stdout.len(), input.len());

    let output = namespace.kubectl(["exec", "x", "--", "nowhere"]);
    assert_ne!(output.status.code(), Some(0));
    assert!(stderr(&output).contains("\"nowhere\": executable file not found in $PATH"), "{}", stderr(&output));

    let output = namespace.kubectl(["exec", "x", "-c", "other", "--", "true"]);
    assert!(stderr(&output).contains("other"), "{}", stderr(&output));
}

#[test]
fn logs_are_read_and_followed_to_the_end() {
    let namespace = Namespace::new();
    let program = "import time\nfor n in range(3):\n    print(n, flush=True)\n    time.sleep(.3)\n";
    let mut container = namespace.python("app", program);
    container["name"] = json!("app");
    let spec = json!({"containers": [container], "restartPolicy": "Never", "terminationGracePeriodSeconds": 1});
    namespace.create(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}));
    wait_for("the container to start", || namespace.get("pod/x")["status"]["phase"] != "Pending");
    let output = namespace.kubectl(["logs", "-f", "x"]);
    assert_eq!(stdout(&output), "0\n1\n2\n");
    wait_for("the pod's end", || namespace.get("pod/x")["status"]["phase"] == "Succeeded");
    assert_eq!(stdout(&namespace.kubectl(["logs", "--tail=1", "x"])), "2\n");
}

#[test]
fn debug_adds_a_container_that_sees_the_targets_processes() {
    let namespace = Namespace::with_busy_pod();
    let see = "cat /proc/1/cmdline | tr '\\0' '\\n' | head -n 1";
    let image = format!("--image={}", namespace.cluster.image);
    let output = namespace.kubectl([
        "debug",
        "x",
        &image,
        "--target=app",
        "--profile=sysadmin",
        "-c",
        "see",
        "--",
        "sh",
        "-c",
        see,
    ]);
    assert!(output.status.success(), "{}", stderr(&output));
    wait_for("its end", || !namespace.ephemeral_state("x", "see")["terminated"].is_null());
    assert_eq!(namespace.ephemeral_state("x", "see")["terminated"]["exitCode"], 0);
    assert_eq!(stdout(&namespace.kubectl(["logs", "x", "-c", "see"])), "python3\n");
    assert_eq!(namespace.get("pod/x")["status"]["containerStatuses"][0]["restartCount"], 0);
}

#[test]
fn an_ephemeral_container_has_the_user_and_the_capabilities_that_it_asks_for() {
    let namespace = Namespace::new();
    let mut app = namespace.python("app", BUSY);
    app["securityContext"] = json!({"readOnlyRootFilesystem": true});
    namespace.pod("x", &json!({"containers": [app], "securityContext": {"runAsUser": 1000, "runAsNonRoot": true}}));
    let output = namespace.kubectl(["exec", "x", "--", "sh", "-c", "id -u; touch /file"]);
    assert_eq!(stdout(&output), "1000\n");
    assert!(stderr(&output).contains("Read-only file system"), "{}", stderr(&output));

    let show = "id -u; grep CapEff /proc/self/status; touch /tmp/file && echo written";
    let container = json!({"name": "p", "image": namespace.cluster.image, "imagePullPolicy": "IfNotPresent", "targetContainerName": "app",
        "command": ["sh", "-c", show], "securityContext": privileges()});
    add(&namespace, &container);
    wait_for("its end", || !namespace.ephemeral_state("x", "p")["terminated"].is_null());
    assert_eq!(stdout(&namespace.kubectl(["logs", "x", "-c", "p"])), "0\nCapEff:\t0000000000280000\nwritten\n");

    // Without a user of its own it is the pod's, and privileges are of no effect.
    let container = json!({"name": "q", "image": namespace.cluster.image, "imagePullPolicy": "IfNotPresent", "targetContainerName": "app",
        "command": ["sh", "-c", "id -u; grep CapEff /proc/self/status"], "securityContext": {"privileged": true}});
    add(&namespace, &container);
    wait_for("its end", || !namespace.ephemeral_state("x", "q")["terminated"].is_null());
    assert_eq!(stdout(&namespace.kubectl(["logs", "x", "-c", "q"])), "1000\nCapEff:\t0000000000000000\n");
}

#[test]
fn a_shared_process_namespace_begins_with_the_pause_process() {
    let namespace = Namespace::new();
    let side = json!({"name": "side", "image": namespace.cluster.image, "imagePullPolicy": "IfNotPresent", "command": ["sleep", "1000"]});
    namespace.pod("x", &json!({"containers": [namespace.python("app", BUSY), side], "shareProcessNamespace": true}));
    let output = namespace.kubectl([
        "exec",
        "x",
        "-c",
        "side",
        "--",
        "sh",
        "-c",
        "cat /proc/1/comm; cat /proc/[0-9]*/comm | grep -c python3",
    ]);
    let text = stdout(&output);
    assert!(!text.starts_with("python3") && text.ends_with("\n1\n"), "{text} {}", stderr(&output));
}

#[test]
fn an_image_that_is_not_there_leaves_the_container_waiting_with_the_reason() {
    let namespace = Namespace::with_busy_pod();
    let container = |name: &str, image: &str, policy: &str| json!({"name": name, "image": image, "imagePullPolicy": policy, "targetContainerName": "app", "command": ["true"]});
    add(&namespace, &container("never", "localhost/nowhere:1", "Never"));
    let reason = |name: &str| namespace.ephemeral_state("x", name)["waiting"]["reason"].clone();
    wait_for("ErrImageNeverPull", || reason("never") == "ErrImageNeverPull");
    add(&namespace, &container("pull", "localhost/nowhere:1", "IfNotPresent"));
    wait_for("a refused pull", || ["ErrImagePull", "ImagePullBackOff"].iter().any(|one| reason("pull") == *one));
    let image = namespace.cluster.image.clone();
    let mut strict = container("strict", &image, "IfNotPresent");
    strict["securityContext"] = json!({"runAsUser": 0, "runAsNonRoot": true});
    add(&namespace, &strict);
    wait_for("CreateContainerConfigError", || reason("strict") == "CreateContainerConfigError");
    let absent = json!({"name": "absent", "image": image, "imagePullPolicy": "IfNotPresent", "targetContainerName": "app", "command": ["/nowhere"]});
    add(&namespace, &absent);
    wait_for("StartError", || namespace.ephemeral_state("x", "absent")["terminated"]["reason"] == "StartError");
}

#[test]
fn dry_run_changes_nothing_and_existing_containers_stand() {
    let namespace = Namespace::with_busy_pod();
    let container = |name: &str, seconds: &str| json!({"name": name, "image": namespace.cluster.image, "imagePullPolicy": "IfNotPresent", "targetContainerName": "app", "command": ["sleep", seconds]});
    let (status, answer) = namespace.add_ephemeral("x", &container("a", "100"), "?dryRun=All", None);
    assert_eq!((status, &answer["spec"]["ephemeralContainers"][0]["name"]), (200, &json!("a")));
    assert!(namespace.get("pod/x")["spec"]["ephemeralContainers"].is_null());
    add(&namespace, &container("a", "100"));
    let text = refusal(&namespace, &container("a", "200"), "");
    assert!(text.contains("may not be changed"), "{text}");
    let mut lost = container("b", "1");
    lost["targetContainerName"] = json!("nope");
    let text = refusal(&namespace, &lost, "");
    assert!(text.contains("targetContainerName: Not found: \"nope\""), "{text}");
}

#[test]
fn pod_security_refuses_with_the_level_and_the_fields() {
    for (level, words) in [
        ("baseline", "non-default capabilities (container \"p\" must not include \"SYS_ADMIN\", \"SYS_PTRACE\""),
        (
            "restricted",
            "allowPrivilegeEscalation != false (container \"p\" must set securityContext.allowPrivilegeEscalation=false)",
        ),
    ] {
        let namespace = Namespace::enforcing(level);
        let mut app = namespace.python("app", BUSY);
        app["securityContext"] = json!({"runAsNonRoot": true, "runAsUser": 1000, "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}});
        namespace.pod("x", &json!({"containers": [app]}));
        let container = json!({"name": "p", "image": namespace.cluster.image, "targetContainerName": "app", "securityContext": privileges()});
        let text = refusal(&namespace, &container, "?dryRun=All");
        assert!(
            text.contains(&format!("pods \"x\" is forbidden: violates PodSecurity \"{level}:latest\": "))
                && text.contains(words),
            "{text}"
        );
    }
}

#[test]
fn rbac_refuses_what_no_role_allows() {
    let namespace = Namespace::with_busy_pod();
    let kubeconfig =
        namespace.user("dev", &json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]));
    let path = kubeconfig.to_str().expect("a path").to_owned();
    let output = namespace.kubectl(["--kubeconfig", &path, "get", "pods", "-o", "name"]);
    assert_eq!(stdout(&output), "pod/x\n");
    let (status, answer) = namespace.add_ephemeral("x", &json!({"name": "p", "image": "i"}), "", Some(&kubeconfig));
    let wanted = format!(
        "pods \"x\" is forbidden: User \"system:serviceaccount:{0}:dev\" cannot patch resource \"pods/ephemeralcontainers\" in API group \
         \"\" in the namespace \"{0}\"",
        namespace.name
    );
    assert_eq!((status, answer["message"].as_str()), (403, Some(wanted.as_str())));
    let output = namespace.kubectl(["--kubeconfig", &path, "exec", "x", "--", "true"]);
    assert!(stderr(&output).contains("resource \"pods/exec\""), "{}", stderr(&output));

    let review = |verb: &str, subresource: &str| {
        let attributes =
            json!({"verb": verb, "resource": "pods", "subresource": subresource, "namespace": namespace.name});
        let object = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": attributes}});
        let arguments =
            ["--kubeconfig", &path, "create", "--validate=false", "-f", "-", "-o", "jsonpath={.status.allowed}"];
        stdout(&namespace.kubectl_with(arguments, object.to_string().as_bytes()))
    };
    assert_eq!([review("get", ""), review("create", "exec")], ["true", "false"]);
}

#[test]
fn workloads_have_pods_that_their_selector_finds() {
    let namespace = Namespace::new();
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [namespace.python("app", BUSY)], "terminationGracePeriodSeconds": 1}});
    let spec = json!({"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template});
    namespace
        .create(&json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec}));
    let output = namespace.kubectl(["rollout", "status", "deployment/web", "--timeout=60s"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let names = stdout(&namespace.kubectl(["get", "pods", "-l", "app=web", "-o", "name"]));
    assert_eq!(names.lines().filter(|line| line.starts_with("pod/web-")).count(), 2, "{names}");
    assert!(namespace.kubectl(["exec", "deployment/web", "--", "true"]).status.success());
}

#[test]
fn a_container_that_dies_is_started_again_and_counted() {
    let namespace = Namespace::new();
    namespace.python_pod("x", "import time\nprint('up', flush=True)\ntime.sleep(2)\n");
    wait_for("a second start", || namespace.get("pod/x")["status"]["containerStatuses"][0]["restartCount"] == 1);
    let status = namespace.get("pod/x")["status"]["containerStatuses"][0].clone();
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 0, "{status}");
}

#[test]
fn the_containers_of_a_pod_share_its_memory_limit() {
    let namespace = Namespace::new();
    namespace.limited_pod("x", &json!({"memory": "96Mi"}));
    let hog = "x = bytearray(200 << 20)\nprint('survived', flush=True)\n";
    let container = json!({"name": "hog", "image": namespace.cluster.image, "imagePullPolicy": "IfNotPresent", "targetContainerName": "app",
        "command": ["python3", "-c", hog]});
    add(&namespace, &container);
    wait_for("its end", || !namespace.ephemeral_state("x", "hog")["terminated"].is_null());
    let ended = namespace.ephemeral_state("x", "hog")["terminated"].clone();
    assert_eq!((&ended["exitCode"], &ended["reason"]), (&json!(137), &json!("OOMKilled")));
    assert_eq!(stdout(&namespace.kubectl(["logs", "x", "-c", "hog"])), "");
}
