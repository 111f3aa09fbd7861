// SPDX-License-Identifier: Apache-2.0
//! `maglev`: a client keeps its replica, on every node, and a change of the replicas moves few clients.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nodemesh_e2e::{
    bed::{Bed, Family, Replica, Report, connect, probe, report_of},
    manifest::{Manifest, Policy, Service, client_workload},
    process::{Place, Process},
};

fn maglev<'r>(replicas: impl IntoIterator<Item = &'r Replica>, family: Family, key: &str) -> Manifest {
    let backends = replicas.into_iter().map(|replica| replica.at(family));
    Manifest::default()
        .and(Service::new("echo", family.vip(1)).to(backends))
        .and(Policy::of("echo").algorithm("maglev").client_key(key))
}

/// The replica of the clients at each place, all of which connect several times at once.
fn replicas_of(places: &[Place], family: Family, flags: &[Vec<String>]) -> Vec<String> {
    let address = family.vip(1).to_string();
    let probes: Vec<Process> = places
        .iter()
        .zip(flags)
        .map(|(place, flags)| {
            let mut arguments = vec!["connect", &address, "--count", "5"];
            arguments.extend(flags.iter().map(String::as_str));
            probe(place, &arguments)
        })
        .collect();
    let reports = probes.into_iter().map(report_of::<Report>);
    reports.map(|report| report.only_replica(5).to_owned()).collect()
}

fn distinct(replicas: &[String]) -> usize {
    let mut sorted = replicas.to_vec();
    sorted.sort();
    sorted.dedup();
    sorted.len()
}

#[test]
fn a_workload_has_the_same_replica_on_every_node_and_in_every_cgroup_of_it() {
    const CLIENTS: usize = 10;
    let mut bed = Bed::new();
    let replicas = bed.replicas(5);
    let remote = bed.b.pod("client").unwrap();
    let mut remote_agent = bed.b.agent().unwrap();
    let names: Vec<String> = (0..CLIENTS).map(|number| format!("c{number}")).collect();
    let here: Vec<_> = names.iter().map(|name| bed.nested(&bed.client, name)).collect();
    let there: Vec<_> = names.iter().map(|name| bed.nested(&remote, name)).collect();
    let [here, there] = [&here, &there].map(|nested| {
        let places = nested.iter().map(|(_, place)| place.clone());
        places.collect::<Vec<Place>>()
    });
    // The cgroup of a container, below that of its workload.
    let (_container, inside) = bed.nested(&bed.client, "c0/container");
    for family in Family::BOTH {
        let manifest = names
            .iter()
            .fold(maglev(&replicas, family, "workload"), |manifest, name| {
                manifest.and(client_workload(name, &format!("client/{name}"), None))
            });
        if family == Family::V4 {
            bed.start(&manifest, &[]);
            remote_agent.configure(&manifest.to_string()).unwrap();
            remote_agent.start(&[]).unwrap();
        } else {
            bed.apply(&manifest);
            remote_agent.reconfigure(&manifest.to_string()).unwrap();
        }
        let no_flags = vec![vec![]; CLIENTS];
        let chosen = replicas_of(&here, family, &no_flags);
        assert!(distinct(&chosen) > 2, "{chosen:?}");
        assert_eq!(replicas_of(&there, family, &no_flags), chosen, "{family:?}");
        let report = connect(&inside, family.vip(1), &["--count", "5"]);
        assert_eq!(report.only_replica(5), chosen[0], "{family:?}");
    }
}

#[test]
fn a_cgroup_without_a_workload_is_a_client_of_its_own() {
    const CLIENTS: usize = 10;
    let mut bed = Bed::new();
    let replicas = bed.replicas(5);
    bed.start(&Manifest::default(), &[]);
    let nested: Vec<_> = (0..CLIENTS)
        .map(|number| bed.nested(&bed.client, &format!("c{number}")))
        .collect();
    let places: Vec<Place> = nested.iter().map(|(_, place)| place.clone()).collect();
    for family in Family::BOTH {
        bed.apply(&maglev(&replicas, family, "workload"));
        let no_flags = vec![vec![]; CLIENTS];
        let chosen = replicas_of(&places, family, &no_flags);
        assert!(distinct(&chosen) > 1, "{chosen:?}");
        assert_eq!(replicas_of(&places, family, &no_flags), chosen, "{family:?}");
    }
}

