// SPDX-License-Identifier: Apache-2.0
//! Every reason for which a resource is refused, with its remedy.
//!
//! Invariant: text of the user is quoted, escaped and cut, so that no message breaks a log line or fills a screen.

use std::{fmt, net::IpAddr};

use nodemesh_abi::limits::{MAX_BACKENDS, MAX_CGROUP_DEPTH, MAX_SERVICES, MAX_WEIGHT};

use super::{AdmissionProblem, Origin, PacketProblem};
use crate::{
    keyword::{Family, Kind},
    name::ResourceName,
    resource::policy::{MAX_AFFINITY_S, TABLE_SIZES},
    wire::API_VERSION,
};

/// What stands where something else belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Found {
    /// No value, or `null`.
    Nothing,
    /// `true` or `false`.
    Bool(bool),
    /// A number, as written.
    Number(String),
    /// Text.
    Text(String),
    /// A list.
    List,
    /// A mapping.
    Mapping,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("empty"),
            Self::Bool(value) => write!(f, "the boolean {value}"),
            Self::Number(number) => write!(f, "the number {number}"),
            Self::Text(text) => write!(f, "the text {}", quoted(text)),
            Self::List => f.write_str("a list"),
            Self::Mapping => f.write_str("a mapping"),
        }
    }
}

/// What is wrong, and the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(
    missing_docs,
    reason = "the message of each variant says what it and its fields mean"
)]
pub enum Problem {
    #[error("line {line}, column {column}: {message}; correct the YAML there, what follows is not read")]
    Syntax { line: u64, column: u64, message: String },
    #[error("line {line}, column {column}: key {} is given twice; remove one of the two", quoted(.key))]
    DuplicateKey { line: u64, column: u64, key: String },
    #[error("line {line}, column {column}: {remedy}")]
    OverBudget {
        line: u64,
        column: u64,
        remedy: &'static str,
    },
    #[error("the text has {bytes} bytes; split it into files of at most {limit}")]
    TextTooLong { bytes: usize, limit: usize },
    #[error("is {found}; write a mapping with apiVersion, kind, metadata and spec")]
    NotAResource { found: Found },
    #[error("is {found}; write {}", write_instead(.found, .expected))]
    WrongType { found: Found, expected: &'static str },
    #[error("unknown field; {}", suggestion(.found, .known))]
    UnknownField {
        found: String,
        known: &'static [&'static str],
    },
    #[error("is missing; add {example}")]
    Missing { example: &'static str },
    #[error("{message}")]
    Other { message: String },
    #[error("is {}; this release knows {API_VERSION} only", quoted(.found))]
    ApiVersion { found: String },
    #[error("{} is not known here; {}", quoted(.found), suggestion(.found, .known))]
    UnknownWord { found: String, known: Vec<&'static str> },

    #[error("{} is no DNS label; use 1 to 63 of a-z, 0-9 and -, not - at either end", quoted(.found))]
    Name { found: String },
    #[error("{} is no label key; use up to 63 letters, digits, -, _ and ., after an optional DNS name and /", quoted(.found))]
    LabelKey { found: String },
    #[error("{} is no label value; use up to 63 letters, digits, -, _ and ., a letter or digit at both ends", quoted(.found))]
    LabelValue { found: String },
    #[error("{} is no model name; use 1 to 253 printable characters", quoted(.found))]
    ModelName { found: String },

    #[error("{} is no IP address; write one such as 10.1.0.2 or fd00::2 (host names are not resolved)", quoted(.found))]
    Address { found: String },
    #[error("{address} is {class}; use a unicast address that does not depend on an interface")]
    AddressClass { address: IpAddr, class: &'static str },
    #[error("{address} is a second {family} address; give at most one per family")]
    SecondAddress { address: IpAddr, family: Family },
    #[error("is empty; give at least one, such as {example}")]
    Empty { example: &'static str },

    #[error("port is {found}; use 1 to 65535")]
    PortRange { found: i64 },
    #[error("name is missing; a service with several ports names each of them")]
    PortNameMissing,
    #[error("{} is already the name of ports[{first}]; give each port its own", quoted(.found))]
    DuplicatePortName { found: String, first: usize },
    #[error("{} is the name of no port of this service; use one of spec.ports, or leave portName out", quoted(.found))]
    UnknownPortName { found: String },
    #[error("{port}/{protocol} is already that of ports[{first}]; remove one of the two")]
    DuplicatePort {
        port: u16,
        protocol: &'static str,
        first: usize,
    },

    #[error("weight is 0; use 1 to {MAX_WEIGHT}, and \"state: draining\" to take a backend out of rotation")]
    WeightZero,
    #[error("weight is {found}; use 1 to {MAX_WEIGHT}")]
    WeightRange { found: i64 },
    #[error(
        "port is given, but the service has {ports} ports; leave it out for the targetPort of each, or choose one by portName"
    )]
    BackendPort { ports: usize },
    #[error(
        "{address} is {family}, but the service has no {family} address; add one to spec.addresses, or remove the backend"
    )]
    BackendFamily { address: IpAddr, family: Family },
    #[error("is the same replica as backends[{first}]; remove one of the two, or give each its own port")]
    DuplicateBackend { first: usize },
    #[error("is empty and would match every Workload; name at least one label, or remove it")]
    EmptySelector,
    #[error("{found} backends are more than the limit of {MAX_BACKENDS}; split the service")]
    TooManyBackends { found: usize },

