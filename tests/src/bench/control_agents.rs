// SPDX-License-Identifier: Apache-2.0
//! Simulated agents: many incremental ADS clients in this process, which take what they are sent, acknowledge it and note when it came.
//!
//! The protocol is that of the real agent (`xds::session`), of which they have the state machine; what they hold is names alone.
//! Invariant: each has a connection of its own, as nodes do.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use futures_util::stream;
use nodemesh_agent::xds::session::{Session, Taken};
use nodemesh_proto::{
    type_url,
    xds::{
        envoy::{
            config::{
                core::v3::{Node, address::Address},
                endpoint::v3::{ClusterLoadAssignment, lb_endpoint::HostIdentifier},
            },
            service::discovery::v3::{
                DeltaDiscoveryRequest, DeltaDiscoveryResponse,
                aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
            },
        },
        google::protobuf::Any,
    },
};
use prost::Message as _;
use tokio::sync::mpsc;
use tonic::transport::Endpoint;

use super::control_lab::Inside;

/// Bytes of gRPC before each message.
const PREFIX: usize = 5;
/// Silence after which nothing more is expected.
const QUIET: Duration = Duration::from_millis(500);
/// Longest wait for all of them.
const PATIENCE: Duration = Duration::from_secs(30);

/// A response that an agent was sent.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    pub(super) agent: usize,
    pub(super) at: Instant,
    /// Bytes of the message.
    pub(super) bytes: usize,
    /// Addresses of endpoints in it.
    pub(super) endpoints: Vec<IpAddr>,
    /// Names of the resources in it, and of those that it says are gone.
    pub(super) names: Vec<String>,
}

/// Agents at work, until this is dropped.
pub(super) struct SimulatedAgents {
    count: usize,
    arrivals: mpsc::UnboundedReceiver<Result<Arrival>>,
}

impl SimulatedAgents {
    /// Connects `count` of them to `url` and waits until all have what there is.
    pub(super) fn start(inside: &Inside, url: &str, count: usize) -> Result<Self> {
        let (sender, arrivals) = mpsc::unbounded_channel();
        for agent in 0..count {
            let (sender, url) = (sender.clone(), url.to_owned());
            inside.spawn(async move {
                tokio::select! {
                    ended = run(agent, url, &sender) => {
                        let error = ended.err().unwrap_or_else(|| anyhow::anyhow!("the stream ended"));
                        // Nobody has to listen any more.
                        let _ = sender.send(Err(error.context(format!("simulated agent {agent}"))));
                    }
                    () = sender.closed() => {}
                }
            });
        }
        let mut agents = Self { count, arrivals };
        let first = agents.until_quiet()?;
        let heard: BTreeSet<usize> = first.iter().map(|arrival| arrival.agent).collect();
        if heard.len() < count {
            bail!(
                "only {} of {count} simulated agents were sent anything",
                heard.len()
            );
        }
        Ok(agents)
    }

    /// What arrives until nothing does for a while.
    pub(super) fn until_quiet(&mut self) -> Result<Vec<Arrival>> {
        let mut arrived = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        let mut last = Instant::now();
        while last.elapsed() < QUIET && Instant::now() < deadline {
            match self.arrivals.try_recv() {
                Ok(arrival) => {
                    arrived.push(arrival?);
                    last = Instant::now();
                }
                Err(_) => crate::eventually::pause(Duration::from_millis(5)),
            }
        }
        Ok(arrived)
    }

