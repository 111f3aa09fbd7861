// SPDX-License-Identifier: Apache-2.0
//! The rows of `flow_services`, and which services have a table in `flow_tables`: the packet path's part of the ledger.
//!
//! Rows are changed by `apply` after each write. Invariant: a service on the packet path has a table before a row names it, and the table
//! of one that left it is emptied only after its last row is gone.

use std::collections::{BTreeSet, HashSet};

use nodemesh_abi::{FlowMode, FlowService, Ip16, Service, ServiceKey, Slot};
use nodemesh_model::{Family, Frontend, PacketMode};

use super::{
    ledger::Programmed,
    service_rows::{Row, ServiceRows},
};

impl Row for FlowService {
    fn service_id(&self) -> u32 {
        self.service.id
    }
}

/// The packet path's rows and tables.
#[derive(Debug, Default)]
pub struct Flows {
    /// Rows as they are in the kernel.
    pub(super) rows: ServiceRows<FlowService>,
    /// Keys of rows that perhaps nobody wants.
    stale: BTreeSet<ServiceKey>,
    /// Services whose table may have backends.
    tabled: HashSet<u32>,
}

impl Flows {
    /// The rows that a former agent left, which nobody wants yet, and the ids of the services that have a table.
    pub fn adopt(
        rows: impl IntoIterator<Item = (ServiceKey, FlowService)>,
        tabled: impl IntoIterator<Item = u32>,
    ) -> Self {
        let mut flows = Self {
            tabled: tabled.into_iter().collect(),
            ..Self::default()
        };
        for (key, row) in rows {
            flows.stale.insert(key);
            flows.rows.insert(key, row);
        }
        flows
    }

    /// The rows of `wanted` that the kernel has not.
    pub fn missing<'a>(
        &'a self,
        wanted: impl IntoIterator<Item = (ServiceKey, FlowService)> + 'a,
    ) -> impl Iterator<Item = (ServiceKey, FlowService)> + 'a {
        let is_missing = |(key, row): &(ServiceKey, FlowService)| self.rows.get(key) != Some(row);
        wanted.into_iter().filter(is_missing)
    }

    /// A frontend that answered at these keys is changed or gone.
    pub fn disclaim(&mut self, frontend: &Frontend) {
        self.stale.extend(keys(frontend));
    }

    /// The rows that lead to nobody in `programmed` who wants them; `rewritten` will be anew.
    pub fn unwanted<'a>(
        &mut self,
        programmed: impl Iterator<Item = &'a Programmed>,
        rewritten: &HashSet<ServiceKey>,
    ) -> Vec<ServiceKey> {
        if self.stale.is_empty() {
            return Vec::new();
        }
        let claimed: HashSet<(ServiceKey, u32)> = programmed
            .flat_map(|programmed| keys(&programmed.frontend).map(|key| (key, programmed.service_id)))
            .collect();
        let rows = &self.rows;
        self.stale.retain(|key| match rows.get(key) {
            Some(row) => !rewritten.contains(key) && !claimed.contains(&(*key, row.service.id)),
            None => false,
        });
        self.stale.iter().copied().collect()
    }

    /// What to put into `flow_tables` for a service whose table is to be `table`; `None` if there is nothing and was nothing.
    pub fn table(
        &mut self,
        service_id: u32,
        table: impl FnOnce() -> Vec<Slot>,
        is_on: bool,
    ) -> Option<Vec<Slot>> {
        if is_on {
            self.tabled.insert(service_id);
            return Some(table());
        }
        self.tabled.contains(&service_id).then(|| vec![Slot::EMPTY])
    }

    /// Whether the table of a service may have backends.
    pub fn has_table(&self, service_id: u32) -> bool {
        self.tabled.contains(&service_id)
    }

    /// The table of a service that no row names was emptied.
    pub fn emptied(&mut self, service_id: u32) {
        if !self.rows.names(service_id) {
            self.tabled.remove(&service_id);
        }
    }
}

/// The rows of a frontend whose row in `services` is `service`.
pub(super) fn rows(frontend: &Frontend, service: Service) -> impl Iterator<Item = (ServiceKey, FlowService)> {
    let mode = frontend.packet.as_ref().map(|packet| match packet.mode {
        PacketMode::Snat | PacketMode::Preserve => FlowMode::Nat,
        PacketMode::Dsr => FlowMode::Direct,
    });
    keys(frontend).zip(std::iter::repeat(FlowService {
        // Its table holds the backends of all tiers, so that every node maps a flow alike.
        service: Service { tiers: 0, ..service },
        mode: mode.map_or(0, |mode| mode as u8),
        pad: [0; 3],
    }))
}

/// Where a frontend answers on the packet path: its own address, external ones, and its node port, whose address is unspecified.
fn keys(frontend: &Frontend) -> impl Iterator<Item = ServiceKey> {
    let own = frontend.key;
    let packet = frontend.packet.as_ref();
    let external = packet
        .iter()
        .flat_map(|packet| packet.external.iter())
        .map(|address| ServiceKey {
            addr: *address,
            ..own
        })
        .collect::<Vec<_>>();
    let node_port = packet.and_then(|packet| packet.node_port).map(|port| ServiceKey {
        addr: unspecified(frontend.name().family),
        port,
        ..own
    });
    let virtual_address = packet.map(|_| own);
    virtual_address.into_iter().chain(external).chain(node_port)
}

fn unspecified(family: Family) -> Ip16 {
    match family {
        Family::V4 => Ip16::from_v4_word(0),
        Family::V6 => Ip16::UNSPECIFIED,
    }
}

/// Whether replies of a frontend's local backends pass this node whatever address they are for, and may so keep the client's.
pub(super) fn preserves(frontend: &Frontend) -> bool {
    let packet = frontend.packet.as_ref();
    packet.is_some_and(|packet| packet.mode == PacketMode::Preserve)
}
