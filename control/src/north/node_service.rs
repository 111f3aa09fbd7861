// SPDX-License-Identifier: Apache-2.0
//! The service `nodemesh.v1.Node`.

use std::{pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt as _};
use nodemesh_proto::v1::{self, node_server as rpc};
use tonic::{Request, Response, Status, Streaming};

use super::{registration::until_error, reports::Reports};

/// The service.
#[derive(Clone, Debug)]
pub struct NodeService {
    reports: Reports,
    interval: Duration,
}

impl NodeService {
    /// Collects `reports`, of which each node is to send one per `interval`.
    pub fn new(reports: Reports, interval: Duration) -> Self {
        Self { reports, interval }
    }
}

#[tonic::async_trait]
impl rpc::Node for NodeService {
    type ReportStream = Pin<Box<dyn Stream<Item = Result<v1::NodeReportAck, Status>> + Send>>;

    async fn report(
        &self,
        request: Request<Streaming<v1::NodeReport>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let too_many = || Status::resource_exhausted("there are more nodes than --max-nodes allows");
        let seat = self.reports.admit(request.remote_addr()).ok_or_else(too_many)?;
        let interval_seconds = u32::try_from(self.interval.as_secs()).unwrap_or(u32::MAX);
        // Reports are read as fast as their answers are: a node that sends without reading has to wait.
        let acks = request.into_inner().map(move |report| {
            let report = report?;
            if report.node.is_empty() {
                return Err(Status::invalid_argument("node: must be the id of the node"));
            }
            seat.update(report);
            Ok(v1::NodeReportAck { interval_seconds })
        });
        Ok(Response::new(Box::pin(until_error(acks))))
    }
}
