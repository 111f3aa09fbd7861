// SPDX-License-Identifier: Apache-2.0
//! Ports of a policy, which are those of the pods, to ports of a service.
//!
//! Called by `network_policy`. Invariant: a port of a service is allowed if what it is at every replica is.

use serde_json::{Map, Value, json};

use super::{PortView, Refused, ServiceView};
use crate::kubernetes::object::network_policy::{PolicyPort, PortNumber};

/// The ports of `service` that `allowed` lets in; `None` if there is none.
pub(super) fn of_service(
    allowed: &[PolicyPort],
    service: &ServiceView<'_>,
) -> Result<Option<Vec<i32>>, Refused> {
    let mut ports = Vec::new();
    for port in &service.ports {
        if allows(allowed, port)? {
            ports.push(port.number);
        }
    }
    Ok(Some(ports).filter(|ports| !ports.is_empty()))
}

/// Adds the field `ports`, if `ports` are not all that the service has.
pub(super) fn put(rule: &mut Map<String, Value>, ports: &[i32], service: &ServiceView<'_>) {
    if ports.len() < service.ports.len() {
        let mut ports = ports.to_vec();
        ports.dedup();
        rule.insert("ports".to_owned(), json!(ports));
    }
}

/// Whether connections to `port` end at a port that is allowed.
pub(super) fn allows(allowed: &[PolicyPort], port: &PortView<'_>) -> Result<bool, Refused> {
    if allowed.is_empty() {
        return Ok(true);
    }
    let mut of_protocol = Vec::new();
    for allowed in allowed.iter().filter(|allowed| allowed.protocol == port.protocol) {
        match &allowed.number {
            PortNumber::Any => return Ok(true),
            PortNumber::Range(first, last) => of_protocol.push(*first..=*last),
            PortNumber::Name(name) => {
                return Err(format!(
                    "a rule names the port {name:?}, which each pod may give another number; use the number"
                ));
            }
        }
    }
    let matching = port
        .targets
        .iter()
        .filter(|target| of_protocol.iter().any(|range| range.contains(target)))
        .count();
    if matching > 0 && matching < port.targets.len() {
        return Err(format!(
            "port {} of the Service is another one at each replica, some of which a rule allows",
            port.number
        ));
    }
    Ok(matching > 0)
}
