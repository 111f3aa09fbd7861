// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The row of a flow in `tracks`: who talks to whom, under which names, how it stands and how much was sent.
//!
//! Written by the programs, read by the agent through a mapping of the array. Invariants: between two changes of [`Track::seq`] the
//! addresses, ports and numbers of a row stay as they are, so who reads it again after copying knows whether the copy is whole; both
//! tuples of a live row are in the index, and no other row has them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{
    state::{FlowState, Life},
    tuple::Tuple,
};
use crate::{Ip16, Port, layout::abi_struct};

/// What is done to the packets of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TrackMode {
    /// Both addresses are translated.
    Nat = 0,
    /// The client's address is kept.
    Keep = 1,
    /// Only the link-layer address is changed, and replies are not seen.
    Direct = 2,
}

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Direction {
    /// From the client to the backend.
    Forward = 0,
    /// From the backend to the client.
    Reply = 1,
}

/// Value of `tracks`.
///
/// On the client's side the flow is `client → service`, on the backend's side `nat → backend`; replies come as `backend → nat` and leave
/// as `service → client`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Track {
    /// Address of the client.
    pub client: Ip16,
    /// Address that it dialled.
    pub service: Ip16,
    /// Address of the backend; the dialled one with [`TrackMode::Direct`].
    pub backend: Ip16,
    /// Address that the backend sees; the client's where it is kept.
    pub nat: Ip16,
    /// Port of the client.
    pub client_port: Port,
    /// Port that it dialled.
    pub service_port: Port,
    /// Port of the backend.
    pub backend_port: Port,
    /// Port that the backend sees.
    pub nat_port: Port,
    /// A [`Life`].
    pub life: u32,
    /// IANA protocol number.
    pub protocol: u8,
    /// A [`TrackMode`].
    pub mode: u8,
    /// Where else than on its backend it is counted: bits of [`crate::connection::Counted`].
    pub counted: u8,
    /// Zero.
    pub pad: u8,
    /// Even while the row's identity stands, odd while it changes.
    pub seq: u32,
    /// Index into `backends`.
    pub backend_id: u32,
    /// [`crate::Service::id`].
    pub service_id: u32,
    /// Client's identity.
    pub identity: u32,
    /// When it was opened, see [`ticks`].
    pub opened: u32,
    /// When its last packet was seen.
    pub seen: u32,
    /// Packets from the client, modulo 2^32.
    pub packets_up: u32,
    /// Packets from the backend, modulo 2^32.
    pub packets_down: u32,
    /// Bytes from the client, from the IP header on.
    pub bytes_up: u64,
    /// Bytes from the backend.
    pub bytes_down: u64,
}
abi_struct!(Track: 128 {
    client: 0, service: 16, backend: 32, nat: 48, client_port: 64, service_port: 66, backend_port: 68, nat_port: 70, life: 72,
    protocol: 76, mode: 77, counted: 78, pad: 79, seq: 80, backend_id: 84, service_id: 88, identity: 92, opened: 96, seen: 100,
    packets_up: 104, packets_down: 108, bytes_up: 112, bytes_down: 120,
});

/// A time of a row: nanoseconds of `CLOCK_MONOTONIC` in units of 2^20 (about a millisecond), modulo 2^32 (52 days).
#[inline(always)]
pub const fn ticks(ns: u64) -> u32 {
    (ns >> 20) as u32
}

/// Units of [`ticks`] in `seconds`; at most half of the clock's round.
#[inline(always)]
pub const fn ticks_in(seconds: u32) -> u32 {
    let ticks = (seconds as u64 * 1_000_000_000) >> 20;
    if ticks > i32::MAX as u64 {
        i32::MAX as u32
    } else {
        ticks as u32
    }
}

/// What a packet's addresses and ports become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// New source.
    pub src: Ip16,
    /// New destination.
    pub dst: Ip16,
    /// New source port.
    pub src_port: Port,
    /// New destination port.
    pub dst_port: Port,
}

impl Track {
    /// Whether the row stands for a flow.
    #[inline(always)]
    pub const fn is_live(&self) -> bool {
        Life(self.life).raw_state() != FlowState::Free as u8 && self.seq & 1 == 0
    }

    /// State and what goes with it.
    #[inline(always)]
    pub const fn life(&self) -> Life {
        Life(self.life)
    }

    /// The tuple of packets that come from the client.
    #[inline(always)]
    pub const fn forward(&self) -> Tuple {
        Tuple {
            src: self.client,
            dst: self.service,
            src_port: self.client_port,
            dst_port: self.service_port,
            protocol: self.protocol as u32,
        }
    }

    /// The tuple of packets that come from the backend.
    #[inline(always)]
    pub const fn reply(&self) -> Tuple {
        Tuple {
            src: self.backend,
            dst: self.nat,
            src_port: self.backend_port,
            dst_port: self.nat_port,
            protocol: self.protocol as u32,
        }
    }

    /// What a packet that goes in `direction` becomes.
    #[inline(always)]
    pub const fn mapping(&self, direction: Direction) -> Mapping {
        match direction {
            Direction::Forward => Mapping {
                src: self.nat,
                dst: self.backend,
                src_port: self.nat_port,
                dst_port: self.backend_port,
            },
            Direction::Reply => Mapping {
                src: self.service,
                dst: self.client,
                src_port: self.service_port,
                dst_port: self.client_port,
            },
        }
    }

    /// Whether its last packet is longer ago than its state allows, by [`super::FlowSettings::timeouts_s`].
    #[inline(always)]
    pub fn is_expired(&self, now: u32, timeout_s: u32) -> bool {
        is_expired(self.seen, now, timeout_s)
    }
}

/// Whether something that was `seen` is longer ago than `timeout_s`.
#[inline(always)]
pub const fn is_expired(seen: u32, now: u32, timeout_s: u32) -> bool {
    let idle = now.wrapping_sub(seen);
    // Another CPU may have seen a packet a moment later than this one's clock says.
    idle.cast_signed() > 0 && idle > ticks_in(timeout_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_round_without_ending_a_flow() {
        assert!(!is_expired(u32::MAX - 5, 3, 1));
        assert!(is_expired(u32::MAX - 5, 2_000, 1));
        assert!(!is_expired(10, 9, 0), "seen by another CPU a moment ago");
        assert_eq!(ticks_in(u32::MAX), i32::MAX as u32);
        assert!((950..=957).contains(&ticks_in(1)));
    }
}
