// SPDX-License-Identifier: Apache-2.0
//! Whether the settings let in somebody who was not meant to come in.

use std::net::SocketAddr;

use crate::config::SecurityConfig;

/// Why the settings are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Exposed {
    /// Without TLS beyond the loopback.
    #[error(
        "--listen {listen} can be reached by others without TLS; add --tls-cert, --tls-key and --access, listen on a loopback \
         address, or allow it by --insecure"
    )]
    Plaintext {
        /// The listener.
        listen: SocketAddr,
    },
    /// Without roles.
    #[error(
        "--tls-cert without --access would let everybody do everything; add --access, or allow it by --insecure"
    )]
    NoRoles,
}

/// Refuses what would be open to more than the machine itself. On a loopback without TLS and access file everybody is admin.
pub fn check(listen: &[SocketAddr], security: &SecurityConfig) -> Result<(), Exposed> {
    if security.insecure {
        return Ok(());
    }
    let has_tls = security.tls_cert.is_some();
    let outside = listen
        .iter()
        .find(|address| !address.ip().to_canonical().is_loopback());
    match outside {
        Some(listen) if !has_tls => Err(Exposed::Plaintext { listen: *listen }),
        _ if has_tls && security.access.is_none() => Err(Exposed::NoRoles),
        _ => Ok(()),
    }
}