    #[error("{} {reason}; write a path such as kubepods/pod1, relative to the cgroup v2 root", quoted(.found))]
    Cgroup { found: String, reason: &'static str },
    #[error("{} has {depth} levels; the limit is {MAX_CGROUP_DEPTH}, name a cgroup above it", quoted(.found))]
    CgroupDepth { found: String, depth: usize },
    #[error("is missing, and so is spec.cgroup; give at least one of the two")]
    NeitherAddressNorCgroup,

    #[error("a table size is for algorithm maglev, this is {algorithm}; remove it")]
    TableSizeUnused { algorithm: &'static str },
    #[error("{found} is no table size; use a prime from {} to {}", TABLE_SIZES.start(), TABLE_SIZES.end())]
    TableSizeRange { found: i64 },
    #[error("{found} is not a prime; the next one is {next}")]
    TableSizeNotPrime { found: u32, next: u32 },
    #[error("{} is no duration: {reason}; write one such as 3h or 90s", quoted(.found))]
    Duration { found: String, reason: String },
    #[error("{} is out of range; use whole seconds, 1s to {}h", quoted(.found), MAX_AFFINITY_S / 3600)]
    AffinityRange { found: String },

    #[error(transparent)]
    Admission(#[from] AdmissionProblem),
    #[error(transparent)]
    Packet(#[from] PacketProblem),

    #[error("is defined twice, first in {first}; remove one of the two")]
    DuplicateResource { first: Origin },
    #[error("{} port {port}/{protocol} is already that of Service {owner} ({origin}); change one of the two", dialled(*.address))]
    AddressTaken {
        address: IpAddr,
        port: u16,
        protocol: &'static str,
        owner: ResourceName,
        origin: Origin,
    },
    #[error("{} is already the target of TrafficPolicy {owner} ({origin}); merge the two", target(.service.as_ref()))]
    TargetTaken {
        service: Option<ResourceName>,
        owner: ResourceName,
        origin: Origin,
    },
    #[error("{} is already the cgroup of Workload {owner} ({origin}); a process has one identity", quoted(.found))]
    CgroupTaken {
        found: String,
        owner: ResourceName,
        origin: Origin,
    },
    #[error("with this {kind} there are more than {limit} {what}; remove some, or split the mesh")]
    TooMany {
        kind: Kind,
        what: &'static str,
        limit: usize,
    },
}

impl Problem {
    pub(crate) const fn too_many_services() -> Self {
        Self::TooMany {
            kind: Kind::Service,
            what: "service addresses with their ports",
            limit: MAX_SERVICES,
        }
    }

    pub(crate) const fn too_many_backends() -> Self {
        Self::TooMany {
            kind: Kind::Service,
            what: "backends",
            limit: MAX_BACKENDS,
        }
    }
}

/// `text` in quotes, escaped, cut after 80 characters.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}...", &text[..end]),
    }
}

/// The nearest of `known` if `found` is close to one, else all of them.
fn suggestion(found: &str, known: &[&'static str]) -> String {
    const CLOSE: f64 = 0.6;
    let likeness =
        |word: &&&str| strsim::normalized_damerau_levenshtein(&found.to_lowercase(), &word.to_lowercase());
    known
        .iter()
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
        .filter(|word| likeness(word) >= CLOSE)
        .map_or_else(
            || format!("use one of {}", known.join(", ")),
            |word| format!("did you mean \"{word}\"?"),
        )
}

/// What to write in place of a value of the wrong type.
fn write_instead(found: &Found, expected: &str) -> String {
    match (found, expected) {
        (Found::Number(number), "text") => format!("text, in quotes: \"{number}\""),
        (Found::Bool(value), "text") => format!("text, in quotes: \"{value}\""),
        (Found::Text(text), "a whole number") if text.parse::<i64>().is_ok() => {
            format!("a whole number, without quotes: {text}")
        }
        _ => expected.to_owned(),
    }
}

/// An address that clients dial; that of a node port is unspecified.
fn dialled(address: IpAddr) -> String {
    if address.is_unspecified() {
        "of every node,".to_owned()
    } else {
        address.to_string()
    }
}

fn target(service: Option<&ResourceName>) -> String {
    service.map_or_else(
        || "every service of the namespace".to_owned(),
        |name| format!("Service {name}"),
    )
}
