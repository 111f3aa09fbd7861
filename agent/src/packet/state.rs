// SPDX-License-Identifier: Apache-2.0
//! How the packet path is, as a snapshot. Published by the thread, read by status and metrics.

use std::net::IpAddr;

use nodemesh_abi::{FlowSettings, Source, flow::FlowState};

use crate::datapath::guard::Attachment;

/// The snapshot.
#[derive(Clone, Debug, Default)]
pub struct PacketState {
    /// Whether an interface is named.
    pub is_on: bool,
    /// Interfaces that the programs run on, or should.
    pub interfaces: Vec<Attached>,
    /// Which programs are in force on all of them, and what was put right.
    pub attachment: Attachment,
    /// What is not as it should be, with the remedy.
    pub problems: Vec<String>,
    /// What the programs were told; `None` before the first time.
    pub settings: Option<FlowSettings>,
    /// Flows in the table.
    pub flows: u64,
    /// Flows by [`FlowState`].
    pub by_state: [u64; FlowState::COUNT],
    /// Flows that there is room for.
    pub limit: u64,
    /// Clients that opened the most flows since the table was made, most first.
    pub sources: Vec<(IpAddr, Source)>,
}

/// An interface of the packet path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Its name.
    pub name: String,
    /// Whether the kernel runs both programs there.
    pub is_effective: bool,
    /// How XDP runs there.
    pub xdp: Option<XdpRun>,
}

/// How XDP runs on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpRun {
    /// In the driver.
    Native,
    /// In the kernel's generic hook.
    Generic,
}

impl XdpRun {
    /// The word for people.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// Share of the table from which on flows are looked for that may go: a new flow of a flood must find room.
pub const PRESSURE: f64 = 0.8;

impl PacketState {
    /// How full the table is, 0 to 1.
    pub fn pressure(&self) -> f64 {
        if self.limit == 0 {
            0.0
        } else {
            self.flows as f64 / self.limit as f64
        }
    }

    /// Whether it is so full that expired flows are looked for without rest.
    pub fn is_under_pressure(&self) -> bool {
        self.is_on && self.pressure() >= PRESSURE
    }
}
