// SPDX-License-Identifier: Apache-2.0
//! Workloads as rows of the identity table.
//!
//! Invariant: weight and state are not in it: they are those of the endpoints, and would change the table each time a replica
//! drains.

use nodemesh_model::Workload;

use crate::v1;

/// The row of `workload`.
pub fn workload(workload: &Workload) -> v1::Workload {
    let name = &workload.metadata.name;
    v1::Workload {
        namespace: name.namespace().to_owned(),
        name: name.name().to_owned(),
        labels: workload.metadata.labels.clone(),
        addresses: workload.addresses.iter().map(ToString::to_string).collect(),
        cgroup: workload.cgroup.as_deref().unwrap_or_default().to_owned(),
        identity: String::new(),
    }
}

/// The resource of `workload`: its name, `namespace/name`, and a table of one row.
pub fn workload_table(model: &Workload) -> (String, v1::WorkloadTable) {
    let table = v1::WorkloadTable {
        workloads: vec![workload(model)],
    };
    (model.metadata.name.to_string(), table)
}
