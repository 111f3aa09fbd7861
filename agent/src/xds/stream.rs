// SPDX-License-Identifier: Apache-2.0
//! One incremental ADS stream over tonic: carries what the session says and applies what it took. Called by `link`.
//!
//! Invariant: a response is answered before it is applied, so the control plane never waits for this node's kernel.

use std::{
    pin::pin,
    sync::mpsc as blocking,
    time::{Duration, Instant, SystemTime},
};

use futures_util::stream;
use nodemesh_proto::{
    Received,
    xds::envoy::{
        config::core::v3::Node,
        service::discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse,
            aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        },
    },
};
use tokio::{
    sync::mpsc,
    task::block_in_place,
    time::{interval, sleep, sleep_until},
};
use tonic::{Status, Streaming};
use tracing::info;

use super::{pace::Pace, session::Session};
use crate::{
    control::{Connection, channel::MAX_MESSAGE_BYTES},
    reconcile::thread::Command,
    source::{
        Version,
        control::{ControlSource, PATIENCE},
        host,
    },
};

/// Some servers send the head of their answer only with the first response: a stream that was not refused in this time is open.
const SILENT_CONSENT: Duration = Duration::from_secs(1);

/// What a stream works on.
#[derive(Debug)]
pub struct Client {
    /// What was said and taken.
    pub session: Session<Received>,
    /// Where it goes.
    pub source: ControlSource,
    /// Where that goes.
    pub commands: blocking::Sender<Command>,
}

/// The reconciler has ended, so the agent ends.
#[derive(Debug)]
pub struct Stopped;

impl Client {
    /// Runs a stream until it ends; why it did.
    pub async fn run(&mut self, connection: Connection, url: &str, node: Node) -> Result<Status, Stopped> {
        let (requests, outbox) = mpsc::unbounded_channel();
        for request in self.session.open(node) {
            // The receiver lives as long as the stream.
            let _ = requests.send(request);
        }
        let mut client =
            AggregatedDiscoveryServiceClient::new(connection).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let outbox = stream::unfold(outbox, |mut outbox| async {
            let request: DeltaDiscoveryRequest = outbox.recv().await?;
            Some((request, outbox))
        });
        let responses = {
            let mut call = pin!(client.delta_aggregated_resources(outbox));
            let answer = tokio::select! {
                answer = &mut call => Some(answer),
                () = sleep(SILENT_CONSENT) => None,
            };
            let answer = match answer {
                Some(Err(status)) => Err(status),
                Some(Ok(responses)) => {
                    self.connected(url);
                    Ok(responses)
                }
                None => {
                    self.connected(url);
                    call.await
                }
            };
            match answer {
                Ok(responses) => responses.into_inner(),
                Err(status) => return Ok(status),
            }
        };
        self.serve(responses, &requests).await
    }

    fn connected(&mut self, url: &str) {
        info!(control = url, "connected to the control plane");
        self.source.note(|status| {
            status.connected = Some(url.to_owned());
            status.since = SystemTime::now();
            status.error = None;
            status.connections += 1;
        });
    }

    async fn serve(
        &mut self,
        mut responses: Streaming<DeltaDiscoveryResponse>,
        requests: &mpsc::UnboundedSender<DeltaDiscoveryRequest>,
    ) -> Result<Status, Stopped> {
        let mut pace = Pace::default();
        let patience = Instant::now() + PATIENCE;
        let mut is_held_up = false;
        let mut addresses = interval(host::PERIOD);
        loop {
            let is_first = !self.source.is_current();
            let due = pace.due(is_first).or(is_held_up.then_some(patience));
            let wake = due.unwrap_or_else(|| Instant::now() + PATIENCE);
            tokio::select! {
                response = responses.message() => {
                    let response = match response {
                        Ok(Some(response)) => response,
                        Ok(None) => return Ok(Status::unavailable("the control plane closed the stream")),
                        Err(status) => return Ok(status),
                    };
                    for request in block_in_place(|| self.session.respond(response)) {
                        let _ = requests.send(request);
                    }
                    if self.session.take_change() {
                        pace.changed(Instant::now());
                    }
                }
                () = sleep_until(wake.into()), if due.is_some() => {
                    pace.applied();
                    is_held_up = !self.apply(Instant::now() >= patience)? && Instant::now() < patience;
                }
                _ = addresses.tick() => self.follow_addresses()?,
            }
        }
    }

    /// Applies what the addresses of this node change.
    fn follow_addresses(&mut self) -> Result<(), Stopped> {
        match block_in_place(|| self.source.follow_addresses()) {
            Some(version) => self.send(version),
            None => Ok(()),
        }
    }

    /// Applies what was taken; false if it is not complete or not valid.
    fn apply(&mut self, must: bool) -> Result<bool, Stopped> {
        let version = block_in_place(|| self.source.apply(&mut self.session, must));
        let Some(version) = version else {
            return Ok(false);
        };
        self.send(version)?;
        Ok(true)
    }

    fn send(&self, (desired, generation): Version) -> Result<(), Stopped> {
        self.commands
            .send(Command::Apply { desired, generation })
            .map_err(|_| Stopped)
    }
}
