//! What the tests of the cluster suite share: the cluster, a namespace of its own for each test, pods with a Python program, and the
//! plugin run as a user runs it.
//!
//! The cluster is the stand-in, unless `AIPROF_E2E_CLUSTER=external`: then it is the one that `KUBECONFIG` names, and the image of
//! `AIPROF_E2E_IMAGE` (Linux with python3 and a shell) must be on its nodes or be one that they can pull.
//!
//! - `AIPROF`: the plugin's binary
//! - `KUBECTL`: kubectl; that of `scripts/e2e-kubectl.sh` by default
//! - `AIPROF_E2E_IMAGE`: the image; that of `scripts/e2e-image.sh` by default
//! - `AIPROF_E2E_PROFILER_IMAGE`: the profiler's own image; that of `scripts/e2e-profiler-image.sh` by default, none on an external
//!   cluster
//!
//! [`namespace`] is what a test makes in the cluster, [`plugin`] how it runs the plugin, [`pods`] what it asks about a pod.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

pub mod namespace;
pub mod plugin;
pub mod pods;

use std::{
    ffi::OsString,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use aiprof_e2e::StandIn;
use tokio::runtime::Runtime;

pub use self::namespace::Namespace;

/// A program whose one thread is busy about half of the time, so that many of them fit on a small machine, and that says when it is up.
pub const BUSY: &str = "
import time
def spin():
    total = 0
    for number in range(200000):
        total += number
    return total
print('up', flush=True)
while True:
    spin()
    time.sleep(.01)
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

    /// kubectl with the administrator's kubeconfig and without arguments, not yet run.
    pub fn kubectl_alone(&self) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.env("KUBECONFIG", &self.kubeconfig).stdin(Stdio::null());
        command
    }

    /// The profiler's own image, if there is one here.
    pub fn profiler_image(&self) -> Option<&'static str> {
        static IMAGE: OnceLock<Option<String>> = OnceLock::new();
        const GIVEN: &str = "AIPROF_E2E_PROFILER_IMAGE";
        let find = || match self.stand_in {
            Some(_) => Some(script("e2e-profiler-image.sh", GIVEN)),
            None => std::env::var(GIVEN).ok(),
        };
        IMAGE.get_or_init(find).as_deref()
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

/// Says that a test has nothing to do on this cluster.
pub fn left_out(why: &str) {
    println!("left out: {why}");
}

/// Waits for something for at most half a minute.
pub fn wait_for(what: &str, so: impl FnMut() -> bool) {
    wait_long_for(what, Duration::from_secs(30), so);
}

/// Waits for something for at most so long.
pub fn wait_long_for(what: &str, patience: Duration, mut so: impl FnMut() -> bool) {
    let limit = Instant::now() + patience;
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
