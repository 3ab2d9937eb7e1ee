//! `standin-api`: the stand-in of a cluster as a process, for use by hand with `kubectl` or by a suite in another process.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

/// Runs a stand-in of a Kubernetes cluster until it is interrupted.
#[derive(Parser)]
struct Arguments {
    /// Address to listen on; port 0 takes any.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
    /// Where to write the administrator's kubeconfig.
    #[arg(long)]
    kubeconfig: PathBuf,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let stand_in = aiprof_e2e::StandIn::start(&arguments.listen).await?;
    let path = &arguments.kubeconfig;
    std::fs::write(path, stand_in.kubeconfig()).with_context(|| format!("cannot write {}", path.display()))?;
    println!("https://{} KUBECONFIG={}", stand_in.address(), path.display());
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    stand_in.stop().await;
    Ok(())
}
