// SPDX-License-Identifier: Apache-2.0
//! The plan: which rows must change so that the kernel does what is desired. Pure: no I/O and no clock.
//!
//! Called by the reconciler's thread; `apply` carries it out. Invariant: the fields of [`Plan`] are in the only safe order.
//! What is referred to is written before what refers to it, and removed after.

use std::{collections::HashMap, sync::Arc};

use nodemesh_abi::{Backend, BackendFlags, Ip16, Port, Service, ServiceKey, Slot};
use nodemesh_model::{BackendState, Desired, Frontend, FrontendName};

use super::{
    ledger::{BackendId, Ledger, Programmed},
    retired::Retired,
};

/// A backend's row to write.
#[derive(Debug, PartialEq)]
pub struct PutBackend {
    /// The frontend it is for.
    pub frontend: FrontendName,
    /// Its id.
    pub id: u32,
    /// The row.
    pub row: Backend,
    /// Whether the id was not in use, so that its counters must start from zero.
    pub fresh: bool,
}

/// A slot table to put in place.
#[derive(Debug, PartialEq)]
pub struct SwapTable {
    /// The frontend it is for.
    pub frontend: FrontendName,
    /// Its service id.
    pub service_id: u32,
    /// The table.
    pub slots: Vec<Slot>,
    /// Whether the id was not in use, so that its counters must start from zero.
    pub fresh: bool,
}

/// A service row to write.
#[derive(Debug, PartialEq)]
pub struct PutService {
    /// The frontend it is for.
    pub frontend: FrontendName,
    /// The address.
    pub key: ServiceKey,
    /// The row.
    pub row: Service,
}

/// Why a frontend is not programmed, or not as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The frontend.
    pub frontend: FrontendName,
    /// Which map is full.
    pub map: &'static str,
    /// Its capacity.
    pub capacity: u32,
}

/// The writes, in the order in which they must happen.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// First the backends: nothing refers to new ones yet.
    pub backends: Vec<PutBackend>,
    /// Then the tables that name them.
    pub tables: Vec<SwapTable>,
    /// Then the services that name the tables.
    pub services: Vec<PutService>,
    /// Services that are gone.
    pub deleted: Vec<ServiceKey>,
    /// Tables of services that are gone: emptied, to free their memory.
    pub emptied: Vec<u32>,
    /// Backends that are gone: no longer available, kept until their last socket is closed.
    pub retired: Vec<(u32, Backend)>,
    /// Frontends for which there is no room; what they were before stays.
    pub rejected: Vec<Rejected>,
}

impl Plan {
    /// Whether the kernel already is as desired.
    pub fn is_empty(&self) -> bool {
        self.backends.is_empty()
            && self.tables.is_empty()
            && self.services.is_empty()
            && self.deleted.is_empty()
            && self.emptied.is_empty()
            && self.retired.is_empty()
    }
}

/// What is already in the kernel for a frontend.
struct Former {
    service_id: u32,
    key: Option<ServiceKey>,
    row: Option<Service>,
    backends: HashMap<(Ip16, Port), (BackendId, Backend)>,
    fresh: bool,
}

impl Ledger {
    /// Plans the way to `desired` and books it as done; `apply` reports what could not be done.
    pub fn plan(&mut self, desired: &Desired) -> Plan {
        let mut plan = Plan::default();
        let mut stale_keys = self.remove_undesired(desired, &mut plan);
        for (name, frontend) in &desired.frontends {
            self.plan_frontend(name, frontend, &mut plan, &mut stale_keys);
        }
        self.drop_unclaimed(desired, &mut plan, &mut stale_keys);
        // An address may have moved from one frontend to another: then it is not stale but rewritten.
        let rewritten: std::collections::HashSet<&ServiceKey> = self
            .programmed
            .values()
            .map(|programmed| &programmed.frontend.key)
            .collect();
        plan.deleted = stale_keys
            .into_iter()
            .filter(|key| !rewritten.contains(key))
            .collect();
        plan
    }

    /// Books out the frontends that are no longer desired; their ids stay out until their sockets are gone.
    fn remove_undesired(&mut self, desired: &Desired, plan: &mut Plan) -> Vec<ServiceKey> {
        let gone: Vec<FrontendName> = self
            .programmed
            .keys()
            .filter(|name| !desired.frontends.contains_key(name))
            .cloned()
            .collect();
        let mut stale_keys = Vec::with_capacity(gone.len());
        for name in gone {
            let Some(programmed) = self.programmed.remove(&name) else {
                continue;
            };
            self.dirty.remove(&name);
            stale_keys.push(programmed.frontend.key);
            let rows = rows_of(&programmed);
            self.retire_service(programmed.service_id, rows, Some(&programmed), plan);
        }
        stale_keys
    }

