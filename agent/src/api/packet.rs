// SPDX-License-Identifier: Apache-2.0
//! The packet path's part of the status.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How the packet path is; absent where it is off.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PacketStatus {
    /// Interfaces that it is on.
    pub interfaces: Vec<PacketInterface>,
    /// What is not as it should be.
    pub problems: Vec<String>,
    /// Addresses from which backends are spoken to where the client's is not kept.
    pub nat_addresses: Vec<String>,
    /// Flows that are tracked.
    pub flows: u64,
    /// Flows that there is room for.
    pub flow_limit: u64,
    /// Flows by state.
    pub states: BTreeMap<String, u64>,
    /// What became of packets and flows since the tables were made.
    pub events: BTreeMap<String, PacketEvent>,
    /// Clients that opened the most flows, most first.
    pub sources: Vec<PacketSource>,
    /// Whether the table is so full that flows which are not established have to make room.
    pub under_pressure: bool,
}

/// An interface of the packet path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketInterface {
    /// Its name.
    pub name: String,
    /// Whether the kernel runs the programs there.
    pub effective: bool,
    /// How XDP runs there: `native`, `generic`; absent where it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xdp: Option<String>,
}

/// How often something happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketEvent {
    /// Packets; of what happens in the table, flows.
    pub packets: u64,
    /// Bytes of these packets.
    pub bytes: u64,
}

/// A client of the packet path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketSource {
    /// Its address.
    pub address: String,
    /// Flows that it opened.
    pub opened: u64,
    /// Flows for which it found no place.
    pub refused: u64,
}
