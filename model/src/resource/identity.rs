// SPDX-License-Identifier: Apache-2.0
//! Identities of workloads: SPIFFE IDs.
//!
//! Invariant: an accepted ID is valid by the SPIFFE standard (SPIFFE-ID, section 2) and has a path.

use std::sync::Arc;

use crate::{
    invalid::{AdmissionProblem, Problem},
    name::ResourceName,
};

/// Trust domain of the identities that a workload has unless it names another.
pub const DEFAULT_TRUST_DOMAIN: &str = "mesh.local";
/// What each ID begins with.
pub(crate) const SCHEME: &str = "spiffe://";
/// Longest ID, bytes.
const MAX_ID: usize = 2048;
/// Longest trust domain, bytes.
const MAX_TRUST_DOMAIN: usize = 255;

/// The ID of a workload that names none.
pub fn default_identity(workload: &ResourceName) -> Arc<str> {
    let (namespace, name) = (workload.namespace(), workload.name());
    format!("{SCHEME}{DEFAULT_TRUST_DOMAIN}/ns/{namespace}/workload/{name}").into()
}

/// Reads an ID.
pub fn parse(text: &str) -> Result<Arc<str>, Problem> {
    match fault(text) {
        None => Ok(text.into()),
        Some(reason) => Err(AdmissionProblem::Identity {
            found: text.to_owned(),
            reason,
        }
        .into()),
    }
}

fn fault(text: &str) -> Option<&'static str> {
    if text.len() > MAX_ID {
        return Some("it is longer than 2048 bytes");
    }
    let Some(rest) = text.strip_prefix(SCHEME) else {
        return Some("it does not begin with spiffe://");
    };
    let Some((domain, path)) = rest.split_once('/') else {
        return Some("it has no path");
    };
    let is_of_domain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_');
    if domain.is_empty() || domain.len() > MAX_TRUST_DOMAIN || !domain.bytes().all(is_of_domain) {
        return Some("its trust domain is not 1 to 255 of a-z, 0-9, ., - and _");
    }
    path.split('/').find_map(|segment| match segment {
        "" => Some("its path has an empty segment"),
        "." | ".." => Some("its path has a relative segment"),
        _ if !segment.bytes().all(is_of_path) => {
            Some("its path has other characters than letters, digits, ., - and _")
        }
        _ => None,
    })
}

pub(crate) fn is_of_path(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_the_standard() {
        for valid in [
            "spiffe://example.org/ns/apps/sa/chat",
            "spiffe://a/B.c_d-e",
            &default_identity(&ResourceName::new("apps", "chat").unwrap()),
        ] {
            assert!(parse(valid).is_ok(), "{valid}");
        }
        let long = format!("spiffe://a/{}", "x".repeat(MAX_ID));
        for invalid in [
            "",
            "chat",
            "https://a/b",
            "spiffe://",
            "spiffe://a",
            "spiffe:///b",
            "spiffe://A/b",
            "spiffe://a:1/b",
            "spiffe://a/",
            "spiffe://a/b/",
            "spiffe://a//b",
            "spiffe://a/./b",
            "spiffe://a/../b",
            "spiffe://a/b c",
            "spiffe://a/b%20",
            "spiffe://a/*",
            &long,
        ] {
            assert!(parse(invalid).is_err(), "{invalid}");
        }
    }
}
