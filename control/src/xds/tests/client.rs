// SPDX-License-Identifier: Apache-2.0
//! A reader as Envoy or the agent is one, on the delta variant: all clusters and listeners, and by name what those lead to.
//!
//! Messages in both directions wait in queues until the test delivers them. After each, what the reader has is checked: a listener
//! leads to clusters that are there and have endpoints.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use nodemesh_proto::xds::{
    envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    google::{protobuf::Any, rpc::Status},
};

use crate::xds::{
    Limits, Resource, Snapshot, Stream, TypeUrl, Variant,
    delta::{WILDCARD, write},
    references,
    subscription::{PATIENCE, Subscription},
};

const TYPES: [TypeUrl; 4] = [
    TypeUrl::Cluster,
    TypeUrl::Endpoints,
    TypeUrl::Listener,
    TypeUrl::Route,
];

/// What a reader has of one type: the version and the content by name.
type Held = BTreeMap<String, (String, Any)>;

/// The reader, its connection, and the server's end of that.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) held: BTreeMap<TypeUrl, Held>,
    asked: BTreeMap<TypeUrl, BTreeSet<String>>,
    /// It rejected something, or was too slow to be waited for: what is incomplete then is its own fault.
    is_at_fault: bool,
    /// It asks for listeners at once, not after its first clusters.
    is_eager: bool,
    stream: Stream,
    up: VecDeque<DeltaDiscoveryRequest>,
    down: VecDeque<DeltaDiscoveryResponse>,
    pub(super) received: usize,
}

impl Client {
    pub(super) fn connect(is_eager: bool, limits: Limits) -> Self {
        let mut client = Self {
            held: BTreeMap::new(),
            asked: BTreeMap::new(),
            is_at_fault: false,
            is_eager,
            stream: Stream::new(Variant::Delta, limits),
            up: VecDeque::new(),
            down: VecDeque::new(),
            received: 0,
        };
        client.hello();
        client
    }

    /// Loses the connection with all that is in it, and opens another, by which it says what it has.
    pub(super) fn reconnect(&mut self) {
        self.stream = Stream::new(Variant::Delta, self.stream.limits.clone());
        self.up.clear();
        self.down.clear();
        // One that asked for listeners once does so at once.
        self.is_eager |= self.asked.contains_key(&TypeUrl::Listener);
        self.asked.clear();
        self.hello();
    }

    fn hello(&mut self) {
        self.ask_all(TypeUrl::Cluster);
        self.follow(&TypeUrl::Endpoints);
        if self.is_eager {
            self.ask_all(TypeUrl::Listener);
        }
        self.follow(&TypeUrl::Route);
    }

    fn ask_all(&mut self, type_url: TypeUrl) {
        if self.asked.contains_key(&type_url) {
            return;
        }
        let request = DeltaDiscoveryRequest {
            initial_resource_versions: self.versions(&type_url),
            ..request(&type_url)
        };
        self.asked.insert(type_url, BTreeSet::from([WILDCARD.to_owned()]));
        self.up.push_back(request);
    }

    /// Asks by name for what it needs, and no longer for what it does not.
    fn follow(&mut self, type_url: &TypeUrl) {
        let needed = self.needed(type_url);
        let is_first = !self.asked.contains_key(type_url);
        let asked = self.asked.entry(type_url.clone()).or_default();
        let subscribe: Vec<String> = needed.difference(asked).cloned().collect();
        let unsubscribe: Vec<String> = asked.difference(&needed).cloned().collect();
        if subscribe.is_empty() && unsubscribe.is_empty() {
            if is_first {
                self.asked.remove(type_url);
            }
            return;
        }
        *asked = needed.clone();
        let held = self.held.entry(type_url.clone()).or_default();
        held.retain(|name, _| needed.contains(name));
        let initial_resource_versions = if is_first {
            self.versions(type_url)
        } else {
            HashMap::default()
        };
        let request = DeltaDiscoveryRequest {
            resource_names_subscribe: subscribe,
            resource_names_unsubscribe: unsubscribe,
            initial_resource_versions,
            ..request(type_url)
        };
        self.up.push_back(request);
    }

    fn needed(&self, type_url: &TypeUrl) -> BTreeSet<String> {
        let all = TYPES.iter().flat_map(|of_type| self.held(of_type).values());
        let references = all.flat_map(|(_, any)| references::of(any));
        references
            .filter(|(of_type, _)| of_type == type_url)
            .map(|(_, name)| name.to_string())
            .collect()
    }

    fn versions(&self, type_url: &TypeUrl) -> HashMap<String, String> {
        let held = self.held(type_url).iter();
        held.map(|(name, (version, _))| (name.clone(), version.clone()))
            .collect()
    }

    fn held(&self, type_url: &TypeUrl) -> &Held {
        static NOTHING: Held = Held::new();
        self.held.get(type_url).unwrap_or(&NOTHING)
    }

