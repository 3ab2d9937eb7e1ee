//! The one node of the stand-in: runs the containers of each pod with podman and writes their state into the pod, as a kubelet does.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{
    account::Accounts,
    faults::Board,
    obstacles,
    pod_status::{self, State},
    podman,
    store::{Key, Store, now},
};

/// Name of the node.
pub const NODE: &str = "standin-node";
/// Label of every container that a stand-in made; its value is the stand-in's process id.
const OWNER: &str = "aiprof.e2e.owner";
/// Label of every container of a pod, also of those that were started anew; its value is the pod's uid.
const POD: &str = "aiprof.e2e.pod";
/// Seconds that a container has to end where no pod says so.
const GRACE_S: u64 = 1;
/// First back-off before a container is started again; the next ones are twice as long each.
const BACK_OFF: Duration = Duration::from_secs(1);

/// The node.
pub(crate) struct Node {
    store: Arc<Store>,
    board: Arc<Board>,
    accounts: Accounts,
    /// podman's name of a pod's container, by the pod's uid and the container's name.
    names: Mutex<HashMap<(String, String), String>>,
    /// Ephemeral containers that have a task.
    begun: Mutex<HashSet<(String, String)>>,
    folder: tempfile::TempDir,
}

impl Node {
    /// A node; what a stand-in left here that is no more is removed first.
    pub(crate) async fn new(store: Arc<Store>, board: Arc<Board>, accounts: Accounts) -> Result<Self> {
        remove_orphans().await?;
        let folder = tempfile::Builder::new().prefix("aiprof-e2e-").tempdir().context("a folder for volumes")?;
        store.create(("nodes".into(), String::new(), NODE.into()), node_object());
        Ok(Self { store, board, accounts, names: Mutex::default(), begun: Mutex::default(), folder })
    }

