// SPDX-License-Identifier: Apache-2.0
//! Looks at every open request of the node once per second: how many, in which phase, which of them are silent; and compares
//! what the records hold with what the kernel counted in flight.
//!
//! ```text
//! iterator `sweep` (settles quiet exchanges) ─► records ─► activity per row ─► Sweep ─► metrics, status, top, connections
//!                                                  └─► drift: two sweeps agree ─► program `correct`
//! ```
//!
//! Everything is per row of `traffic`, which is a backend and a vantage. Owned by one thread ([`thread`]); readers get snapshots by
//! watch. Invariant: a snapshot is of one pass over the records, and nothing here waits for traffic.

pub mod activity;
pub mod correct;
pub mod drift;
pub mod stall;
pub mod thread;

use std::{collections::HashMap, time::Duration};

use nodemesh_abi::Vantage;

pub use activity::RowActivity;
pub use stall::StallLimits;

/// What one pass saw.
#[derive(Clone, Debug, Default)]
pub struct Sweep {
    /// What goes on, by index into `traffic`; rows without open requests and opaque connections are left out.
    pub rows: HashMap<u32, RowActivity>,
    /// When a request counts as stalled, by index into `traffic`, for every row that has been used.
    pub limits: HashMap<u32, StallLimits>,
    /// How long the pass took; zero before the first.
    pub duration: Duration,
    /// Rows whose number in flight was corrected since the agent started.
    pub corrections: u64,
}

impl Sweep {
    /// What goes on in a row.
    pub fn row(&self, row: u32) -> RowActivity {
        self.rows.get(&row).copied().unwrap_or_default()
    }

    /// When a request of a row counts as stalled.
    pub fn limits(&self, row: u32) -> StallLimits {
        self.limits.get(&row).copied().unwrap_or_default()
    }

    /// Stalled requests of the node: as its clients and as its servers see them.
    pub fn stalled(&self) -> [u64; 2] {
        Vantage::ALL.map(|vantage| {
            let rows = self.rows.iter().filter(|(row, _)| *row % 2 == vantage as u32);
            rows.map(|(_, activity)| activity.stalled).sum()
        })
    }
}
