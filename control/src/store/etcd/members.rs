// SPDX-License-Identifier: Apache-2.0
//! The members of the etcd cluster: which one is asked, and when to ask another one.
//!
//! Invariant: a write is sent once. After a failure, the next call first looks for a member that can read from a quorum, so that
//! writes are not spent on finding out.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tonic::{
    Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use super::{
    EtcdOptions,
    api::{RangeRequest, kv_client::KvClient, lease_client::LeaseClient, watch_client::WatchClient},
    wire,
};
use crate::store::StoreError;

const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// How long a member may take to show that it works.
const PROBE_WITHIN: Duration = Duration::from_secs(2);
/// How long a call may take: etcd itself gives up after 7 s with its default election timeout.
pub(super) const CALL_WITHIN: Duration = Duration::from_secs(8);
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(3);
const KEEP_ALIVE_WITHIN: Duration = Duration::from_secs(3);
/// Longest message that is taken: a batch of a watch has all changes of a revision.
const MAX_MESSAGE: usize = 256 << 20;

/// Connections to all members, of which one is used.
#[derive(Clone, Debug)]
pub(super) struct Members {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    channels: Vec<Channel>,
    current: AtomicUsize,
    /// Whether the current member has failed since it last worked.
    is_suspect: AtomicBool,
}

impl Members {
    pub(super) fn new(options: &EtcdOptions) -> Result<Self, StoreError> {
        let invalid = |error: &dyn std::error::Error| wire::refused("connect", &error.to_string());
        let mut channels = Vec::new();
        for member in &options.endpoints {
            let scheme = if options.tls.is_some() { "https" } else { "http" };
            let mut endpoint = Endpoint::from_shared(format!("{scheme}://{member}"))
                .map_err(|error| invalid(&error))?
                .connect_timeout(CONNECT_WITHIN)
                .http2_keep_alive_interval(KEEP_ALIVE_EVERY)
                .keep_alive_timeout(KEEP_ALIVE_WITHIN)
                .keep_alive_while_idle(true);
            if let Some(tls) = &options.tls {
                let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&tls.ca));
                if let Some((certificate, key)) = &tls.identity {
                    config = config.identity(Identity::from_pem(certificate, key));
                }
                endpoint = endpoint.tls_config(config).map_err(|error| invalid(&error))?;
            }
            channels.push(endpoint.connect_lazy());
        }
        if channels.is_empty() {
            return Err(wire::refused("connect", "no members are given"));
        }
        let shared = Shared {
            channels,
            current: AtomicUsize::new(fastrand::usize(..options.endpoints.len())),
            is_suspect: AtomicBool::new(true),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    pub(super) async fn kv(&self, op: &'static str) -> Result<KvClient<Channel>, StoreError> {
        Ok(kv(self.working(op).await?))
    }

    pub(super) async fn watch(&self, op: &'static str) -> Result<WatchClient<Channel>, StoreError> {
        let client = WatchClient::new(self.working(op).await?);
        Ok(client.max_decoding_message_size(MAX_MESSAGE))
    }

    pub(super) async fn lease(&self, op: &'static str) -> Result<LeaseClient<Channel>, StoreError> {
        Ok(LeaseClient::new(self.working(op).await?))
    }

    /// Says that the current member did not do what it should have.
    pub(super) fn suspect(&self) {
        self.shared.is_suspect.store(true, Ordering::Release);
    }

    /// A member that works, as far as is known.
    async fn working(&self, op: &'static str) -> Result<Channel, StoreError> {
        let Shared {
            channels,
            current,
            is_suspect,
        } = &*self.shared;
        let first = current.load(Ordering::Acquire);
        if !is_suspect.load(Ordering::Acquire) {
            return Ok(channels[first].clone());
        }
        let mut reason = String::new();
        for index in (first..channels.len()).chain(0..first) {
            match tokio::time::timeout(PROBE_WITHIN, probe(&channels[index])).await {
                Ok(Ok(())) => {
                    current.store(index, Ordering::Release);
                    is_suspect.store(false, Ordering::Release);
                    return Ok(channels[index].clone());
                }
                Ok(Err(status)) => reason = status.to_string(),
                Err(_) => "no answer".clone_into(&mut reason),
            }
        }
        Err(StoreError::Unavailable {
            op,
            reason: format!("no member of etcd works; the last one: {reason}"),
        })
    }
}

/// Reads a key from a quorum.
async fn probe(channel: &Channel) -> Result<(), Status> {
    let request = RangeRequest {
        key: b"nodemesh".to_vec(),
        keys_only: true,
        ..RangeRequest::default()
    };
    match kv(channel.clone()).range(request).await {
        Ok(_) => Ok(()),
        // Who may not read that key may read others.
        Err(status) if status.code() == tonic::Code::PermissionDenied => Ok(()),
        Err(status) => Err(status),
    }
}

fn kv(channel: Channel) -> KvClient<Channel> {
    KvClient::new(channel).max_decoding_message_size(MAX_MESSAGE)
}
