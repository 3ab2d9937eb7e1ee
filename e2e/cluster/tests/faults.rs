//! Faults that only the stand-in can be told to have.

mod harness;

use std::{process::Stdio, thread, time::Duration};

use aiprof_e2e::{Cut, Faults, NODE, Waiting};
use harness::{BUSY, Namespace, stderr, wait_for};
use serde_json::json;

#[test]
fn faults_happen_as_ordered() {
    let namespace = Namespace::new();
    let Some(stand_in) = namespace.cluster.stand_in() else {
        println!("left out: a real cluster takes no orders");
        return;
    };
    namespace.python_pod("x", BUSY);

    let input = vec![b'x'; 200_000];
    // Two connections are cut after 100,000 bytes, the third is not.
    stand_in.set_faults(
        &namespace.name,
        Faults { cut: Some(Cut { after_bytes: 100_000, times: 2, command: "cat".into() }), ..Faults::default() },
    );
    let output = namespace.kubectl(["exec", "x", "--", "head", "-c", "200000", "/dev/zero"]);
    assert_eq!(output.stdout.len(), 200_000, "another command is left alone");
    for _ in 0..2 {
        let output = namespace.kubectl_with(["exec", "-i", "x", "--", "cat"], &input);
        assert!(!output.status.success());
        assert_eq!(output.stdout.len(), 100_000, "{}", stderr(&output));
    }
    assert_eq!(namespace.kubectl_with(["exec", "-i", "x", "--", "cat"], &input).stdout.len(), 200_000);
    assert_eq!(stand_in.faults(&namespace.name).cut.map(|cut| cut.times), Some(0));

    // What runs open is cut on command, and what ran in the container sees the end of its standard input.
    let mut command = namespace.kubectl_command(["exec", "-i", "x", "--", "sh", "-c", "cat; touch /tmp/ended"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("kubectl runs");
    wait_for("the connection", || {
        thread::sleep(Duration::from_millis(300));
        stand_in.cut_now(&namespace.name) > 0
    });
    assert!(!child.wait().expect("kubectl ends").success());
    wait_for("the end of its standard input", || {
        namespace.kubectl(["exec", "x", "--", "test", "-e", "/tmp/ended"]).status.success()
    });

    // One that is silent for too long is cut, one that says something now and then is not.
    stand_in.set_faults(&namespace.name, Faults { idle_timeout_ms: 1000, ..Faults::default() });
    assert!(!namespace.kubectl(["exec", "x", "--", "sleep", "4"]).status.success());
    let output = namespace.kubectl(["exec", "x", "--", "sh", "-c", "for n in 1 2 3 4 5; do echo $n; sleep .4; done"]);
    assert!(output.status.success(), "{}", stderr(&output));

    // Ephemeral containers wait, or are not known at all.
    let add = |name: &str| {
        let container =
            json!({"name": name, "image": namespace.cluster.image, "targetContainerName": "app", "command": ["true"]});
        namespace.add_ephemeral("x", &container, "", None)
    };
    let waiting = Waiting { reason: "CreateContainerError".into(), message: "no space left on device".into() };
    stand_in.set_faults(&namespace.name, Faults { waiting: Some(waiting), ..Faults::default() });
    assert_eq!(add("a").0, 200);
    let state = || namespace.ephemeral_state("x", "a");
    wait_for("the reason", || {
        state()["waiting"] == json!({"reason": "CreateContainerError", "message": "no space left on device"})
    });
    stand_in.set_faults(&namespace.name, Faults { no_ephemeral_containers: true, ..Faults::default() });
    let (status, answer) = add("b");
    assert_eq!((status, answer["message"].as_str()), (404, Some("the server could not find the requested resource")));
    stand_in.set_faults(&namespace.name, Faults::default());
    wait_for("its end", || !state()["terminated"].is_null());

    // A container dies, and the node turns into another one.
    namespace.cluster.block_on(stand_in.kill(&namespace.name, "x", "app")).expect("the container is killed");
    wait_for("the restart", || namespace.get("pod/x")["status"]["containerStatuses"][0]["restartCount"] == 1);
    let status = namespace.get("pod/x")["status"]["containerStatuses"][0].clone();
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 137);
    stand_in.script("nodes", "", NODE, &json!({"metadata": {"labels": {"kubernetes.io/os": "windows"}}}));
    assert_eq!(namespace.get(&format!("node/{NODE}"))["metadata"]["labels"]["kubernetes.io/os"], "windows");
}
