// SPDX-License-Identifier: Apache-2.0
//! Moves one stream: brings requests, new snapshots and the time to its [`Stream`], and sends what that has to say.
//!
//! One task per stream, spawned by `service`. Invariant: the channel to the wire never has more than one response per type that the
//! reader has not answered, so a reader that does not read cannot make it grow.

use std::{future::Future, sync::Arc, time::Duration};

use nodemesh_proto::xds::envoy::{
    config::core::v3::Node,
    service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    },
};
use tokio::{
    sync::{mpsc, watch},
    time::{self, MissedTickBehavior},
};
use tonic::{Code, Status};
use tracing::{debug, info};

use super::{
    cache::Snapshot,
    delta,
    limits::{Limits, Violation},
    nodes::Seat,
    sotw,
    stream::{Response, Stream, Variant},
};

/// How often streams are told that time passes.
const TICK: Duration = Duration::from_secs(1);

/// A variant's messages.
pub(super) trait Wire: Send + 'static {
    /// What readers send.
    type Request: Send + 'static;
    /// What they are sent.
    type Response: Send + 'static;
    /// The variant.
    const VARIANT: Variant;
    /// Who sends the request; every first one tells.
    fn node(request: &Self::Request) -> Option<&Node>;
    /// Takes it in.
    fn take(stream: &mut Stream, request: &Self::Request, snapshot: &Snapshot) -> Result<(), Violation>;
    /// As on the wire.
    fn write(response: Response) -> Self::Response;
}

/// The delta variant.
pub(super) struct Delta;

impl Wire for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;
    const VARIANT: Variant = Variant::Delta;

    fn node(request: &Self::Request) -> Option<&Node> {
        request.node.as_ref()
    }

    fn take(stream: &mut Stream, request: &Self::Request, snapshot: &Snapshot) -> Result<(), Violation> {
        stream.on_delta(request, snapshot)
    }

    fn write(response: Response) -> Self::Response {
        delta::write(response)
    }
}

/// The state-of-the-world variant.
pub(super) struct StateOfTheWorld;

impl Wire for StateOfTheWorld {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;
    const VARIANT: Variant = Variant::StateOfTheWorld;

    fn node(request: &Self::Request) -> Option<&Node> {
        request.node.as_ref()
    }

    fn take(stream: &mut Stream, request: &Self::Request, snapshot: &Snapshot) -> Result<(), Violation> {
        stream.on_sotw(request, snapshot)
    }

    fn write(response: Response) -> Self::Response {
        sotw::write(response)
    }
}

/// Where requests come from.
pub(super) trait Inbound<R>: Send {
    /// The next one; `None` when the reader has closed its side. Must lose nothing when dropped before it is ready.
    fn next(&mut self) -> impl Future<Output = Result<Option<R>, Status>> + Send;
}

impl<R: Send + 'static> Inbound<R> for tonic::Streaming<R> {
    async fn next(&mut self) -> Result<Option<R>, Status> {
        self.message().await
    }
}

/// One stream's task.
pub(super) struct Driver {
    pub(super) seat: Seat,
    pub(super) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(super) outgoing: mpsc::Sender<Result<Response, Status>>,
    pub(super) limits: Limits,
}

impl Driver {
    /// Until either side ends the stream; if it is this one, the reader is told why.
    pub(super) async fn run<W: Wire>(self, inbound: impl Inbound<W::Request>) {
        let outgoing = self.outgoing.clone();
        if let Err(status) = self.serve::<W>(inbound).await {
            // The reader is slow or gone: then the end of the stream says enough.
            let _ = outgoing.try_send(Err(status));
        }
    }

    async fn serve<W: Wire>(mut self, mut inbound: impl Inbound<W::Request>) -> Result<(), Status> {
        let mut stream = Stream::new(W::VARIANT, self.limits.clone());
        let mut ticks = time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_named = false;
        loop {
            tokio::select! {
                request = inbound.next() => {
                    let Some(request) = request? else { return Ok(()) };
                    if let Some(node) = W::node(&request).filter(|_| !is_named) {
                        self.seat.identify(node, &self.limits).map_err(|violation| self.refuse(&violation))?;
                        debug!(node = node.id, variant = ?W::VARIANT, "node connected");
                        is_named = true;
                    }
                    let snapshot = self.snapshots.borrow_and_update().clone();
                    self.seat.count(|totals| totals.requests += 1);
                    W::take(&mut stream, &request, &snapshot).map_err(|violation| self.refuse(&violation))?;
                }
                changed = self.snapshots.changed() => {
                    changed.map_err(|_| Status::unavailable("this server is going away: connect to another"))?;
                }
                _ = ticks.tick(), if stream.is_waiting() => {
                    stream.tick().map_err(|violation| self.refuse(&violation))?;
                }
                () = self.outgoing.closed() => return Ok(()),
            }
            self.send(&mut stream)?;
        }
    }

    fn send(&mut self, stream: &mut Stream) -> Result<(), Status> {
        let snapshot = self.snapshots.borrow_and_update().clone();
        for response in stream.poll(&snapshot) {
            self.seat.count(|totals| {
                totals.responses += 1;
                totals.resources += response.resources.len() as u64;
            });
            let full = |_| Status::resource_exhausted("responses were answered before they were read");
            self.outgoing.try_send(Ok(response)).map_err(full)?;
        }
        self.seat.update(stream.progress());
        Ok(())
    }

    fn refuse(&self, violation: &Violation) -> Status {
        self.seat.count(|totals| totals.violations += 1);
        info!(%violation, "a stream is ended");
        status(violation)
    }
}

/// As the reader is told.
pub(super) fn status(violation: &Violation) -> Status {
    let code = match violation {
        Violation::NoType | Violation::NameTooLong { .. } => Code::InvalidArgument,
        Violation::Unanswered { .. } => Code::DeadlineExceeded,
        Violation::TooManyTypes { .. }
        | Violation::TooManyNames { .. }
        | Violation::TooManyStreams { .. }
        | Violation::TooManyStreamsOfNode { .. } => Code::ResourceExhausted,
    };
    Status::new(code, violation.to_string())
}
