// SPDX-License-Identifier: Apache-2.0
//! Who a client's certificate says it is.
//!
//! Read after the chain was verified. Invariant: names are taken from the leaf alone.

use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

/// The names in a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// URIs of the subject's alternative names: SPIFFE IDs.
    pub uris: Vec<String>,
    /// Common name of the subject.
    pub cn: Option<String>,
    /// When it ends.
    pub expires: Option<SystemTime>,
}

impl Identity {
    /// The names in `leaf`; none in what is no certificate.
    pub fn of(leaf: &CertificateDer<'_>) -> Self {
        let Ok((_, certificate)) = parse_x509_certificate(leaf) else {
            return Self::default();
        };
        let names = certificate.subject_alternative_name().ok().flatten();
        let uris = names
            .iter()
            .flat_map(|names| &names.value.general_names)
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some((*uri).to_owned()),
                _ => None,
            });
        let cn = certificate
            .subject()
            .iter_common_name()
            .next()
            .and_then(|name| name.as_str().ok());
        let expires = u64::try_from(certificate.validity().not_after.timestamp()).ok();
        Self {
            uris: uris.collect(),
            cn: cn.map(str::to_owned),
            expires: expires
                .and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))),
        }
    }

    /// Whether the certificate has ended by `now`: a connection may outlive it.
    pub fn has_expired(&self, now: SystemTime) -> bool {
        self.expires.is_some_and(|expires| now > expires)
    }

    /// For people: the first URI, else the common name.
    pub fn name(&self) -> &str {
        let first = self.uris.first().or(self.cn.as_ref());
        first.map_or("a certificate without a name", String::as_str)
    }
}
