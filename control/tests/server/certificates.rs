// SPDX-License-Identifier: Apache-2.0
//! TLS in both directions: which certificates are taken, and how they are renewed.

use nodemesh_proto::v1::{ApplyRequest, ListRequest, registry_client::RegistryClient};
use tonic::{Code, Status, transport::Channel};

use crate::{
    access::is_refused,
    harness::{Control, eventually, folder, service, start_in},
    pki::{Authority, Files, Leaf, Names, connect},
};

const ACCESS: &str = "
identities:
  - {uri: spiffe://mesh/ops, role: admin}
  - {uri: 'spiffe://mesh/agent/*', role: agent}
  - {cn: reader, role: viewer}
";

struct Secured {
    control: Control,
    files: Files,
    server_ca: Authority,
    client_ca: Authority,
}

impl Secured {
    async fn start() -> Self {
        let folder = folder();
        let files = Files::new(folder.path());
        let (server_ca, client_ca) = (Authority::new(), Authority::new());
        let mut flags = files.server_flags(&server_ca.server()).to_vec();
        flags.extend([
            "--tls-client-ca".to_owned(),
            files.write("client-ca.pem", &client_ca.pem()),
        ]);
        flags.extend(["--access".to_owned(), files.write("access.yaml", ACCESS)]);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let app = start_in(folder.path(), &flags)
            .await
            .expect("the control plane starts");
        Self {
            control: Control { app, folder },
            files,
            server_ca,
            client_ca,
        }
    }

    async fn client(&self, identity: Option<&Leaf>) -> RegistryClient<Channel> {
        let address = self.control.address();
        connect(address, &self.server_ca, identity)
            .await
            .expect("a connection")
    }

    fn identity(&self, names: Names<'_>) -> Leaf {
        self.client_ca.leaf(names)
    }
}

async fn list(client: &mut RegistryClient<Channel>) -> Result<(), Status> {
    client.list(ListRequest::default()).await.map(|_| ())
}

async fn apply(client: &mut RegistryClient<Channel>) -> Result<(), Status> {
    let request = ApplyRequest {
        resource: service("llama", &["10.96.0.1"]).to_string(),
        ..ApplyRequest::default()
    };
    client.apply(request).await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_come_from_the_names_in_a_certificate() {
    let secured = Secured::start().await;
    let uri = |uri| Names {
        uri: Some(uri),
        ..Names::default()
    };
    let cn = |cn| Names {
        cn: Some(cn),
        ..Names::default()
    };
    for (name, names, reads, writes) in [
        ("admin by URI", uri("spiffe://mesh/ops"), None, None),
        (
            "agent by prefix",
            uri("spiffe://mesh/agent/n1"),
            None,
            Some(Code::PermissionDenied),
        ),
        ("viewer by name", cn("reader"), None, Some(Code::PermissionDenied)),
        (
            "unknown",
            uri("spiffe://mesh/ops/other"),
            Some(Code::Unauthenticated),
            Some(Code::Unauthenticated),
        ),
        (
            "nameless",
            Names::default(),
            Some(Code::Unauthenticated),
            Some(Code::Unauthenticated),
        ),
    ] {
        let mut client = secured.client(Some(&secured.identity(names))).await;
        assert_eq!(
            list(&mut client).await.err().map(|status| status.code()),
            reads,
            "{name}"
        );
        assert_eq!(
            apply(&mut client).await.err().map(|status| status.code()),
            writes,
            "{name}"
        );
    }
    let anonymous = list(&mut secured.client(None).await).await.unwrap_err();
    assert_eq!(anonymous.code(), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_and_expired_certificates_are_refused() {
    let secured = Secured::start().await;
    let ops = Names {
        uri: Some("spiffe://mesh/ops"),
        ..Names::default()
    };
    let address = secured.control.address();
    let expired = secured.identity(Names {
        is_expired: true,
        ..ops
    });
    let foreign = Authority::new().leaf(ops);
    for (name, leaf) in [("expired", &expired), ("of another authority", &foreign)] {
        // With TLS 1.3 a client learns of it when it reads.
        let refused = match connect(address, &secured.server_ca, Some(leaf)).await {
            Err(_) => true,
            Ok(mut client) => list(&mut client)
                .await
                .is_err_and(|status| !is_refused(status.code())),
        };
        assert!(refused, "{name}");
    }
    assert!(
        connect(address, &Authority::new(), None).await.is_err(),
        "the client trusts another authority"
    );
    assert!(
        list(&mut secured.client(Some(&secured.identity(ops))).await)
            .await
            .is_ok()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn plaintext_is_not_spoken_by_a_tls_listener() {
    let secured = Secured::start().await;
    let url = format!("http://{}", secured.control.address());
    let refused = match RegistryClient::connect(url).await {
        Err(_) => true,
        Ok(mut client) => list(&mut client).await.is_err(),
    };
    assert!(refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_served_without_a_restart() {
    let secured = Secured::start().await;
    let address = secured.control.address();
    let ops = secured.identity(Names {
        uri: Some("spiffe://mesh/ops"),
        ..Names::default()
    });
    let mut old = secured.client(Some(&ops)).await;
    // A certificate whose key has not arrived yet changes nothing.
    let next_ca = Authority::new();
    let next = next_ca.server();
    secured.files.write("server.pem", &next.certificate);
    let refused = "nodemesh_control_reloads_total{outcome=\"refused\",what=\"certificate\"}";
    eventually("the change is seen", || async {
        secured.control.metric(refused).await == Some(1.0)
    })
    .await;
    assert!(
        connect(address, &secured.server_ca, Some(&ops)).await.is_ok(),
        "the former stays"
    );
    secured.files.write("server.key", &next.key);
    eventually("the new certificate is served", || async {
        connect(address, &next_ca, Some(&ops)).await.is_ok()
    })
    .await;
    assert!(connect(address, &secured.server_ca, Some(&ops)).await.is_err());
    assert!(list(&mut old).await.is_ok(), "open connections stay");
}
