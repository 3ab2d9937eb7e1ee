//! A stand-in of a Kubernetes cluster for the end-to-end suite: an API server that speaks the part of the Kubernetes API which the
//! plugin and `kubectl get|exec|logs|debug` need, and one node that runs pods as real podman containers with real shared PID
//! namespaces and real privileges. The `kubectl` of the Kubernetes project is run against it, to keep it honest.
//!
//! It is for tests only: one administrator's token, objects in memory, no scheduler, no controllers beyond "make the pods once".
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! let stand_in = aiprof_e2e::StandIn::start("127.0.0.1:0").await?;
//! std::fs::write("kubeconfig", stand_in.kubeconfig())?;
//! stand_in.cut_now("default");
//! stand_in.stop().await;
//! # Ok(())
//! # }
//! ```

mod account;
mod api;
mod cgroup;
mod control;
mod controller;
mod discovery;
mod ephemeral;
mod faults;
mod logs;
mod node;
mod obstacles;
mod pod_security;
mod pod_status;
mod podman;
mod rbac;
mod resources;
mod server;
mod status;
mod store;
mod streams;
mod workloads;

pub use faults::{Cut, Faults, Waiting};
pub use node::NODE;
pub use server::StandIn;
