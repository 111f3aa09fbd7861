// SPDX-License-Identifier: Apache-2.0
//! Certificates and access files for tests, in the folder of the test.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nodemesh_proto::v1::registry_client::RegistryClient;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType, date_time_ymd,
};
use ring::digest::{SHA256, digest};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Error, Identity};

/// An authority.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, PEM.
pub struct Leaf {
    pub certificate: String,
    pub key: String,
}

/// What a leaf says.
#[derive(Clone, Copy, Default)]
pub struct Names<'a> {
    pub dns: Option<&'a str>,
    pub uri: Option<&'a str>,
    pub cn: Option<&'a str>,
    pub is_expired: bool,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "test authority");
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("an authority");
        Self { issuer }
    }

    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub fn leaf(&self, names: Names<'_>) -> Leaf {
        let dns: Vec<String> = names.dns.into_iter().map(str::to_owned).collect();
        let mut params = CertificateParams::new(dns).expect("names");
        if let Some(uri) = names.uri {
            params
                .subject_alt_names
                .push(SanType::URI(uri.try_into().expect("ASCII")));
        }
        params.distinguished_name.remove(DnType::CommonName);
        if let Some(cn) = names.cn {
            params.distinguished_name.push(DnType::CommonName, cn);
        }
        if names.is_expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Leaf {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    /// The certificate of a control plane called `control`.
    pub fn server(&self) -> Leaf {
        self.leaf(Names {
            dns: Some("control"),
            ..Names::default()
        })
    }
}

/// Files of a control plane with TLS.
pub struct Files {
    folder: PathBuf,
}

impl Files {
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// Writes `name` at one stroke; its path.
    pub fn write(&self, name: &str, content: &str) -> String {
        let path = self.folder.join(name);
        let next = self.folder.join(format!("{name}.next"));
        fs::write(&next, content).expect("write");
        fs::rename(&next, &path).expect("rename");
        path.display().to_string()
    }

    /// Writes certificate and key; the flags that name them.
    pub fn server_flags(&self, leaf: &Leaf) -> [String; 4] {
        let certificate = self.write("server.pem", &leaf.certificate);
        let key = self.write("server.key", &leaf.key);
        ["--tls-cert".to_owned(), certificate, "--tls-key".to_owned(), key]
    }
}

pub fn sha256(token: &str) -> String {
    let digest = digest(&SHA256, token.as_bytes());
    let digits = digest.as_ref().iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

/// Connects over TLS, trusting `authority`, with the certificate `identity`.
pub async fn connect(
    address: std::net::SocketAddr,
    authority: &Authority,
    identity: Option<&Leaf>,
) -> Result<RegistryClient<Channel>, Error> {
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(authority.pem()))
        .domain_name("control");
    if let Some(leaf) = identity {
        tls = tls.identity(Identity::from_pem(&leaf.certificate, &leaf.key));
    }
    let endpoint = Endpoint::from_shared(format!("https://{address}"))?.tls_config(tls)?;
    Ok(RegistryClient::new(endpoint.connect().await?))
}