    /// podman's name of a container, if it was started.
    pub(crate) fn container(&self, pod_uid: &str, container: &str) -> Option<String> {
        self.names
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&(pod_uid.to_owned(), container.to_owned()))
            .cloned()
    }

    /// Begins to run a pod.
    pub(crate) fn begin(self: &Arc<Self>, key: Key) {
        let node = self.clone();
        tokio::spawn(async move { node.run_pod(key).await });
    }

    async fn run_pod(self: Arc<Self>, key: Key) {
        let Some(pod) = self.store.update(&key, pod_status::scheduled) else { return };
        let uid = text(&pod["metadata"]["uid"]);
        if let Err(why) = self.prepare(&pod, &uid).await {
            eprintln!("standin: pod {}: {why:#}", key.2);
        }
        for container in list(&pod["spec"]["initContainers"]) {
            self.keep(&key, &uid, container, "initContainerStatuses").await;
        }
        for container in list(&pod["spec"]["containers"]) {
            let (node, key, uid) = (self.clone(), key.clone(), uid.clone());
            tokio::spawn(async move { node.keep(&key, &uid, container, "containerStatuses").await });
        }
        self.begin_ephemeral(&key);
    }

    /// Volumes, account, the pod's cgroup and its pause process.
    async fn prepare(&self, pod: &Value, uid: &str) -> Result<()> {
        for volume in list(&pod["spec"]["volumes"]) {
            let folder = self.volume(uid, volume["name"].as_str().unwrap_or("volume"));
            tokio::fs::create_dir_all(&folder).await?;
            tokio::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o777)).await?;
        }
        self.accounts.write(pod, &self.account(uid))?;
        if let Some(bytes) = crate::cgroup::pod_limit(pod) {
            crate::cgroup::create(uid, bytes)?;
        }
        if pod["spec"]["shareProcessNamespace"] == true {
            let image = text(&pod["spec"]["containers"][0]["image"]);
            let name = podman_name(uid, "POD", 0);
            // Waits for its children, so that none of the pod's orphans stays a zombie.
            let pause = "trap 'exit 0' TERM INT; while :; do sleep 86400 & wait; done";
            let mut arguments = Self::common(&name, pod);
            arguments.extend(["--entrypoint".into(), json!(["/bin/sh", "-c", pause]).to_string(), image]);
            podman::start(&arguments, self.folder.path().join(&name)).await?;
            self.remember(uid, "", &name);
        }
        Ok(())
    }

    /// Starts the ephemeral containers of a pod that have no task yet.
    pub(crate) fn begin_ephemeral(self: &Arc<Self>, key: &Key) {
        let Some(pod) = self.store.get(key) else { return };
        let uid = text(&pod["metadata"]["uid"]);
        for container in list(&pod["spec"]["ephemeralContainers"]) {
            let mark = (uid.clone(), text(&container["name"]));
            if !self.begun.lock().unwrap_or_else(PoisonError::into_inner).insert(mark) {
                continue;
            }
            let (node, key, uid) = (self.clone(), key.clone(), uid.clone());
            tokio::spawn(async move {
                tokio::time::sleep(node.board.start_delay(&key.1)).await;
                node.keep(&key, &uid, container, "ephemeralContainerStatuses").await;
            });
        }
    }

    /// Runs a container until it is over for good.
    async fn keep(&self, key: &Key, uid: &str, container: Value, statuses: &str) {
        let name = text(&container["name"]);
        let mut attempt = 0_u32;
        let mut back_off = BACK_OFF;
        self.note(key, uid, statuses, &container, &State::waiting("ContainerCreating", ""), 0);
        loop {
            let Some(pod) = self.living(key, uid) else { return };
            let fault = self.board.get(&key.1).waiting.filter(|_| statuses == "ephemeralContainerStatuses");
            if let Some((reason, message)) = obstacles::obstacle(fault, &pod, &container).await {
                self.note(key, uid, statuses, &container, &State::waiting(&reason, &message), attempt);
                tokio::time::sleep(back_off).await;
                if reason == "ErrImagePull" {
                    let message =
                        format!("Back-off pulling image \"{}\": {reason}: {message}", text(&container["image"]));
                    self.note(key, uid, statuses, &container, &State::waiting("ImagePullBackOff", &message), attempt);
                    back_off = (back_off * 2).min(Duration::from_secs(20));
                    tokio::time::sleep(back_off).await;
                }
                continue;
            }
            let podman_name = podman_name(uid, &name, attempt);
            let begun_at = now();
            let exit_code = match self.start(&pod, uid, &container, &podman_name).await {
                Ok(started) => {
                    self.remember(uid, &name, &podman_name);
                    if self.living(key, uid).is_none() {
                        let _ = podman::remove(&[podman_name], GRACE_S).await;
                        return;
                    }
                    let running = State::running(&started.id, &begun_at);
                    self.note(key, uid, statuses, &container, &running, attempt);
                    let ended = started.ended(&podman_name).await;
                    let (exit_code, oom) = ended.map_or((255, false), |ended| (ended.exit_code, ended.out_of_memory));
                    let reason = match exit_code {
                        0 => "Completed",
                        _ if oom => "OOMKilled",
                        _ => "Error",
                    };
                    self.note(
                        key,
                        uid,
                        statuses,
                        &container,
                        &State::terminated(&started.id, exit_code, reason, "", &begun_at),
                        attempt,
                    );
                    exit_code
                }
                Err(why) => {
                    let message = obstacles::start_error(&format!("{why:#}"));
                    self.note(
                        key,
                        uid,
                        statuses,
                        &container,
                        &State::terminated("", 128, "StartError", &message, &begun_at),
                        attempt,
                    );
                    128
                }
            };
            let policy = pod["spec"]["restartPolicy"].as_str().unwrap_or("Always");
            let again =
                statuses == "containerStatuses" && (policy == "Always" || policy == "OnFailure" && exit_code != 0);
            if !again || self.living(key, uid).is_none() {
                return;
            }
            attempt += 1;
            if attempt > 1 {
                let message =
                    format!("back-off {}s restarting failed container={name} pod={}", back_off.as_secs(), key.2);
                self.note(key, uid, statuses, &container, &State::waiting("CrashLoopBackOff", &message), attempt);
                tokio::time::sleep(back_off).await;
                back_off = (back_off * 2).min(Duration::from_secs(20));
            }
        }
    }

    async fn start(&self, pod: &Value, uid: &str, container: &Value, name: &str) -> Result<podman::Started> {
        let mut arguments = Self::common(name, pod);
        let space = if pod["spec"]["hostPID"] == true {
            "host".to_owned()
        } else if let Some(pause) = self.container(uid, "") {
            format!("container:{pause}")
        } else {
            let target = container["targetContainerName"].as_str();
            target
                .and_then(|target| self.container(uid, target))
                .map_or("private".into(), |target| format!("container:{target}"))
        };
        arguments.extend(["--pid".into(), space]);
        arguments.extend(podman::security(pod, container));
        for variable in list(&container["env"]) {
            arguments.extend(["--env".into(), format!("{}={}", text(&variable["name"]), text(&variable["value"]))]);
        }
        for mount in list(&container["volumeMounts"]) {
            let folder = self.volume(uid, &text(&mount["name"]));
            let access = if mount["readOnly"] == true { "ro" } else { "rw" };
            arguments
                .extend(["--volume".into(), format!("{}:{}:{access}", folder.display(), text(&mount["mountPath"]))]);
        }
        // As the API server mounts it: not into ephemeral containers.
        if container["targetContainerName"].is_null() {
            arguments.extend(self.accounts.options(&self.account(uid)));
        }
        if let Some(folder) = container["workingDir"].as_str() {
            arguments.extend(["--workdir".into(), folder.to_owned()]);
        }
        if container["stdin"] == true {
            arguments.push("--interactive".into());
        }
        if container["tty"] == true {
            arguments.push("--tty".into());
        }
        if let Some(bytes) = crate::cgroup::bytes(&container["resources"]["limits"]["memory"]) {
            arguments.extend(["--memory".into(), bytes.to_string()]);
        }
        if !list(&container["command"]).is_empty() {
            arguments.extend(["--entrypoint".into(), container["command"].to_string()]);
        }
        arguments.push(text(&container["image"]));
        arguments.extend(list(&container["args"]).iter().map(text));
        podman::start(&arguments, self.folder.path().join(name)).await
    }

    /// Options that all containers of a pod have.
    fn common(name: &str, pod: &Value) -> Vec<String> {
        let owner = format!("{OWNER}={}", std::process::id());
        let of = format!("{POD}={}", text(&pod["metadata"]["uid"]));
        let mut options: Vec<String> = ["--name", name, "--label", &owner, "--label", &of].map(str::to_owned).into();
        if pod["spec"]["hostNetwork"] != true {
            options.extend(["--hostname".into(), text(&pod["metadata"]["name"])]);
        }
        if crate::cgroup::pod_limit(pod).is_some() {
            options.extend(["--cgroup-parent".into(), crate::cgroup::path(&text(&pod["metadata"]["uid"]))]);
        }
        options
    }

    /// Ends a pod and removes it from the store.
    pub(crate) async fn end(&self, key: &Key) {
        let Some(pod) = self.store.update(key, |pod| pod["metadata"]["deletionTimestamp"] = json!(now())) else {
            return;
        };
        let uid = text(&pod["metadata"]["uid"]);
        self.stop(&uid, pod["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap_or(GRACE_S)).await;
        self.store.delete(key);
        // What was being started meanwhile.
        self.stop(&uid, GRACE_S).await;
        crate::cgroup::remove(&uid);
    }

    async fn stop(&self, uid: &str, grace_s: u64) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).retain(|(of, _), _| of != uid);
        if let Err(why) = remove_labelled(&format!("{POD}={uid}"), grace_s).await {
            eprintln!("standin: {why:#}");
        }
    }

    /// Ends the first process of a container, as an out-of-memory kill would; it is started again if its pod says so.
    pub(crate) async fn kill(&self, key: &Key, container: &str) -> Result<()> {
        let pod = self.store.get(key).context("no such pod")?;
        let name = self.container(&text(&pod["metadata"]["uid"]), container).context("no such container")?;
        podman::run(&["kill", "--signal", "KILL", &name]).await?;
        Ok(())
    }

    /// Removes every container of this stand-in.
    pub(crate) async fn shut_down(&self) {
        let pods = self.store.list("pods", "").0;
        for pod in &pods {
            self.store.delete(&key_of(pod));
        }
        let _ = remove_labelled(&format!("{OWNER}={}", std::process::id()), GRACE_S).await;
        for pod in pods {
            crate::cgroup::remove(&text(&pod["metadata"]["uid"]));
        }
    }

    fn volume(&self, uid: &str, name: &str) -> PathBuf {
        self.folder.path().join(uid).join(name)
    }

    fn account(&self, uid: &str) -> PathBuf {
        // No volume of a pod can have such a name.
        self.volume(uid, "service.account")
    }

    fn remember(&self, uid: &str, container: &str, podman_name: &str) {
        let key = (uid.to_owned(), container.to_owned());
        self.names.lock().unwrap_or_else(PoisonError::into_inner).insert(key, podman_name.to_owned());
    }

    /// The pod, unless it is being deleted or another one of its name has taken its place.
    fn living(&self, key: &Key, uid: &str) -> Option<Value> {
        self.store
            .get(key)
            .filter(|pod| pod["metadata"]["uid"] == *uid && pod["metadata"]["deletionTimestamp"].is_null())
    }

    fn note(&self, key: &Key, uid: &str, statuses: &str, container: &Value, state: &State, restarts: u32) {
        self.store.update(key, |pod| {
            if pod["metadata"]["uid"] == *uid {
                pod_status::note(pod, statuses, container, state, restarts);
            }
        });
    }
}