    fn plan_frontend(
        &mut self,
        name: &FrontendName,
        frontend: &Arc<Frontend>,
        plan: &mut Plan,
        stale_keys: &mut Vec<ServiceKey>,
    ) {
        let former = self.programmed.get(name).cloned();
        let dirty = self.dirty.contains(name);
        if !dirty
            && former
                .as_ref()
                .is_some_and(|former| Arc::ptr_eq(&former.frontend, frontend))
        {
            return;
        }
        let adopted_key = former.is_none().then_some(frontend.key);
        let Some(mut place) = self.former(former.as_deref(), &frontend.key) else {
            plan.rejected
                .push(self.rejection(name, nodemesh_abi::names::map::SERVICES));
            return;
        };
        let Some(backends) = self.place_backends(frontend, &mut place) else {
            if place.fresh {
                self.service_ids.give_back(place.service_id);
            }
            plan.rejected
                .push(self.rejection(name, nodemesh_abi::names::map::BACKENDS));
            return;
        };
        if let Some(key) = adopted_key {
            self.adopted.remove(&key);
        }
        self.dirty.remove(name);

        let programmed = Arc::new(Programmed {
            name: name.clone(),
            frontend: frontend.clone(),
            service_id: place.service_id,
            backends,
        });
        self.emit(&programmed, &place, dirty, plan);
        let kept: std::collections::HashSet<u32> =
            programmed.backends.iter().map(|backend| backend.id).collect();
        for (_, (backend, row)) in place.backends {
            if !kept.contains(&backend.id) {
                self.retire(backend.id, row, Some(&programmed), plan);
            }
        }
        if let Some(key) = place.key.filter(|key| *key != frontend.key) {
            stale_keys.push(key);
        }
        self.programmed.insert(name.clone(), programmed);
    }

    /// What the kernel has for a frontend, or a new service id; `None` if there is none left.
    fn former(&mut self, former: Option<&Programmed>, key: &ServiceKey) -> Option<Former> {
        if let Some(former) = former {
            return Some(Former {
                service_id: former.service_id,
                key: Some(former.frontend.key),
                row: Some(service_row(former.service_id, &former.frontend)),
                backends: rows_of(former),
                fresh: false,
            });
        }
        if let Some(adopted) = self.adopted.get(key) {
            return Some(Former {
                service_id: adopted.row.id,
                key: Some(*key),
                row: Some(adopted.row),
                backends: adopted.backends.clone(),
                fresh: false,
            });
        }
        let service_id = self.service_ids.take()?;
        Some(Former {
            service_id,
            key: None,
            row: None,
            backends: HashMap::new(),
            fresh: true,
        })
    }

    /// An id for each backend: the one it has, the one it had until lately, or a new one; `None` if there are too few.
    fn place_backends(&mut self, frontend: &Frontend, place: &mut Former) -> Option<Vec<BackendId>> {
        let mut taken = Vec::new();
        let mut revived = Vec::new();
        let mut places = Vec::with_capacity(frontend.backends.len());
        for backend in &frontend.backends {
            let endpoint = (backend.addr, backend.port);
            let known = place.backends.get(&endpoint).map(|(id, _)| *id);
            let id = known
                .or_else(|| self.revive(place, endpoint, &mut revived))
                .or_else(|| self.new_backend(&mut taken));
            if let Some(id) = id {
                places.push(id);
            } else {
                taken.into_iter().for_each(|id| self.backend_ids.give_back(id));
                revived
                    .into_iter()
                    .for_each(|(id, retired)| self.retired.insert(id, retired));
                return None;
            }
        }
        Some(places)
    }

    /// A backend that comes back before its last socket is gone keeps its id, so that these sockets stay counted.
    fn revive(
        &mut self,
        place: &mut Former,
        endpoint: (Ip16, Port),
        revived: &mut Vec<(u32, Retired)>,
    ) -> Option<BackendId> {
        let id = self.retired.find(place.service_id, endpoint.0, endpoint.1)?;
        let retired = self.retired.remove(id)?;
        let backend = BackendId {
            id,
            generation: retired.row.generation,
        };
        place.backends.insert(endpoint, (backend, retired.row));
        revived.push((id, retired));
        Some(backend)
    }

