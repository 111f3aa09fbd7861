// SPDX-License-Identifier: Apache-2.0
//! The metadata of xDS resources under the filter name `nodemesh.io`: what Envoy's own fields cannot express.
//!
//! Written by `to_xds`, read by `from_xds`. Invariant: the keys below are all there are; a key of another name is reported by
//! the reader.

use std::fmt;

use crate::{
    from_xds::notes::{IGNORED, Notes, Place, Read},
    xds::{
        envoy::config::core::v3::Metadata,
        google::protobuf::{Struct, Value, value::Kind},
    },
};

/// The filter name.
pub const FILTER: &str = "nodemesh.io";

/// Listener: namespace of the service.
pub const NAMESPACE: &str = "namespace";
/// Listener: name of the service.
pub const NAME: &str = "name";
/// Listener: model that the replicas serve.
pub const MODEL: &str = "model";
/// Listener: name of the port.
pub const PORT_NAME: &str = "port_name";
/// Listener: how the packet path serves the service, `snat`, `preserve` or `dsr`.
pub const PACKET_PATH: &str = "packet_path";
/// Listener: addresses of the service on the packet path beside the virtual ones, with commas between them.
pub const EXTERNAL_ADDRESSES: &str = "external_addresses";
/// Listener: port at which every node answers on the packet path.
pub const NODE_PORT: &str = "node_port";
/// Cluster: what identifies a client, `workload` or `address`.
pub const CLIENT_KEY: &str = "client_key";
/// Cluster: seconds that a client stays with its replica.
pub const AFFINITY_TIMEOUT: &str = "affinity_timeout_s";
/// Cluster: port of the replicas that name none of their own.
pub const TARGET_PORT: &str = "target_port";
/// Cluster: name of the document of what holds besides balancing.
pub const POLICY: &str = "policy";
/// Locality: `endpoints` if its weight is the sum of what its available endpoints weigh, and so says nothing more.
pub const WEIGHT: &str = "weight";
/// The value of [`WEIGHT`].
pub const OF_ENDPOINTS: &str = "endpoints";
/// Endpoint: name of its Workload within the namespace of the service.
pub const WORKLOAD: &str = "workload";

/// A value to write.
pub(crate) enum Field<'a> {
    Text(&'a str),
    Number(u32),
}

/// The metadata with those of `fields` that have a value; `None` without any.
pub(crate) fn write<'a>(
    fields: impl IntoIterator<Item = (&'static str, Option<Field<'a>>)>,
) -> Option<Metadata> {
    let fields: Vec<_> = fields
        .into_iter()
        .filter_map(|(key, field)| {
            let kind = match field? {
                Field::Text(text) => Kind::StringValue(text.to_owned()),
                Field::Number(number) => Kind::NumberValue(number.into()),
            };
            Some((key.to_owned(), Value { kind: Some(kind) }))
        })
        .collect();
    if fields.is_empty() {
        return None;
    }
    let fields = Struct {
        fields: fields.into_iter().collect(),
    };
    Some(Metadata {
        filter_metadata: [(FILTER.to_owned(), fields)].into(),
        ..Metadata::default()
    })
}

/// The fields of a resource under [`FILTER`].
pub(crate) struct Fields<'a> {
    fields: Option<&'a Struct>,
    place: Place<'a>,
}

/// Reads the fields of the metadata at `place`; those whose keys are not `known` are noted.
pub(crate) fn read<'a>(
    metadata: Option<&'a Metadata>,
    known: &[&str],
    place: &'a Place<'a>,
    notes: &mut Notes,
) -> Fields<'a> {
    let fields = metadata.and_then(|metadata| metadata.filter_metadata.get(FILTER));
    let place = place.key("metadata", FILTER);
    let mut unknown: Vec<_> = fields
        .iter()
        .flat_map(|fields| fields.fields.keys())
        .filter(|key| !known.contains(&key.as_str()))
        .collect();
    unknown.sort_unstable();
    for key in unknown {
        notes.add(place.key("", key), "", IGNORED);
    }
    Fields { fields, place }
}

impl<'a> Fields<'a> {
    /// The text of `key`, if it is there.
    pub(crate) fn text(&self, key: &str) -> Read<Option<&'a str>> {
        match self.kind(key) {
            None => Ok(None),
            Some(Kind::StringValue(text)) => Ok(Some(text)),
            Some(_) => self.refuse(key, "is no text; write a string"),
        }
    }

    /// The whole number of `key`, if it is there.
    #[expect(clippy::cast_sign_loss, reason = "checked not to be negative")]
    pub(crate) fn number(&self, key: &str) -> Read<Option<u32>> {
        match self.kind(key) {
            None => Ok(None),
            Some(Kind::NumberValue(number)) if is_whole(*number) => Ok(Some(*number as u32)),
            Some(_) => self.refuse(key, "is no whole number of 32 bits"),
        }
    }

    /// Refuses the resource for what stands at `key`.
    pub(crate) fn refuse<T>(&self, key: &str, reason: impl fmt::Display) -> Read<T> {
        self.place.field(key).refuse(reason)
    }

    fn kind(&self, key: &str) -> Option<&'a Kind> {
        self.fields?.fields.get(key)?.kind.as_ref()
    }
}

fn is_whole(number: f64) -> bool {
    number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number)
}
