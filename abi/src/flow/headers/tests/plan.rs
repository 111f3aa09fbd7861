// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Frames in memory, built from a plan with checksums computed from scratch: what the tests of `headers` and `translate` start from.

extern crate std;
use std::{vec, vec::Vec};

use proptest::prelude::*;

use crate::flow::{
    checksum::Change,
    headers::{
        Frame,
        network::{ETHERTYPE_IPV4, ETHERTYPE_IPV6},
    },
    translate::{Amend, FrameMut},
};

/// A frame in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl Frame for Bytes {
    fn load<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        let at = at as usize;
        self.0.get(at..at.checked_add(N)?)?.try_into().ok()
    }

    fn length(&self) -> u32 {
        self.0.len() as u32
    }
}

impl FrameMut for Bytes {
    fn store<const N: usize>(&mut self, at: u32, bytes: [u8; N]) -> bool {
        let at = at as usize;
        let Some(place) = self.0.get_mut(at..at + N) else {
            return false;
        };
        place.copy_from_slice(&bytes);
        true
    }

    fn store_bare<const N: usize>(&mut self, at: u32, bytes: [u8; N]) -> bool {
        self.store(at, bytes)
    }

    fn amend(&mut self, at: u32, how: Amend, outside: Change, inside: Change) -> bool {
        let Some(bytes) = self.load::<2>(at) else {
            return false;
        };
        let (change, old) = (outside.and(inside), u16::from_ne_bytes(bytes));
        let new = if how.is_optional {
            change.apply_udp(old)
        } else {
            change.apply(old)
        };
        self.store(at, new.to_ne_bytes())
    }
}

/// What a frame is built from.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) is_v6: bool,
    /// 0 for TCP, 1 for UDP, 2 for UDP without a checksum, 3 for an ICMP error about TCP.
    pub(crate) kind: u8,
    pub(crate) hosts: [u8; 2],
    pub(crate) ports: [u16; 2],
    /// Words of options, or units of eight bytes of destination options.
    pub(crate) options: u8,
    pub(crate) flags: u8,
    pub(crate) ttl: u8,
    pub(crate) payload: Vec<u8>,
}

prop_compose! {
    pub(crate) fn plans()(
        is_v6: bool, kind in 0_u8..4, hosts in [1_u8..255, 1_u8..255], ports: [u16; 2], options in 0_u8..4,
        flags in prop::sample::select(vec![2_u8, 16, 18, 17, 4, 24]), ttl in 2_u8..,
        payload in prop::collection::vec(any::<u8>(), 0..64),
    ) -> Plan {
        Plan { is_v6, kind, hosts, ports, options, flags, ttl, payload }
    }
}

/// The sum of RFC 1071, not complemented.
pub(crate) fn sum(parts: &[&[u8]]) -> u16 {
    let whole = parts.concat();
    let pairs = whole
        .chunks(2)
        .map(|pair| [pair[0], pair.get(1).copied().unwrap_or(0)]);
    let mut sum: u32 = pairs.map(|pair| u32::from(u16::from_be_bytes(pair))).sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

impl Plan {
    /// The frame, with right checksums.
    pub(crate) fn frame(&self) -> Bytes {
        let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        bytes.extend(if self.is_v6 {
            ETHERTYPE_IPV6
        } else {
            ETHERTYPE_IPV4
        });
        bytes.extend(self.packet(&self.address(0), &self.address(1)));
        Bytes(bytes)
    }

    pub(crate) fn address(&self, end: usize) -> Vec<u8> {
        if self.is_v6 {
            return [
                &[0xfd, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..],
                &[self.hosts[end]],
            ]
            .concat();
        }
        vec![10, 0, end as u8, self.hosts[end]]
    }

    fn packet(&self, src: &[u8], dst: &[u8]) -> Vec<u8> {
        let transport = self.transport(src, dst);
        let protocol = self.protocol();
        let options = usize::from(self.options);
        if self.is_v6 {
            let mut extension = vec![0; options * 8];
            let next = if options == 0 { protocol } else { 60 };
            if options != 0 {
                extension[0] = protocol;
                extension[1] = self.options - 1;
            }
            let length = (extension.len() + transport.len()) as u16;
            let head = [&[0x60, 0, 0, 0][..], &length.to_be_bytes(), &[next, self.ttl]].concat();
            return [&head[..], src, dst, &extension, &transport].concat();
        }
        let header = 20 + options * 4;
        let length = ((header + transport.len()) as u16).to_be_bytes();
        let mut head = vec![
            0x40 | (header / 4) as u8,
            0,
            length[0],
            length[1],
            7,
            7,
            0x40,
            0,
            self.ttl,
            protocol,
            0,
            0,
        ];
        head.extend([src, dst, &vec![1; options * 4]].concat());
        let checksum = !sum(&[&head]);
        head[10..12].copy_from_slice(&checksum.to_be_bytes());
        head.extend(transport);
        head
    }

    fn protocol(&self) -> u8 {
        match self.kind {
            0 => 6,
            1 | 2 => 17,
            _ if self.is_v6 => 58,
            _ => 1,
        }
    }

    fn transport(&self, src: &[u8], dst: &[u8]) -> Vec<u8> {
        let ports = [self.ports[0].to_be_bytes(), self.ports[1].to_be_bytes()].concat();
        let (mut bytes, at) = match self.kind {
            0 => {
                let rest = [0, 0, 0, 1, 0, 0, 0, 2, 0x50, self.flags, 1, 1, 0, 0, 0, 0];
                ([&ports[..], &rest].concat(), 16)
            }
            1 | 2 => {
                let length = ((8 + self.payload.len()) as u16).to_be_bytes();
                ([&ports[..], &length, &[0, 0]].concat(), 6)
            }
            _ => {
                let about = Self {
                    kind: 0,
                    options: 0,
                    ..self.clone()
                };
                let kind = if self.is_v6 { 2 } else { 3 };
                let quoted = about.packet(dst, src);
                let quoted = &quoted[..if self.is_v6 { 48 } else { 28 }];
                ([&[kind, 0, 0, 0, 0, 0, 5, 0xdc][..], quoted].concat(), 2)
            }
        };
        if self.kind < 3 {
            bytes.extend(&self.payload);
        }
        if self.kind == 2 {
            return bytes;
        }
        let length = (bytes.len() as u16).to_be_bytes();
        let pseudo = [src, dst, &[0, self.protocol()], &length].concat();
        let pseudo: &[u8] = if self.protocol() == 1 { &[] } else { &pseudo };
        let checksum = match !sum(&[pseudo, &bytes]) {
            0 if self.kind == 1 => u16::MAX,
            other => other,
        };
        bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }
}
