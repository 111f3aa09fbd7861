// SPDX-License-Identifier: Apache-2.0
//! An access policy: who may connect to a service, to the services of a namespace, or to any of the mesh.
//!
//! Invariant: a rule can match something: no list in it is empty, and no source contradicts itself.

use std::sync::Arc;

use super::{Metadata, address};
use crate::{
    invalid::{AdmissionProblem, Findings, Problem},
    keyword::{self, Keyword, Kind},
    name::{ResourceName, dns_label},
    wire,
};

mod source;
mod spec;

pub use source::{NamePattern, Source};

/// Namespace of the policies of the whole mesh.
pub const MESH_NAMESPACE: &str = "nodemesh-system";
/// Most rules of one policy.
pub const MAX_RULES: usize = 100_000;
/// Word of the target that is the whole mesh.
const MESH: &str = "Mesh";
/// Longest name of a rule, bytes.
const MAX_RULE_NAME: usize = 63;

/// Who may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AccessPolicy {
    /// Name and labels.
    pub metadata: Metadata,
    /// What it applies to.
    pub target: AccessTarget,
    /// What holds where no rule matches; that of the narrowest target does.
    pub default: Option<DefaultAccess>,
    /// The rules; their order has no meaning.
    pub rules: Vec<Arc<AccessRule>>,
}

/// The services that an access policy applies to, the widest first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AccessTarget {
    /// Every service of the mesh.
    Mesh,
    /// Every service of the namespace.
    Namespace(Box<str>),
    /// One service.
    Service(ResourceName),
}

/// What holds where no rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DefaultAccess {
    /// Everybody may connect.
    Allow,
    /// Nobody may.
    Deny,
}

/// What a rule does to the clients that it matches; the later wins over the earlier, whatever the order of the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// They may connect.
    Allow,
    /// They may, and each connection is told of: a denial that is tried out.
    Audit,
    /// They may not.
    Deny,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct AccessRule {
    /// Name within the policy; `rule N`, from 1, if it has none.
    pub name: Arc<str>,
    /// What it does.
    pub action: Action,
    /// The clients, one of which must match; `None` for everybody, never empty.
    pub from: Option<Box<[Source]>>,
    /// Ports of the service, sorted; `None` for all, never empty.
    pub ports: Option<Box<[u16]>>,
}

impl Keyword for DefaultAccess {
    const WORDS: &'static [(Self, &'static str)] = &[(Self::Allow, "allow"), (Self::Deny, "deny")];
}

impl Keyword for Action {
    const WORDS: &'static [(Self, &'static str)] = &[
        (Self::Allow, "allow"),
        (Self::Deny, "deny"),
        (Self::Audit, "audit"),
    ];
}

impl AccessRule {
    /// Whether it is about connections to `port`; with `None`, to the ports that no rule names.
    pub(crate) fn is_about(&self, port: Option<u16>) -> bool {
        self.ports
            .as_ref()
            .is_none_or(|ports| port.is_some_and(|port| ports.binary_search(&port).is_ok()))
    }
}

impl TryFrom<wire::Document<wire::AccessPolicySpec>> for AccessPolicy {
    type Error = Findings;

    fn try_from(document: wire::Document<wire::AccessPolicySpec>) -> Result<Self, Findings> {
        let mut findings = Findings::default();
        let spec = document.spec;
        let metadata = Metadata::validate(document.metadata, &mut findings);
        let target = target(&spec.target_ref, metadata.as_ref(), &mut findings);
        let default = spec.default.as_deref().map(keyword::parse).transpose();
        let default = findings.check("spec.default", default).flatten();
        let wire = spec.rules.unwrap_or_default();
        if wire.is_empty() && spec.default.is_none() {
            findings.add("spec", AdmissionProblem::NoRules.into());
        }
        let rules = rules(wire, &mut findings);
        match (metadata, target) {
            (Some(metadata), Some(target)) if findings.is_empty() => Ok(Self {
                metadata,
                target,
                default,
                rules,
            }),
            _ => Err(findings),
        }
    }
}

