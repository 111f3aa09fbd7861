// SPDX-License-Identifier: Apache-2.0
//! The access file: which token and which certificate has which role.
//!
//! Invariant: the time that a token takes to be looked up says nothing about those in the file: digests are compared, all of them,
//! in constant time.

use std::{sync::Arc, time::SystemTime};

use serde::Deserialize;
use subtle::ConstantTimeEq as _;

use super::{
    credentials::{Caller, Credentials, Digest, Token},
    identity::Identity,
    role::Role,
};

/// Who may do what.
#[derive(Clone, Debug)]
pub enum Access {
    /// Everybody may do everything.
    Open,
    /// Those who are listed.
    Listed(Listed),
}

/// Those who are listed.
#[derive(Clone, Debug, Default)]
pub struct Listed {
    tokens: Vec<(Digest, Caller)>,
    uris: Vec<(UriPattern, Role)>,
    cns: Vec<(String, Role)>,
}

#[derive(Clone, Debug)]
enum UriPattern {
    Exact(String),
    Prefix(String),
}

/// Why a call is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It shows nothing.
    #[error("who are you? Send `authorization: Bearer TOKEN`, or connect with a client certificate")]
    Anonymous,
    /// Its token is not listed.
    #[error("the token is not known here; ask for one that is in the access file")]
    UnknownToken,
    /// Its certificate has ended since it connected.
    #[error("the client certificate has expired; connect with a new one")]
    ExpiredCertificate,
    /// Its certificate is not listed.
    #[error("neither a URI nor the common name of the client certificate is in the access file")]
    UnknownCertificate,
}

/// Why an access file is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAccess {
    /// It is no YAML of this form.
    #[error("is no access file: {reason}")]
    Syntax {
        /// What the parser says.
        reason: String,
    },
    /// A digest is none.
    #[error(
        "tokens: {name:?}: sha256 must have 64 hexadecimal digits; make it by `printf %s \"$TOKEN\" | sha256sum`"
    )]
    Digest {
        /// The token's name.
        name: String,
    },
    /// A token is listed twice.
    #[error("tokens: {second:?} has the same digest as {first:?}; give each a token of its own")]
    SameToken {
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// An identity is both or neither.
    #[error("identities: entry {number} needs either `uri` or `cn`")]
    Identity {
        /// Which, from 1.
        number: usize,
    },
    /// Nobody could do anything.
    #[error("lists nobody; add an entry to `tokens` or `identities`")]
    Empty,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    tokens: Vec<ListedToken>,
    #[serde(default)]
    identities: Vec<Named>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListedToken {
    name: String,
    role: Role,
    sha256: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    uri: Option<String>,
    cn: Option<String>,
    role: Role,
}

impl Access {
    /// Reads an access file.
    pub fn parse(text: &str) -> Result<Self, InvalidAccess> {
        let file: File = serde_saphyr::from_str(text).map_err(|error| InvalidAccess::Syntax {
            reason: error.to_string().lines().next().unwrap_or_default().to_owned(),
        })?;
        if file.tokens.is_empty() && file.identities.is_empty() {
            return Err(InvalidAccess::Empty);
        }
        let mut listed = Listed::default();
        for token in file.tokens {
            listed.add_token(token)?;
        }
        for (index, named) in file.identities.into_iter().enumerate() {
            listed.add_identity(index + 1, named)?;
        }
        Ok(Self::Listed(listed))
    }

    /// Who somebody with `credentials` is taken for. A token counts more than a certificate.
    pub fn caller(&self, credentials: &Credentials, now: SystemTime) -> Result<Caller, Refusal> {
        let Self::Listed(listed) = self else {
            return Ok(Caller {
                name: "anybody".into(),
                role: Role::Admin,
            });
        };
        match (&credentials.token, &credentials.identity) {
            (Token::Digest(digest), _) => listed.by_token(digest).ok_or(Refusal::UnknownToken),
            (Token::Malformed, _) => Err(Refusal::UnknownToken),
            (Token::Absent, Some(identity)) if identity.has_expired(now) => Err(Refusal::ExpiredCertificate),
            (Token::Absent, Some(identity)) => {
                listed.by_identity(identity).ok_or(Refusal::UnknownCertificate)
            }
            (Token::Absent, None) => Err(Refusal::Anonymous),
        }
    }
}

impl Listed {
    fn add_token(&mut self, token: ListedToken) -> Result<(), InvalidAccess> {
        let Some(digest) = digest_from_hex(&token.sha256) else {
            return Err(InvalidAccess::Digest { name: token.name });
        };
        if let Some((_, first)) = self.tokens.iter().find(|(other, _)| *other == digest) {
            return Err(InvalidAccess::SameToken {
                first: first.name.to_string(),
                second: token.name,
            });
        }
        let caller = Caller {
            name: token.name.into(),
            role: token.role,
        };
        self.tokens.push((digest, caller));
        Ok(())
    }

    fn add_identity(&mut self, number: usize, named: Named) -> Result<(), InvalidAccess> {
        match (named.uri, named.cn) {
            (Some(uri), None) => {
                let pattern = match uri.strip_suffix('*') {
                    Some(prefix) => UriPattern::Prefix(prefix.to_owned()),
                    None => UriPattern::Exact(uri),
                };
                self.uris.push((pattern, named.role));
            }
            (None, Some(cn)) => self.cns.push((cn, named.role)),
            _ => return Err(InvalidAccess::Identity { number }),
        }
        Ok(())
    }

    fn by_token(&self, digest: &Digest) -> Option<Caller> {
        let mut found = None;
        for (listed, caller) in &self.tokens {
            if listed.ct_eq(digest).into() {
                found = Some(caller);
            }
        }
        found.cloned()
    }

    /// The first entry that fits; URIs come before common names.
    fn by_identity(&self, identity: &Identity) -> Option<Caller> {
        let caller = |name: &str, role| Caller {
            name: Arc::from(name),
            role,
        };
        let by_uri = self.uris.iter().find_map(|(pattern, role)| {
            let uri = identity.uris.iter().find(|uri| pattern.fits(uri))?;
            Some(caller(uri, *role))
        });
        by_uri.or_else(|| {
            let cn = identity.cn.as_ref()?;
            let (_, role) = self.cns.iter().find(|(listed, _)| listed == cn)?;
            Some(caller(cn, *role))
        })
    }
}

impl UriPattern {
    fn fits(&self, uri: &str) -> bool {
        match self {
            Self::Exact(exact) => uri == exact,
            Self::Prefix(prefix) => uri.starts_with(prefix),
        }
    }
}

fn digest_from_hex(text: &str) -> Option<Digest> {
    let mut digest = Digest::default();
    if !text.is_ascii() || text.len() != 2 * digest.len() {
        return None;
    }
    for (byte, at) in digest.iter_mut().zip((0..).step_by(2)) {
        let digits = text.get(at..at + 2)?;
        // `from_str_radix` would take a sign.
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    Some(digest)
}
