// SPDX-License-Identifier: Apache-2.0
//! Whether an established connection would be let through today. Pure.
//!
//! The same decision as that of the programs: at the client's end by the client's identity, at the server's end by its address, which
//! may be another workload's by now, and by the policies of all services that lead to where it arrived. Invariant: what is not known
//! to be denied is left alone.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use nodemesh_abi::{Access, Connection, EndpointKey, Vantage};
use nodemesh_model::{AccessRules, Principal, PrincipalName};

use crate::reconcile::{demand::Demand, endpoints::endpoints_of, ledger::Programmed, view::View};

/// Rules by where they are: equal ones are one allocation.
type Rules = *const AccessRules;

/// Examines connections by one view.
#[derive(Debug)]
pub struct Examiner<'a> {
    view: &'a View,
    services: HashMap<u32, &'a Arc<Programmed>>,
    /// The services that lead to an endpoint; empty until the first connection is seen at a server.
    claims: HashMap<EndpointKey, Vec<&'a Arc<Programmed>>>,
    verdicts: HashMap<(Rules, PrincipalName), Access>,
}

impl<'a> Examiner<'a> {
    /// Examines by `view`.
    pub fn new(view: &'a View) -> Self {
        let services = view
            .frontends
            .iter()
            .map(|programmed| (programmed.service_id, programmed));
        Self {
            view,
            services: services.collect(),
            claims: HashMap::new(),
            verdicts: HashMap::new(),
        }
    }

    /// Whether policies deny `connection` now.
    pub fn is_denied(&mut self, connection: &Connection) -> bool {
        if Vantage::from_raw(connection.meter.vantage) == Vantage::Server {
            return self.is_denied_at_server(connection);
        }
        let Some(programmed) = self.services.get(&connection.service) else {
            return false;
        };
        let frontend = &programmed.frontend;
        let Some(rules) = &frontend.access else {
            return false;
        };
        let dialled = (connection.service_addr, connection.service_port);
        if (frontend.key.addr, frontend.key.port) != dialled {
            return false;
        }
        let (name, principal) = self.principal(connection.identity);
        self.access(rules, name, &principal) == Access::Deny
    }

    /// Whether its SYN would be dropped now.
    fn is_denied_at_server(&mut self, connection: &Connection) -> bool {
        if connection.client_addr.is_unspecified() {
            return false;
        }
        if self.claims.is_empty() {
            self.claims = claims(self.view);
        }
        let endpoint = EndpointKey::new(connection.backend_addr, connection.backend_port);
        let Some(claims) = self.claims.get(&endpoint) else {
            return false;
        };
        let rules_of = |programmed: &&'a Arc<Programmed>| programmed.frontend.access.as_ref();
        let by_place: HashMap<Rules, &Arc<AccessRules>> = claims
            .iter()
            .filter_map(rules_of)
            .map(|rules| (Arc::as_ptr(rules), rules))
            .collect();
        let demand = Demand::of(claims.iter().map(|programmed| {
            let namespace = programmed.name.service.namespace();
            (namespace, rules_of(programmed).map(Arc::as_ptr))
        }));
        let client = IpAddr::from(connection.client_addr);
        let (name, principal) = self.view.desired.principal_at(client);
        let access = demand.access(|rules| self.access(by_place[&rules], name.clone(), &principal));
        // Its sender's address is known, and in no range that admits it.
        matches!(access, Access::Deny | Access::ByAddress)
    }

    /// Who a local client is; unknown if nobody has the number any more.
    fn principal(&self, identity: u32) -> (PrincipalName, Arc<Principal>) {
        let name = self.view.principals.get(&identity).cloned().unwrap_or_default();
        let principal = self.view.desired.principals.get(&name).cloned();
        let principal = principal.unwrap_or_else(|| Arc::new(Principal::UNKNOWN));
        (name, principal)
    }

    fn access(&mut self, rules: &Arc<AccessRules>, name: PrincipalName, principal: &Principal) -> Access {
        // A client that is unknown by its identity and one that is unknown by its address are not the same.
        if name == PrincipalName::Unknown {
            return rules.access(principal);
        }
        *self
            .verdicts
            .entry((Arc::as_ptr(rules), name))
            .or_insert_with(|| rules.access(principal))
    }
}

/// The services that lead to each endpoint.
fn claims(view: &View) -> HashMap<EndpointKey, Vec<&Arc<Programmed>>> {
    let mut claims: HashMap<_, Vec<_>> = HashMap::new();
    for programmed in &view.frontends {
        for endpoint in endpoints_of(&programmed.name, &programmed.frontend) {
            claims.entry(endpoint).or_default().push(programmed);
        }
    }
    claims
}

#[cfg(test)]
mod tests;
