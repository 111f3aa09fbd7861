// SPDX-License-Identifier: Apache-2.0
//! The xDS server: serves the resources of a [`Cache`] to any reader, over delta and state-of-the-world ADS.
//!
//! ```text
//!  registry ──► feed ──► Cache ── watch ──► driver (one task per stream) ◄──► service (tonic)
//!                                              └── Stream: the protocol, pure        └── Nodes: who is connected, and how far
//! ```
//!
//! `app` runs the feed, `server` mounts the service, `north` reads the table of nodes. Invariant: what a stream is sent
//! depends on its requests and the newest snapshot only, never on what was published in between.

mod cache;
mod delta;
mod driver;
mod feed;
mod limits;
mod nodes;
mod order;
mod references;
mod resource;
mod service;
mod sotw;
mod stream;
mod subscription;
mod type_url;

pub use self::{
    cache::{Cache, Change, Snapshot},
    feed::Feed,
    limits::{Limits, Violation},
    nodes::{Node, Nodes, Totals},
    resource::{Name, Resource, Resources, Version},
    service::{Ads, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, keep_alive},
    stream::{Response, Stream, Variant},
    subscription::{Nack, Progress},
    type_url::TypeUrl,
};

#[cfg(test)]
mod tests;
