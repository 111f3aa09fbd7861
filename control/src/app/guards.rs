// SPDX-License-Identifier: Apache-2.0
//! Loads certificates and the access file, and keeps them as the files are.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use rustls::ServerConfig;
use tokio::{sync::watch, task::JoinSet};
use tracing::warn;

use crate::{
    config::SecurityConfig,
    metrics::Metrics,
    security::{self, Access, Files, InvalidAccess, TlsFiles},
};

/// Who may do what, from now on.
pub(super) async fn access(
    security: &SecurityConfig,
    metrics: &Arc<Metrics>,
    tasks: &mut JoinSet<()>,
) -> Result<watch::Receiver<Arc<Access>>> {
    let Some(path) = &security.access else {
        if security.insecure {
            warn!("--insecure without --access: whoever reaches a listener may do everything");
        }
        return Ok(watch::channel(Arc::new(Access::Open)).1);
    };
    if security.tls_cert.is_none() && security.insecure {
        warn!("--insecure: tokens can be read on the way");
    }
    let files = Files {
        what: "the access file",
        paths: vec![path.clone()],
    };
    let load = |contents: &[Vec<u8>]| {
        let text = contents
            .first()
            .map_or("".into(), |bytes| String::from_utf8_lossy(bytes));
        Access::parse(&text)
    };
    let contents = files.read().await?;
    let first = load(&contents).with_context(|| format!("access file {}", path.display()))?;
    let (values, receiver) = watch::channel(Arc::new(first));
    let metrics = Arc::clone(metrics);
    tasks.spawn(security::follow::<_, InvalidAccess>(
        files,
        contents,
        load,
        values,
        move |reloaded| metrics.reloaded("access", reloaded),
    ));
    Ok(receiver)
}

/// What to serve TLS with, from now on; `None` without TLS.
pub(super) async fn tls(
    security: &SecurityConfig,
    metrics: &Arc<Metrics>,
    tasks: &mut JoinSet<()>,
) -> Result<Option<watch::Receiver<Arc<ServerConfig>>>> {
    let Some(tls) = TlsFiles::of(security) else {
        return Ok(None);
    };
    let files = tls.files();
    let contents = files.read().await?;
    let first = security::server_config(&tls, &contents).context("TLS")?;
    let (values, receiver) = watch::channel(Arc::new(first));
    let metrics = Arc::clone(metrics);
    tasks.spawn(security::follow(
        files,
        contents,
        move |contents| security::server_config(&tls, contents),
        values,
        move |reloaded| metrics.reloaded("certificate", reloaded),
    ));
    Ok(Some(receiver))
}
