// SPDX-License-Identifier: Apache-2.0
//! The cluster as the source of the mesh: `--store kubernetes`.
//!
//! ```text
//! API server --watch per kind--> reflect --Update--> mesh --translate--> items --> ClusterStore --> registry
//!                                                     |
//!                                                     +--findings--> status (events, conditions)
//! ```
//!
//! Opened by `app`. Invariant: there is no mesh before every kind was listed once; from then on the last known one stays whatever
//! the API server does.

pub mod crd;
mod definitions;
mod finding;
mod mesh;
mod object;
mod reflect;
pub mod status;
mod store;
mod translate;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use kube::{Config, config::KubeConfigOptions};
use tokio::{sync::mpsc, task::JoinSet};

pub use finding::{Finding, ObjectId, ObjectKind, Reason, Verdict};
pub use object::ObjectName;
pub use translate::membership::Membership;

use self::{
    mesh::{Mesh, MeshOptions, Outcome, Update},
    store::ClusterStore,
};
use crate::store::Store;

/// Most updates that become one revision.
const BATCH: usize = 1024;
/// How long the first lists may take before the log says what is missing.
const FIRST_LISTS: Duration = Duration::from_secs(10);

/// How long the API server may say nothing, within an answer too. Watches end more often.
const SILENCE: Duration = Duration::from_secs(30);

/// What an operator decides.
#[derive(Clone, Debug)]
pub struct KubernetesOptions {
    /// Which Services are in the mesh.
    pub membership: Membership,
    /// Trust domain of the identities of service accounts.
    pub trust_domain: Arc<str>,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[error("no way to the API server: {0}; run in a pod with a service account, or set KUBECONFIG")]
pub struct ConnectError(Box<dyn std::error::Error + Send + Sync>);

/// The mesh of a cluster.
pub struct Cluster {
    /// What its objects come down to.
    pub store: Arc<dyn Store>,
    /// Verdicts that have changed, in order.
    pub verdicts: mpsc::UnboundedReceiver<(ObjectId, Verdict)>,
    /// What follows the API server; ends when dropped.
    pub tasks: JoinSet<()>,
}

/// A client of the API server: by the service account of this pod, or by the kubeconfig (with `context`, by that context of it).
pub async fn connect(context: Option<&str>) -> Result<kube::Client, ConnectError> {
    // Both ring and aws-lc may be linked in; the one that everything else here uses is named.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut config = match context {
        None => Config::infer()
            .await
            .map_err(|error| ConnectError(error.into()))?,
        Some(context) => {
            let options = KubeConfigOptions {
                context: Some(context.to_owned()),
                ..KubeConfigOptions::default()
            };
            let config = Config::from_kubeconfig(&options).await;
            config.map_err(|error| ConnectError(error.into()))?
        }
    };
    config.read_timeout = Some(SILENCE);
    kube::Client::try_from(config).map_err(|error| ConnectError(error.into()))
}

/// Follows the API server that `client` talks to; returns when every kind was listed.
pub async fn open(client: &kube::Client, options: KubernetesOptions) -> Cluster {
    let mut tasks = JoinSet::new();
    let mut updates = reflect::follow(client, &mut tasks);
    let mesh_options = MeshOptions {
        membership: options.membership,
        trust_domain: options.trust_domain,
    };
    let mut mesh = Mesh::new(mesh_options);
    let store = Arc::new(ClusterStore::new());
    let (sender, verdicts) = mpsc::unbounded_channel();
    let first = first_lists(&mut updates).await;
    tasks.spawn(definitions::compare(client.clone()));
    publish(mesh.apply(first), &store, &sender);
    let content = Arc::clone(&store);
    tasks.spawn(async move {
        let mut batch = Vec::new();
        while updates.recv_many(&mut batch, BATCH).await > 0 {
            publish(mesh.apply(batch.drain(..)), &content, &sender);
        }
    });
    Cluster {
        store,
        verdicts,
        tasks,
    }
}

/// Collects updates until every kind was listed.
async fn first_lists(updates: &mut mpsc::Receiver<Update>) -> Vec<Update> {
    let mut first = Vec::new();
    let mut listed = BTreeSet::new();
    while listed.len() < reflect::KINDS {
        match tokio::time::timeout(FIRST_LISTS, updates.recv()).await {
            Ok(Some(update)) => {
                if let Update::All(kind, _) = &update {
                    listed.insert(*kind);
                }
                first.push(update);
            }
            Ok(None) => break,
            Err(_) => tracing::warn!(?listed, "still waiting for the lists of all kinds of objects"),
        }
    }
    first
}

fn publish(outcome: Outcome, store: &ClusterStore, verdicts: &mpsc::UnboundedSender<(ObjectId, Verdict)>) {
    store.apply(outcome.items);
    for verdict in outcome.verdicts {
        // Nobody may be listening any more: the process ends.
        let _ = verdicts.send(verdict);
    }
}

#[cfg(test)]
mod tests;
