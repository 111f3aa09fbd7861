// SPDX-License-Identifier: Apache-2.0
//! What the ids in a kernel record stand for: service, model and workload. Used by the list of connections, the traffic report,
//! the access log and the events.
//!
//! Built from one [`View`]. A record may be older than the view, and its ids may have been given to others since: a name is told
//! only where the record's backend address confirms it. Invariant: a wrong name is never told, no name may be.

use std::{collections::HashMap, sync::Arc};

use nodemesh_abi::{Ip16, Port};
use nodemesh_model::ResourceName;

use crate::reconcile::view::View;

/// What is known of a service.
#[derive(Clone, Copy, Debug)]
pub struct ServiceNames<'a> {
    /// Its name.
    pub service: &'a ResourceName,
    /// Model that its replicas serve.
    pub model: Option<&'a str>,
}

/// The address of a backend.
type Endpoint = (Ip16, Port);

/// The names of one view.
#[derive(Debug)]
pub struct Names {
    view: Arc<View>,
    /// Service id to index into `View::frontends`.
    services: HashMap<u32, usize>,
    /// Backend id to its address and service.
    backends: HashMap<u32, (Endpoint, Owner)>,
    /// Workloads that are backends, by address.
    workloads: HashMap<Ip16, ResourceName>,
}

/// Where the service of a backend is named.
#[derive(Clone, Copy, Debug)]
enum Owner {
    /// Index into `View::frontends`.
    Live(usize),
    /// Index into `View::retired`.
    Retired(usize),
}

impl Names {
    /// The names of `view`.
    pub fn of(view: Arc<View>) -> Self {
        let mut services = HashMap::with_capacity(view.frontends.len());
        let mut backends = HashMap::new();
        let mut workloads = HashMap::new();
        for (index, programmed) in view.frontends.iter().enumerate() {
            services.insert(programmed.service_id, index);
            let places = programmed.backends.iter().zip(&programmed.frontend.backends);
            backends.extend(
                places.map(|(place, backend)| (place.id, ((backend.addr, backend.port), Owner::Live(index)))),
            );
        }
        for backend in view
            .frontends
            .iter()
            .flat_map(|programmed| &programmed.frontend.backends)
        {
            if let Some(workload) = &backend.workload {
                workloads.entry(backend.addr).or_insert_with(|| workload.clone());
            }
        }
        for (index, (id, retired)) in view.retired.iter().enumerate() {
            let endpoint = (retired.row.addr, retired.row.port);
            backends.insert(*id, (endpoint, Owner::Retired(index)));
        }
        Self {
            view,
            services,
            backends,
            workloads,
        }
    }

    /// The service of a record that was placed on `backend`, which has the address `endpoint`.
    pub fn of_backend(&self, backend: u32, endpoint: Endpoint) -> Option<ServiceNames<'_>> {
        let (known, owner) = self.backends.get(&backend)?;
        if *known != endpoint {
            return None;
        }
        match *owner {
            Owner::Live(index) => Some(self.live(index)),
            Owner::Retired(index) => {
                let (_, retired) = &self.view.retired[index];
                let service = retired.service.as_ref()?;
                let live = self
                    .services
                    .get(&retired.row.service)
                    .map(|index| self.live(*index));
                Some(ServiceNames {
                    service,
                    model: live
                        .filter(|live| live.service == service)
                        .and_then(|live| live.model),
                })
            }
        }
    }

    /// Where the backend with this id listens.
    pub fn address_of(&self, backend: u32) -> Option<Endpoint> {
        self.backends.get(&backend).map(|(address, _)| *address)
    }

    /// The service with this id, if it has the virtual address `dialled`.
    pub fn of_service(&self, id: u32, dialled: Ip16) -> Option<ServiceNames<'_>> {
        let index = *self.services.get(&id)?;
        (self.view.frontends[index].frontend.key.addr == dialled).then(|| self.live(index))
    }

    /// The workload that a hash stands for.
    pub fn workload(&self, hash: u64) -> Option<&ResourceName> {
        self.view.workloads.get(&hash)
    }

    /// The workload that has this address, as far as it is a backend.
    pub fn workload_at(&self, addr: Ip16) -> Option<&ResourceName> {
        self.workloads.get(&addr)
    }

    /// The name of the identity that a number stands for.
    pub fn identity(&self, number: u32) -> Option<&str> {
        self.view.identities.get(&number).map(|name| &**name)
    }

    fn live(&self, index: usize) -> ServiceNames<'_> {
        let frontend = &self.view.frontends[index].frontend;
        ServiceNames {
            service: &frontend.service,
            model: frontend.model.as_deref(),
        }
    }
}
