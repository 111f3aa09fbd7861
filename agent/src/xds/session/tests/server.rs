// SPDX-License-Identifier: Apache-2.0
//! A server of incremental ADS, as simple as the protocol allows: what a reader asked for and what it was sent.

use std::collections::{BTreeMap, BTreeSet};

use nodemesh_proto::xds::{
    envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource},
    google::protobuf::Any,
};

/// The state of the server, and of its one stream.
#[derive(Debug, Default)]
pub(super) struct Server {
    /// Version and body by type and name.
    pub(super) state: BTreeMap<(&'static str, String), (u64, Vec<u8>)>,
    next_version: u64,
    streams: BTreeMap<String, Reader>,
    pub(super) sent: usize,
}

#[derive(Debug, Default)]
struct Reader {
    wildcard: bool,
    names: BTreeSet<String>,
    /// Version of what the reader has, as far as the server knows; 0 for what it was told is not there.
    has: BTreeMap<String, u64>,
    is_answered: bool,
}

impl Server {
    pub(super) fn put(&mut self, type_url: &'static str, name: &str, body: &[u8]) {
        self.next_version += 1;
        self.state
            .insert((type_url, name.to_owned()), (self.next_version, body.to_vec()));
    }

    pub(super) fn remove(&mut self, type_url: &'static str, name: &str) {
        self.state.remove(&(type_url, name.to_owned()));
    }

    /// The stream broke.
    pub(super) fn disconnect(&mut self) {
        self.streams.clear();
    }

    pub(super) fn request(&mut self, request: &DeltaDiscoveryRequest) {
        let is_first = !self.streams.contains_key(&request.type_url);
        let reader = self.streams.entry(request.type_url.clone()).or_default();
        let names = &request.resource_names_subscribe;
        if is_first {
            reader.wildcard = names.is_empty();
            let versions = request.initial_resource_versions.iter();
            reader.has = versions
                .map(|(name, version)| (name.clone(), version.parse().expect("a version of ours")))
                .collect();
            // A reader that has everything need not hear so.
            reader.is_answered = !reader.has.is_empty();
        }
        for name in names {
            if name == "*" {
                reader.wildcard = true;
            } else {
                reader.names.insert(name.clone());
                if !is_first {
                    reader.has.remove(name);
                }
            }
        }
        for name in &request.resource_names_unsubscribe {
            reader.names.remove(name);
            if !reader.wildcard {
                reader.has.remove(name);
            }
        }
    }

    /// What one type is owed, at most `most` resources of it.
    pub(super) fn respond(&mut self, type_url: &str, most: usize) -> Option<DeltaDiscoveryResponse> {
        let reader = self.streams.get_mut(type_url)?;
        let there: BTreeMap<&String, &(u64, Vec<u8>)> = self
            .state
            .iter()
            .filter(|((held, name), _)| *held == type_url && (reader.wildcard || reader.names.contains(name)))
            .map(|((_, name), resource)| (name, resource))
            .collect();
        let news = there
            .iter()
            .filter(|(name, (version, _))| reader.has.get(**name) != Some(version));
        let resources: Vec<Resource> = news
            .take(most)
            .map(|(name, (version, body))| Resource {
                name: (*name).clone(),
                version: version.to_string(),
                resource: Some(Any {
                    type_url: type_url.to_owned(),
                    value: body.clone(),
                }),
                ..Resource::default()
            })
            .collect();
        let unknown = reader.names.iter().filter(|name| !reader.has.contains_key(*name));
        let had = reader.has.iter().filter(|(_, version)| **version != 0);
        let removed: BTreeSet<String> = had
            .map(|(name, _)| name)
            .chain(unknown)
            .filter(|name| !there.contains_key(name))
            .cloned()
            .collect();
        if resources.is_empty() && removed.is_empty() && reader.is_answered {
            return None;
        }
        reader.is_answered = true;
        for resource in &resources {
            let version = resource.version.parse().expect("a version of ours");
            reader.has.insert(resource.name.clone(), version);
        }
        for name in &removed {
            if reader.names.contains(name) {
                reader.has.insert(name.clone(), 0);
            } else {
                reader.has.remove(name);
            }
        }
        self.sent += resources.len();
        Some(DeltaDiscoveryResponse {
            system_version_info: self.next_version.to_string(),
            type_url: type_url.to_owned(),
            nonce: self.sent.to_string(),
            resources,
            removed_resources: removed.into_iter().collect(),
            ..DeltaDiscoveryResponse::default()
        })
    }
}
