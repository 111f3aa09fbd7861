// SPDX-License-Identifier: Apache-2.0
//! The shortcut: who takes it, what it carries, and how it is left.
#![expect(clippy::unwrap_used, reason = "what a test calls panics like the test")]

use nodemesh_e2e::{
    bed::{Bed, Family, Replica, talk},
    manifest::{Manifest, Policy, Service},
    scrape::Scrape,
};
use serde_json::json;

/// A policy that switches the shortcut of `service` on or off.
fn policy(service: &str, enabled: bool) -> Policy {
    Policy::of(service).set("shortcut", json!({"enabled": enabled}))
}

/// A service of each family at the replica, with the shortcut switched on or off.
fn manifest(replica: &Replica, enabled: bool) -> Manifest {
    let services = Family::BOTH.map(|family| {
        let name = format!("echo-{family:?}").to_lowercase();
        Service::new(&name, family.vip(1)).to([replica.at(family)])
    });
    Manifest::of(services)
        .and(policy("echo-v4", enabled))
        .and(policy("echo-v6", enabled))
}

/// Messages that went by `route` so far.
fn messages(bed: &Bed, route: &str) -> u64 {
    let (_, text) = bed.agent.http(&bed.a, "/metrics").unwrap();
    let scrape = Scrape::parse(&text).unwrap();
    scrape.count("nodemesh_shortcut_messages_total", &[("route", route)])
}

#[test]
fn sockets_of_one_node_hand_over_what_they_say() {
    let mut bed = Bed::new();
    let neighbour = bed.a.pod("neighbour").unwrap();
    let replica = Replica::start(&neighbour, "local", 9000);
    bed.start(&manifest(&replica, true), &["--shortcut", "force"]);
    for family in Family::BOTH {
        let before = messages(&bed, "shortcut");
        let mut talk = talk(&bed.client.place(), family.vip(1));
        for _ in 0..20 {
            talk.goes_on();
        }
        let handed = messages(&bed, "shortcut") - before;
        assert!(handed >= 30, "{family:?}: {handed} of 40 messages");
    }
    bed.at_rest();
    bed.assert_no_internal_error();
}
