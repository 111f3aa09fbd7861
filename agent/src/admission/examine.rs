// SPDX-License-Identifier: Apache-2.0
//! Whether an established connection would be let through today. Pure.
//!
//! The same decision as that of the programs: at the client's end by the client's identity, at the server's end by its address, which
//! may be another workload's by now. Invariant: what is not known to be denied is left alone.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use nodemesh_abi::{Access, Connection, Vantage};
use nodemesh_model::{AccessRules, Principal, PrincipalName};

use crate::reconcile::{ledger::Programmed, view::View};

/// Examines connections by one view.
#[derive(Debug)]
pub struct Examiner<'a> {
    view: &'a View,
    services: HashMap<u32, &'a Arc<Programmed>>,
    verdicts: HashMap<(*const AccessRules, PrincipalName), Access>,
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
            verdicts: HashMap::new(),
        }
    }

    /// Whether policies deny `connection` now.
    pub fn is_denied(&mut self, connection: &Connection) -> bool {
        let Some(programmed) = self.services.get(&connection.service) else {
            return false;
        };
        let frontend = &programmed.frontend;
        let Some(rules) = &frontend.access else {
            return false;
        };
        if Vantage::from_raw(connection.meter.vantage) == Vantage::Server {
            let endpoint = (connection.backend_addr, connection.backend_port);
            let is_its = frontend
                .backends
                .iter()
                .any(|backend| (backend.addr, backend.port) == endpoint);
            if !is_its || connection.client_addr.is_unspecified() {
                return false;
            }
            let client = IpAddr::from(connection.client_addr);
            let (name, principal) = self.view.desired.principal_at(client);
            // As for a SYN, whose sender's address is known and in no range that admits it.
            return matches!(
                self.access(rules, name, &principal),
                Access::Deny | Access::ByAddress
            );
        }
        let dialled = (connection.service_addr, connection.service_port);
        if (frontend.key.addr, frontend.key.port) != dialled {
            return false;
        }
        let (name, principal) = self.principal(connection.identity);
        self.access(rules, name, &principal) == Access::Deny
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

#[cfg(test)]
mod tests;
