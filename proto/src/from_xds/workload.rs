// SPDX-License-Identifier: Apache-2.0
//! The identity table: `nodemesh.v1.WorkloadTable`.
//!
//! A row with neither a cgroup nor an identity is checked and not kept: on a node it tells nothing that the metadata of endpoints
//! does not, and a fleet has many. Rows have an identity where policies tell workloads apart. Invariant: what is kept went through the door of the model.

use std::sync::Arc;

use nodemesh_model::{Kind, Manifest, Resource, Workload, document::document};
use serde_json::{Map, Value, json};

use super::{
    decode::decode,
    notes::{Notes, Place, Read},
};
use crate::v1;

/// Reads a table: its workloads that have a cgroup or an identity.
pub(super) fn read(value: &[u8], notes: &mut Notes) -> Read<Vec<Arc<Workload>>> {
    let root = Place::ROOT;
    let wire: v1::WorkloadTable = decode(value, root, notes)?;
    let mut workloads = Vec::new();
    for (index, row) in wire.workloads.into_iter().enumerate() {
        let place = root.index("workloads", index);
        let is_needed = !(row.cgroup.is_empty() && row.identity.is_empty());
        let workload = workload(row, place)?;
        workloads.extend(workload.filter(|_| is_needed));
    }
    workloads.shrink_to_fit();
    Ok(workloads)
}

fn workload(row: v1::Workload, place: Place<'_>) -> Read<Option<Arc<Workload>>> {
    let v1::Workload {
        namespace,
        name,
        labels,
        addresses,
        cgroup,
        identity,
        place: locality,
    } = row;
    let mut spec = Map::new();
    spec.insert("addresses".to_owned(), addresses.into());
    if !cgroup.is_empty() {
        spec.insert("cgroup".to_owned(), cgroup.into());
    }
    if !identity.is_empty() {
        spec.insert("identity".to_owned(), identity.into());
    }
    if let Some(v1::Place { region, zone, node }) = locality {
        let levels = [("region", region), ("zone", zone), ("node", node)];
        let known = levels.into_iter().filter(|(_, name)| !name.is_empty());
        let known: Map<String, Value> = known
            .map(|(level, name)| (level.to_owned(), name.into()))
            .collect();
        if !known.is_empty() {
            spec.insert("locality".to_owned(), known.into());
        }
    }
    let metadata = json!({"namespace": namespace, "name": name, "labels": labels});
    let manifest = Manifest::from_values([document(Kind::Workload, metadata, spec.into())]);
    if let Some(error) = manifest.errors().listed().first() {
        // The fields of a row are those of the document without its sections.
        let field = error
            .field
            .trim_start_matches("metadata.")
            .trim_start_matches("spec.");
        return place.field(field).refuse(&error.problem);
    }
    Ok(manifest.resources().next().and_then(|resource| match resource {
        Resource::Workload(workload) => Some(Arc::clone(workload)),
        _ => None,
    }))
}
