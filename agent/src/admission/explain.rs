// SPDX-License-Identifier: Apache-2.0
//! Who may connect to what, and which rule says so: the answer of `GET /v1/policy`. Pure.
//!
//! Invariant: what it says is what the tables of the kernel hold, since both ask the same rules.

use std::{net::IpAddr, sync::Arc};

use anyhow::{Context as _, Result, bail, ensure};
use nodemesh_abi::Access;
use nodemesh_model::{Desired, Frontend, Keyword as _, Principal, PrincipalName, ResourceName};

use crate::{
    admin::report,
    api::{Explanation, MatchingRule, PolicyQuery, PortAccess},
};

/// Answers `query` by what is desired.
pub fn explain(desired: &Desired, query: &PolicyQuery) -> Result<Explanation> {
    let (name, principal) = source(desired, &query.source)?;
    let (service, port) = service(&query.service)?;
    let frontends = desired.frontends_of(&service);
    let ports: Vec<PortAccess> = frontends
        .filter(|frontend| port.is_none_or(|port| frontend.key.port.get() == port))
        .map(|frontend| port_access(frontend, &principal))
        .collect();
    match port {
        Some(port) => ensure!(
            !ports.is_empty(),
            "no service {service} with port {port} is configured on this node"
        ),
        None => ensure!(
            !ports.is_empty(),
            "no service {service} is configured on this node"
        ),
    }
    let identities = principal
        .workloads()
        .map(|workload| workload.identity.to_string());
    Ok(Explanation {
        source: query.source.clone(),
        principal: name.to_string(),
        identities: identities.collect(),
        networks: principal.networks().iter().map(ToString::to_string).collect(),
        ports,
    })
}

fn source(desired: &Desired, text: &str) -> Result<(PrincipalName, Arc<Principal>)> {
    if text == "unknown" {
        return Ok((PrincipalName::Unknown, Arc::new(Principal::UNKNOWN)));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(desired.principal_at(address.to_canonical()));
    }
    let name = name(text).with_context(|| {
        format!("`{text}` names no source; write namespace/workload, an address, or `unknown`")
    })?;
    let name = PrincipalName::Workload(name);
    match desired.principals.get(&name) {
        Some(principal) => Ok((name, Arc::clone(principal))),
        None => bail!("no workload {text} is known on this node; `unknown` asks about clients that are none"),
    }
}

fn service(text: &str) -> Result<(ResourceName, Option<u16>)> {
    let (service, port) = match text.split_once(':') {
        Some((service, port)) => {
            let port = port
                .parse()
                .with_context(|| format!("`{port}` is no port; write 1 to 65535"))?;
            (service, Some(port))
        }
        None => (text, None),
    };
    let service = name(service).with_context(|| {
        format!("`{service}` names no service; write namespace/service or namespace/service:port")
    })?;
    Ok((service, port))
}

fn name(text: &str) -> Option<ResourceName> {
    let (namespace, name) = text.split_once('/')?;
    ResourceName::new(namespace, name).ok()
}

fn port_access(frontend: &Frontend, principal: &Principal) -> PortAccess {
    let silent = PortAccess {
        service: frontend.service.to_string(),
        address: report::endpoint(frontend.key.addr, frontend.key.port),
        protocol: report::protocol(frontend.key.protocol),
        access: word(Access::Allow).to_owned(),
        rule: None,
        default: true,
        matching: Vec::new(),
    };
    let Some(rules) = &frontend.access else {
        return silent;
    };
    let decision = rules.decide(principal);
    let matching = rules
        .matching(principal)
        .into_iter()
        .map(|(rule, action)| MatchingRule {
            rule: rule.to_string(),
            action: action.word().to_owned(),
        });
    PortAccess {
        access: word(decision.access).to_owned(),
        rule: decision.rule.map(|rule| rule.to_string()),
        default: decision.default,
        matching: matching.collect(),
        ..silent
    }
}

fn word(access: Access) -> &'static str {
    match access {
        Access::Allow => "allow",
        Access::Deny => "deny",
        Access::Audit => "audit",
        Access::ByAddress => "by_address",
    }
}

#[cfg(test)]
mod tests;
