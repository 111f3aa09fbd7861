// SPDX-License-Identifier: Apache-2.0
//! An etcd that asks for certificates.

use std::fs;

use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

use super::server::{Cluster, Tls};
use crate::store::{Precondition, Store as _, StoreError, etcd::EtcdTls};

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Certificate and key for 127.0.0.1, in PEM form.
fn issued(authority: &CertifiedIssuer<'static, KeyPair>) -> (Vec<u8>, Vec<u8>) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    (certificate.pem().into_bytes(), key.serialize_pem().into_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_shown_and_checked() {
    let folder = TempDir::new().unwrap();
    let (trusted, other) = (authority(), authority());
    let (certificate, key) = issued(&trusted);
    let file = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let arguments = [
        "--client-cert-auth".to_owned(),
        format!("--trusted-ca-file={}", file("ca.pem", trusted.pem().as_bytes())),
        format!("--cert-file={}", file("cert.pem", &certificate)),
        format!("--key-file={}", file("key.pem", &key)),
    ];
    let client = EtcdTls {
        ca: trusted.pem().into_bytes(),
        identity: Some(issued(&trusted)),
    };
    let tls = Tls {
        arguments: arguments.into(),
        client: client.clone(),
    };
    let cluster = Cluster::start_with(1, folder, Some(tls)).await;
    let store = cluster.connect().await.unwrap();
    store
        .put("a", Bytes::new(), Precondition::Any, None)
        .await
        .unwrap();
    let nameless = EtcdTls {
        identity: None,
        ..client.clone()
    };
    let stranger = EtcdTls {
        identity: Some(issued(&other)),
        ..client.clone()
    };
    let distrustful = EtcdTls {
        ca: other.pem().into_bytes(),
        ..client
    };
    for (tls, what) in [
        (None, "plaintext"),
        (Some(nameless), "no certificate"),
        (Some(stranger), "a certificate of another CA"),
        (Some(distrustful), "trust in another CA"),
    ] {
        let error = cluster.connect_with(tls).await.expect_err(what);
        assert!(matches!(error, StoreError::Unavailable { .. }), "{what}: {error}");
    }
}