    fn new_backend(&mut self, taken: &mut Vec<u32>) -> Option<BackendId> {
        let id = self.backend_ids.take()?;
        taken.push(id);
        Some(BackendId {
            id,
            generation: self.generation(),
        })
    }

    /// Adds the rows of a frontend that differ from the kernel's.
    fn emit(&mut self, programmed: &Arc<Programmed>, place: &Former, dirty: bool, plan: &mut Plan) {
        let (name, frontend) = (&programmed.name, &programmed.frontend);
        for (endpoint, row) in rows_of(programmed) {
            let (id, row) = (row.0.id, row.1);
            let former = place.backends.get(&endpoint).map(|(_, row)| row);
            if dirty || former != Some(&row) {
                plan.backends.push(PutBackend {
                    frontend: name.clone(),
                    id,
                    row,
                    fresh: former.is_none(),
                });
            }
        }
        plan.tables.push(SwapTable {
            frontend: name.clone(),
            service_id: programmed.service_id,
            slots: frontend.slot_table(|index| programmed.backends[index].id),
            fresh: place.fresh,
        });
        let row = service_row(programmed.service_id, frontend);
        if dirty || place.row != Some(row) || place.key != Some(frontend.key) {
            plan.services.push(PutService {
                frontend: name.clone(),
                key: frontend.key,
                row,
            });
        }
    }

    /// Rows that a former agent left and nobody wants any more.
    fn drop_unclaimed(&mut self, desired: &Desired, plan: &mut Plan, stale_keys: &mut Vec<ServiceKey>) {
        if self.adopted.is_empty() {
            return;
        }
        // A frontend for which there was no room keeps what a former agent programmed for it.
        let wanted: std::collections::HashSet<&ServiceKey> =
            desired.frontends.values().map(|frontend| &frontend.key).collect();
        let unclaimed: Vec<ServiceKey> = self
            .adopted
            .keys()
            .filter(|key| !wanted.contains(key))
            .copied()
            .collect();
        for key in unclaimed {
            let Some(adopted) = self.adopted.remove(&key) else {
                continue;
            };
            stale_keys.push(key);
            self.retire_service(adopted.row.id, adopted.backends, None, plan);
        }
    }

    fn retire_service(
        &mut self,
        service_id: u32,
        backends: HashMap<(Ip16, Port), (BackendId, Backend)>,
        programmed: Option<&Programmed>,
        plan: &mut Plan,
    ) {
        plan.emptied.push(service_id);
        if backends.is_empty() && !self.retired.has_service(service_id) {
            self.service_ids.give_back(service_id);
        } else {
            self.defunct.insert(service_id);
        }
        for (_, (backend, row)) in backends {
            self.retire(backend.id, row, programmed, plan);
        }
    }

    fn retire(&mut self, id: u32, row: Backend, programmed: Option<&Programmed>, plan: &mut Plan) {
        let row = Backend {
            flags: row.flags & !BackendFlags::AVAILABLE,
            ..row
        };
        let service = programmed.map(|programmed| programmed.frontend.service.clone());
        self.retired.insert(id, Retired { service, row });
        plan.retired.push((id, row));
    }

    fn rejection(&self, name: &FrontendName, map: &'static str) -> Rejected {
        let [(_, services), (_, backends)] = self.usage();
        let capacity = if map == nodemesh_abi::names::map::SERVICES {
            services
        } else {
            backends
        };
        Rejected {
            frontend: name.clone(),
            map,
            capacity,
        }
    }
}

/// The rows of a programmed frontend's backends.
fn rows_of(programmed: &Programmed) -> HashMap<(Ip16, Port), (BackendId, Backend)> {
    let pairs = programmed.frontend.backends.iter().zip(&programmed.backends);
    pairs
        .map(|(backend, place)| {
            let row = Backend {
                addr: backend.addr,
                port: backend.port,
                flags: if backend.state == BackendState::Active {
                    BackendFlags::AVAILABLE
                } else {
                    0
                },
                weight: backend.weight,
                generation: place.generation,
                service: programmed.service_id,
            };
            ((backend.addr, backend.port), (*place, row))
        })
        .collect()
}

fn service_row(service_id: u32, frontend: &Frontend) -> Service {
    Service {
        id: service_id,
        affinity_timeout_s: frontend.affinity_timeout_s,
        algorithm: frontend.algorithm as u8,
        client_key: frontend.client_key as u8,
        pad: [0; 2],
    }
}
