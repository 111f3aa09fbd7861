// SPDX-License-Identifier: Apache-2.0
//! How much one reader may ask for, and what ends its stream.
//!
//! Checked where requests enter, so that no reader can take more memory than the limits say.

use super::{stream::Stream, type_url::TypeUrl};

/// The limits of one server.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Types per stream.
    pub types: usize,
    /// Names per type, or versions that a reader says to have of it.
    pub names: usize,
    /// Bytes of a name.
    pub name_bytes: usize,
    /// Bytes of a request; above it the stream ends.
    pub request_bytes: usize,
    /// Bytes of resources after which a response is full, and the rest has to wait for its answer.
    pub response_bytes: usize,
    /// Streams at the same time.
    pub streams: usize,
    /// Streams of one node id at the same time.
    pub streams_per_node: usize,
    /// Ticks after which a stream ends whose reader is alive but does not answer a response.
    pub unanswered_ticks: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            types: 16,
            names: 200_000,
            name_bytes: 1024,
            request_bytes: 16 << 20,
            response_bytes: 256 << 10,
            streams: 20_000,
            streams_per_node: 16,
            unanswered_ticks: 300,
        }
    }
}

/// Why a stream is ended by the server.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Violation {
    /// A request without a type.
    #[error("a request has no type_url")]
    NoType,
    /// More types than allowed.
    #[error("a stream may ask for {limit} types of resources")]
    TooManyTypes {
        /// The most that is allowed.
        limit: usize,
    },
    /// More names than allowed.
    #[error("a stream may name {limit} resources of {type_url}; ask for \"*\" instead")]
    TooManyNames {
        /// The type.
        type_url: TypeUrl,
        /// The most that is allowed.
        limit: usize,
    },
    /// A name that is too long.
    #[error("a name of {bytes} bytes of {type_url}: {limit} are allowed")]
    NameTooLong {
        /// The type.
        type_url: TypeUrl,
        /// The length.
        bytes: usize,
        /// The most that is allowed.
        limit: usize,
    },
    /// More streams than allowed.
    #[error("there are {limit} streams already, which is the most that this server takes")]
    TooManyStreams {
        /// The most that is allowed.
        limit: usize,
    },
    /// More streams of one node than allowed.
    #[error("node {node:?} has {limit} streams already: give each node an id of its own")]
    TooManyStreamsOfNode {
        /// The node's id.
        node: String,
        /// The most that is allowed.
        limit: usize,
    },
    /// The reader is alive, but a response stays unanswered.
    #[error("the last response with {type_url} was neither accepted nor rejected in time: connect again")]
    Unanswered {
        /// The type.
        type_url: TypeUrl,
    },
}

impl Stream {
    /// The type of a request, if the stream may ask for it.
    pub(super) fn admit(&self, url: &str) -> Result<TypeUrl, Violation> {
        if url.is_empty() {
            return Err(Violation::NoType);
        }
        let type_url = TypeUrl::from(url);
        let limit = self.limits.types;
        if self.types.len() >= limit && !self.types.contains_key(&type_url) {
            return Err(Violation::TooManyTypes { limit });
        }
        let (bytes, limit) = (url.len(), self.limits.name_bytes);
        if bytes > limit {
            return Err(Violation::NameTooLong {
                type_url,
                bytes,
                limit,
            });
        }
        Ok(type_url)
    }

    /// Whether a request with these names is one to look at.
    pub(super) fn check<'a>(
        &self,
        type_url: &TypeUrl,
        names: impl Iterator<Item = &'a String>,
    ) -> Result<(), Violation> {
        let limit = self.limits.name_bytes;
        for (count, name) in names.enumerate() {
            if count >= self.limits.names {
                return Err(self.too_many(type_url));
            }
            if name.len() > limit {
                return Err(Violation::NameTooLong {
                    type_url: type_url.clone(),
                    bytes: name.len(),
                    limit,
                });
            }
        }
        Ok(())
    }

    /// Whether the names that all requests together asked for are not too many.
    pub(super) fn check_total(&self, type_url: &TypeUrl) -> Result<(), Violation> {
        let total = self
            .types
            .get(type_url)
            .map_or(0, |subscription| subscription.names.len());
        if total > self.limits.names {
            return Err(self.too_many(type_url));
        }
        Ok(())
    }

    fn too_many(&self, type_url: &TypeUrl) -> Violation {
        Violation::TooManyNames {
            type_url: type_url.clone(),
            limit: self.limits.names,
        }
    }
}
