// SPDX-License-Identifier: Apache-2.0
//! The client's side of incremental ADS as a state machine: responses in, requests out. Pure: no I/O and no clock. Driven by
//! `stream`, one session for the life of the agent, over any number of streams.
//!
//! ```text
//! open(node) ─► first requests (with the versions that are there from earlier streams)
//! response   ─► Taken::put/remove ─► ACK or NACK ─► subscriptions that listeners and clusters now ask for
//! ```
//!
//! Invariant: a version is remembered if and only if the resource of that version is what [`Taken`] holds, so what a server
//! leaves out after a reconnect is here already.

use std::{collections::BTreeSet, fmt::Write as _};

use nodemesh_proto::{
    CONTROL_PLANE, type_url,
    xds::{
        envoy::{
            config::{core::v3::Node, endpoint::v3::ClusterLoadAssignment},
            service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource},
        },
        google::{protobuf::Any, rpc::Status},
    },
};
use prost::Message as _;

use super::subscription::{Kind, Subscription};

/// `INVALID_ARGUMENT` of gRPC: the code of a NACK.
const INVALID_ARGUMENT: i32 = 3;
/// Most resources that a NACK names.
const MOST_NAMED: usize = 20;

/// What holds the resources that were taken.
pub trait Taken {
    /// Takes a resource in place of the former one of its name, or says why not and keeps the former one.
    fn put(&mut self, type_url: &'static str, name: &str, resource: &Any) -> Result<(), String>;
    /// Gives a resource up.
    fn remove(&mut self, type_url: &'static str, name: &str);
    /// Names that what is held refers to: clusters of listeners, assignments of clusters.
    fn wanted(&self, type_url: &'static str) -> BTreeSet<&str>;
}

/// The state of the client.
#[derive(Debug)]
pub struct Session<T> {
    taken: T,
    /// In the order in which they are asked for: what is referred to before what refers, and what guards services before these.
    types: [Subscription; 5],
    version: String,
    /// Whether the server is one that answers for every type.
    is_own: bool,
    nacks: u64,
    is_changed: bool,
}

impl<T: Taken> Session<T> {
    /// Before the first stream.
    pub fn new(taken: T) -> Self {
        Self {
            taken,
            types: [
                Subscription::new(type_url::WORKLOAD_TABLE, Kind::Own),
                Subscription::new(type_url::POLICY_DOCUMENT, Kind::Own),
                Subscription::new(type_url::CLUSTER, Kind::Full),
                Subscription::new(type_url::ASSIGNMENT, Kind::Named),
                Subscription::new(type_url::LISTENER, Kind::Full),
            ],
            version: String::new(),
            is_own: false,
            nacks: 0,
            is_changed: false,
        }
    }

    /// What was taken.
    pub fn taken(&mut self) -> &mut T {
        &mut self.taken
    }

    /// Version of the control plane's state, in its own words; empty if it names none.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Responses that were refused, in part or as a whole.
    pub fn nacks(&self) -> u64 {
        self.nacks
    }

    /// Whether the server has said, on this stream or an earlier one, which listeners and clusters there are, and, if it is one that
    /// knows them, which policies and workloads: without these a service would be open to everybody.
    pub fn is_answered(&self) -> bool {
        let mut needed = self
            .types
            .iter()
            .filter(|it| it.kind == Kind::Full || (self.is_own && it.kind == Kind::Own));
        needed.all(|it| it.is_answered)
    }

    /// Whether the server has said which resources of this type there are.
    pub fn is_type_answered(&self, type_url: &str) -> bool {
        let mut found = self.types.iter().filter(|it| it.type_url == type_url);
        found.any(|it| it.is_answered)
    }

    /// Whether something was taken or refused since this was asked last.
    pub fn take_change(&mut self) -> bool {
        std::mem::take(&mut self.is_changed)
    }

    /// What is refused at this time: name and reason.
    pub fn rejected(&self) -> impl Iterator<Item = (&str, &str)> {
        let rejected = self.types.iter().flat_map(|it| &it.rejected);
        rejected.map(|(name, reason)| (name.as_str(), reason.as_str()))
    }

    /// Whether the server said that there is no such resource.
    pub fn is_missing(&self, type_url: &str, name: &str) -> bool {
        let mut found = self.types.iter().filter(|it| it.type_url == type_url);
        found.any(|it| it.missing.contains(name))
    }

    /// A stream was opened: the first requests on it, of which the very first says who asks.
    pub fn open(&self, node: Node) -> Vec<DeltaDiscoveryRequest> {
        let mut requests: Vec<_> = self.types.iter().filter_map(Subscription::open).collect();
        if let Some(first) = requests.first_mut() {
            first.node = Some(node);
        }
        requests
    }

    /// Takes a response in; what to answer.
    pub fn respond(&mut self, response: DeltaDiscoveryResponse) -> Vec<DeltaDiscoveryRequest> {
        let Some(index) = self.types.iter().position(|it| it.type_url == response.type_url) else {
            self.nacks += 1;
            let reason = format!("{} was not asked for", response.type_url);
            return vec![answer(response.type_url, response.nonce, Some(reason))];
        };
        self.is_own |= response
            .control_plane
            .is_some_and(|server| server.identifier == CONTROL_PLANE);
        if is_newer(&response.system_version_info, &self.version) {
            self.version = response.system_version_info;
        }
        let mut refused = Vec::new();
        for resource in response.resources {
            if let Err((name, reason)) = self.put(index, resource) {
                refused.push(format!("{name}: {reason}"));
            }
        }
        for name in &response.removed_resources {
            self.remove(index, name);
        }
        let subscription = &mut self.types[index];
        self.is_changed |= !std::mem::replace(&mut subscription.is_answered, true);
        self.nacks += u64::from(!refused.is_empty());
        let verdict = (!refused.is_empty()).then(|| list(&refused));
        let mut requests = vec![answer(response.type_url, response.nonce, verdict)];
        requests.extend(self.follow_references());
        requests
    }

    fn put(&mut self, index: usize, resource: Resource) -> Result<(), (String, String)> {
        let subscription = &mut self.types[index];
        let Resource {
            name,
            version,
            resource: Some(body),
            ..
        } = resource
        else {
            // Only says that the resource is still there.
            return Ok(());
        };
        if !subscription.wants(&name) {
            return Ok(());
        }
        let outcome = if name.is_empty() {
            Err("a resource without a name".to_owned())
        } else if body.type_url == subscription.type_url {
            self.taken.put(subscription.type_url, &name, &body)
        } else {
            Err(format!("is a {}, not a {}", body.type_url, subscription.type_url))
        };
        match outcome {
            Ok(()) => {
                subscription.took(name, version);
                self.is_changed = true;
                Ok(())
            }
            Err(reason) => {
                subscription.rejected.insert(name.clone(), reason.clone());
                self.is_changed = true;
                Err((name, reason))
            }
        }
    }

    fn remove(&mut self, index: usize, name: &str) {
        let subscription = &mut self.types[index];
        if !subscription.lost(name) {
            return;
        }
        self.is_changed = true;
        if subscription.type_url == type_url::ASSIGNMENT {
            // The cluster stays and has no endpoints, which is not the same as endpoints that are still to come.
            let none = ClusterLoadAssignment {
                cluster_name: name.to_owned(),
                ..ClusterLoadAssignment::default()
            };
            let body = Any {
                type_url: type_url::ASSIGNMENT.to_owned(),
                value: none.encode_to_vec(),
            };
            if self.taken.put(subscription.type_url, name, &body).is_ok() {
                return;
            }
        }
        self.taken.remove(subscription.type_url, name);
    }

    /// Asks for what listeners and clusters refer to and nobody sent, and no longer for what nothing refers to.
    fn follow_references(&mut self) -> Vec<DeltaDiscoveryRequest> {
        let mut requests = Vec::new();
        for subscription in &mut self.types {
            if !subscription.follows_references() {
                continue;
            }
            let wanted = self.taken.wanted(subscription.type_url);
            let Some((request, dropped)) = subscription.follow(&wanted) else {
                continue;
            };
            for name in &dropped {
                self.taken.remove(subscription.type_url, name);
            }
            requests.push(request);
        }
        requests
    }
}

/// Whether version `new` is to be shown instead of `old`: by number where both are numbers.
fn is_newer(new: &str, old: &str) -> bool {
    match (new.parse::<u64>(), old.parse::<u64>()) {
        (Ok(new), Ok(old)) => new > old,
        _ => !new.is_empty(),
    }
}

fn answer(type_url: String, nonce: String, refused: Option<String>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url,
        response_nonce: nonce,
        error_detail: refused.map(|message| Status {
            code: INVALID_ARGUMENT,
            message,
            details: Vec::new(),
        }),
        ..DeltaDiscoveryRequest::default()
    }
}

fn list(refused: &[String]) -> String {
    let mut text = refused[..refused.len().min(MOST_NAMED)].join("; ");
    if refused.len() > MOST_NAMED {
        let _ = write!(text, "; and {} more", refused.len() - MOST_NAMED);
    }
    text
}

#[cfg(test)]
mod tests;
