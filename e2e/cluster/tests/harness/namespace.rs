//! A namespace of a test's own and what it makes in it, by kubectl.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use serde_json::{Value, json};

use super::{BUSY, Cluster, feed, stderr, wait_for};

/// A namespace with all that a test makes in it; gone when the test is over.
pub struct Namespace {
    /// The cluster.
    pub cluster: &'static Cluster,
    /// Its name.
    pub name: String,
}

impl Namespace {
    /// A new one.
    pub fn new() -> Self {
        Self::with_labels(&json!({}))
    }

    /// A new one with a pod `x` that runs [`BUSY`](super::BUSY).
    pub fn with_busy_pod() -> Self {
        let namespace = Self::new();
        namespace.python_pod("x", BUSY);
        namespace
    }

    /// A new one, with a level of Pod Security that is enforced.
    pub fn enforcing(level: &str) -> Self {
        Self::with_labels(&json!({"pod-security.kubernetes.io/enforce": level}))
    }

    fn with_labels(labels: &Value) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("aiprof-e2e-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let namespace = Self { cluster: Cluster::get(), name };
        namespace.create(
            &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace.name, "labels": labels}}),
        );
        // A real cluster makes the account a moment later, and refuses pods until then.
        wait_for("the default service account", || {
            namespace.kubectl(["get", "serviceaccount", "default"]).status.success()
        });
        namespace
    }

    /// Runs kubectl here.
    pub fn kubectl<const N: usize>(&self, arguments: [&str; N]) -> Output {
        self.kubectl_command(arguments).output().expect("kubectl runs")
    }

    /// kubectl here, not yet run.
    pub fn kubectl_command<const N: usize>(&self, arguments: [&str; N]) -> Command {
        let mut command = self.cluster.kubectl_alone();
        command.args(["--namespace", &self.name]).args(arguments);
        command
    }

    /// Runs kubectl here with this on its standard input.
    pub fn kubectl_with<const N: usize>(&self, arguments: [&str; N], input: &[u8]) -> Output {
        feed(&mut self.kubectl_command(arguments), input)
    }

    /// Makes an object (a namespaced one: in this namespace).
    pub fn create(&self, object: &Value) {
        let output = self.kubectl_with(["create", "--validate=false", "-f", "-"], object.to_string().as_bytes());
        assert!(output.status.success(), "kubectl create: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// An object as it is now.
    pub fn get(&self, what: &str) -> Value {
        let output = self.kubectl(["get", what, "-o", "json"]);
        assert!(output.status.success(), "kubectl get {what}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("kubectl prints JSON")
    }

    /// A pod of one container `app` that runs a Python program; waits until it is ready.
    pub fn python_pod(&self, name: &str, program: &str) {
        self.pod(name, &json!({"containers": [self.python("app", program)]}));
    }

    /// A pod of one container `app` that runs [`BUSY`](super::BUSY) within these limits; waits until it is ready.
    pub fn limited_pod(&self, name: &str, limits: &Value) {
        let mut app = self.python("app", BUSY);
        app["resources"] = json!({"limits": limits});
        self.pod(name, &json!({"containers": [app]}));
    }

    /// A container that runs a Python program.
    pub fn python(&self, name: &str, program: &str) -> Value {
        json!({"name": name, "image": self.cluster.image, "imagePullPolicy": "IfNotPresent", "command": ["python3", "-c", program]})
    }

    /// A pod of this spec; waits until it is ready.
    pub fn pod(&self, name: &str, spec: &Value) {
        self.pod_with(&json!({"name": name}), spec);
    }

    /// A pod of this metadata and spec; waits until it is ready.
    pub fn pod_with(&self, metadata: &Value, spec: &Value) {
        self.begin_pod(metadata, spec);
        let name = metadata["name"].as_str().expect("a name");
        let output = self.kubectl(["wait", "--for=condition=Ready", "--timeout=60s", &format!("pod/{name}")]);
        assert!(
            output.status.success(),
            "pod/{name} is not ready: {}\n{}",
            String::from_utf8_lossy(&output.stderr),
            self.get(&format!("pod/{name}"))
        );
    }

    /// A pod of this metadata and spec, not waited for.
    pub fn begin_pod(&self, metadata: &Value, spec: &Value) {
        let mut spec = spec.clone();
        if spec["terminationGracePeriodSeconds"].is_null() {
            spec["terminationGracePeriodSeconds"] = json!(1);
        }
        self.create(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}));
    }

    /// A kubeconfig of a service account that may do only what these rules say.
    pub fn user(&self, name: &str, rules: &Value) -> PathBuf {
        let group = "rbac.authorization.k8s.io";
        let subject = json!({"kind": "ServiceAccount", "name": name, "namespace": self.name});
        let reference = json!({"apiGroup": group, "kind": "Role", "name": name});
        self.create(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}));
        self.create(
            &json!({"apiVersion": format!("{group}/v1"), "kind": "Role", "metadata": {"name": name}, "rules": rules}),
        );
        self.create(&json!({"apiVersion": format!("{group}/v1"), "kind": "RoleBinding", "metadata": {"name": name},
            "roleRef": reference, "subjects": [subject]}));
        let output = self.kubectl(["create", "token", name]);
        assert!(output.status.success(), "kubectl create token: {}", String::from_utf8_lossy(&output.stderr));
        let token = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        self.kubeconfig(name, |config| config["users"][0]["user"] = json!({"token": token}))
    }

    /// The administrator's kubeconfig, changed.
    pub fn kubeconfig(&self, name: &str, change: impl FnOnce(&mut Value)) -> PathBuf {
        let view = self.kubectl(["config", "view", "--raw", "--minify", "--flatten", "-o", "json"]);
        let mut config: Value = serde_json::from_slice(&view.stdout).expect("kubectl prints JSON");
        change(&mut config);
        let path = self.cluster.folder.path().join(format!("{}-{name}", self.name));
        std::fs::write(&path, config.to_string()).expect("a kubeconfig");
        path
    }

    /// Patches a pod's ephemeral containers as the user of a kubeconfig (none: the administrator), through `kubectl proxy`, since no
    /// other command of kubectl patches this subresource freely; gives the HTTP status and the object.
    pub fn add_ephemeral(&self, pod: &str, container: &Value, query: &str, kubeconfig: Option<&Path>) -> (u16, Value) {
        let mut command = self.cluster.kubectl_alone();
        command.env("KUBECONFIG", kubeconfig.unwrap_or(&self.cluster.kubeconfig)).args(["proxy", "--port=0"]);
        let mut proxy = command.stdout(Stdio::piped()).spawn().expect("kubectl runs");
        let mut line = String::new();
        BufReader::new(proxy.stdout.as_mut().expect("a pipe"))
            .read_line(&mut line)
            .expect("kubectl proxy says where it listens");
        let address = line.trim().rsplit(' ').next().unwrap_or_default().to_owned();
        let body = json!({"spec": {"ephemeralContainers": [container]}}).to_string();
        let path = format!("/api/v1/namespaces/{}/pods/{pod}/ephemeralcontainers{query}", self.name);
        let kind = "application/strategic-merge-patch+json";
        let head = format!(
            "PATCH {path} HTTP/1.0\r\nHost: {address}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let mut stream = TcpStream::connect(&address).unwrap_or_else(|why| panic!("kubectl proxy, \"{line}\": {why}"));
        stream.write_all((head + &body).as_bytes()).expect("the request is sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the answer is read");
        proxy.kill().expect("kubectl proxy ends");
        proxy.wait().expect("kubectl proxy ends");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
        let status = head.split(' ').nth(1).and_then(|text| text.parse().ok()).expect("an HTTP status");
        (status, serde_json::from_str(body).unwrap_or_else(|why| panic!("{why}: {body}")))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let output = self.kubectl(["delete", "namespace", &self.name, "--timeout=60s"]);
        assert!(output.status.success() || thread::panicking(), "kubectl delete namespace: {}", stderr(&output));
    }
}
