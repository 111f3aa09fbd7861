// SPDX-License-Identifier: Apache-2.0
//! TLS of the model server and the load client: HTTP/1.1 by ALPN, TLS 1.2 or 1.3 by choice.

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, Result};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    version::{TLS12, TLS13},
};

const HTTP_1_1: &[u8] = b"http/1.1";

/// Versions of TLS that are offered or accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Versions {
    /// TLS 1.2 alone.
    #[value(name = "1.2")]
    V12,
    /// TLS 1.3 alone.
    #[value(name = "1.3")]
    V13,
    /// Either; 1.3 if the peer can.
    #[default]
    Both,
}

impl Versions {
    fn list(self) -> &'static [&'static SupportedProtocolVersion] {
        const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
        match self {
            Self::V12 => &BOTH[1..],
            Self::V13 => &BOTH[..1],
            Self::Both => BOTH,
        }
    }
}

/// Of a server with the certificates and the key of two PEM files.
pub(crate) fn server(certificates: &Path, key: &Path, versions: Versions) -> Result<Arc<ServerConfig>> {
    let chain = pem_certificates(certificates)?;
    let secret = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("read a private key from {}", key.display()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions.list())?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .with_context(|| format!("use {} with {}", certificates.display(), key.display()))?;
    config.alpn_protocols = vec![HTTP_1_1.to_vec()];
    Ok(Arc::new(config))
}

/// Of a client that trusts the certificates of a PEM file alone.
pub(crate) fn client(authorities: &Path, versions: Versions) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in pem_certificates(authorities)? {
        roots
            .add(certificate)
            .with_context(|| format!("trust a certificate of {}", authorities.display()))?;
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions.list())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![HTTP_1_1.to_vec()];
    Ok(Arc::new(config))
}

fn pem_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = || -> Result<Vec<_>, rustls::pki_types::pem::Error> {
        CertificateDer::pem_file_iter(path)?.collect()
    };
    let certificates = read().with_context(|| format!("read certificates from {}", path.display()))?;
    anyhow::ensure!(
        !certificates.is_empty(),
        "{} has no certificate: give a PEM file",
        path.display()
    );
    Ok(certificates)
}
