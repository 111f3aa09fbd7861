// SPDX-License-Identifier: Apache-2.0
//! The clients that a rule is about: one entry of `from`.
//!
//! Invariant: a source names at least one thing, and `unknown` stands alone.

use std::fmt;

use ipnet::{IpNet, Ipv4Net};

use crate::{
    invalid::{AdmissionProblem, Findings, Problem},
    name::Labels,
    resource::{check_labels, identity},
    wire,
};

/// Longest name or beginning of one, bytes; an identity may be longer.
const MAX_NAME: usize = 63;
/// Longest identity or beginning of one, bytes.
const MAX_IDENTITY: usize = 2048;

/// Clients: all that is given must hold; of a list, for one of its values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Source {
    /// Namespaces of workloads.
    pub namespaces: Box<[NamePattern]>,
    /// Names of workloads, in whatever namespace unless `namespaces` says which.
    pub workloads: Box<[NamePattern]>,
    /// SPIFFE IDs of workloads.
    pub identities: Box<[NamePattern]>,
    /// Labels of workloads; all must be there.
    pub labels: Labels,
    /// Address ranges; of a workload, one of its addresses must be in one of them.
    pub cidrs: Box<[IpNet]>,
    /// Clients that are no known workload; nothing else is given then.
    pub unknown: bool,
}

impl Source {
    /// Whether it speaks of workloads by anything but their address.
    pub(crate) fn is_about_workloads(&self) -> bool {
        !(self.namespaces.is_empty()
            && self.workloads.is_empty()
            && self.identities.is_empty()
            && self.labels.is_empty())
    }
}

/// A name, or the beginning of names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamePattern {
    /// The name or the beginning, without the `*`.
    pub text: Box<str>,
    /// Whether it is a beginning.
    pub is_prefix: bool,
}

impl NamePattern {
    /// Whether `name` is meant.
    pub fn matches(&self, name: &str) -> bool {
        if self.is_prefix {
            name.starts_with(&*self.text)
        } else {
            name == &*self.text
        }
    }

    /// Whether all that `other` means is meant.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        self.matches(&other.text) && (self.is_prefix || !other.is_prefix)
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        f.write_str(if self.is_prefix { "*" } else { "" })
    }
}

/// Reads the source `field`.
pub(super) fn read(field: &str, wire: wire::Source, findings: &mut Findings) -> Option<Source> {
    let before = findings.listed.len() + findings.omitted;
    let others = [
        ("namespaces", wire.namespaces.is_some()),
        ("workloads", wire.workloads.is_some()),
        ("identities", wire.identities.is_some()),
        ("labels", wire.labels.is_some()),
        ("cidrs", wire.cidrs.is_some()),
    ];
    let other = others.into_iter().find(|(_, is_given)| *is_given);
    match (wire.unknown, other) {
        (None, None) => findings.add(field, AdmissionProblem::EmptySource.into()),
        (Some(false), _) => findings.add(
            format_args!("{field}.unknown"),
            AdmissionProblem::UnknownFalse.into(),
        ),
        (Some(true), Some((with, _))) => {
            findings.add(
                format_args!("{field}.unknown"),
                AdmissionProblem::UnknownWith { with }.into(),
            );
        }
        _ => {}
    }
    let labels = wire.labels.unwrap_or_default();
    let place = format!("{field}.labels");
    if labels.is_empty() && others[3].1 {
        findings.add(&place, AdmissionProblem::EmptyList.into());
    }
    check_labels(&place, &labels, findings);
    let mut list =
        |name: &str, texts: Option<Vec<String>>, read: fn(&str) -> Result<NamePattern, Problem>| {
            list(&format!("{field}.{name}"), texts, read, findings)
        };
    let source = Source {
        namespaces: list("namespaces", wire.namespaces, name),
        workloads: list("workloads", wire.workloads, name),
        identities: list("identities", wire.identities, identity_pattern),
        labels,
        cidrs: self::list(&format!("{field}.cidrs"), wire.cidrs, cidr, findings),
        unknown: wire.unknown.unwrap_or_default(),
    };
    (findings.listed.len() + findings.omitted == before).then_some(source)
}

