// SPDX-License-Identifier: Apache-2.0
//! Who takes part in the demo, and what each of them is for. Read by the stage, which builds it, and the picture, which draws it.

use super::{
    client,
    replica::{self, Speed},
};

/// Names of the nodes.
pub(super) const NODES: [&str; 2] = ["a", "b"];

/// Index of the node with the pod of the control plane.
pub(super) const CONTROL_NODE: usize = 0;

/// Index of the fastest replica.
pub(super) const FASTEST: usize = 0;
/// Index of the replica that is killed.
pub(super) const VICTIM: usize = 1;
/// Index of the replica that leaves.
pub(super) const LEAVING: usize = 2;
/// Index of the slowest replica.
pub(super) const SLOWEST: usize = 3;
/// Index of the replica that joins: those before it are there from the beginning.
pub(super) const NEWCOMER: usize = 4;

/// All replicas.
pub(super) const REPLICAS: [replica::Cast; 5] = [
    replica_cast("replica-1", 0, 50, 5),
    replica_cast("replica-2", 1, 70, 12),
    replica_cast("replica-3", 0, 90, 17),
    replica_cast("replica-4", 1, 170, 20),
    replica_cast("replica-5", 0, 50, 8),
];

/// All clients.
pub(super) const CLIENTS: [client::Cast; 4] = [
    client_cast("client-1", 0, "one-shot", 12, 0),
    client_cast("client-2", 0, "keep-alive", 4, 0),
    client_cast("client-3", 1, "one-shot", 12, 0),
    client_cast("client-4", 1, "one-shot", 6, 1),
];

const fn replica_cast(name: &'static str, node: usize, prefill: u32, token: u32) -> replica::Cast {
    let speed = Speed { prefill, token };
    replica::Cast { name, node, speed }
}

const fn client_cast(
    name: &'static str,
    node: usize,
    mode: &'static str,
    streams: u32,
    address: usize,
) -> client::Cast {
    client::Cast {
        name,
        node,
        mode,
        streams,
        address,
    }
}
