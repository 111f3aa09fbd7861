// SPDX-License-Identifier: Apache-2.0
//! Names of resources, and the keys of the store.
//!
//! ```text
//! <Kind>/<namespace>/<name>     a resource, as JSON
//! released/<address>            an address that is not given away yet; the value is the service that had it
//! fence                         written along with every resource that claims something (see `writer`)
//! ```

use std::{fmt, net::IpAddr};

use nodemesh_model::{Keyword as _, Kind, ResourceName};

/// Key of the fence.
pub(super) const FENCE: &str = "fence";
const RELEASED: &str = "released/";

/// Kind and name of a resource: displayed and stored as `Kind/namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The kind.
    pub kind: Kind,
    /// The name within the kind.
    pub name: ResourceName,
}

impl Key {
    /// The resource `name` of `kind`.
    pub fn new(kind: Kind, name: ResourceName) -> Self {
        Self { kind, name }
    }

    /// Reads the form in which a key is displayed; `None` if it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once('/')?;
        let (namespace, name) = rest.split_once('/')?;
        Some(Self::new(
            Kind::from_word(kind)?,
            ResourceName::new(namespace, name).ok()?,
        ))
    }

    /// Prefix of the keys of `kind`, or of those in `namespace`.
    pub fn prefix(kind: Option<Kind>, namespace: Option<&str>) -> String {
        match (kind, namespace) {
            (None, _) => String::new(),
            (Some(kind), None) => format!("{}/", kind.word()),
            (Some(kind), Some(namespace)) => format!("{}/{namespace}/", kind.word()),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.word(), self.name)
    }
}

/// Key that says that `address` is not given away yet.
pub(super) fn released(address: IpAddr) -> String {
    format!("{RELEASED}{address}")
}

/// The address of a key made by [`released`].
pub(super) fn released_address(key: &str) -> Option<IpAddr> {
    key.strip_prefix(RELEASED)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_written() {
        for text in [
            "Service/models/llama",
            "Workload/default/w-1",
            "TrafficPolicy/a/b",
        ] {
            assert_eq!(Key::parse(text).map(|key| key.to_string()).as_deref(), Some(text));
        }
        for text in [
            "",
            "fence",
            "released/10.0.0.1",
            "Service/models",
            "Nothing/a/b",
            "Service/a/B",
            "Service/a/b/c",
        ] {
            assert_eq!(Key::parse(text), None, "{text}");
        }
        let address = "fd00::1".parse().unwrap();
        assert_eq!(released_address(&released(address)), Some(address));
    }
}
