// SPDX-License-Identifier: Apache-2.0
//! Certificates for tests: an authority of its own and leaves, as PEM files in a folder of the caller.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};

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

/// An authority, and the folder for what it signs.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
    ca: PathBuf,
}

impl Authority {
    /// A new one, whose files in `folder` begin with `prefix`.
    pub fn new(folder: &Path, prefix: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, format!("{prefix}nodemesh test authority"));
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        Ok(Self {
            ca: write(folder, &format!("{prefix}ca.pem"), &issuer.pem())?,
            folder: folder.to_owned(),
            issuer,
        })
    }

    /// A leaf of the common name `name` for `names`, each a URI, an IP address or a DNS name; its files begin with `prefix`.
    pub fn leaf<S: AsRef<str>>(&self, prefix: &str, name: &str, names: &[S]) -> Result<Certificates> {
        let names = names.iter().map(|name| name.as_ref().to_owned());
        let (uris, names): (Vec<String>, Vec<String>) = names.partition(|name| name.contains("://"));
        let mut params = CertificateParams::new(names)?;
        for uri in uris {
            params.subject_alt_names.push(SanType::URI(uri.try_into()?));
        }
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        let leaf = params.signed_by(&key, &self.issuer)?;
        Ok(Certificates {
            ca: self.ca.clone(),
            cert: write(&self.folder, &format!("{prefix}cert.pem"), &leaf.pem())?,
            key: write(&self.folder, &format!("{prefix}key.pem"), &key.serialize_pem())?,
        })
    }
}

fn write(folder: &Path, name: &str, pem: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    fs::write(&path, pem)
        .with_context(|| format!("write {}", path.display()))
        .map(|()| path)
}

impl Certificates {
    /// Generates an authority and a leaf for `names`, each an IP address or a DNS name, into `folder`.
    pub fn generate<S: AsRef<str>>(folder: &Path, names: &[S]) -> Result<Self> {
        Authority::new(folder, "")?.leaf("", "nodemesh test server", names)
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
