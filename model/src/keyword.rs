// SPDX-License-Identifier: Apache-2.0
//! Enumerations that are written as one word in a resource, in the output of the CLI and in metric labels.
//!
//! Invariant: a word is spelled the same in all three, because [`Keyword::WORDS`] is its only place.

use std::fmt;

use nodemesh_abi::{Algorithm, ClientKeySource, Protocol};

use crate::invalid::Problem;

/// An enumeration with one word per variant.
pub trait Keyword: Copy + PartialEq + 'static {
    /// Every variant and its word.
    const WORDS: &'static [(Self, &'static str)];

    /// The word of this variant.
    fn word(self) -> &'static str {
        Self::WORDS
            .iter()
            .find(|(variant, _)| *variant == self)
            .map_or("unknown", |(_, word)| word)
    }

    /// The variant that `word` names; upper and lower case differ.
    fn from_word(word: &str) -> Option<Self> {
        Self::WORDS
            .iter()
            .find(|(_, known)| *known == word)
            .map(|(variant, _)| *variant)
    }
}

/// The variant that `word` names, or the problem to report.
pub(crate) fn parse<K: Keyword>(word: &str) -> Result<K, Problem> {
    K::from_word(word).ok_or_else(|| Problem::UnknownWord {
        found: word.to_owned(),
        known: K::WORDS.iter().map(|(_, known)| *known).collect(),
    })
}

/// Whether a replica may take new connections, as its owner or a health check says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BackendState {
    /// Takes new connections.
    #[default]
    Active,
    /// Takes no new connections; those it has go on.
    Draining,
    /// Takes no new connections; those it has go on, and are not expected to work.
    Unhealthy,
}

/// Kind of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// See [`crate::Service`].
    Service,
    /// See [`crate::Workload`].
    Workload,
    /// See [`crate::TrafficPolicy`].
    TrafficPolicy,
    /// See [`crate::AccessPolicy`].
    AccessPolicy,
}

/// How the packet path sends a client's packets on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PacketMode {
    /// To the replica's address, from this node's: works wherever the replica is; it does not see the client's address.
    Snat,
    /// As [`PacketMode::Snat`], but with the client's address where the replica is on this node.
    Preserve,
    /// As the client sent them; the replica has the service's address and answers the client itself.
    Dsr,
}

/// IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The version of `address`.
    pub const fn of(address: std::net::IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl Keyword for BackendState {
    const WORDS: &'static [(Self, &'static str)] = &[
        (Self::Active, "active"),
        (Self::Draining, "draining"),
        (Self::Unhealthy, "unhealthy"),
    ];
}

impl Keyword for PacketMode {
    const WORDS: &'static [(Self, &'static str)] = &[
        (Self::Snat, "snat"),
        (Self::Preserve, "preserve"),
        (Self::Dsr, "dsr"),
    ];
}

impl Keyword for Kind {
    const WORDS: &'static [(Self, &'static str)] = &[
        (Self::Service, "Service"),
        (Self::Workload, "Workload"),
        (Self::TrafficPolicy, "TrafficPolicy"),
        (Self::AccessPolicy, "AccessPolicy"),
    ];
}

impl Keyword for Family {
    const WORDS: &'static [(Self, &'static str)] = &[(Self::V4, "IPv4"), (Self::V6, "IPv6")];
}

impl Keyword for Protocol {
    const WORDS: &'static [(Self, &'static str)] = &[(Self::Tcp, "TCP"), (Self::Udp, "UDP")];
}

impl Keyword for Algorithm {
    const WORDS: &'static [(Self, &'static str)] = &[
        (Self::Random, "random"),
        (Self::RoundRobin, "round-robin"),
        (Self::LeastRequest, "least-request"),
        (Self::Maglev, "maglev"),
    ];
}

impl Keyword for ClientKeySource {
    const WORDS: &'static [(Self, &'static str)] =
        &[(Self::Workload, "workload"), (Self::Address, "address")];
}

impl fmt::Display for BackendState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}