    /// The responses to one change that leads to an endpoint at `address`: when the last agent had it, and all that arrived.
    pub(super) fn change(&mut self, address: IpAddr) -> Result<(Instant, Vec<Arrival>)> {
        let (mut arrived, deadline) = (Vec::new(), Instant::now() + PATIENCE);
        let mut first_of: Vec<Option<Instant>> = vec![None; self.count];
        // A machine that is busy with something else is quiet too.
        while first_of.contains(&None) && Instant::now() < deadline {
            let more = self.until_quiet()?;
            for arrival in more.iter().filter(|arrival| arrival.endpoints.contains(&address)) {
                let at = &mut first_of[arrival.agent];
                *at = Some(at.map_or(arrival.at, |at: Instant| at.min(arrival.at)));
            }
            arrived.extend(more);
        }
        let missing = first_of.iter().filter(|at| at.is_none()).count();
        let last = first_of.into_iter().flatten().max();
        let last = last.filter(|_| missing == 0);
        Ok((
            last.with_context(|| format!("{missing} agents were not sent the change"))?,
            arrived,
        ))
    }

    /// Forgets what has arrived.
    pub(super) fn drain(&mut self) -> Result<()> {
        while let Ok(arrival) = self.arrivals.try_recv() {
            arrival?;
        }
        Ok(())
    }
}

/// Takes all and keeps the names of clusters, whose assignments it wants.
#[derive(Debug, Default)]
struct Names {
    clusters: BTreeSet<String>,
}

impl Taken for Names {
    fn put(&mut self, type_url: &'static str, name: &str, _: &Any) -> Result<(), String> {
        if type_url == type_url::CLUSTER {
            self.clusters.insert(name.to_owned());
        }
        Ok(())
    }

    fn remove(&mut self, type_url: &'static str, name: &str) {
        if type_url == type_url::CLUSTER {
            self.clusters.remove(name);
        }
    }

    fn wanted(&self, type_url: &'static str) -> BTreeSet<&str> {
        if type_url == type_url::ASSIGNMENT {
            self.clusters.iter().map(String::as_str).collect()
        } else {
            BTreeSet::new()
        }
    }
}

/// One agent, until its stream ends.
async fn run(agent: usize, url: String, arrivals: &mpsc::UnboundedSender<Result<Arrival>>) -> Result<()> {
    let channel = Endpoint::from_shared(url)?.tcp_nodelay(true).connect().await?;
    let mut session = Session::new(Names::default());
    let (requests, outbox) = mpsc::unbounded_channel();
    let node = Node {
        id: format!("simulated-{agent}"),
        ..Node::default()
    };
    for request in session.open(node) {
        requests.send(request)?;
    }
    let outbox = stream::unfold(
        outbox,
        |mut outbox: mpsc::UnboundedReceiver<DeltaDiscoveryRequest>| async {
            Some((outbox.recv().await?, outbox))
        },
    );
    let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(64 << 20);
    let mut responses = client.delta_aggregated_resources(outbox).await?.into_inner();
    while let Some(response) = responses.message().await? {
        let at = Instant::now();
        let bytes = response.encoded_len() + PREFIX;
        let endpoints = endpoints(&response);
        let put = response.resources.iter().map(|resource| &resource.name);
        let names = put.chain(&response.removed_resources).cloned().collect();
        for request in session.respond(response) {
            requests.send(request)?;
        }
        arrivals.send(Ok(Arrival {
            agent,
            at,
            bytes,
            endpoints,
            names,
        }))?;
    }
    Ok(())
}

/// Addresses of the endpoints in a response.
fn endpoints(response: &DeltaDiscoveryResponse) -> Vec<IpAddr> {
    if response.type_url != type_url::ASSIGNMENT {
        return Vec::new();
    }
    let bodies = response
        .resources
        .iter()
        .filter_map(|resource| resource.resource.as_ref());
    let assignments = bodies.filter_map(|body| ClusterLoadAssignment::decode(&*body.value).ok());
    let endpoints = assignments
        .flat_map(|assignment| assignment.endpoints)
        .flat_map(|locality| locality.lb_endpoints);
    let addresses = endpoints.filter_map(|endpoint| {
        let Some(HostIdentifier::Endpoint(endpoint)) = endpoint.host_identifier else {
            return None;
        };
        match endpoint.address?.address? {
            Address::SocketAddress(address) => address.address.parse().ok(),
            _ => None,
        }
    });
    addresses.collect()
}
