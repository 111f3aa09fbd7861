// SPDX-License-Identifier: Apache-2.0
//! ADS on tonic: opens a [`Driver`] for each stream.
//!
//! `server` mounts [`Ads::into_service`] on a server that was given to [`keep_alive`]. Invariant: a reader whose machine is gone
//! loses its stream, and its row among the nodes, within [`KEEPALIVE_INTERVAL`] and [`KEEPALIVE_TIMEOUT`].

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream as Items, stream};
use nodemesh_proto::xds::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    aggregated_discovery_service_server::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer},
};
use tokio::sync::{mpsc, watch};
use tonic::{Request, Status, Streaming, transport::Server};

use super::{
    cache::Snapshot,
    driver::{Delta, Driver, StateOfTheWorld, Wire, status},
    limits::Limits,
    nodes::Nodes,
};

/// A connection that was silent for so long is asked for a sign of life.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// It has so long to give one.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Has a server find out about readers that are gone without a word.
#[must_use]
pub fn keep_alive(server: Server) -> Server {
    server
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .tcp_nodelay(true)
}

/// The service.
#[derive(Clone, Debug)]
pub struct Ads {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    nodes: Nodes,
    limits: Limits,
}

type Outgoing<R> = Pin<Box<dyn Items<Item = Result<R, Status>> + Send>>;

impl Ads {
    /// Serves the newest of `snapshots`; whoever reads that is in `nodes`.
    pub fn new(snapshots: watch::Receiver<Arc<Snapshot>>, nodes: Nodes, limits: Limits) -> Self {
        Self {
            snapshots,
            nodes,
            limits,
        }
    }

    /// For a router of tonic.
    pub fn into_service(self) -> AggregatedDiscoveryServiceServer<Self> {
        let limit = self.limits.request_bytes;
        AggregatedDiscoveryServiceServer::new(self).max_decoding_message_size(limit)
    }

    fn open<W: Wire>(
        &self,
        request: Request<Streaming<W::Request>>,
    ) -> Result<tonic::Response<Outgoing<W::Response>>, Status> {
        let seat = self
            .nodes
            .admit(request.remote_addr(), W::VARIANT, &self.limits)
            .map_err(|violation| status(&violation))?;
        // One response of each type, and the reason of the end.
        let (outgoing, responses) = mpsc::channel(self.limits.types + 1);
        let driver = Driver {
            seat,
            snapshots: self.snapshots.clone(),
            outgoing,
            limits: self.limits.clone(),
        };
        tokio::spawn(driver.run::<W>(request.into_inner()));
        // Messages are written when the connection has room for them; until then streams share the resources.
        let written = stream::unfold(responses, |mut responses| async move {
            let response = responses.recv().await?;
            Some((response.map(W::write), responses))
        });
        Ok(tonic::Response::new(Box::pin(written)))
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type StreamAggregatedResourcesStream = Outgoing<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Outgoing<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<tonic::Response<Self::StreamAggregatedResourcesStream>, Status> {
        self.open::<StateOfTheWorld>(request)
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<tonic::Response<Self::DeltaAggregatedResourcesStream>, Status> {
        self.open::<Delta>(request)
    }
}
