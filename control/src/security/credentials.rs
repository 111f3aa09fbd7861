// SPDX-License-Identifier: Apache-2.0
//! What a client shows with a call, and who it is taken for.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};

use super::{identity::Identity, role::Role};

/// A SHA-256.
pub(super) type Digest = [u8; SHA256_OUTPUT_LEN];

/// What a client shows. Of a token only the digest is kept.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// Its token.
    pub(super) token: Token,
    /// Its certificate.
    pub(super) identity: Option<Arc<Identity>>,
}

/// What there is of a token.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Token {
    /// Nothing.
    #[default]
    Absent,
    /// Something that is none.
    Malformed,
    /// Its digest.
    Digest(Digest),
}

/// Who a client is taken for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// As the access file calls it.
    pub name: Arc<str>,
    /// What it may do.
    pub role: Role,
}

impl Credentials {
    /// What is in the headers of a call on a connection with `identity`.
    pub fn new(headers: &HeaderMap, identity: Option<Arc<Identity>>) -> Self {
        let bearer = |value: &HeaderValue| {
            let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
            let is_bearer = scheme.eq_ignore_ascii_case("bearer");
            is_bearer.then(|| Token::Digest(digest_of(token.trim())))
        };
        let token = match headers.get(AUTHORIZATION) {
            None => Token::Absent,
            Some(value) => bearer(value).unwrap_or(Token::Malformed),
        };
        Self { token, identity }
    }
}

pub(super) fn digest_of(token: &str) -> Digest {
    let mut bytes = [0; SHA256_OUTPUT_LEN];
    bytes.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    bytes
}
