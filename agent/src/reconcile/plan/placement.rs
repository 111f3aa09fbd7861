// SPDX-License-Identifier: Apache-2.0
//! Where a frontend and its backends go: the ids that they have, had until lately, or get. Part of `plan`.
//!
//! Invariant: a placement that fails leaves the pools and the retired backends as they were.

use std::net::IpAddr;

use nodemesh_abi::{Backend, BackendFlags, Ip16, Port, Protocol, ServiceKey, traffic::SHARED_PAIR};
use nodemesh_model::{BackendState, Frontend, FrontendBackend};

use super::{BackendRows, rows_of};
use crate::reconcile::{
    ledger::{BackendId, Ledger, Programmed},
    retired::Retired,
};

/// The place of a frontend.
pub(super) struct Place {
    /// Its service id.
    pub(super) service_id: u32,
    /// The backends that the kernel has under this id.
    pub(super) backends: BackendRows,
    /// Whether the id was taken for this frontend just now.
    fresh: bool,
}

impl Place {
    /// What can be programmed of `frontend` without new ids, and the ids; `None` if it is new.
    ///
    /// It keeps the backends that it has. If the whole configuration `fits`, those that are no longer configured are let go, so
    /// that their ids are there for the others in the end.
    pub(super) fn fallback(&self, frontend: &Frontend, fits: bool) -> Option<(Frontend, Vec<BackendId>)> {
        if self.fresh {
            return None;
        }
        let mut rest = self.backends.clone();
        let mut backends = Vec::with_capacity(rest.len());
        for backend in &frontend.backends {
            if let Some((id, _)) = rest.remove(&(backend.addr, backend.port)) {
                backends.push((backend.clone(), id));
            }
        }
        if !fits {
            backends.extend(rest.into_values().map(|(id, row)| (configured(&row), id)));
        }
        backends.sort_by_key(|(backend, _)| (IpAddr::from(backend.addr), backend.port.get()));
        let (backends, ids) = backends.into_iter().unzip();
        Some((
            Frontend {
                backends,
                ..frontend.clone()
            },
            ids,
        ))
    }
}

/// A backend of which only the row is known.
fn configured(row: &Backend) -> FrontendBackend {
    let available = is_available(row);
    FrontendBackend {
        addr: row.addr,
        port: row.port,
        weight: row.weight,
        state: if available {
            BackendState::Active
        } else {
            BackendState::Draining
        },
        workload: None,
        locality: None,
        is_local: row.flags & BackendFlags::RETURNS != 0,
        tier: 0,
    }
}

fn is_available(row: &Backend) -> bool {
    row.flags & BackendFlags::AVAILABLE != 0
}

/// Ids handed out for one frontend, until it is known that there are enough.
#[derive(Default)]
struct Handed {
    taken: Vec<u32>,
    pairs: Vec<u32>,
    revived: Vec<(u32, Retired)>,
}

impl Ledger {
    /// What the kernel has for a frontend, or a new service id; `None` if there is none left.
    pub(super) fn place(&mut self, former: Option<&Programmed>, key: &ServiceKey) -> Option<Place> {
        if let Some(former) = former {
            return Some(Place {
                service_id: former.service_id,
                backends: rows_of(former),
                fresh: false,
            });
        }
        // The names of a former agent's frontends are not in the kernel: whoever has the address has the service.
        if let Some(id) = self.rows.get(key).map(|row| row.id)
            && let Some(backends) = self.adopted.get(&id)
        {
            return Some(Place {
                service_id: id,
                backends: backends.clone(),
                fresh: false,
            });
        }
        let service_id = self.service_ids.take()?;
        self.unwritten_services.insert(service_id);
        Some(Place {
            service_id,
            backends: BackendRows::new(),
            fresh: true,
        })
    }

    /// Takes a [`Ledger::place`] back that was of no use.
    pub(super) fn vacate(&mut self, place: &Place) {
        if place.fresh {
            self.unwritten_services.remove(&place.service_id);
            self.service_ids.give_back(place.service_id);
        }
    }

    /// An id for each backend: the one it has, the one it had until lately, or a new one; `None` if there are too few.
    pub(super) fn place_backends(
        &mut self,
        frontend: &Frontend,
        place: &mut Place,
        now_ns: u64,
    ) -> Option<Vec<BackendId>> {
        let mut handed = Handed::default();
        let mut places = Vec::with_capacity(frontend.backends.len());
        for backend in &frontend.backends {
            let endpoint = (backend.addr, backend.port);
            let known = place.backends.get(&endpoint).map(|(id, row)| (*id, *row));
            let is_back = known.is_some_and(|(_, row)| backend.is_available() && !is_available(&row));
            let known = known.map(|(id, _)| id);
            let id = known
                .or_else(|| self.revive(place, endpoint, &mut handed, now_ns))
                .or_else(|| self.new_backend(&mut handed, now_ns));
            let Some(mut id) = id else {
                self.take_back(handed, place);
                return None;
            };
            if is_back {
                id.since_ns = now_ns;
            }
            if id.traffic == SHARED_PAIR && frontend.key.protocol == Protocol::Tcp as u8 {
                id.traffic = self.new_pair(&mut handed);
            }
            places.push(id);
        }
        Some(places)
    }

    /// A pair of rows in `traffic`, the shared one if there is no other. Sockets that were counted in the shared one stay there.
    fn new_pair(&mut self, handed: &mut Handed) -> u32 {
        let pair = self.pairs.take();
        handed.pairs.extend(pair);
        pair.unwrap_or(SHARED_PAIR)
    }

    /// A backend that comes back before its last socket is gone keeps its id, so that these sockets stay counted. It starts slowly, as
    /// one that is new.
    fn revive(
        &mut self,
        place: &mut Place,
        endpoint: (Ip16, Port),
        handed: &mut Handed,
        now_ns: u64,
    ) -> Option<BackendId> {
        let id = self.retired.find(place.service_id, endpoint.0, endpoint.1)?;
        let retired = self.retired.remove(id)?;
        let backend = BackendId {
            id,
            generation: retired.row.generation,
            traffic: retired.row.traffic,
            since_ns: now_ns,
        };
        place.backends.insert(endpoint, (backend, retired.row));
        handed.revived.push((id, retired));
        Some(backend)
    }

    fn new_backend(&mut self, handed: &mut Handed, now_ns: u64) -> Option<BackendId> {
        let id = self.backend_ids.take()?;
        handed.taken.push(id);
        self.unwritten_backends.insert(id);
        Some(BackendId {
            id,
            generation: self.generation(),
            traffic: SHARED_PAIR,
            since_ns: now_ns,
        })
    }

    fn take_back(&mut self, handed: Handed, place: &mut Place) {
        for id in handed.taken {
            self.unwritten_backends.remove(&id);
            self.backend_ids.give_back(id);
        }
        for pair in handed.pairs {
            self.pairs.give_back(pair);
        }
        for (id, retired) in handed.revived {
            place.backends.remove(&(retired.row.addr, retired.row.port));
            self.retired.insert(id, retired);
        }
    }
}
