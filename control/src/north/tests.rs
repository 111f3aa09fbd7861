// SPDX-License-Identifier: Apache-2.0
//! Sums of load, and reports.

use std::time::{Duration, Instant};

use nodemesh_proto::v1::NodeReport;
use proptest::prelude::*;

use super::{
    backends::Cluster,
    load_table::{BackendKey, Current, Delta, Loads},
    reports::Reports,
};

const INTERVAL: Duration = Duration::from_secs(5);

fn key(number: u8) -> BackendKey {
    BackendKey {
        cluster: "models/llama/80".into(),
        address: ([10, 0, 0, number], 8000).into(),
    }
}

fn delta(in_flight: u64) -> Delta {
    Delta {
        requests: 2,
        errors: 1,
        current: Current {
            in_flight,
            connections: 1,
            rate: 0.1,
            ttft_sum_s: 0.3,
            ttft_count: 1,
        },
    }
}

#[test]
fn clusters_are_taken_apart() {
    for (name, namespace, service, port) in [
        ("models/llama/80", "models", "llama", 80),
        ("outbound|80||x", "", "outbound|80||x", 0),
        ("a/b", "", "a/b", 0),
        ("a/b/c", "", "a/b/c", 0),
        ("a/b/80/d", "", "a/b/80/d", 0),
        ("a/b/80000", "", "a/b/80000", 0),
        ("", "", "", 0),
    ] {
        let cluster = Cluster::of(name);
        assert_eq!(
            (cluster.namespace, cluster.service, cluster.port),
            (namespace, service, port),
            "{name}"
        );
    }
}

#[test]
fn a_silent_node_has_no_load_and_its_counters_are_forgotten_later() {
    let (loads, start) = (Loads::new(10, INTERVAL), Instant::now());
    let seat = loads.admit(start).unwrap();
    seat.update(vec![(key(1), delta(3))], 0, start);
    loads.tidy(start + 3 * INTERVAL);
    assert_eq!(loads.list()[0].1.in_flight, 3);
    loads.tidy(start + 5 * INTERVAL);
    let (_, load) = loads.list()[0];
    assert_eq!(
        (load.nodes, load.in_flight, load.connections, load.requests),
        (0, 0, 0, 2)
    );
    assert!(load.rate.abs() < f64::EPSILON && load.ttft_sum_s.abs() < f64::EPSILON);
    loads.tidy(start + Duration::from_secs(4000));
    assert_eq!(loads.list().len(), 0);
}

#[test]
fn there_are_limits() {
    let loads = Loads::new(1, INTERVAL);
    let seat = loads.admit(Instant::now());
    assert!(seat.is_some() && loads.admit(Instant::now()).is_none());
    drop(seat);
    assert!(loads.admit(Instant::now()).is_some());
    let reports = Reports::new(1);
    let seat = reports.admit(None).unwrap();
    assert!(reports.admit(None).is_none());
    seat.update(NodeReport {
        node: "n".repeat(5000),
        errors: vec!["e".repeat(5000); 500],
        ..NodeReport::default()
    });
    let report = &reports.list()[0].said;
    assert_eq!(
        (report.node.len(), report.errors.len(), report.errors[0].len()),
        (1024, 64, 1024)
    );
    drop(seat);
    assert!(reports.list().is_empty() && reports.admit(None).is_some());
}

proptest! {
    /// The sums are those of the last report of each node, whatever came before.
    #[test]
    fn sums_are_of_the_last_reports(
        steps in prop::collection::vec((0_usize..4, prop::collection::btree_map(0_u8..5, any::<u64>(), 0..4), any::<bool>()), 1..40)
    ) {
        let (loads, now) = (Loads::new(10, INTERVAL), Instant::now());
        let mut seats = [const { None }; 4];
        let mut last = [const { None }; 4];
        for (node, report, leaves) in steps {
            if leaves {
                (seats[node], last[node]) = (None, None);
                continue;
            }
            let seat = seats[node].get_or_insert_with(|| loads.admit(now).unwrap());
            let entries = report.iter().map(|(number, in_flight)| (key(*number), delta(*in_flight)));
            seat.update(entries.collect(), 0, now);
            last[node] = Some(report);
        }
        for (found, load) in loads.list() {
            let of_node = |report: &std::collections::BTreeMap<u8, u64>| {
                report.iter().find(|(number, _)| key(**number) == found).map(|(_, in_flight)| *in_flight)
            };
            let expected: Vec<u64> = last.iter().flatten().filter_map(of_node).collect();
            let sum = expected.iter().fold(0, |sum: u64, in_flight| sum.wrapping_add(*in_flight));
            prop_assert_eq!(load.in_flight, sum);
            prop_assert_eq!(load.nodes as usize, expected.len());
            prop_assert_eq!(load.connections as usize, expected.len());
        }
    }
}
