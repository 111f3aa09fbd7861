// SPDX-License-Identifier: Apache-2.0
//! Access files, roles, and what is exposed.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, header::AUTHORIZATION};

use super::*;
use crate::config::SecurityConfig;

/// `printf %s secret | sha256sum`.
const SECRET: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

fn token(value: &str) -> Credentials {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, value.parse().unwrap());
    Credentials::new(&headers, None)
}

fn certificate(uri: Option<&str>, cn: Option<&str>) -> Credentials {
    let identity = Identity {
        uris: uri.into_iter().map(str::to_owned).collect(),
        cn: cn.map(str::to_owned),
        expires: SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(1000)),
    };
    Credentials::new(&HeaderMap::new(), Some(Arc::new(identity)))
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

#[test]
fn callers_are_told_apart() {
    let text = format!(
        "tokens:\n- {{name: ci, role: editor, sha256: {SECRET}}}\nidentities:\n\
         - {{uri: 'spiffe://mesh/agent/*', role: agent}}\n- {{uri: spiffe://mesh/ops, role: admin}}\n- {{cn: reader, role: viewer}}\n"
    );
    let access = Access::parse(&text).unwrap();
    let caller = |credentials: &Credentials, seconds| {
        access.caller(credentials, at(seconds)).map(|caller| caller.role)
    };
    for (name, credentials, expected) in [
        ("token", token("Bearer secret"), Ok(Role::Editor)),
        ("lower case", token("bearer secret"), Ok(Role::Editor)),
        ("wrong", token("Bearer Secret"), Err(Refusal::UnknownToken)),
        (
            "digest instead",
            token(&format!("Bearer {SECRET}")),
            Err(Refusal::UnknownToken),
        ),
        ("scheme", token("Basic secret"), Err(Refusal::UnknownToken)),
        ("nothing", Credentials::default(), Err(Refusal::Anonymous)),
        (
            "prefix",
            certificate(Some("spiffe://mesh/agent/a/b"), None),
            Ok(Role::Agent),
        ),
        (
            "prefix alone",
            certificate(Some("spiffe://mesh/agent"), None),
            Err(Refusal::UnknownCertificate),
        ),
        (
            "exact",
            certificate(Some("spiffe://mesh/ops"), None),
            Ok(Role::Admin),
        ),
        (
            "longer",
            certificate(Some("spiffe://mesh/ops2"), None),
            Err(Refusal::UnknownCertificate),
        ),
        ("common name", certificate(None, Some("reader")), Ok(Role::Viewer)),
        (
            "URI first",
            certificate(Some("spiffe://mesh/ops"), Some("reader")),
            Ok(Role::Admin),
        ),
        (
            "URI as name",
            certificate(None, Some("spiffe://mesh/ops")),
            Err(Refusal::UnknownCertificate),
        ),
    ] {
        assert_eq!(caller(&credentials, 999), expected, "{name}");
    }
}

#[test]
fn certificates_end_and_do_not_make_up_for_a_wrong_token() {
    let text = "identities: [{uri: spiffe://mesh/ops, role: admin}]";
    let access = Access::parse(text).unwrap();
    let caller = |credentials: &Credentials, seconds| {
        access.caller(credentials, at(seconds)).map(|caller| caller.role)
    };
    let expired = certificate(Some("spiffe://mesh/ops"), None);
    assert_eq!(caller(&expired, 999), Ok(Role::Admin));
    assert_eq!(caller(&expired, 1001), Err(Refusal::ExpiredCertificate));
    let mut both = token("Bearer wrong");
    both.identity = certificate(Some("spiffe://mesh/ops"), None).identity;
    assert_eq!(
        caller(&both, 0),
        Err(Refusal::UnknownToken),
        "a wrong token is not made good by a certificate"
    );
}

#[test]
fn access_files_say_what_is_wrong() {
    let digest = |text: &str| format!("tokens: [{{name: a, role: viewer, sha256: '{text}'}}]");
    let twice = format!(
        "tokens: [{{name: a, role: viewer, sha256: {SECRET}}}, {{name: b, role: admin, sha256: {}}}]",
        SECRET.to_uppercase()
    );
    for (text, said) in [
        ("", "nobody"),
        ("tokens: []", "nobody"),
        ("tokens: {", "is no access file"),
        ("token: []", "token"),
        ("tokens: [{name: a, role: root, sha256: '00'}]", "root"),
        ("tokens: [{name: a, role: admin}]", "sha256"),
        ("identities: [{role: admin}]", "entry 1"),
        (
            "identities: [{cn: a, role: admin}, {cn: a, uri: b, role: admin}]",
            "entry 2",
        ),
        (&digest("00"), "64"),
        (&digest(&"+1".repeat(32)), "64"),
        (&digest(&"é".repeat(32)), "64"),
        (&twice, "same digest"),
    ] {
        let error = Access::parse(text).unwrap_err().to_string();
        assert!(error.contains(said), "{text}: {error}");
    }
}

#[test]
fn only_admins_call_what_is_not_listed() {
    for path in [
        "",
        "/",
        "/nodemesh.v1.Registry/",
        "/nodemesh.v1.Registry/apply",
        "/nodemesh.v1.registry/Get",
    ] {
        let method = Method::of(path);
        assert_eq!(
            (method.need, method.name),
            (Need::Everything, "unknown"),
            "{path}"
        );
    }
    for role in [Role::Editor, Role::Registrar, Role::Agent, Role::Viewer] {
        assert!(!role.meets(Need::Everything), "{role}");
    }
    assert!(Role::Admin.meets(Need::Everything));
}

#[test]
fn what_is_open_to_others_needs_more() {
    let loopback = ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"];
    let outside = [
        "0.0.0.0:1",
        "10.0.0.1:1",
        "[::]:1",
        "[fd00::1]:1",
        "[::ffff:10.0.0.1]:1",
    ];
    let plain = SecurityConfig::default();
    let tls = SecurityConfig {
        tls_cert: Some("c".into()),
        tls_key: Some("k".into()),
        ..SecurityConfig::default()
    };
    let full = SecurityConfig {
        access: Some("a".into()),
        ..tls.clone()
    };
    let tokens = SecurityConfig {
        access: Some("a".into()),
        ..SecurityConfig::default()
    };
    let insecure = SecurityConfig {
        insecure: true,
        ..SecurityConfig::default()
    };
    let allowed = |addresses: &[&str], security: &SecurityConfig| {
        addresses
            .iter()
            .all(|address| check_exposure(&[address.parse().unwrap()], security).is_ok())
    };
    let refused = |addresses: &[&str], security: &SecurityConfig| {
        addresses
            .iter()
            .all(|address| check_exposure(&[address.parse().unwrap()], security).is_err())
    };
    assert!(allowed(&loopback, &plain) && allowed(&loopback, &tokens) && allowed(&loopback, &full));
    assert!(refused(&outside, &plain) && refused(&outside, &tokens));
    assert!(refused(&outside, &tls) && refused(&loopback, &tls));
    assert!(allowed(&outside, &full) && allowed(&outside, &insecure));
}
