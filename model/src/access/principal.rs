// SPDX-License-Identifier: Apache-2.0
//! Clients as policies tell them apart. Made by `desired`, given numbers by the agent.
//!
//! Invariant: of two clients with equal principals no policy allows one what it denies the other.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use ipnet::IpNet;
use nodemesh_abi::Ip16;

use super::index::Probe;
use crate::{name::ResourceName, resource::Workload};

/// Names a principal.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PrincipalName {
    /// A client that is no known workload, and whose address is in no range of a policy or not known.
    #[default]
    Unknown,
    /// A workload.
    Workload(ResourceName),
    /// An address that several workloads have.
    Address(IpAddr),
    /// Clients that are no known workload, with an address in this range and in no narrower one of a policy.
    Network(IpNet),
}

impl fmt::Display for PrincipalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.pad("unknown"),
            Self::Workload(name) => name.fmt(f),
            Self::Address(address) => address.fmt(f),
            Self::Network(network) => network.fmt(f),
        }
    }
}

/// A range of addresses as a key of `identities`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// Its first address.
    pub addr: Ip16,
    /// Bits of it that count; for IPv4, 96 more than in the usual notation.
    pub bits: u32,
}

impl Prefix {
    /// All IPv4 addresses.
    pub const V4: Self = Self {
        addr: Ip16::from_v4_word(0),
        bits: 96,
    };

    /// The prefix of `bits` bits, 128 at most, that `address` is in.
    pub(crate) fn of(address: IpAddr, bits: u32) -> Self {
        let all = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        let mask = u128::MAX.checked_shl(128 - bits).unwrap_or_default();
        Self {
            addr: IpAddr::from(Ipv6Addr::from_bits(all & mask)).into(),
            bits,
        }
    }
}

impl From<IpNet> for Prefix {
    fn from(network: IpNet) -> Self {
        let mapped = if network.addr().is_ipv4() { 96 } else { 0 };
        Self {
            addr: network.network().into(),
            bits: mapped + u32::from(network.prefix_len()),
        }
    }
}

impl From<IpAddr> for Prefix {
    fn from(address: IpAddr) -> Self {
        Self {
            addr: address.into(),
            bits: 128,
        }
    }
}

/// What policies know about a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    who: Vec<Subject>,
    networks: Vec<IpNet>,
    is_addressed: bool,
}

impl Principal {
    /// A client of which nothing is known.
    pub const UNKNOWN: Self = Self {
        who: Vec::new(),
        networks: Vec::new(),
        is_addressed: false,
    };

    /// A client that is one of `workloads`, or no workload if there are none, with an address in each of `networks`, sorted, and in
    /// no other range of a policy.
    pub(crate) fn new<'w>(
        workloads: impl IntoIterator<Item = &'w Arc<Workload>>,
        networks: Vec<IpNet>,
        is_addressed: bool,
    ) -> Self {
        Self {
            who: workloads
                .into_iter()
                .map(|workload| Subject(Arc::clone(workload)))
                .collect(),
            networks,
            is_addressed,
        }
    }

    /// The workload that it is; several if they share its address.
    pub fn workloads(&self) -> impl ExactSizeIterator<Item = &Workload> {
        self.who.iter().map(|subject| &*subject.0)
    }

    /// The ranges of policies that its addresses are in, sorted.
    pub fn networks(&self) -> &[IpNet] {
        &self.networks
    }

    /// Whether its address is known, and so in which ranges it is.
    pub fn is_addressed(&self) -> bool {
        self.is_addressed
    }

    /// What to look up, for each workload that it may be.
    pub(crate) fn probes(&self) -> impl Iterator<Item = Probe<'_>> {
        let unknown = self.who.is_empty().then(|| Probe::new(None, &self.networks));
        let known = self
            .workloads()
            .map(|workload| Probe::new(Some(workload), &self.networks));
        known.chain(unknown)
    }
}

impl Default for Principal {
    fn default() -> Self {
        Self::UNKNOWN
    }
}

/// A workload, of which only what policies look at is compared.
#[derive(Clone, Debug)]
struct Subject(Arc<Workload>);

impl PartialEq for Subject {
    fn eq(&self, other: &Self) -> bool {
        let facts = |subject: &Self| {
            let workload = &subject.0;
            (workload.metadata.name.clone(), Arc::clone(&workload.identity))
        };
        Arc::ptr_eq(&self.0, &other.0)
            || facts(self) == facts(other) && self.0.metadata.labels == other.0.metadata.labels
    }
}

impl Eq for Subject {}