/// Gives the client pod `count` more addresses of `family`.
fn add_addresses(bed: &Bed, family: Family, count: u8) -> Vec<IpAddr> {
    let addresses: Vec<IpAddr> = (0..count)
        .map(|number| match family {
            Family::V4 => Ipv4Addr::new(10, 1, 0, 100 + number).into(),
            Family::V6 => Ipv6Addr::new(0xfd10, 1, 0, 0, 0, 0, 1, number.into()).into(),
        })
        .collect();
    let lines: Vec<String> = addresses
        .iter()
        .map(|address| match family {
            Family::V4 => format!("addr add {address}/24 dev eth0"),
            Family::V6 => format!("addr add {address}/64 dev eth0 nodad"),
        })
        .collect();
    bed.client.netns().configure(&lines).expect("add the addresses");
    addresses
}

fn bind(addresses: &[IpAddr]) -> Vec<Vec<String>> {
    addresses
        .iter()
        .map(|address| vec!["--bind".into(), address.to_string()])
        .collect()
}

#[test]
fn a_replica_that_goes_moves_its_own_clients_and_comes_back_to_them() {
    const CLIENTS: u8 = 40;
    let mut bed = Bed::new();
    let replicas = bed.replicas(5);
    bed.start(&Manifest::default(), &[]);
    let places = vec![bed.client.place(); CLIENTS.into()];
    for family in Family::BOTH {
        let flags = bind(&add_addresses(&bed, family, CLIENTS));
        bed.apply(&maglev(&replicas, family, "address"));
        let before = replicas_of(&places, family, &flags);
        assert_eq!(distinct(&before), 5, "{before:?}");

        bed.apply(&maglev(&replicas[1..], family, "address"));
        let without = replicas_of(&places, family, &flags);
        assert!(!without.contains(&"r0".into()), "{without:?}");
        let moved = before
            .iter()
            .zip(&without)
            .filter(|(old, new)| old != new)
            .count();
        let foreign = before
            .iter()
            .zip(&without)
            .filter(|(old, new)| old != new && *old != "r0")
            .count();
        assert!(
            moved <= usize::from(CLIENTS) * 2 / 5,
            "{moved} moved: {before:?} {without:?}"
        );
        assert!(foreign <= 2, "{foreign} moved of others: {before:?} {without:?}");

        bed.apply(&maglev(&replicas, family, "address"));
        assert_eq!(replicas_of(&places, family, &flags), before, "{family:?}");
    }
}

#[test]
fn a_workload_with_an_address_is_the_client_of_that_address() {
    const CLIENTS: u8 = 8;
    let mut bed = Bed::new();
    let replicas = bed.replicas(5);
    bed.start(&Manifest::default(), &[]);
    let nested: Vec<_> = (0..CLIENTS)
        .map(|number| bed.nested(&bed.client, &format!("c{number}")))
        .collect();
    let places: Vec<Place> = nested.iter().map(|(_, place)| place.clone()).collect();
    for family in Family::BOTH {
        let addresses = add_addresses(&bed, family, CLIENTS);
        let manifest = addresses.iter().enumerate().fold(
            maglev(&replicas, family, "address"),
            |manifest, (number, address)| {
                let cgroup = format!("client/c{number}");
                manifest.and(client_workload(&format!("w{number}"), &cgroup, Some(*address)))
            },
        );
        bed.apply(&manifest);
        let bound = replicas_of(
            &vec![bed.client.place(); CLIENTS.into()],
            family,
            &bind(&addresses),
        );
        assert!(distinct(&bound) > 1, "{bound:?}");
        let unbound = replicas_of(&places, family, &vec![vec![]; CLIENTS.into()]);
        assert_eq!(unbound, bound, "{family:?}");
    }
}

#[test]
fn an_unbound_client_without_a_workload_is_its_network_namespace() {
    const CLIENTS: usize = 8;
    let mut bed = Bed::new();
    let replicas = bed.replicas(5);
    bed.start(&Manifest::default(), &[]);
    let nested: Vec<_> = (0..CLIENTS)
        .map(|number| bed.nested(&bed.client, &format!("c{number}")))
        .collect();
    let places: Vec<Place> = nested.iter().map(|(_, place)| place.clone()).collect();
    for family in Family::BOTH {
        bed.apply(&maglev(&replicas, family, "address"));
        let chosen = replicas_of(&places, family, &vec![vec![]; CLIENTS]);
        assert_eq!(distinct(&chosen), 1, "{family:?} {chosen:?}");
    }
}
