//! What the tests of the cluster suite share: the cluster, a namespace of its own for each test, pods with a Python program, and the
//! plugin run as a user runs it.
//!
//! The cluster is the stand-in, unless `AIPROF_E2E_CLUSTER=external`: then it is the one that `KUBECONFIG` names, and the image of
//! `AIPROF_E2E_IMAGE` (Linux with python3 and a shell) must be on its nodes or be one that they can pull.
//!
//! - `AIPROF`: the plugin's binary
//! - `KUBECTL`: kubectl; that of `scripts/e2e-kubectl.sh` by default
//! - `AIPROF_E2E_IMAGE`: the image; that of `scripts/e2e-image.sh` by default

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::{
    ffi::OsString,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use aiprof_e2e::StandIn;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// A program that keeps one thread busy and says when it is up.
pub const BUSY: &str = "
def spin():
    total = 0
    for number in range(20000):
        total += number
    return total
print('up', flush=True)
while True:
    spin()
";

/// The cluster that the tests of this process use.
pub struct Cluster {
    /// The administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// Image of the pods.
    pub image: String,
    kubectl: OsString,
    stand_in: Option<(StandIn, Runtime)>,
    folder: tempfile::TempDir,
}

impl Cluster {
    /// The one cluster; started at the first call.
    pub fn get() -> &'static Self {
        static CLUSTER: OnceLock<Cluster> = OnceLock::new();
        CLUSTER.get_or_init(Self::start)
    }

    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder for kubeconfigs");
        let kubectl = script("e2e-kubectl.sh", "KUBECTL").into();
        if std::env::var("AIPROF_E2E_CLUSTER").as_deref() == Ok("external") {
            let kubeconfig = std::env::var_os("KUBECONFIG").expect("KUBECONFIG names the external cluster").into();
            let image = std::env::var("AIPROF_E2E_IMAGE")
                .expect("AIPROF_E2E_IMAGE names an image that the external cluster has");
            return Self { kubeconfig, image, kubectl, stand_in: None, folder };
        }
        let image = script("e2e-image.sh", "AIPROF_E2E_IMAGE");
        let runtime = Runtime::new().expect("a runtime for the stand-in");
        let stand_in = runtime
            .block_on(StandIn::start("127.0.0.1:0"))
            .expect("the stand-in starts (as root, with podman and runc)");
        let kubeconfig = folder.path().join("kubeconfig");
        std::fs::write(&kubeconfig, stand_in.kubeconfig()).expect("a kubeconfig");
        Self { kubeconfig, image, kubectl, stand_in: Some((stand_in, runtime)), folder }
    }

    /// The stand-in, for what can only be ordered there; none on a real cluster, where such a test has nothing to do.
    pub fn stand_in(&self) -> Option<&StandIn> {
        self.stand_in.as_ref().map(|(stand_in, _)| stand_in)
    }

    /// Runs what the stand-in does asynchronously.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        let (_, runtime) = self.stand_in.as_ref().expect("only on the stand-in");
        runtime.block_on(future)
    }
}

fn script(name: &str, overridden_by: &str) -> String {
    if let Ok(given) = std::env::var(overridden_by) {
        return given;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts").join(name);
    let output = Command::new(&path).output().unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    assert!(output.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

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
        let mut command = Command::new(&self.cluster.kubectl);
        command.arg("--kubeconfig").arg(&self.cluster.kubeconfig).args(["--namespace", &self.name]).args(arguments);
        command.stdin(Stdio::null());
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

    /// A container that runs a Python program.
    pub fn python(&self, name: &str, program: &str) -> Value {
        json!({"name": name, "image": self.cluster.image, "imagePullPolicy": "IfNotPresent", "command": ["python3", "-c", program]})
    }

    /// A pod of this spec; waits until it is ready.
    pub fn pod(&self, name: &str, spec: &Value) {
        let mut spec = spec.clone();
        spec["terminationGracePeriodSeconds"] = json!(1);
        self.create(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}));
        let output = self.kubectl(["wait", "--for=condition=Ready", "--timeout=60s", &format!("pod/{name}")]);
        assert!(
            output.status.success(),
            "pod/{name} is not ready: {}\n{}",
            String::from_utf8_lossy(&output.stderr),
            self.get(&format!("pod/{name}"))
        );
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
        let view = self.kubectl(["config", "view", "--raw", "--minify", "--flatten", "-o", "json"]);
        let mut config: Value = serde_json::from_slice(&view.stdout).expect("kubectl prints JSON");
        config["users"][0]["user"] = json!({"token": token});
        let path = self.cluster.folder.path().join(format!("{}-{name}", self.name));
        std::fs::write(&path, config.to_string()).expect("a kubeconfig");
        path
    }

    /// Patches a pod's ephemeral containers as the user of a kubeconfig (none: the administrator), through `kubectl proxy`, since no
    /// other command of kubectl patches this subresource freely; gives the HTTP status and the object.
    pub fn add_ephemeral(&self, pod: &str, container: &Value, query: &str, kubeconfig: Option<&Path>) -> (u16, Value) {
        let mut command = Command::new(&self.cluster.kubectl);
        command.arg("--kubeconfig").arg(kubeconfig.unwrap_or(&self.cluster.kubeconfig)).args(["proxy", "--port=0"]);
        let mut proxy = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("kubectl runs");
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

    /// State of an ephemeral container; null before it has one.
    pub fn ephemeral_state(&self, pod: &str, container: &str) -> Value {
        let pod = self.get(&format!("pod/{pod}"));
        let all = pod["status"]["ephemeralContainerStatuses"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|one| one["name"] == container).map(|one| one["state"].clone()).unwrap_or_default()
    }

    /// The plugin here, not yet run: `AIPROF ARGUMENTS… --namespace HERE`.
    pub fn aiprof_command<const N: usize>(&self, arguments: [&str; N]) -> Command {
        let plugin = std::env::var_os("AIPROF").expect("AIPROF names the plugin's binary");
        let mut command = Command::new(plugin);
        command
            .env("KUBECONFIG", &self.cluster.kubeconfig)
            .args(arguments)
            .args(["--namespace", &self.name])
            .stdin(Stdio::null());
        command
    }

    /// Runs the plugin here.
    pub fn aiprof<const N: usize>(&self, arguments: [&str; N]) -> Output {
        self.aiprof_command(arguments).output().expect("the plugin runs")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let output = self.kubectl(["delete", "namespace", &self.name, "--timeout=60s"]);
        assert!(output.status.success() || thread::panicking(), "kubectl delete namespace: {}", stderr(&output));
    }
}

/// Runs a command with this on its standard input.
pub fn feed(command: &mut Command, input: &[u8]) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command runs");
    let mut stdin = child.stdin.take().expect("its standard input is a pipe");
    let input = input.to_vec();
    let writer = thread::spawn(move || {
        // One that ends early closes its side, which its status tells better.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().expect("the command ends");
    writer.join().expect("the writer ends");
    output
}

/// Waits for something for at most half a minute.
pub fn wait_for(what: &str, mut so: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(30);
    while !so() {
        assert!(Instant::now() < limit, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// Standard output as text.
pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Standard error as text.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
