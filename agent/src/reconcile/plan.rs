// SPDX-License-Identifier: Apache-2.0
//! The plan: which rows must change so that the kernel does what is desired. Pure: no I/O and no clock.
//!
//! Called by `round`; `apply` carries it out. Invariant: the fields of [`Plan`] are in the only safe order. What is referred to
//! is written before what refers to it, and removed after; and a swap of tables, which waits for the programs that use the old
//! ones, comes after the rows that turn backends away, so that a retired backend gets no socket once its table is swapped.

mod placement;
mod removal;

use std::{cell::LazyCell, collections::HashSet, sync::Arc};

use nodemesh_abi::{Algorithm, Backend, BackendFlags, FlowService, Service, ServiceKey, Slot, names::map};
use nodemesh_model::{Desired, Frontend, FrontendBackend, FrontendName};

use super::{
    admission::Assigned,
    endpoints::Differences,
    flows,
    ledger::{BackendRows, Ledger, Programmed},
};
use placement::Place;

/// A row of a backend that is gone: no longer available, kept until its last socket is closed.
#[derive(Debug, PartialEq)]
pub struct RetireBackend {
    /// The frontend whose table still names it; `None` if that is gone too.
    pub frontend: Option<FrontendName>,
    /// Its id.
    pub id: u32,
    /// The row.
    pub row: Backend,
}

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
    /// Whether its pair of rows in `traffic` was not in use, likewise.
    pub fresh_traffic: bool,
}

/// A slot table to put in place.
#[derive(Debug, PartialEq)]
pub struct SwapTable {
    /// The frontend it is for.
    pub frontend: FrontendName,
    /// Its service id.
    pub service_id: u32,
    /// The tables of its tiers, the first one first.
    pub tiers: Vec<Vec<Slot>>,
    /// The packet path's table, if it has or had one.
    pub flow: Option<Vec<Slot>>,
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

/// A row of the packet path to write.
#[derive(Debug, PartialEq)]
pub struct PutFlow {
    /// The frontend it is for.
    pub frontend: FrontendName,
    /// The address.
    pub key: ServiceKey,
    /// The row.
    pub row: FlowService,
}

/// A service whose tables are emptied.
#[derive(Debug, PartialEq)]
pub struct Emptied {
    /// Its id.
    pub service_id: u32,
    /// Whether it may have one of the packet path.
    pub has_flow_table: bool,
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
    /// First the backends that are gone: affinity and flows turn away from them, tables not yet.
    pub retired: Vec<RetireBackend>,
    /// Then the other backends: nothing refers to new ones yet.
    pub backends: Vec<PutBackend>,
    /// The endpoints, which name backends: those of nobody are removed after the rows of retired backends and those of others
    /// written after their backends, so that the swap of tables waits also for the programs that use the former ones.
    pub endpoints: Differences,
    /// Then the tables that name the backends.
    pub tables: Vec<SwapTable>,
    /// Then the services that name the tables.
    pub services: Vec<PutService>,
    /// And the rows of the packet path, which name the same.
    pub flows: Vec<PutFlow>,
    /// Rows of the packet path that are gone.
    pub deleted_flows: Vec<ServiceKey>,
    /// Services that are gone.
    pub deleted: Vec<ServiceKey>,
    /// Tables of services that are gone: emptied, to free their memory and their backends.
    pub emptied: Vec<Emptied>,
    /// Frontends for which there is no room: those that have backends keep what they can of them.
    pub rejected: Vec<Rejected>,
}

impl Plan {
    /// Whether the kernel already is as desired.
    pub fn is_empty(&self) -> bool {
        self.writes() == 0 && self.removals() == 0
    }

    /// Number of rows and tables for what is configured.
    pub fn writes(&self) -> usize {
        self.backends.len()
            + self.endpoints.put.len()
            + self.tables.len()
            + self.services.len()
            + self.flows.len()
    }

