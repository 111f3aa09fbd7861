// SPDX-License-Identifier: Apache-2.0
//! Opens the store that the settings name.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::{sync::watch, task::JoinHandle};
use tracing::{info, warn};

use crate::{
    config::{KubernetesConfig, StoreConfig, StoreUrl},
    kubernetes::{self, Cluster, KubernetesOptions, status::Status},
    registry::State,
    server::Ending,
    store::{
        Store, StoreError,
        embedded::EmbeddedStore,
        etcd::{EtcdOptions, EtcdStore, EtcdTls},
    },
    xds::Nodes,
};

/// Pause before etcd is tried again.
const PAUSE: Duration = Duration::from_secs(2);

/// A store, and what tells its source what became of it.
pub(super) struct Opened {
    pub(super) store: Arc<dyn Store>,
    told: Option<Told>,
}

/// The cluster that the store is, and who tells it.
struct Told {
    status: Status,
    cluster: Cluster,
}

impl Opened {
    /// Tells the source what it is told by `states`, the registry's, until the `ending`.
    pub(super) fn tell(self, states: watch::Receiver<Arc<State>>, ending: Ending) -> Option<JoinHandle<()>> {
        let Told { status, cluster } = self.told?;
        Some(tokio::spawn(async move {
            let _followers = cluster.tasks;
            status.run(cluster.verdicts, states, ending).await;
        }))
    }
}

/// Opens the store; waits for an etcd or a cluster that is not there yet.
pub(super) async fn open(
    config: &StoreConfig,
    kubernetes: &KubernetesConfig,
    nodes: &Nodes,
) -> Result<Opened> {
    info!(store = %config.store, "opening the store");
    let store = match &config.store {
        StoreUrl::Embedded { path } => embedded(path).await,
        StoreUrl::Kubernetes { context } => return cluster(context.as_deref(), kubernetes, nodes).await,
        StoreUrl::Etcd { endpoints, prefix } => {
            let options = EtcdOptions {
                endpoints: endpoints.clone(),
                prefix: prefix.clone(),
                tls: etcd_tls(config).await?,
            };
            etcd(options).await
        }
    };
    Ok(Opened {
        store: store?,
        told: None,
    })
}

async fn cluster(context: Option<&str>, config: &KubernetesConfig, nodes: &Nodes) -> Result<Opened> {
    let client = kubernetes::connect(context).await?;
    let options = KubernetesOptions {
        membership: config.kubernetes_services,
        trust_domain: config.trust_domain.as_str().into(),
    };
    let cluster = kubernetes::open(&client, options).await;
    let status = Status::new(&client, nodes.clone(), identity());
    Ok(Opened {
        store: Arc::clone(&cluster.store),
        told: Some(Told { status, cluster }),
    })
}

/// What no other control plane of the cluster is called.
fn identity() -> String {
    let host = nix::unistd::gethostname().unwrap_or_default();
    format!("{}_{:016x}", host.to_string_lossy(), fastrand::u64(..))
}

async fn embedded(path: &Path) -> Result<Arc<dyn Store>> {
    if let Some(folder) = path.parent() {
        tokio::fs::create_dir_all(folder)
            .await
            .with_context(|| format!("make the folder {} of the store", folder.display()))?;
    }
    let path = path.to_owned();
    let opened = tokio::task::spawn_blocking(move || EmbeddedStore::open(&path)).await;
    Ok(Arc::new(opened.context("open the store")??))
}

async fn etcd(options: EtcdOptions) -> Result<Arc<dyn Store>> {
    loop {
        match EtcdStore::connect(options.clone()).await {
            Ok(store) => return Ok(Arc::new(store)),
            Err(error @ StoreError::Unavailable { .. }) => {
                warn!(%error, "etcd is not there, trying again");
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

async fn etcd_tls(config: &StoreConfig) -> Result<Option<EtcdTls>> {
    let Some(ca) = &config.etcd_ca else {
        return Ok(None);
    };
    let identity = match (&config.etcd_cert, &config.etcd_key) {
        (Some(certificate), Some(key)) => Some((read(certificate).await?, read(key).await?)),
        _ => None,
    };
    Ok(Some(EtcdTls {
        ca: read(ca).await?,
        identity,
    }))
}

async fn read(path: &PathBuf) -> Result<Vec<u8>> {
    tokio::fs::read(path)
        .await
        .with_context(|| format!("read {}", path.display()))
}