/// Reads a list of different values; one that is given has at least one.
fn list<T: PartialEq>(
    field: &str,
    texts: Option<Vec<String>>,
    read: fn(&str) -> Result<T, Problem>,
    findings: &mut Findings,
) -> Box<[T]> {
    if texts.as_ref().is_some_and(Vec::is_empty) {
        findings.add(field, AdmissionProblem::EmptyList.into());
    }
    let mut seen = std::collections::HashMap::new();
    let mut values: Vec<T> = Vec::new();
    for (index, text) in texts.unwrap_or_default().into_iter().enumerate() {
        let place = format_args!("{field}[{index}]");
        let Some(value) = findings.check(place, read(&text)) else {
            continue;
        };
        match seen.get(&text) {
            None => {
                seen.insert(text, index);
                values.push(value);
            }
            Some(first) => {
                let problem = AdmissionProblem::Twice {
                    found: text,
                    first: *first,
                };
                findings.add(place, problem.into());
            }
        }
    }
    values.into()
}

/// Reads the name of a namespace or workload, or the beginning of one.
fn name(text: &str) -> Result<NamePattern, Problem> {
    let is_of_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    pattern(text, |name, is_prefix| {
        if name.len() > MAX_NAME {
            Some("it is longer than 63 characters")
        } else if !name.bytes().all(is_of_name) || name.starts_with('-') || !is_prefix && name.ends_with('-')
        {
            Some("names are of a-z, 0-9 and -, not - at either end")
        } else {
            None
        }
    })
}

/// Reads an identity, or the beginning of one.
fn identity_pattern(text: &str) -> Result<NamePattern, Problem> {
    if !text.contains('*') {
        let id = identity::parse(text)?;
        return Ok(NamePattern {
            text: (*id).into(),
            is_prefix: false,
        });
    }
    let is_of_id = |byte: u8| identity::is_of_path(byte) || byte == b'/';
    pattern(text, |id, _| match id.strip_prefix(identity::SCHEME) {
        _ if id.len() > MAX_IDENTITY => Some("it is longer than 2048 bytes"),
        None if identity::SCHEME.starts_with(id) => None,
        None => Some("identities begin with spiffe://"),
        Some(rest) if !rest.bytes().all(is_of_id) => Some("identities are of letters, digits, /, ., - and _"),
        Some(_) => None,
    })
}

/// Splits off the `*`, and lets `fault` judge the rest.
fn pattern(
    text: &str,
    fault: impl FnOnce(&str, bool) -> Option<&'static str>,
) -> Result<NamePattern, Problem> {
    let (name, is_prefix) = text.strip_suffix('*').map_or((text, false), |name| (name, true));
    let reason = if name.contains('*') {
        Some("* stands at the end only")
    } else if text.is_empty() {
        Some("it is empty")
    } else {
        fault(name, is_prefix)
    };
    match reason {
        None => Ok(NamePattern {
            text: name.into(),
            is_prefix,
        }),
        Some(reason) => Err(AdmissionProblem::Pattern {
            found: text.to_owned(),
            reason,
        }
        .into()),
    }
}

/// Reads a range; one of v4-mapped IPv6 addresses is the range of the IPv4 addresses.
fn cidr(text: &str) -> Result<IpNet, Problem> {
    let found = || text.to_owned();
    let network: IpNet = text
        .parse()
        .map_err(|_| AdmissionProblem::Cidr { found: found() })?;
    let network = match network {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => match v6.addr().to_ipv4_mapped() {
            Some(v4) => Ipv4Net::new(v4, v6.prefix_len() - 96).map_or(network, IpNet::V4),
            None => network,
        },
        other => other,
    };
    if network.trunc() == network {
        Ok(network)
    } else {
        let network = network.trunc().to_string();
        Err(AdmissionProblem::CidrBits {
            found: found(),
            network,
        }
        .into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names_and_beginnings() {
        let batch = name("batch-*").unwrap();
        assert!(batch.matches("batch-1") && batch.matches("batch-") && !batch.matches("batch"));
        let chat = name("chat").unwrap();
        assert!(chat.matches("chat") && !chat.matches("chat-1"));
        assert!(name("*").unwrap().matches("anything"));
        for (wide, narrow, covers) in [
            ("batch-*", "batch-a*", true),
            ("batch-*", "batch-1", true),
            ("batch-a*", "batch-*", false),
            ("chat", "chat", true),
            ("chat", "chat*", false),
        ] {
            assert_eq!(
                name(wide).unwrap().covers(&name(narrow).unwrap()),
                covers,
                "{wide} {narrow}"
            );
        }
    }

    #[test]
    fn ranges_are_canonical() {
        assert_eq!(cidr("::ffff:10.1.0.0/112").unwrap().to_string(), "10.1.0.0/16");
        assert_eq!(cidr("::/0").unwrap().to_string(), "::/0");
        for invalid in ["10.1.0.0", "10.1.0.0/33", "10.1.0.1/16", "fd00::1/64", "x/8", ""] {
            assert!(cidr(invalid).is_err(), "{invalid}");
        }
    }
}
