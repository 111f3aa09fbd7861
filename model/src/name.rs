// SPDX-License-Identifier: Apache-2.0
//! Names of resources, and the checks on names and labels. Used by every resource.
//!
//! Invariant: both parts of a [`ResourceName`] are DNS-1123 labels, so `/` separates them and a name is safe in paths and
//! metric labels.

use std::{collections::BTreeMap, fmt, ops::Bound, sync::Arc};

use crate::invalid::Problem;

/// Namespace of a resource that names none.
pub const DEFAULT_NAMESPACE: &str = "default";
/// Longest DNS-1123 label, bytes.
const MAX_LABEL: usize = 63;
/// Longest DNS-1123 subdomain, bytes: the prefix of a label key.
const MAX_SUBDOMAIN: usize = 253;

/// Labels or annotations.
pub type Labels = BTreeMap<String, String>;

/// Name of a resource within its kind: displayed, ordered and hashed as `namespace/name`; cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceName {
    text: Arc<str>,
}

impl ResourceName {
    /// The resource `name` of `namespace`; both must be DNS-1123 labels.
    pub fn new(namespace: &str, name: &str) -> Result<Self, Problem> {
        dns_label(namespace)?;
        dns_label(name)?;
        Ok(Self {
            text: format!("{namespace}/{name}").into(),
        })
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        self.parts().0
    }

    /// The name within the namespace.
    pub fn name(&self) -> &str {
        self.parts().1
    }

    /// The form `namespace/name`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Bounds of the names of `namespace` in a map ordered by resource name.
    pub(crate) fn range_of(namespace: &str) -> (Bound<Self>, Bound<Self>) {
        // '0' follows '/' in ASCII.
        let bound = |end: char| Self {
            text: format!("{namespace}{end}").into(),
        };
        (Bound::Included(bound('/')), Bound::Excluded(bound('0')))
    }

    fn parts(&self) -> (&str, &str) {
        self.text
            .split_once('/')
            .unwrap_or((DEFAULT_NAMESPACE, &self.text))
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Checks a DNS-1123 label (RFC 1123, section 2.1, in lower case).
pub fn dns_label(text: &str) -> Result<(), Problem> {
    let valid = text.len() <= MAX_LABEL
        && starts_and_ends(text, |byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if valid {
        Ok(())
    } else {
        Err(Problem::Name {
            found: text.to_owned(),
        })
    }
}

/// Checks a label key by the rules of Kubernetes: an optional DNS subdomain and `/`, then a qualified name.
pub(crate) fn label_key(key: &str) -> Result<(), Problem> {
    let (prefix, name) = key
        .split_once('/')
        .map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let prefix_valid = prefix.is_none_or(|prefix| {
        prefix.len() <= MAX_SUBDOMAIN && prefix.split('.').all(|p| dns_label(p).is_ok())
    });
    if prefix_valid && !name.is_empty() && is_label_word(name) {
        Ok(())
    } else {
        Err(Problem::LabelKey {
            found: key.to_owned(),
        })
    }
}

/// Checks a label value by the rules of Kubernetes.
pub(crate) fn label_value(value: &str) -> Result<(), Problem> {
    if is_label_word(value) {
        Ok(())
    } else {
        Err(Problem::LabelValue {
            found: value.to_owned(),
        })
    }
}

fn is_label_word(text: &str) -> bool {
    text.is_empty()
        || (text.len() <= MAX_LABEL
            && starts_and_ends(text, |byte| byte.is_ascii_alphanumeric())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')))
}

fn starts_and_ends(text: &str, with: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(&first), Some(&last)) if with(first) && with(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_follow_dns_1123() {
        for valid in ["a", "llama-3", "0", &"x".repeat(63)] {
            assert!(dns_label(valid).is_ok(), "{valid}");
        }
        for invalid in ["", "-a", "a-", "A", "a.b", "a/b", "a_b", "ä", &"x".repeat(64)] {
            assert!(dns_label(invalid).is_err(), "{invalid}");
        }
    }

    #[test]
    fn label_keys_and_values_follow_kubernetes() {
        for valid in ["app", "app.kubernetes.io/name", "A_b.c", "nodemesh.io/x"] {
            assert!(label_key(valid).is_ok(), "{valid}");
        }
        for invalid in ["", "/x", "a/", "a/b/c", "A.io/x", "-a", "a b"] {
            assert!(label_key(invalid).is_err(), "{invalid}");
        }
        assert!(label_value("").is_ok());
        assert!(label_value("v1.0_x").is_ok());
        assert!(label_value("a b").is_err());
        assert!(label_value(&"x".repeat(64)).is_err());
    }

    #[test]
    fn a_namespace_is_one_range() {
        let names = ["a-b/x", "a/x", "a/z", "a0/x", "ab/x"].map(|text| ResourceName { text: text.into() });
        let map: BTreeMap<_, _> = names.into_iter().zip(0..).collect();
        let found: Vec<_> = map
            .range(ResourceName::range_of("a"))
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(found, ["a/x", "a/z"]);
    }
}
