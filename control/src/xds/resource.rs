// SPDX-License-Identifier: Apache-2.0
//! One resource as it is served: its bytes, their version, and the resources that it refers to.
//!
//! Made by who feeds the cache, shared by every stream. Invariant: equal bytes have equal versions, in every process: a reader that
//! reconnects to another replica of the control plane receives nothing that it has.

use std::{fmt, sync::Arc};

use nodemesh_proto::xds::google::protobuf::Any;
use twox_hash::XxHash3_64;

use super::{references, type_url::TypeUrl};

/// The name of a resource.
pub type Name = Arc<str>;

/// The resources of one type. A copy costs nothing and shares what did not change.
pub type Resources = imbl::OrdMap<Name, Arc<Resource>>;

/// What tells two contents of one resource apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Version(u64);

impl Version {
    fn of(bytes: &[u8]) -> Self {
        Self(XxHash3_64::oneshot(bytes))
    }

    /// Back from its text; `None` if no server of this kind wrote that.
    fn parse(text: &str) -> Option<Self> {
        let is_ours = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_ours
            .then(|| u64::from_str_radix(text, 16).ok().map(Self))
            .flatten()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

/// A resource of the cache, or one that a reader says to have. Equal are those of equal version.
#[derive(Debug)]
pub struct Resource {
    /// `None`: a reader has it from elsewhere; it equals nothing.
    version: Option<Version>,
    any: Any,
    /// Not for a reader of everything.
    is_unlisted: bool,
    /// `None`: what it refers to is not known, because only its version is.
    references: Option<Box<[(TypeUrl, Name)]>>,
}

impl Resource {
    /// From its encoded form. The bytes must not depend on more than the content: an encoder that writes the entries of a map in
    /// random order makes each of its results a change.
    pub fn new(any: Any) -> Self {
        Self {
            version: Some(Version::of(&any.value)),
            is_unlisted: false,
            references: Some(references::of(&any)),
            any,
        }
    }

    /// As [`new`](Self::new), for readers that ask for it by name only.
    pub fn unlisted(any: Any) -> Self {
        Self {
            is_unlisted: true,
            ..Self::new(any)
        }
    }

    /// What a reader claims to have at `version`.
    pub(super) fn claimed(version: &str) -> Self {
        Self {
            version: Version::parse(version),
            any: Any::default(),
            is_unlisted: false,
            references: None,
        }
    }

    /// What is sent.
    pub fn any(&self) -> &Any {
        &self.any
    }

    /// The version's text; empty for a resource that came from elsewhere.
    pub fn version(&self) -> String {
        self.version
            .map(|version| version.to_string())
            .unwrap_or_default()
    }

    /// Whether only those get it who ask for it by name.
    pub(super) fn is_unlisted(&self) -> bool {
        self.is_unlisted
    }

    /// The resources that it refers to; `None` if that is not known.
    pub(super) fn references(&self) -> Option<&[(TypeUrl, Name)]> {
        self.references.as_deref()
    }

    /// About how much of a message it takes.
    pub(super) fn size(&self) -> usize {
        self.any.value.len() + self.any.type_url.len()
    }
}

impl PartialEq for Resource {
    fn eq(&self, other: &Self) -> bool {
        self.version.is_some() && self.version == other.version
    }
}