fn target(
    wire: &wire::TargetRef,
    metadata: Option<&Metadata>,
    findings: &mut Findings,
) -> Option<AccessTarget> {
    let namespace = metadata.map(|metadata| metadata.name.namespace());
    if wire.kind == MESH {
        if wire.name.is_some() {
            findings.add("spec.targetRef.name", AdmissionProblem::MeshName.into());
        }
        if namespace.is_some_and(|namespace| namespace != MESH_NAMESPACE) {
            let namespace = MESH_NAMESPACE;
            findings.add(
                "spec.targetRef.kind",
                AdmissionProblem::MeshNamespace { namespace }.into(),
            );
        }
        return Some(AccessTarget::Mesh);
    }
    if wire.kind != Kind::Service.word() {
        let problem = Problem::UnknownWord {
            found: wire.kind.clone(),
            known: vec![Kind::Service.word(), MESH],
        };
        findings.add("spec.targetRef.kind", problem);
    }
    if let Some(name) = &wire.name {
        findings.check("spec.targetRef.name", dns_label(name))?;
    }
    match &wire.name {
        None => Some(AccessTarget::Namespace(namespace?.into())),
        Some(name) => ResourceName::new(namespace?, name)
            .ok()
            .map(AccessTarget::Service),
    }
}

fn rules(wire: Vec<wire::AccessRule>, findings: &mut Findings) -> Vec<Arc<AccessRule>> {
    if wire.len() > MAX_RULES {
        let problem = AdmissionProblem::TooManyRules {
            found: wire.len(),
            limit: MAX_RULES,
        };
        findings.add("spec.rules", problem.into());
        return Vec::new();
    }
    let mut names = std::collections::HashMap::with_capacity(wire.len());
    let rules = wire.into_iter().enumerate().filter_map(|(index, wire)| {
        let rule = rule(index, wire, findings)?;
        if let Some(first) = names.insert(Arc::clone(&rule.name), index) {
            let found = rule.name.to_string();
            let problem = AdmissionProblem::DuplicateRuleName { found, first };
            findings.add(format_args!("spec.rules[{index}].name"), problem.into());
        }
        Some(Arc::new(rule))
    });
    rules.collect()
}

fn rule(index: usize, wire: wire::AccessRule, findings: &mut Findings) -> Option<AccessRule> {
    let at = |field: &'static str| format!("spec.rules[{index}].{field}");
    let name = match wire.name {
        None => Some(default_name(index)),
        Some(name) => findings.check(at("name"), rule_name(name)),
    };
    let action = findings.check(at("action"), keyword::parse(&wire.action));
    if wire.from.as_ref().is_some_and(Vec::is_empty) {
        findings.add(at("from"), AdmissionProblem::EmptyFrom.into());
    }
    let from = wire.from.map(|sources| {
        let sources = sources.into_iter().enumerate();
        sources
            .filter_map(|(position, wire)| {
                source::read(&format!("spec.rules[{index}].from[{position}]"), wire, findings)
            })
            .collect()
    });
    let ports = wire.ports.map(|numbers| ports(&at("ports"), &numbers, findings));
    Some(AccessRule {
        name: name?,
        action: action?,
        from,
        ports,
    })
}

/// Name of the rule at `index` if it has none of its own.
fn default_name(index: usize) -> Arc<str> {
    format!("rule {}", index + 1).into()
}

fn rule_name(name: String) -> Result<Arc<str>, Problem> {
    let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b' ');
    if (1..=MAX_RULE_NAME).contains(&name.len()) && name.trim() == name && name.bytes().all(is_valid) {
        Ok(name.into())
    } else {
        Err(AdmissionProblem::RuleName { found: name }.into())
    }
}

fn ports(field: &str, numbers: &[i64], findings: &mut Findings) -> Box<[u16]> {
    if numbers.is_empty() {
        findings.add(field, AdmissionProblem::EmptyList.into());
    }
    let mut ports: Vec<u16> = Vec::with_capacity(numbers.len());
    for (index, number) in numbers.iter().enumerate() {
        let place = format_args!("{field}[{index}]");
        let Some(port) = findings.check(place, address::port(*number)) else {
            continue;
        };
        match ports.iter().position(|other| *other == port) {
            None => ports.push(port),
            Some(first) => {
                let found = port.to_string();
                findings.add(place, AdmissionProblem::Twice { found, first }.into());
            }
        }
    }
    ports.sort_unstable();
    ports.into()
}
