// SPDX-License-Identifier: Apache-2.0
//! The server's side of TLS, from PEM files.
//!
//! Invariant: a client certificate that does not come from the client CA ends the handshake; none at all does not, since a token
//! may stand in for it. Sessions are not resumed, so every connection is judged by the files as they are.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};

use super::reload::Files;
use crate::config::SecurityConfig;

/// The files of a server's TLS.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

/// Why files do not make a server.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file has nothing to offer.
    #[error("{} has no {what} in PEM form", .path.display())]
    Nothing {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// A file is damaged.
    #[error("{}: {source}", .path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: rustls::pki_types::pem::Error,
    },
    /// Certificate and key are not usable together.
    #[error("certificate {} with key {}: {source}", .certificate.display(), .key.display())]
    Pair {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
    /// A CA is not usable.
    #[error("client CA {}: {reason}", .path.display())]
    ClientCa {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl TlsFiles {
    /// Those that the settings name; `None` without TLS.
    pub fn of(security: &SecurityConfig) -> Option<Self> {
        Some(Self {
            certificate: security.tls_cert.clone()?,
            key: security.tls_key.clone()?,
            client_ca: security.tls_client_ca.clone(),
        })
    }

    /// To be read for [`server_config`].
    pub fn files(&self) -> Files {
        let pair = [self.certificate.clone(), self.key.clone()];
        Files {
            what: "the certificate of the server",
            paths: pair.into_iter().chain(self.client_ca.clone()).collect(),
        }
    }
}

/// What rustls serves with, from the contents of [`TlsFiles::files`].
pub fn server_config(files: &TlsFiles, contents: &[Vec<u8>]) -> Result<ServerConfig, TlsError> {
    let empty = Vec::new();
    let content = |index: usize| contents.get(index).unwrap_or(&empty);
    let chain = certificates(&files.certificate, content(0))?;
    let key = PrivateKeyDer::from_pem_slice(content(1)).map_err(|source| TlsError::Pem {
        path: files.key.clone(),
        source,
    })?;
    let provider = Arc::new(ring::default_provider());
    let pair = |source| TlsError::Pair {
        certificate: files.certificate.clone(),
        key: files.key.clone(),
        source,
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(pair)?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let unusable = |reason: String| TlsError::ClientCa {
                path: path.clone(),
                reason,
            };
            let mut roots = RootCertStore::empty();
            for ca in certificates(path, content(2))? {
                roots.add(ca).map_err(|error| unusable(error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|error| unusable(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(pair)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|source| TlsError::Pem {
        path: path.to_owned(),
        source,
    })?;
    if found.is_empty() {
        return Err(TlsError::Nothing {
            path: path.to_owned(),
            what: "certificate",
        });
    }
    Ok(found)
}
