//! The stand-in as a whole: its listener with TLS by a certificate of its own, and what a test asks of it.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result};
use axum::{
    Router,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

use crate::{
    account::Accounts,
    api,
    faults::{Board, Faults},
    node::Node,
    rbac::{Tokens, administrator},
    store::{Key, Store},
};

/// Version that the server claims.
pub(crate) const VERSION: &str = "v1.36.0";

/// What the handlers share.
pub(crate) struct App {
    pub(crate) store: Arc<Store>,
    pub(crate) board: Arc<Board>,
    pub(crate) node: Arc<Node>,
    pub(crate) tokens: Arc<Tokens>,
}

/// A running stand-in.
pub struct StandIn {
    app: Arc<App>,
    address: SocketAddr,
    certificate: String,
    token: String,
    accepting: JoinHandle<()>,
}

impl StandIn {
    /// Starts one that listens on `listen` (port 0 for any).
    pub async fn start(listen: &str) -> Result<Self> {
        let store = Arc::new(Store::default());
        let board = Arc::new(Board::default());
        let tokens = Arc::new(Tokens::default());
        let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
        let address = listener.local_addr()?;
        let (acceptor, certificate) = tls(address)?;
        let accounts = Accounts { tokens: tokens.clone(), address, certificate: certificate.clone() };
        let node = Arc::new(Node::new(store.clone(), board.clone(), accounts).await?);
        let app = Arc::new(App { store, board, node, tokens });
        for namespace in ["default", "kube-system"] {
            crate::resources::put_namespace(&app.store, namespace, &json!({}));
        }
        tokio::spawn(crate::controller::run(app.store.clone()));
        let token = app.tokens.issue(administrator());
        let accepting = tokio::spawn(accept(listener, acceptor, app.clone()));
        Ok(Self { app, address, certificate, token, accepting })
    }

    /// A kubeconfig (JSON, which is YAML) of the administrator.
    #[must_use]
    pub fn kubeconfig(&self) -> String {
        self.kubeconfig_with(&self.token, "default")
    }

    /// A kubeconfig with another token and namespace.
    #[must_use]
    pub fn kubeconfig_with(&self, token: &str, namespace: &str) -> String {
        let server = format!("https://{}", self.address);
        let authority = STANDARD.encode(&self.certificate);
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "stand-in",
            "clusters": [{"name": "stand-in", "cluster": {"server": server, "certificate-authority-data": authority}}],
            "users": [{"name": "user", "user": {"token": token}}],
            "contexts": [{"name": "stand-in", "context": {"cluster": "stand-in", "user": "user", "namespace": namespace}}],
        })
        .to_string()
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The administrator's token.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Breaks exactly this in a namespace; the default breaks nothing.
    pub fn set_faults(&self, namespace: &str, faults: Faults) {
        self.app.board.set(namespace, faults);
    }

    /// What is broken in a namespace, with the cuts that are left.
    #[must_use]
    pub fn faults(&self, namespace: &str) -> Faults {
        self.app.board.get(namespace)
    }

    /// Cuts all exec connections into a namespace; gives how many there were.
    #[expect(clippy::must_use_candidate, reason = "the cut is what counts")]
    pub fn cut_now(&self, namespace: &str) -> usize {
        self.app.board.cut_now(namespace)
    }

    /// Exec connections into a namespace that were cut on order so far: after so many bytes, now, or since they were idle.
    #[must_use]
    pub fn cut_so_far(&self, namespace: &str) -> u64 {
        self.app.board.cut_so_far(namespace)
    }

    /// Kills the first process of a container.
    pub async fn kill(&self, namespace: &str, pod: &str, container: &str) -> Result<()> {
        self.app.node.kill(&("pods".into(), namespace.into(), pod.into()), container).await
    }

    /// Puts an object into a scripted state, as JSON merge patch; creates it if there is none. Nothing is run for it.
    pub fn script(&self, resource: &str, namespace: &str, name: &str, patch: &Value) {
        let key: Key = (resource.into(), namespace.into(), name.into());
        if self.app.store.update(&key, |object| json_patch::merge(object, patch)).is_none() {
            self.app.store.create(key, patch.clone());
        }
    }

    /// Ends all containers and stops listening.
    pub async fn stop(self) {
        self.accepting.abort();
        self.app.node.shut_down().await;
    }
}

fn tls(address: SocketAddr) -> Result<(TlsAcceptor, String)> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into(), address.ip().to_string()])?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    Ok((TlsAcceptor::from(Arc::new(config)), made.cert.pem()))
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, app: Arc<App>) {
    let router = Router::new().fallback(answer).with_state(app);
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (acceptor, router) = (acceptor.clone(), router.clone());
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = TowerToHyperService::new(router);
            // A client that goes away is no event here.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await;
        });
    }
}

async fn answer(State(app): State<Arc<App>>, request: Request) -> Response {
    let line = std::env::var_os("STANDIN_LOG").map(|_| format!("{} {}", request.method(), request.uri()));
    let response = api::answer(&app, request).await.unwrap_or_else(IntoResponse::into_response);
    if let Some(line) = line {
        eprintln!("standin: {line} -> {}", response.status());
    }
    response
}