    /// Number of rows and tables of what is no longer configured.
    pub fn removals(&self) -> usize {
        let rows = self.endpoints.deleted.len() + self.deleted.len() + self.deleted_flows.len();
        self.retired.len() + rows + self.emptied.len()
    }
}

impl Ledger {
    /// Plans the way to `desired` and books it as done; `apply` books what could not be done.
    pub fn plan(&mut self, desired: &Desired, assigned: &Assigned) -> Plan {
        let mut plan = Plan::default();
        self.retire_undesired(desired);
        let capacity = self.backend_ids.capacity() as usize;
        let fits = LazyCell::new(|| {
            let backends = desired.frontends.values().map(|frontend| frontend.backends.len());
            backends.sum::<usize>() <= capacity
        });
        for (name, frontend) in self.changed(desired) {
            self.plan_frontend((name, frontend), assigned, &|| *fits, &mut plan);
        }
        self.retire_unclaimed();
        self.plan_deletions(&mut plan);
        self.plan_emptied(&mut plan);
        plan.endpoints = self.endpoints.differences(assigned);
        plan
    }

    /// The frontends of `desired` that are not what is programmed, or that a failure left unwritten.
    fn changed<'a>(&self, desired: &'a Desired) -> Vec<(&'a FrontendName, &'a Arc<Frontend>)> {
        // Both are in order of their names, so one walk over both is enough: most frontends are as they were.
        let mut programmed = self.programmed.iter().peekable();
        let mut is_changed = |(name, frontend): &(&FrontendName, &Arc<Frontend>)| {
            while programmed.next_if(|(other, _)| other < name).is_some() {}
            let same = programmed
                .peek()
                .is_some_and(|(other, former)| other == name && Arc::ptr_eq(&former.frontend, frontend));
            !same || self.dirty.contains(*name)
        };
        desired.frontends.iter().filter(&mut is_changed).collect()
    }

    fn plan_frontend(
        &mut self,
        (name, frontend): (&FrontendName, &Arc<Frontend>),
        assigned: &Assigned,
        fits: &dyn Fn() -> bool,
        plan: &mut Plan,
    ) {
        let former = self.programmed.get(name).cloned();
        let dirty = self.dirty.contains(name);
        let Some(mut place) = self.place(former.as_deref(), &frontend.key) else {
            plan.rejected
                .push(rejection(name, map::SERVICES, self.service_ids.capacity()));
            return;
        };
        let whole = self
            .place_backends(frontend, &mut place, assigned.now_ns)
            .map(|ids| (frontend.clone(), ids));
        let placed = whole.or_else(|| {
            plan.rejected
                .push(rejection(name, map::BACKENDS, self.backend_ids.capacity()));
            place
                .fallback(frontend, fits())
                .map(|(fallback, ids)| (Arc::new(fallback), ids))
        });
        let Some((frontend, backends)) = placed else {
            return self.vacate(&place);
        };
        let (rules, policy) = (assigned.rules(&frontend), assigned.policy(&frontend));
        let is_same = |former: &Arc<Programmed>| {
            former.frontend == frontend
                && former.backends == backends
                && (former.rules, former.policy) == (rules, policy)
        };
        if !dirty && former.as_ref().is_some_and(is_same) {
            return;
        }
        if let Some(former) = former.filter(|former| former.frontend.key != frontend.key) {
            self.stale.insert(former.frontend.key);
        }
        let programmed = Programmed {
            name: name.clone(),
            frontend,
            service_id: place.service_id,
            backends,
            rules,
            policy,
        };
        self.program(programmed, &place, dirty, plan);
    }

    /// Books a frontend in and adds what has to be written for it.
    fn program(&mut self, programmed: Programmed, place: &Place, dirty: bool, plan: &mut Plan) {
        self.adopted.remove(&place.service_id);
        self.dirty.remove(&programmed.name);
        let kept: HashSet<u32> = programmed.backends.iter().map(|backend| backend.id).collect();
        for (backend, row) in place
            .backends
            .values()
            .filter(|(backend, _)| !kept.contains(&backend.id))
        {
            self.retire(backend.id, *row, Some(&programmed));
        }
        self.emit(&programmed, place, dirty, plan);
        let programmed = Arc::new(programmed);
        let former = self
            .programmed
            .insert(programmed.name.clone(), programmed.clone());
        if let Some(former) = former {
            self.endpoints.disclaim(&former);
            self.flows.disclaim(&former.frontend);
        }
        self.endpoints.claim(&programmed);
    }

