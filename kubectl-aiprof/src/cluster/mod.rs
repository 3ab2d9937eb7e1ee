//! A profiler in a pod: from what the user named to a container of ours that runs there and can be exec'ed into.
//!
//! [`client`] finds the cluster, [`target`] says what a named pod is good for (pure) and [`pick`] fetches it, [`container`] describes
//! and judges the ephemeral container (pure), [`storage`] says what it may write (pure), [`start`] adds it and waits, [`alive`] says
//! whether it is still there, [`exec`] runs a command there, [`upload`] brings the profiler, [`access`] asks what the user may do,
//! [`error`] puts what went wrong into a sentence.

pub mod access;
pub mod alive;
pub mod client;
pub mod container;
pub mod error;
pub mod exec;
pub mod pick;
pub mod start;
pub mod storage;
pub mod target;
pub mod upload;

use std::path::PathBuf;

pub use self::{
    client::Cluster,
    error::ClusterError,
    start::{Profiler, prepare},
    target::{PodTarget, TargetName},
};

/// Which pod, where, and how the profiler gets there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterProps {
    /// What the user named.
    pub target: TargetName,
    /// Namespace; none: the context's.
    pub namespace: Option<String>,
    /// Context of the kubeconfig; none: its current one.
    pub context: Option<String>,
    /// Kubeconfig; none: as kubectl finds it, else the one of the pod that this process runs in.
    pub kubeconfig: Option<PathBuf>,
    /// Container; none: as kubectl chooses.
    pub container: Option<String>,
    /// Where the profiler's container comes from.
    pub image: ImageSource,
    /// Whether to ask for a privileged container instead of single capabilities.
    pub privileged: bool,
    /// The profiler to bring; none: the embedded one.
    pub profiler: Option<PathBuf>,
}

/// The image of the profiler's container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageSource {
    /// The target container's own; the profiler is streamed in.
    Auto,
    /// This one, which holds the profiler as `/aiprof-profiler`.
    Image(String),
}