    /// The server takes in the next request, if there is one, and sends what it has to send.
    pub(super) fn deliver_up(&mut self, snapshot: &Snapshot) -> bool {
        let request = self.up.pop_front();
        if let Some(request) = &request {
            self.stream
                .on_delta(request, snapshot)
                .expect("a request within the limits");
        }
        let responses = self.stream.poll(snapshot);
        let is_news = request.is_some() || !responses.is_empty();
        self.down.extend(responses.into_iter().map(write));
        assert!(
            self.down.len() <= TYPES.len(),
            "more than one response per type: {:?}",
            self.down
        );
        is_news
    }

    /// The reader takes in the next response, or rejects all of it.
    pub(super) fn deliver_down(&mut self, is_rejected: bool, ack_first: bool) -> bool {
        let Some(response) = self.down.pop_front() else {
            return false;
        };
        self.received += 1;
        let type_url = TypeUrl::from(response.type_url.as_str());
        let mut answer = request(&type_url);
        answer.response_nonce.clone_from(&response.nonce);
        if is_rejected {
            answer.error_detail = Some(Status {
                code: 3,
                message: "no".to_owned(),
                ..Status::default()
            });
            self.is_at_fault = true;
            self.up.push_back(answer);
            return true;
        }
        if ack_first {
            self.up.push_back(answer.clone());
        }
        self.apply(&type_url, response);
        self.check();
        self.follow(&TypeUrl::Endpoints);
        self.ask_all(TypeUrl::Listener);
        self.follow(&TypeUrl::Route);
        if !ack_first {
            self.up.push_back(answer);
        }
        true
    }

    fn apply(&mut self, type_url: &TypeUrl, response: DeltaDiscoveryResponse) {
        let asked = &self.asked[type_url];
        let is_wanted = |name: &String| asked.contains(WILDCARD) || asked.contains(name);
        let held = self.held.entry(type_url.clone()).or_default();
        for resource in response.resources {
            // It may have been asked for when the response was written.
            if is_wanted(&resource.name) {
                let any = resource.resource.expect("a resource has content");
                held.insert(resource.name, (resource.version, any));
            }
        }
        for name in response.removed_resources {
            held.remove(&name);
        }
    }

    /// What is in use is complete: a listener, its clusters, their endpoints. A listener whose routes are on the way is not in use.
    fn check(&self) {
        if self.is_at_fault {
            return;
        }
        for of_type in [TypeUrl::Listener, TypeUrl::Route] {
            for (name, (_, any)) in self.held(&of_type) {
                for (to_type, to) in references::of(any) {
                    if to_type == TypeUrl::Cluster {
                        assert!(
                            self.held(&TypeUrl::Cluster).contains_key(to.as_ref()),
                            "{name} leads to no {to}"
                        );
                        assert!(
                            self.held(&TypeUrl::Endpoints).contains_key(to.as_ref()),
                            "{name}: {to} is empty"
                        );
                    }
                }
            }
        }
    }

    /// Whether the routes of every listener have come.
    pub(super) fn has_routes(&self) -> bool {
        let needed = self.needed(&TypeUrl::Route);
        needed
            .iter()
            .all(|name| self.held(&TypeUrl::Route).contains_key(name))
    }

    /// Time passes while messages are on their way.
    pub(super) fn tick(&mut self, snapshot: &Snapshot) {
        self.is_at_fault |= !(self.up.is_empty() && self.down.is_empty());
        self.stream.tick().expect("answers come");
        self.deliver_up(snapshot);
    }

    /// Delivers until nothing moves, not even in time.
    pub(super) fn settle(&mut self, snapshot: &Snapshot) {
        for _ in 0..=2 * PATIENCE {
            while self.deliver_up(snapshot) || self.deliver_down(false, true) {}
            self.tick(snapshot);
        }
        while self.deliver_up(snapshot) || self.deliver_down(false, true) {}
    }

    /// Whether it has all of this, in this form, and nothing else.
    pub(super) fn assert_has(&self, resources: &BTreeMap<(TypeUrl, String), Any>) {
        let held: BTreeMap<_, _> = TYPES
            .iter()
            .flat_map(|of_type| {
                let held = self.held(of_type).iter();
                held.map(|(name, (_, any))| ((of_type.clone(), name.clone()), any.clone()))
            })
            .collect();
        assert_eq!(&held, resources);
        for ((type_url, name), any) in resources {
            assert_eq!(
                self.held(type_url)[name].0,
                Arc::new(Resource::new(any.clone())).version()
            );
        }
    }

    /// Memory that the server keeps for it, in entries that it does not share with the cache.
    pub(super) fn own_entries(&self, snapshot: &Snapshot) -> usize {
        let of_type = |(type_url, subscription): (&TypeUrl, &Subscription)| {
            let is_shared = subscription.held.ptr_eq(&snapshot.resources(type_url));
            subscription.pending.len()
                + subscription.names.len()
                + if is_shared { 0 } else { subscription.held.len() }
        };
        self.stream.types.iter().map(of_type).sum()
    }
}

fn request(type_url: &TypeUrl) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: type_url.to_string(),
        ..DeltaDiscoveryRequest::default()
    }
}
