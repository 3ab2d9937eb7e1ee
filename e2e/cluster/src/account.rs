//! The account of a pod, as its containers find it: the API server's address in the environment; token, certificate and namespace in
//! a folder.

use std::{net::SocketAddr, path::Path, sync::Arc};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    node::text,
    rbac::{Tokens, service_account},
};

/// Where a container finds its pod's account.
const PLACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// How pods get to the API server.
pub(crate) struct Accounts {
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) address: SocketAddr,
    /// The server's certificate, as PEM.
    pub(crate) certificate: String,
}

impl Accounts {
    /// Writes the account of a pod into `folder`, unless the pod wants none.
    pub(crate) fn write(&self, pod: &Value, folder: &Path) -> Result<()> {
        if pod["spec"]["automountServiceAccountToken"] == false {
            return Ok(());
        }
        let namespace = text(&pod["metadata"]["namespace"]);
        let token = self.tokens.issue(service_account(&namespace, &text(&pod["spec"]["serviceAccountName"])));
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        for (name, content) in [("token", &token), ("ca.crt", &self.certificate), ("namespace", &namespace)] {
            std::fs::write(folder.join(name), content)?;
        }
        Ok(())
    }

    /// Options of `podman run` that give a container the account in `folder`, if there is one.
    pub(crate) fn options(&self, folder: &Path) -> Vec<String> {
        if !folder.exists() {
            return Vec::new();
        }
        let volume = format!("{}:{PLACE}:ro", folder.display());
        let host = format!("KUBERNETES_SERVICE_HOST={}", self.address.ip());
        let port = format!("KUBERNETES_SERVICE_PORT={}", self.address.port());
        ["--volume", &volume, "--env", &host, "--env", &port].map(str::to_owned).into()
    }
}
