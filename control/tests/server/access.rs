// SPDX-License-Identifier: Apache-2.0
//! Tokens and roles, over every method; and what is refused to start.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderValue, Request, uri::PathAndQuery};
use nodemesh_control::security::METHODS;
use nodemesh_proto::v1::{ApplyRequest, ListRequest, WatchRequest, registry_client::RegistryClient};
use tonic::{Code, Status, body::Body, transport::Channel};
use tower::{Service as _, ServiceExt as _};

use crate::{
    harness::{Control, eventually, folder, service, soon, start_in},
    pki::{Authority, Files, sha256},
};

const ROLES: [&str; 5] = ["admin", "editor", "registrar", "agent", "viewer"];

fn access_file(roles: &[&str]) -> String {
    let token = |role: &&str| {
        format!(
            "  - {{name: {role}-token, role: {role}, sha256: {}}}\n",
            sha256(role)
        )
    };
    format!("tokens:\n{}", roles.iter().map(token).collect::<String>())
}

/// A control plane on the loopback, in plaintext, whose tokens are the names of the roles.
async fn with_tokens(roles: &[&str]) -> (Control, Files) {
    let folder = folder();
    let files = Files::new(folder.path());
    let access = files.write("access.yaml", &access_file(roles));
    let app = start_in(folder.path(), &["--access", &access])
        .await
        .expect("the control plane starts");
    (Control { app, folder }, files)
}

/// The code that an empty call of `path` comes to: by its head, or by the end of its stream, which we do not wait for.
async fn call(channel: &Channel, path: &str, authorization: Option<&str>) -> Code {
    let mut channel = channel.clone();
    let path: PathAndQuery = path.parse().expect("a path");
    let mut request = Request::post(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(http_body_util::Full::new(Bytes::from_static(&[0; 5]))))
        .expect("a request");
    if let Some(value) = authorization {
        let value = HeaderValue::from_str(value).expect("a header");
        request.headers_mut().insert("authorization", value);
    }
    let response = channel
        .ready()
        .await
        .expect("a connection")
        .call(request)
        .await
        .expect("a response");
    let status = Status::from_header_map(response.headers());
    status.map_or(Code::Ok, |status| status.code())
}

/// Whether `code` comes from the gate.
pub fn is_refused(code: Code) -> bool {
    matches!(code, Code::PermissionDenied | Code::Unauthenticated)
}

