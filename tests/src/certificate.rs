// SPDX-License-Identifier: Apache-2.0
//! Certificates for tests: an authority of its own and one leaf, as PEM files in a folder of the caller.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// Paths of what was generated.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// Certificate of the authority; what clients trust (`load-client --ca`).
    pub ca: PathBuf,
    /// Certificate of the server (`model-server --tls-cert`).
    pub cert: PathBuf,
    /// Key of the server (`model-server --tls-key`).
    pub key: PathBuf,
}

impl Certificates {
    /// Generates an authority and a leaf for `names`, each an IP address or a DNS name, into `folder`.
    pub fn generate<S: AsRef<str>>(folder: &Path, names: &[S]) -> Result<Self> {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority
            .distinguished_name
            .push(DnType::CommonName, "nodemesh test authority");
        let issuer = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
        let names: Vec<String> = names.iter().map(|name| name.as_ref().to_owned()).collect();
        let key = KeyPair::generate()?;
        let leaf = CertificateParams::new(names)?.signed_by(&key, &issuer)?;
        let write = |name: &str, pem: String| {
            let path = folder.join(name);
            fs::write(&path, pem)
                .with_context(|| format!("write {}", path.display()))
                .map(|()| path)
        };
        Ok(Self {
            ca: write("ca.pem", issuer.pem())?,
            cert: write("cert.pem", leaf.pem())?,
            key: write("key.pem", key.serialize_pem())?,
        })
    }

    /// The flags of `model-server`.
    pub fn server_flags(&self) -> [String; 4] {
        let [cert, key] = [&self.cert, &self.key].map(|path| path.display().to_string());
        ["--tls-cert".into(), cert, "--tls-key".into(), key]
    }

    /// The flags of `load-client`.
    pub fn client_flags(&self) -> [String; 2] {
        ["--ca".into(), self.ca.display().to_string()]
    }
}
