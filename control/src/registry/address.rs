// SPDX-License-Identifier: Apache-2.0
//! Virtual addresses: one of each range for a service that brings none.
//!
//! Called by `writer`. Invariant: an address is given to one service, is not given to another one while the store remembers its
//! release, and goes back to the service that had it if that comes back in time.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use nodemesh_model::ResourceName;

use super::state::State;

/// Where addresses come from: at most one range per family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressRanges {
    ranges: Vec<IpNet>,
}

/// Why there is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each variant says what its fields are")]
pub enum AddressError {
    #[error(
        "Service {service} has no spec.addresses, and this control plane has no --address-range; give one of the two"
    )]
    NoRange { service: ResourceName },
    #[error(
        "all addresses of {range} are in use, or were until a short while ago; use a larger --address-range"
    )]
    Exhausted { range: IpNet },
    #[error("{second} is a second range of the family of {first}; give at most one per family")]
    SecondRange { first: IpNet, second: IpNet },
    #[error("{range} has no address to give away; use at most /30 or /126")]
    TooSmall { range: IpNet },
}

impl AddressRanges {
    /// The ranges to allocate from.
    pub fn new(ranges: impl IntoIterator<Item = IpNet>) -> Result<Self, AddressError> {
        let mut checked: Vec<IpNet> = Vec::new();
        for range in ranges {
            let range = range.trunc();
            let is_same_family = |other: &&IpNet| other.addr().is_ipv4() == range.addr().is_ipv4();
            if let Some(first) = checked.iter().find(is_same_family) {
                return Err(AddressError::SecondRange {
                    first: *first,
                    second: range,
                });
            }
            if range.prefix_len() + 2 > range.max_prefix_len() {
                return Err(AddressError::TooSmall { range });
            }
            checked.push(range);
        }
        Ok(Self { ranges: checked })
    }

    /// Whether `address` is one that could be given away.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(&address))
    }

    /// An address of each range for `service`, which is not in `state`.
    pub(super) fn allocate(
        &self,
        service: &ResourceName,
        state: &State,
    ) -> Result<Vec<IpAddr>, AddressError> {
        if self.ranges.is_empty() {
            return Err(AddressError::NoRange {
                service: service.clone(),
            });
        }
        self.ranges
            .iter()
            .map(|range| pick(*range, service, state))
            .collect()
    }
}

fn pick(range: IpNet, service: &ResourceName, state: &State) -> Result<IpAddr, AddressError> {
    let formerly = state
        .released
        .iter()
        .find(|(address, released)| *released.owner == *service.as_str() && range.contains(*address));
    if let Some((address, _)) = formerly.filter(|(address, _)| !state.is_taken(**address)) {
        return Ok(*address);
    }
    let bits = u32::from(range.max_prefix_len() - range.prefix_len());
    // Without the first (network, or subnet router anycast) and the last one (broadcast).
    let count = 1_u128.checked_shl(bits).map_or(u128::MAX, |size| size - 2);
    // Where to look first depends on the name, so that an address is seldom that of a service deleted long ago.
    let mut hasher = DefaultHasher::new();
    service.hash(&mut hasher);
    let start = u128::from(hasher.finish()) % count;
    // One more than there are addresses in use is enough to look at.
    let most = (state.claims.len() + state.released.len()) as u128 + 1;
    (0..most.min(count))
        .map(|step| {
            nth(
                range,
                1 + start.checked_add(step).map_or(0, |index| index % count),
            )
        })
        .find(|address| !state.is_taken(*address) && !state.released.contains_key(address))
        .ok_or(AddressError::Exhausted { range })
}

fn nth(range: IpNet, index: u128) -> IpAddr {
    match range {
        IpNet::V4(range) => Ipv4Addr::from(u32::from(range.network()) + index as u32).into(),
        IpNet::V6(range) => Ipv6Addr::from(u128::from(range.network()) + index).into(),
    }
}
