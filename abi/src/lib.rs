// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The contract between the kernel programs and user space: map keys, map values and the pure functions over them.
//!
//! Both worlds compile this crate, so a rule that both must follow (which slot wins, which client a key stands
//! for) is written once and tested on the host. Every type is `#[repr(C)]`, free of padding (`zerocopy` refuses to
//! derive `IntoBytes` otherwise) and has its offsets asserted beside it.
//!
//! Byte order: addresses and ports are in network byte order, as the kernel hands them to socket hooks; everything
//! else is in host byte order. IPv4 addresses are v4-mapped IPv6 addresses (RFC 4291, section 2.5.5.2), so that one
//! key type and one code path serve both families.
//!
//! A change of any layout or meaning here bumps [`ABI_VERSION`]; pinned maps live under a folder of that name, so a
//! program never meets rows of another version.
#![no_std]
#![cfg_attr(not(feature = "user"), forbid(unsafe_code))]

mod layout;

pub mod access;
pub mod addr;
pub mod backend;
pub mod client;
pub mod connection;
pub mod datagram;
pub mod effects;
pub mod endpoint;
pub mod event;
pub mod exchange;
pub mod flow;
pub mod limits;
pub mod meter;
pub mod names;
pub mod number;
pub mod parse;
pub mod policy;
pub mod rules;
pub mod service;
pub mod settings;
pub mod shortcut;
pub mod slot;
pub mod stream;
pub mod traffic;
pub mod turn;
pub mod verdict;

pub use access::{AccessKind, AccessRecord};
pub use addr::{Ip16, Port};
pub use backend::{Backend, BackendFlags, BackendState, ConnectFailure};
pub use client::{AffinityKey, AffinityValue, CgroupEntry, ClientKey};
pub use connection::{Connection, ConnectionState, Excerpt, ListedConnection, ListedExcerpt, TableState};
pub use datagram::{FlowDirection, FlowKey, FlowValue};
pub use effects::Effects;
pub use endpoint::{Endpoint, EndpointKey};
pub use event::{Event, EventKey, EventKind, EventTally};
pub use exchange::Exchange;
pub use flow::{FlowCount, FlowEvent, FlowMode, FlowService, FlowSettings, Source, Track, TrackState};
pub use meter::{Meter, Phase, Wire};
pub use number::{NumberKey, NumberKind};
pub use policy::{Access, AccessWord, IdentityAddr};
pub use rules::{Caps, ClientRules, Ejection, Held, Rate, Rules};
pub use service::{Algorithm, ClientKeySource, Protocol, Service, ServiceKey, ServiceState};
pub use settings::{LogLevel, MeterPath, Settings, SockOffsets};
pub use slot::Slot;
pub use stream::{Stream, Streams};
pub use traffic::{Cancel, Outcome, Traffic, Vantage};
pub use verdict::{InternalError, Refusal};

/// Version of every layout and meaning in this crate; part of the pin path (`v<ABI_VERSION>`). What of a former version is taken
/// over says the agent's table of map layouts.
pub const ABI_VERSION: u32 = if cfg!(feature = "next") { 1_000 } else { 4 };