    /// Adds the rows of a frontend that differ from the kernel's.
    fn emit(&mut self, programmed: &Programmed, place: &Place, dirty: bool, plan: &mut Plan) {
        let (name, frontend) = (&programmed.name, &programmed.frontend);
        self.emit_retired(programmed.service_id, Some(name), plan);
        for (endpoint, (backend, row)) in rows_of(programmed) {
            let fresh = self.unwritten_backends.contains(&backend.id);
            let fresh_traffic = self.pairs.is_unwritten(backend.traffic);
            let former = place.backends.get(&endpoint).map(|(_, row)| row);
            if dirty || fresh || fresh_traffic || former != Some(&row) {
                plan.backends.push(PutBackend {
                    frontend: name.clone(),
                    id: backend.id,
                    row,
                    fresh,
                    fresh_traffic,
                });
            }
        }
        let mut tables = frontend.slot_tables(|index| programmed.backends[index].id);
        let tiers = tables.len() as u8 - 1;
        let most = self.tiered.get(&programmed.service_id).map_or(1, |count| *count);
        // Until the service's row is written, programs may look at a table that it no longer has.
        while tables.len() < most {
            tables.push(vec![Slot::EMPTY]);
        }
        if tables.len() > 1 {
            self.tiered.insert(programmed.service_id, tables.len());
        }
        let flow = self.flows.table(
            programmed.service_id,
            || frontend.packet_table(|index| programmed.backends[index].id),
            // The programs read the slot table of such a service, which is a Maglev table already.
            frontend.packet.is_some() && frontend.algorithm != Algorithm::Maglev,
        );
        plan.tables.push(SwapTable {
            frontend: name.clone(),
            service_id: programmed.service_id,
            tiers: tables,
            flow,
            fresh: self.unwritten_services.contains(&programmed.service_id),
        });
        let row = service_row(programmed, tiers);
        let flows = self.flows.missing(flows::rows(frontend, row));
        plan.flows.extend(flows.map(|(key, row)| PutFlow {
            frontend: name.clone(),
            key,
            row,
        }));
        if self.rows.get(&frontend.key) != Some(&row) {
            plan.services.push(PutService {
                frontend: name.clone(),
                key: frontend.key,
                row,
            });
        }
    }

    /// Adds the rows of the retired backends of a service that the kernel does not have yet.
    fn emit_retired(&self, service_id: u32, frontend: Option<&FrontendName>, plan: &mut Plan) {
        for (id, retired) in self.retired.of_service(service_id) {
            if !retired.written {
                plan.retired.push(RetireBackend {
                    frontend: frontend.cloned(),
                    id,
                    row: retired.row,
                });
            }
        }
    }
}

fn rejection(name: &FrontendName, map: &'static str, capacity: u32) -> Rejected {
    Rejected {
        frontend: name.clone(),
        map,
        capacity,
    }
}

/// The rows of a programmed frontend's backends.
fn rows_of(programmed: &Programmed) -> BackendRows {
    let pairs = programmed.frontend.backends.iter().zip(&programmed.backends);
    pairs
        .map(|(backend, place)| {
            let row = Backend {
                addr: backend.addr,
                port: backend.port,
                flags: flags(&programmed.frontend, backend),
                weight: backend.weight,
                generation: place.generation,
                service: programmed.service_id,
                traffic: place.traffic,
                rules: programmed.rules,
                since_ns: place.since_ns,
            };
            ((backend.addr, backend.port), (*place, row))
        })
        .collect()
}

fn flags(frontend: &Frontend, backend: &FrontendBackend) -> u16 {
    let mut flags = 0;
    if backend.is_available() {
        flags |= BackendFlags::AVAILABLE;
    }
    if frontend.rules.until_first_token {
        flags |= BackendFlags::COLD;
    }
    if backend.is_local && flows::preserves(frontend) {
        flags |= BackendFlags::RETURNS;
    }
    flags
}

fn service_row(programmed: &Programmed, tiers: u8) -> Service {
    let frontend = &programmed.frontend;
    Service {
        id: programmed.service_id,
        affinity_timeout_s: frontend.affinity_timeout_s,
        algorithm: frontend.algorithm as u8,
        client_key: frontend.client_key as u8,
        tiers,
        pad: 0,
        rules: programmed.rules,
        policy: programmed.policy,
    }
}