async fn remove_labelled(label: &str, grace_s: u64) -> Result<()> {
    let output = podman::run(&["ps", "--all", "--quiet", "--filter", &format!("label={label}")]).await?;
    let ids: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    podman::remove(&ids, grace_s).await
}

async fn remove_orphans() -> Result<()> {
    let format = format!("{{{{.Names}}}} {{{{index .Labels \"{OWNER}\"}}}}");
    let output = podman::run(&["ps", "--all", "--filter", &format!("label={OWNER}"), "--format", &format]).await?;
    let listing = String::from_utf8_lossy(&output.stdout).into_owned();
    let gone = listing
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(_, owner)| !PathBuf::from(format!("/proc/{owner}")).exists());
    podman::remove(&gone.map(|(name, _)| name.to_owned()).collect::<Vec<_>>(), GRACE_S).await?;
    crate::cgroup::remove_orphans();
    Ok(())
}

fn podman_name(uid: &str, container: &str, attempt: u32) -> String {
    format!("aiprof-e2e-{}-{container}-{attempt}", uid.replace('-', "").get(..12).unwrap_or(uid))
}

fn node_object() -> Value {
    let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"labels": {"kubernetes.io/os": "linux", "kubernetes.io/arch": architecture, "kubernetes.io/hostname": NODE}},
        "spec": {},
        "status": {
            "nodeInfo": {"operatingSystem": "linux", "architecture": architecture, "kernelVersion": kernel.trim(),
                "osImage": "stand-in", "containerRuntimeVersion": "containerd://2.1.0", "kubeletVersion": crate::server::VERSION,
                "machineID": "", "systemUUID": "", "bootID": "", "kubeProxyVersion": ""},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        },
    })
}

/// The key of a pod.
pub(crate) fn key_of(pod: &Value) -> Key {
    ("pods".into(), text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"]))
}

/// A JSON string, or nothing.
pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// A JSON list, or nothing.
pub(crate) fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}
