// SPDX-License-Identifier: Apache-2.0
//! Workloads as rows of the identity table.
//!
//! Invariant: weight and state are not in it: they are those of the endpoints, and would change the table each time a replica drains.
//! The locality is, of those that have a cgroup: it tells an agent where its node is.

use nodemesh_model::{Locality, Workload};

use crate::v1;

/// How much the rows say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// No identity but a client's own: where no access policy tells workloads apart.
    Compact,
    /// All that an access policy can tell them apart by.
    Whole,
}

/// The row of `workload`.
pub fn workload(workload: &Workload, rows: Rows) -> v1::Workload {
    let name = &workload.metadata.name;
    v1::Workload {
        namespace: name.namespace().to_owned(),
        name: name.name().to_owned(),
        labels: workload.metadata.labels.clone(),
        addresses: workload.addresses.iter().map(ToString::to_string).collect(),
        cgroup: workload.cgroup.as_deref().unwrap_or_default().to_owned(),
        identity: match (rows, workload.own_identity()) {
            (Rows::Whole, _) => workload.identity.to_string(),
            (Rows::Compact, Some(own)) if workload.cgroup.is_some() => own.to_owned(),
            (Rows::Compact, _) => String::new(),
        },
        place: workload
            .locality
            .as_deref()
            .filter(|_| workload.cgroup.is_some())
            .map(place),
    }
}

fn place(locality: &Locality) -> v1::Place {
    let level = |name: &Option<std::sync::Arc<str>>| name.as_deref().unwrap_or_default().to_owned();
    v1::Place {
        region: level(&locality.region),
        zone: level(&locality.zone),
        node: level(&locality.node),
    }
}

/// The resource of `workload`: its name, `namespace/name`, and a table of one row.
pub fn workload_table(model: &Workload, rows: Rows) -> (String, v1::WorkloadTable) {
    let table = v1::WorkloadTable {
        workloads: vec![workload(model, rows)],
    };
    (model.metadata.name.to_string(), table)
}
