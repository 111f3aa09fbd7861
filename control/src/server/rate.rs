// SPDX-License-Identifier: Apache-2.0
//! How many calls one client may make in a second.

use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
};

use governor::{Quota, RateLimiter, clock::DefaultClock, state::keyed::DashMapStateStore};

/// Leading bits of an IPv6 address that are one client's.
const V6_CLIENT: u32 = 64;

/// Counts calls per address; of IPv6 addresses per /64, since a machine has all of those.
#[derive(Debug)]
pub struct RateLimit {
    per_second: u32,
    limiter: RateLimiter<IpAddr, DashMapStateStore<IpAddr>, DefaultClock>,
}

impl RateLimit {
    /// Allows `per_second` calls per second, and as many at once.
    pub fn new(per_second: u32) -> Self {
        let quota = Quota::per_second(NonZeroU32::new(per_second).unwrap_or(NonZeroU32::MIN));
        Self {
            per_second,
            limiter: RateLimiter::dashmap(quota),
        }
    }

    /// Whether one more call from `address` is allowed; counts it if it is.
    pub fn allows(&self, address: IpAddr) -> bool {
        self.limiter.check_key(&client(address)).is_ok()
    }

    /// The limit.
    pub fn per_second(&self) -> u32 {
        self.per_second
    }

    /// Forgets the clients that were quiet; to be called now and then.
    pub fn forget_quiet(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }
}

fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let kept = u128::MAX << (Ipv6Addr::BITS - V6_CLIENT);
            Ipv6Addr::from(u128::from(address) & kept).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_its_own_allowance() {
        let limit = RateLimit::new(2);
        let allowed = |text: &str| limit.allows(text.parse().unwrap());
        assert!(allowed("10.0.0.1") && allowed("10.0.0.1"));
        assert!(!allowed("10.0.0.1"), "the third in a second");
        assert!(!allowed("::ffff:10.0.0.1"), "the same client");
        assert!(allowed("10.0.0.2"));
        assert!(allowed("fd00::1") && allowed("fd00::2:2"));
        assert!(!allowed("fd00::3"), "the same /64");
        assert!(allowed("fd00:0:0:1::3"));
    }
}
