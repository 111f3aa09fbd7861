// SPDX-License-Identifier: Apache-2.0
//! Envoy, configured by the control plane alone: it takes everything, by both variants of ADS, and carries traffic.

use std::collections::BTreeSet;

use nodemesh_e2e::{
    bed::{Bed, Family, Replica, connect},
    eventually::eventually,
    manifest::{Policy, Service},
    real::xds::{AdsVariant, Control, Envoy},
};

use crate::reaches;

/// The algorithms, each of the service of its number, from 1.
const ALGORITHMS: [&str; 4] = ["random", "round-robin", "least-request", "maglev"];

#[test]
fn envoy_takes_all_over_delta() {
    envoy_takes_all(AdsVariant::Delta);
}

#[test]
fn envoy_takes_all_over_state_of_the_world() {
    envoy_takes_all(AdsVariant::StateOfTheWorld);
}

fn envoy_takes_all(variant: AdsVariant) {
    let (bed, folder) = (Bed::new(), tempfile::tempdir().expect("a folder"));
    let mut control = Control::start(&bed.client, folder.path());
    let replicas = bed.replicas(2);
    publish(&control, &replicas);
    make_local(&bed);
    let envoy = Envoy::start(&bed.client, folder.path(), "envoy-1", variant);
    carries(&bed, &envoy);

    control.apply(Service::new("m1", Family::V4.vip(1)).to([replicas[1].at(Family::V4)]));
    reaches(&bed, Family::V4.vip(1), "r1");
    control.delete("Service", "m2");
    let is_gone = |listed: &BTreeSet<String>, name: &str| !listed.contains(&format!("models/m2/8000{name}"));
    eventually(
        "no listener",
        || envoy.in_use(),
        |in_use| is_gone(&in_use["listeners"], "/v4") && is_gone(&in_use["clusters"], ""),
    );
    accepted(&envoy, &control);

    // It goes on while there is no control plane, and is told what it missed and nothing else.
    let before = envoy.stats();
    control.restart();
    control.apply(Service::new("m7", Family::V4.vip(7)).to([replicas[1].at(Family::V4)]));
    let listener = "models/m7/8000/v4";
    eventually(
        "the new listener",
        || envoy.in_use(),
        |in_use| in_use["listeners"].contains(listener),
    );
    reaches(&bed, Family::V4.vip(7), "r1");
    let after = envoy.stats();
    if variant == AdsVariant::Delta {
        for service in ["m1", "m3", "m4", "m5"] {
            let counter = format!("cluster.models/{service}/8000.update_success");
            assert_eq!(
                after[&counter], before[&counter],
                "{counter}: nothing was sent again"
            );
        }
    }
    accepted(&envoy, &control);
}

/// A service of each algorithm, one of IPv6 and one of UDP.
fn publish(control: &Control<'_>, replicas: &[Replica]) {
    for (number, algorithm) in (1..).zip(ALGORITHMS) {
        let name = format!("m{number}");
        let both = replicas.iter().map(|replica| replica.at(Family::V4));
        control.apply(Service::new(&name, Family::V4.vip(number)).to(both));
        control.apply(Policy::of(&name).algorithm(algorithm));
    }
    control.apply(Service::new("m5", Family::V6.vip(5)).to([replicas[0].at(Family::V6)]));
    let datagrams = Service::new("m6", Family::V4.vip(6)).udp();
    control.apply(datagrams.to([replicas[0].at(Family::V4)]));
}

/// Brings what is sent to the services to whom listens there, in the pod itself.
fn make_local(bed: &Bed) {
    let local = |number| format!("addr add {}/32 dev lo", Family::V4.vip(number).ip());
    let mut addresses: Vec<String> = [1, 2, 3, 4, 6, 7].map(local).to_vec();
    addresses.push(format!("addr add {}/128 dev lo nodad", Family::V6.vip(5).ip()));
    bed.client.netns().configure(&addresses).expect("add addresses");
}

/// Everything is in use, and leads where it should.
fn carries(bed: &Bed, envoy: &Envoy<'_>) {
    let listeners = names(&[
        "m1/8000/v4",
        "m2/8000/v4",
        "m3/8000/v4",
        "m4/8000/v4",
        "m5/8000/v6",
        "m6/8000/udp/v4",
    ]);
    let clusters = names(&[
        "m1/8000",
        "m2/8000",
        "m3/8000",
        "m4/8000",
        "m5/8000",
        "m6/8000/udp",
    ]);
    let is_all =
        |in_use: &std::collections::BTreeMap<&str, BTreeSet<String>>| in_use["listeners"] == listeners;
    let in_use = eventually("listeners", || envoy.in_use(), is_all);
    assert_eq!(in_use["clusters"], clusters);
    assert_eq!(in_use["endpoints"], clusters);
    for (number, algorithm) in (1..).zip(ALGORITHMS) {
        let report = connect(&bed.client.place(), Family::V4.vip(number), &["--count", "40"]);
        report.assert_all_ok(40);
        // One client is one key of Maglev.
        let expected = if algorithm == "maglev" { 1 } else { 2 };
        assert_eq!(report.replicas.len(), expected, "{algorithm}: {report:?}");
    }
    connect(&bed.client.place(), Family::V6.vip(5), &["--count", "3"]).assert_all_ok(3);
}

fn names(of: &[&str]) -> BTreeSet<String> {
    of.iter().map(|name| format!("models/{name}")).collect()
}

/// Neither end knows of anything that was rejected.
fn accepted(envoy: &Envoy<'_>, control: &Control<'_>) {
    let stats = envoy.stats();
    let rejected = |(name, count): &(&String, &u64)| name.ends_with("update_rejected") && **count > 0;
    let rejections: Vec<_> = stats.iter().filter(rejected).collect();
    assert!(rejections.is_empty(), "{rejections:?}: {:?}", envoy.log());
    assert!(
        stats["cluster_manager.cds.update_success"] > 0 && stats["listener_manager.lds.update_success"] > 0
    );
    let node = eventually("the node", || control.node("envoy-1"), Option::is_some).expect("it is connected");
    assert!(
        node.types.iter().all(|of_type| of_type.nack_message.is_empty()),
        "{node:?}"
    );
    assert_eq!(node.version, "envoy/1.40.0");
}
