// SPDX-License-Identifier: Apache-2.0
//! The command line.

use clap::CommandFactory as _;

use super::*;

fn parsed(flags: &[&str]) -> Result<ControlConfig, String> {
    let arguments = std::iter::once(&"nodemesh-control").chain(flags);
    ControlConfig::try_parse_from(arguments).map_err(|error| error.to_string())
}

#[test]
fn the_command_is_well_formed() {
    ControlConfig::command().debug_assert();
}

#[test]
fn defaults_are_those_of_one_machine() {
    let config = parsed(&[]).unwrap();
    assert_eq!(config.listen, ["127.0.0.1:15010".parse().unwrap()]);
    assert_eq!(config.http, "127.0.0.1:9465".parse().unwrap());
    assert_eq!(
        config.store.store.to_string(),
        "embedded:///var/lib/nodemesh-control/store.redb"
    );
    assert_eq!(config.registry.lease_ttl, Duration::from_secs(10));
    assert_eq!(config.registry.address_grace, Duration::from_secs(600));
}

#[test]
fn several_listeners_and_ranges() {
    let config = parsed(&[
        "--listen",
        "127.0.0.1:1,[::1]:2",
        "--listen",
        "10.0.0.1:3",
        "--address-range",
        "10.96.0.0/16",
        "--address-range",
        "fd00:96::/112",
    ])
    .unwrap();
    assert_eq!(config.listen.len(), 3);
    assert_eq!(config.registry.address_range.len(), 2);
}

#[test]
fn stores_are_named_by_url() {
    let embedded = StoreUrl::Embedded {
        path: "/a/b.redb".into(),
    };
    let etcd = |endpoints: &[&str], prefix: &str| StoreUrl::Etcd {
        endpoints: endpoints.iter().map(ToString::to_string).collect(),
        prefix: prefix.to_owned(),
    };
    for (text, expected) in [
        ("embedded:///a/b.redb", embedded),
        ("etcd://a:2379", etcd(&["a:2379"], "nodemesh/")),
        ("etcd://a:1,[::1]:2/?prefix=x/", etcd(&["a:1", "[::1]:2"], "x/")),
    ] {
        assert_eq!(text.parse(), Ok(expected), "{text}");
    }
    for text in [
        "",
        "a",
        "embedded://a",
        "embedded:///a/",
        "redis://a:1",
        "etcd://",
        "etcd://a",
        "etcd://a:1?b=c",
    ] {
        assert!(text.parse::<StoreUrl>().is_err(), "{text}");
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    for flags in [
        &["--tls-cert", "a"][..],
        &["--tls-client-ca", "a"],
        &["--etcd-cert", "a", "--etcd-key", "b"],
        &["--lease-ttl", "1s"],
        &["--lease-ttl", "2500ms"],
        &["--report-interval", "0s"],
        &["--listen", "localhost"],
        &["--address-range", "10.0.0.0"],
        &["--max-nodes", "0"],
        &["--max-request-bytes", "1"],
    ] {
        assert!(parsed(flags).is_err(), "{flags:?}");
    }
}
