// SPDX-License-Identifier: Apache-2.0
//! Messages to `Any`, with equal bytes for equal messages of `to_xds`, so that a hash of the bytes is a version on which all
//! replicas of the control plane agree.
//!
//! Envoy's types keep maps in hash maps, which are encoded in random order. `to_xds` writes one such map with several entries:
//! the fields of the metadata of listeners and clusters. It is taken out and appended in the order of its keys, which is the
//! same message (fields of protobuf may come in any order). Invariant: no other map of `to_xds` has two entries.

use std::collections::BTreeMap;

use prost::{Message, Name};

use crate::{
    v1::{PolicyDocument, WorkloadTable},
    xds::{
        envoy::config::{
            cluster::v3::Cluster, core::v3::Metadata, endpoint::v3::ClusterLoadAssignment,
            listener::v3::Listener, route::v3::RouteConfiguration,
        },
        google::protobuf::{Any, Value},
    },
};

/// A resource that can be sent.
pub trait IntoAny {
    /// Its bytes and type URL.
    fn into_any(self) -> Any;
}

impl IntoAny for Listener {
    fn into_any(mut self) -> Any {
        let metadata = self.metadata.take().map(OrderedMetadata::from);
        let mut any = any(&self);
        any.value.extend(ListenerMetadata { metadata }.encode_to_vec());
        any
    }
}

impl IntoAny for Cluster {
    fn into_any(mut self) -> Any {
        let metadata = self.metadata.take().map(OrderedMetadata::from);
        let mut any = any(&self);
        any.value.extend(ClusterMetadata { metadata }.encode_to_vec());
        any
    }
}

impl IntoAny for ClusterLoadAssignment {
    fn into_any(self) -> Any {
        any(&self)
    }
}

impl IntoAny for RouteConfiguration {
    fn into_any(self) -> Any {
        any(&self)
    }
}

impl IntoAny for WorkloadTable {
    fn into_any(self) -> Any {
        any(&self)
    }
}

impl IntoAny for PolicyDocument {
    fn into_any(self) -> Any {
        any(&self)
    }
}

impl Name for WorkloadTable {
    const NAME: &'static str = "WorkloadTable";
    const PACKAGE: &'static str = "nodemesh.v1";

    fn type_url() -> String {
        format!("type.googleapis.com/{}", Self::full_name())
    }
}

impl Name for PolicyDocument {
    const NAME: &'static str = "PolicyDocument";
    const PACKAGE: &'static str = "nodemesh.v1";

    fn type_url() -> String {
        format!("type.googleapis.com/{}", Self::full_name())
    }
}

/// The bytes of `message` and its type URL.
pub(crate) fn any<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    }
}

/// Field 6 of a Listener.
#[derive(Message)]
struct ListenerMetadata {
    #[prost(message, optional, tag = "6")]
    metadata: Option<OrderedMetadata>,
}

/// Field 25 of a Cluster.
#[derive(Message)]
struct ClusterMetadata {
    #[prost(message, optional, tag = "25")]
    metadata: Option<OrderedMetadata>,
}

/// `envoy.config.core.v3.Metadata` in order.
#[derive(Message)]
struct OrderedMetadata {
    #[prost(btree_map = "string, message", tag = "1")]
    filter_metadata: BTreeMap<String, OrderedStruct>,
    #[prost(btree_map = "string, message", tag = "2")]
    typed_filter_metadata: BTreeMap<String, Any>,
}

/// `google.protobuf.Struct` in order.
#[derive(Clone, PartialEq, Message)]
struct OrderedStruct {
    #[prost(btree_map = "string, message", tag = "1")]
    fields: BTreeMap<String, Value>,
}

impl From<Metadata> for OrderedMetadata {
    fn from(metadata: Metadata) -> Self {
        let filter_metadata = metadata.filter_metadata.into_iter().map(|(filter, fields)| {
            let fields = fields.fields.into_iter().collect();
            (filter, OrderedStruct { fields })
        });
        Self {
            filter_metadata: filter_metadata.collect(),
            typed_filter_metadata: metadata.typed_filter_metadata.into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use nodemesh_model::{Manifest, Resources};
    use serde_json::json;

    use super::*;
    use crate::{ServiceResources, to_xds};

    fn resources() -> ServiceResources {
        let manifest = Manifest::from_values([json!({
            "apiVersion": "nodemesh.io/v1alpha1", "kind": "Service", "metadata": {"name": "llama"},
            "spec": {
                "model": "llama-3.1-8b", "addresses": ["10.96.0.1"], "ports": [{"name": "http", "port": 80}],
                "backends": [{"address": "10.1.0.1", "workload": "llama-0"}],
            },
        })]);
        let resources = Resources::merge([("test", &manifest)]).unwrap();
        let service = resources.services().values().next().unwrap();
        to_xds::resources(service, &[], None)
    }

    fn packed(resources: ServiceResources) -> Vec<Any> {
        let ServiceResources {
            listeners,
            api_listeners,
            clusters,
            assignments,
            routes,
            policy,
        } = resources;
        assert_eq!(policy, None);
        let listeners = listeners.into_iter().chain(api_listeners).map(IntoAny::into_any);
        listeners
            .chain(clusters.into_iter().map(IntoAny::into_any))
            .chain(assignments.into_iter().map(IntoAny::into_any))
            .chain(routes.into_iter().map(IntoAny::into_any))
            .collect()
    }

    /// The maps of each run have another order, since each has its own hash function.
    #[test]
    fn equal_resources_have_equal_bytes() {
        let first = packed(resources());
        assert!((0..64).all(|_| packed(resources()) == first));
    }

    #[test]
    fn packing_loses_nothing() {
        let resources = resources();
        let any = resources.listeners[0].clone().into_any();
        assert_eq!(Listener::decode(&*any.value), Ok(resources.listeners[0].clone()));
        let any = resources.clusters[0].clone().into_any();
        assert_eq!(Cluster::decode(&*any.value), Ok(resources.clusters[0].clone()));
    }
}
