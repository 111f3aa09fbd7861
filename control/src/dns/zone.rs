// SPDX-License-Identifier: Apache-2.0
//! The answer to a DNS message: a pure function of its bytes and the state.
//!
//! Invariant: only names of the zone are answered, with authority; a name that has something below it exists (RFC 8020), one
//! without records of the asked type has none of them (RFC 2308), and both say how long that holds.

use std::net::IpAddr;

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, AAAA, SOA},
    },
};
use nodemesh_model::ResourceName;

use crate::registry::State;

/// How long answers hold, seconds: services move seldom, and not at all while connections are placed in the kernel.
const TTL_S: u32 = 5;
/// Largest UDP message that is sent: what passes every network unfragmented (DNS Flag Day 2020).
const MAX_UDP: u16 = 1232;
/// Length of a header.
const HEADER: usize = 12;

/// How a message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// The zone.
#[derive(Clone, Debug)]
pub struct Zone {
    origin: Name,
}

/// Why a name is no zone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--dns-zone {name}: is no domain name; use one such as mesh.internal")]
pub struct InvalidZone {
    name: String,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// As on the wire, without a length.
    pub bytes: Vec<u8>,
    /// Its response code.
    pub code: ResponseCode,
}

/// What there is to say about a question.
enum Found {
    Records(Vec<RData>),
    /// The name exists, but has none of these.
    NoData,
    NoName,
    NotOurs,
}

impl Zone {
    /// The zone `name`.
    pub fn new(name: &str) -> Result<Self, InvalidZone> {
        let invalid = || InvalidZone {
            name: name.to_owned(),
        };
        let mut origin = Name::from_ascii(name).map_err(|_| invalid())?.to_lowercase();
        origin.set_fqdn(true);
        // Two labels of at most 63 bytes have to fit before it.
        if origin.is_root() || origin.len() > 255 - 2 * 64 {
            return Err(invalid());
        }
        Ok(Self { origin })
    }

    /// The answer to `query`; `None` if it is no query at all.
    pub(super) fn reply(&self, query: &[u8], state: &State, transport: Transport) -> Option<Reply> {
        let is_query = query.len() >= HEADER && query[2] & 0x80 == 0;
        if !is_query {
            return None;
        }
        let Ok(request) = Message::from_vec(query) else {
            let id = u16::from_be_bytes([query[0], query[1]]);
            let response = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
            return written(&response, ResponseCode::FormErr, usize::from(MAX_UDP));
        };
        let mut response = Message::response(request.metadata.id, request.metadata.op_code);
        response.metadata.recursion_desired = request.metadata.recursion_desired;
        response.add_queries(request.queries.iter().cloned());
        if request.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(MAX_UDP);
            response.set_edns(edns);
        }
        let code = self.answer(&request, state, &mut response);
        response.metadata.response_code = code;
        if let Some(edns) = &mut response.edns {
            edns.set_rcode_high(code.high());
        }
        let limit = match transport {
            Transport::Tcp => usize::from(u16::MAX),
            Transport::Udp => usize::from(request.max_payload().min(MAX_UDP)),
        };
        written(&response, code, limit)
    }

    fn answer(&self, request: &Message, state: &State, response: &mut Message) -> ResponseCode {
        if request.version() > 0 {
            return ResponseCode::BADVERS;
        }
        if request.metadata.message_type != MessageType::Query || request.metadata.op_code != OpCode::Query {
            return ResponseCode::NotImp;
        }
        let [question] = request.queries.as_slice() else {
            return ResponseCode::FormErr;
        };
        let found = self.find(question, state);
        if matches!(found, Found::NotOurs) {
            return ResponseCode::Refused;
        }
        response.metadata.authoritative = true;
        match found {
            Found::Records(records) => {
                // The name as it was asked: some resolvers tell answers from forgeries by its case.
                let record = |data| Record::from_rdata(question.name().clone(), TTL_S, data);
                response.add_answers(records.into_iter().map(record));
                ResponseCode::NoError
            }
            Found::NoData => {
                response.add_authority(self.authority(state));
                ResponseCode::NoError
            }
            Found::NoName | Found::NotOurs => {
                response.add_authority(self.authority(state));
                ResponseCode::NXDomain
            }
        }
    }

    fn find(&self, question: &Query, state: &State) -> Found {
        let name = question.name().to_lowercase();
        let asked = question.query_type();
        let is_ours = matches!(question.query_class(), DNSClass::IN | DNSClass::ANY)
            && !matches!(asked, RecordType::AXFR | RecordType::IXFR)
            && self.origin.zone_of(&name);
        if !is_ours {
            return Found::NotOurs;
        }
        let below = usize::from(name.num_labels() - self.origin.num_labels());
        let labels: Option<Vec<&str>> = name
            .iter()
            .take(below)
            .map(|label| str::from_utf8(label).ok())
            .collect();
        match labels.as_deref() {
            Some([]) if matches!(asked, RecordType::SOA | RecordType::ANY) => {
                Found::Records(vec![RData::SOA(self.soa(state))])
            }
            Some([]) => Found::NoData,
            Some([namespace]) if state.services_of(namespace).next().is_some() => Found::NoData,
            Some([service, namespace]) => addresses(service, namespace, asked, state),
            _ => Found::NoName,
        }
    }

    fn authority(&self, state: &State) -> Record {
        Record::from_rdata(self.origin.clone(), TTL_S, RData::SOA(self.soa(state)))
    }

    fn soa(&self, state: &State) -> SOA {
        /// What secondaries would go by; there are none.
        const TIMES_S: (i32, i32, i32) = (3600, 600, 86_400);
        let (refresh, retry, expire) = TIMES_S;
        let contact = self
            .origin
            .prepend_label("hostmaster")
            .unwrap_or_else(|_| self.origin.clone());
        let serial = state.revision.0 as u32;
        SOA::new(
            self.origin.clone(),
            contact,
            serial,
            refresh,
            retry,
            expire,
            TTL_S,
        )
    }
}

fn addresses(service: &str, namespace: &str, asked: RecordType, state: &State) -> Found {
    let name = ResourceName::new(namespace, service).ok();
    let Some(service) = name.and_then(|name| state.service(&name)) else {
        return Found::NoName;
    };
    let records: Vec<_> = service
        .addresses
        .iter()
        .map(|address| match address {
            IpAddr::V4(address) => RData::A(A(*address)),
            IpAddr::V6(address) => RData::AAAA(AAAA(*address)),
        })
        .filter(|record| asked == RecordType::ANY || asked == record.record_type())
        .collect();
    if records.is_empty() {
        return Found::NoData;
    }
    Found::Records(records)
}

pub(super) fn written(response: &Message, code: ResponseCode, limit: usize) -> Option<Reply> {
    let mut bytes = response.to_vec().ok()?;
    if bytes.len() > limit {
        bytes = response.truncate().to_vec().ok()?;
    }
    Some(Reply { bytes, code })
}

impl Transport {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// A code as IANA spells it.
pub(super) fn word(code: ResponseCode) -> &'static str {
    match code {
        ResponseCode::NoError => "NOERROR",
        ResponseCode::FormErr => "FORMERR",
        ResponseCode::NXDomain => "NXDOMAIN",
        ResponseCode::NotImp => "NOTIMP",
        ResponseCode::Refused => "REFUSED",
        ResponseCode::BADVERS => "BADVERS",
        _ => "other",
    }
}
