// SPDX-License-Identifier: Apache-2.0
//! The agent's two listeners: the admin API on a unix socket, for the CLI of this node, and `/metrics`, `/healthz`, `/readyz`
//! over HTTP, for Prometheus and the kubelet.
//!
//! Invariant: everything here reads snapshots; the changes it can ask for are those of the logs and of the drains, which over HTTP only
//! this node and the backend itself may ask for.

pub mod connections;
mod drain;
pub mod events;
mod packet;
pub mod report;
pub mod routes;
mod status;
mod traffic;

use std::{
    io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::net::{TcpListener, UnixListener};

use crate::config::AgentConfig;
pub use report::Node;

/// Why a listener could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("listen on {address}: {cause}; {remedy}")]
pub struct ListenError {
    address: String,
    cause: io::Error,
    remedy: &'static str,
}

/// The open listeners.
#[derive(Debug)]
pub struct Listeners {
    admin: UnixListener,
    http: TcpListener,
    socket: PathBuf,
}

impl Listeners {
    /// Opens both.
    pub async fn open(config: &AgentConfig) -> Result<Self, ListenError> {
        let socket = config.run_dir.join(crate::config::ADMIN_SOCKET);
        let admin = listen_unix(&socket).map_err(|cause| ListenError {
            address: socket.display().to_string(),
            cause,
            remedy: "--run-dir must name a folder that the agent may write to",
        })?;
        let http = TcpListener::bind(config.http)
            .await
            .map_err(|cause| ListenError {
                address: config.http.to_string(),
                cause,
                remedy: "choose another address with --http",
            })?;
        Ok(Self { admin, http, socket })
    }

    /// Where HTTP listens.
    pub fn http_addr(&self) -> io::Result<SocketAddr> {
        self.http.local_addr()
    }

    /// Serves until the runtime ends; returns the path of the admin socket, to be removed then.
    pub fn serve(self, node: Arc<Node>) -> PathBuf {
        let admin = routes::admin(node.clone());
        let http = routes::http(node).into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { report_end("admin", axum::serve(self.admin, admin).await) });
        tokio::spawn(async move { report_end("http", axum::serve(self.http, http).await) });
        self.socket
    }
}

fn report_end(listener: &str, result: io::Result<()>) {
    if let Err(error) = result {
        tracing::error!(%error, listener, "listener ended");
    }
}

/// Only root may talk to the agent. The lock guarantees that a socket that is there belongs to a dead agent.
fn listen_unix(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