/// Who may call what.
fn expected() -> BTreeMap<String, &'static [&'static str]> {
    let read = &ROLES[..];
    let write = &["admin", "editor"][..];
    let register = &["admin", "registrar"][..];
    let node = &["admin", "agent"][..];
    let registry = |method: &str| format!("/nodemesh.v1.Registry/{method}");
    let ads = |method: &str| format!("/envoy.service.discovery.v3.AggregatedDiscoveryService/{method}");
    BTreeMap::from([
        (registry("Apply"), write),
        (registry("Delete"), write),
        (registry("Get"), read),
        (registry("List"), read),
        (registry("Watch"), read),
        (registry("Nodes"), read),
        (registry("Backends"), read),
        (registry("Register"), register),
        (registry("Renew"), register),
        (registry("Deregister"), register),
        ("/nodemesh.v1.Node/Report".to_owned(), node),
        (ads("StreamAggregatedResources"), node),
        (ads("DeltaAggregatedResources"), node),
        (
            "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats".to_owned(),
            node,
        ),
        ("/nodemesh.v1.Registry/NoSuchMethod".to_owned(), &["admin"][..]),
        (
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo".to_owned(),
            &["admin"][..],
        ),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_is_for_its_roles_only() {
    let (control, _files) = with_tokens(&ROLES).await;
    let channel = control.channel().await;
    let expected = expected();
    for method in METHODS.iter().filter(|method| !method.path.is_empty()) {
        assert!(
            expected.contains_key(method.path),
            "{} is not in this table",
            method.path
        );
    }
    for (path, allowed) in &expected {
        for role in ROLES {
            let code = call(&channel, path, Some(&format!("Bearer {role}"))).await;
            assert_eq!(
                !is_refused(code),
                allowed.contains(&role),
                "{path} by {role}: {code:?}"
            );
        }
        for (name, authorization) in [
            ("nothing", None),
            ("a wrong token", Some("Bearer wrong")),
            ("an empty token", Some("Bearer ")),
            ("another scheme", Some("Basic YWRtaW46YWRtaW4=")),
            ("no scheme", Some("admin")),
        ] {
            let code = call(&channel, path, authorization).await;
            assert_eq!(code, Code::Unauthenticated, "{path} with {name}");
        }
    }
    let unknown = call(
        &channel,
        "/nodemesh.v1.Registry/NoSuchMethod",
        Some("bearer admin"),
    )
    .await;
    assert_eq!(unknown, Code::Unimplemented, "after the gate");
}

fn client(
    channel: Channel,
    token: &str,
) -> RegistryClient<
    impl Clone
    + tonic::client::GrpcService<Body, ResponseBody = Body, Error = tonic::transport::Error, Future: Send>,
> {
    let value: HeaderValue = format!("Bearer {token}").parse().expect("a header");
    RegistryClient::new(tower::util::MapRequest::new(
        channel,
        move |mut request: Request<Body>| {
            request.headers_mut().insert("authorization", value.clone());
            request
        },
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_access_file_takes_effect_and_ends_streams() {
    let (control, files) = with_tokens(&["viewer", "admin"]).await;
    let mut viewer = client(control.channel().await, "viewer");
    let mut admin = client(control.channel().await, "admin");
    let mut watched = viewer.watch(WatchRequest::default()).await.unwrap().into_inner();
    let mut kept = admin.watch(WatchRequest::default()).await.unwrap().into_inner();

    files.write("access.yaml", "tokens: [{name: x, role: root, sha256: 00}]");
    let refused = "nodemesh_control_reloads_total{outcome=\"refused\",what=\"access\"}";
    eventually("the bad file is seen", || async {
        control.metric(refused).await == Some(1.0)
    })
    .await;
    viewer
        .list(ListRequest::default())
        .await
        .expect("the former file stays in force");

    files.write("access.yaml", &access_file(&["admin", "editor"]));
    let status = soon("the stream ends", watched.message()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    let status = viewer.list(ListRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    client(control.channel().await, "editor")
        .list(ListRequest::default())
        .await
        .expect("the new token is known");
    let request = ApplyRequest {
        resource: service("llama", &["10.96.0.1"]).to_string(),
        ..ApplyRequest::default()
    };
    admin.apply(request).await.unwrap();
    let event = soon("streams of those who are still listed go on", kept.message())
        .await
        .unwrap();
    assert!(event.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_be_open_to_others_does_not_start() {
    let folder = folder();
    let files = Files::new(folder.path());
    let tls = files.server_flags(&Authority::new().server());
    let tls: Vec<&str> = tls.iter().map(String::as_str).collect();
    let access = files.write("access.yaml", &access_file(&["admin"]));
    let broken = files.write("broken.yaml", "tokens: {");
    let missing = folder.path().join("missing").display().to_string();
    let with = |flags: &[&'static str], more: &[&str]| -> Vec<String> {
        flags.iter().chain(more).map(ToString::to_string).collect()
    };
    let open = &["--listen", "0.0.0.0:0"];
    for (name, flags, said) in [
        ("plaintext", with(open, &[]), "--insecure"),
        (
            "plaintext with tokens",
            with(open, &["--access", &access]),
            "--tls-cert",
        ),
        (
            "plaintext, IPv6",
            with(&["--listen", "[::]:0"], &[]),
            "--insecure",
        ),
        (
            "one of two",
            with(&["--listen", "127.0.0.1:0,0.0.0.0:0"], &[]),
            "0.0.0.0",
        ),
        ("TLS without roles", with(open, &tls), "--access"),
        ("TLS without roles on loopback", with(&[], &tls), "--access"),
        (
            "broken access file",
            with(&[], &["--access", &broken]),
            "access file",
        ),
        (
            "missing access file",
            with(&[], &["--access", &missing]),
            "missing",
        ),
        (
            "key for certificate",
            with(
                &[],
                &["--tls-cert", tls[1], "--tls-key", tls[1], "--access", &access],
            ),
            "server.pem",
        ),
    ] {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let error = start_in(folder.path(), &flags).await.err();
        let error = error.map(|error| format!("{error:#}")).unwrap_or_default();
        assert!(error.contains(said), "{name}: {error:?}");
    }
    let app = start_in(folder.path(), &["--listen", "0.0.0.0:0", "--insecure"]).await;
    app.expect("asked for").stop().await;
}
