// SPDX-License-Identifier: Apache-2.0
//! What is left on backends that drain, as the kernel counts it. Called by whoever waits for the last byte.
//!
//! Invariant: a backend is only said to be drained if it takes no new connections any more.

use anyhow::Result;
use nodemesh_abi::{Ip16, Port, Vantage, traffic::SHARED_PAIR};
use nodemesh_model::ResourceName;

use super::target::{Backend, DrainTarget};
use crate::{
    admin::report,
    api::{Drained, DrainedBackend},
    datapath::MapReader,
    reconcile::view::View,
};

/// A backend's place in the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Index into `backends`.
    pub id: u32,
    /// Pair of rows in `traffic`.
    pub traffic: u32,
}

/// What is left on a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Open connections and connected UDP sockets.
    pub connections: u64,
    /// Requests in flight.
    pub in_flight: u64,
}

impl Left {
    /// What the kernel counts at `place`.
    pub fn at(place: Place, maps: &MapReader) -> Result<Self> {
        let state = maps.backend_state(place.id)?;
        let mut left = Self {
            connections: state.active,
            in_flight: 0,
        };
        if place.traffic != SHARED_PAIR {
            for vantage in Vantage::ALL {
                // A connection within the node is counted at both ends.
                let row = maps.traffic(vantage.row(place.traffic))?;
                left.connections = left.connections.max(row.connections);
                left.in_flight = left.in_flight.max(row.in_flight);
            }
        }
        Ok(left)
    }

    /// Whether there is nothing.
    pub fn is_nothing(&self) -> bool {
        self.connections == 0 && self.in_flight == 0
    }
}

/// What is left on the backends that `target` names.
pub fn of(target: &DrainTarget, view: &View, maps: &MapReader) -> Result<Drained> {
    let mut backends = Vec::new();
    let mut add = |service: &ResourceName, (addr, port): (Ip16, Port), is_open: bool, place: Place| {
        let left = Left::at(place, maps)?;
        backends.push(DrainedBackend {
            service: service.to_string(),
            backend: report::endpoint(addr, port),
            drained: !is_open && left.is_nothing(),
            connections: left.connections,
            requests_in_flight: left.in_flight,
        });
        anyhow::Ok(())
    };
    for programmed in &view.frontends {
        let frontend = &programmed.frontend;
        for (backend, place) in frontend.backends.iter().zip(&programmed.backends) {
            if target.is(&frontend.service, backend.into()) {
                let place = Place {
                    id: place.id,
                    traffic: place.traffic,
                };
                let endpoint = (backend.addr, backend.port);
                add(&frontend.service, endpoint, backend.is_available(), place)?;
            }
        }
    }
    for (id, retired) in &view.retired {
        let Some(service) = &retired.service else { continue };
        let row = &retired.row;
        let backend = Backend {
            addr: row.addr.into(),
            port: row.port.get(),
            workload: None,
        };
        if target.is(service, backend) {
            let place = Place {
                id: *id,
                traffic: row.traffic,
            };
            add(service, (row.addr, row.port), false, place)?;
        }
    }
    Ok(Drained {
        drained: backends.iter().all(|backend| backend.drained),
        backends,
    })
}
