// SPDX-License-Identifier: Apache-2.0
//! `nodemesh policy`.

use anyhow::Result;
use clap::{Args, Subcommand};

use super::{Output, client::AdminClient, table};
use crate::api::{Explanation, PolicyQuery, PortAccess};

/// Arguments of `nodemesh policy`.
#[derive(Args, Debug)]
pub(super) struct Policy {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Say whether a source may connect to a service, which rule decides, and which others match.
    Explain(Explain),
}

#[derive(Args, Debug)]
struct Explain {
    /// Who connects: a workload (`namespace/name`), an address, or `unknown` for a client of this node that is no workload.
    source: String,
    /// To what: `namespace/service`, or `namespace/service:port`.
    #[arg(value_name = "SERVICE[:PORT]")]
    service: String,
}

impl Policy {
    pub(super) fn run(&self, agent: &AdminClient, output: Output) -> Result<()> {
        let Verb::Explain(Explain { source, service }) = &self.verb;
        let query = PolicyQuery {
            source: source.clone(),
            service: service.clone(),
        };
        let path = format!("/v1/policy?{}", serde_urlencoded::to_string(query)?);
        let explanation: Explanation = agent.get(&path)?;
        match output {
            Output::Json => table::print_json(&explanation),
            Output::Table => table::print(&describe(&explanation)),
        }
    }
}

fn describe(explanation: &Explanation) -> String {
    let mut lines = vec![format!("source    {}", who(explanation))];
    for port in &explanation.ports {
        lines.push(format!(
            "\n{} at {}/{}: {}",
            port.service,
            port.address,
            port.protocol,
            verdict(port)
        ));
        lines.push(format!("  because   {}", because(port)));
        for rule in &port.matching {
            lines.push(format!("  matches   {} ({})", rule.rule, rule.action));
        }
    }
    lines.join("\n")
}

fn who(explanation: &Explanation) -> String {
    let facts: Vec<&str> = explanation
        .identities
        .iter()
        .chain(&explanation.networks)
        .map(String::as_str)
        .collect();
    let known = if explanation.principal == explanation.source {
        explanation.source.clone()
    } else {
        format!("{}, known as {}", explanation.source, explanation.principal)
    };
    if facts.is_empty() {
        return known;
    }
    format!("{known} ({})", facts.join(", "))
}

fn verdict(port: &PortAccess) -> &str {
    match port.access.as_str() {
        "audit" => "allowed, and each connection is told of (audit)",
        "by_address" => "let through here, decided by its address at the server's node",
        "allow" => "allowed",
        "deny" => "denied",
        other => other,
    }
}

fn because(port: &PortAccess) -> String {
    match (&port.rule, port.default) {
        (Some(rule), false) => rule.clone(),
        (Some(rule), true) => format!("no rule matches; {rule}"),
        (None, _) => "no policy says anything about it".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::MatchingRule;

    #[test]
    fn an_explanation_names_the_rule_and_the_others() {
        let rule = |name: &str, action: &str| MatchingRule {
            rule: format!("AccessPolicy prod/{name}"),
            action: action.into(),
        };
        let explanation = Explanation {
            source: "10.0.0.9".into(),
            principal: "apps/chat".into(),
            identities: vec!["spiffe://mesh.local/ns/apps/workload/chat".into()],
            networks: vec!["10.0.0.0/8".into()],
            ports: vec![PortAccess {
                service: "prod/llama".into(),
                address: "10.1.0.1:80".into(),
                protocol: "TCP".into(),
                access: "deny".into(),
                rule: Some("AccessPolicy prod/a, rule 1".into()),
                default: false,
                matching: vec![rule("a, rule 1", "deny"), rule("b, rule 2", "allow")],
            }],
        };
        assert_eq!(
            describe(&explanation),
            "source    10.0.0.9, known as apps/chat (spiffe://mesh.local/ns/apps/workload/chat, 10.0.0.0/8)\n\n\
             prod/llama at 10.1.0.1:80/TCP: denied\n  because   AccessPolicy prod/a, rule 1\n  \
             matches   AccessPolicy prod/a, rule 1 (deny)\n  matches   AccessPolicy prod/b, rule 2 (allow)"
        );
        let silent = PortAccess {
            access: "allow".into(),
            rule: None,
            default: true,
            matching: vec![],
            ..explanation.ports[0].clone()
        };
        assert_eq!(because(&silent), "no policy says anything about it");
        assert_eq!(verdict(&silent), "allowed");
    }
}
