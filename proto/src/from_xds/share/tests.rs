// SPDX-License-Identifier: Apache-2.0
//! Weights, localities, priorities and shares, against what Envoy's documentation says of them.

use super::*;
use crate::from_xds::assignment::Endpoint;

fn endpoint(host: u8, weight: u32, health: Health) -> Endpoint {
    Endpoint {
        ip: [10, 1, 0, host].into(),
        port: 8000,
        health,
        weight,
        workload: None,
    }
}

fn locality(priority: u32, weight: Option<u32>, endpoints: Vec<Endpoint>) -> Locality {
    Locality {
        place: None,
        sums_up: false,
        priority,
        weight,
        endpoints: endpoints.into(),
    }
}

fn assignment(localities: Vec<Locality>) -> Assignment {
    Assignment {
        localities,
        overprovisioning: 140,
    }
}

fn branch(assignment: &Assignment, share: u32) -> Branch<'_> {
    Branch {
        assignment,
        weighs_localities: false,
        share,
    }
}

/// Host, weight and state of each replica.
fn told(branches: &[Branch<'_>]) -> Vec<(u8, u32, BackendState)> {
    let host = |ip| match ip {
        IpAddr::V4(v4) => v4.octets()[3],
        IpAddr::V6(_) => 0,
    };
    replicas(branches)
        .iter()
        .map(|replica| (host(replica.ip), replica.weight, replica.state))
        .collect()
}

use BackendState::{Active, Draining, Unhealthy};
use Health::{Degraded, Healthy};

#[test]
fn one_locality_keeps_its_weights() {
    let assignment = assignment(vec![locality(
        0,
        Some(7),
        vec![
            endpoint(2, 65_535, Healthy),
            endpoint(1, 1, Healthy),
            endpoint(3, 500, Health::Draining),
        ],
    )]);
    let expected = [(1, 1, Active), (2, 65_535, Active), (3, 500, Draining)];
    assert_eq!(told(&[branch(&assignment, 30)]), expected);
}

#[test]
fn weights_that_do_not_fit_keep_their_ratio() {
    let assignment = assignment(vec![locality(
        0,
        None,
        vec![
            endpoint(1, 4_000_000, Healthy),
            endpoint(2, 1_000_000, Healthy),
            endpoint(3, 1, Healthy),
        ],
    )]);
    let expected = [(1, 65_535, Active), (2, 16_384, Active), (3, 1, Active)];
    assert_eq!(told(&[branch(&assignment, 1)]), expected);
}

#[test]
fn localities_share_by_weight() {
    let localities = vec![
        locality(0, Some(3), vec![endpoint(1, 1, Healthy), endpoint(2, 1, Healthy)]),
        locality(0, Some(1), vec![endpoint(3, 9, Healthy)]),
    ];
    let all_weighted = assignment(localities.clone());
    let expected = [(1, 65_535, Active), (2, 65_535, Active), (3, 43_690, Active)];
    assert_eq!(told(&[branch(&all_weighted, 1)]), expected);

    let mut localities = localities;
    localities[1].weight = None;
    let one_weighted = assignment(localities);
    let expected = [(1, 1, Active), (2, 1, Active), (3, 9, Active)];
    assert_eq!(
        told(&[branch(&one_weighted, 1)]),
        expected,
        "weights count only if all have one"
    );
    let asked_for = Branch {
        weighs_localities: true,
        ..branch(&one_weighted, 1)
    };
    let expected = [(1, 1, Active), (2, 1, Active)];
    assert_eq!(told(&[asked_for]), expected, "without a weight it gets nothing");
}

#[test]
fn a_locality_that_lost_endpoints_gives_load_away() {
    let assignment = assignment(vec![
        locality(
            0,
            Some(1),
            vec![
                endpoint(1, 1, Healthy),
                endpoint(2, 1, Health::Unhealthy),
                endpoint(3, 1, Health::Unhealthy),
                endpoint(4, 1, Health::Unhealthy),
            ],
        ),
        locality(0, Some(1), vec![endpoint(5, 1, Healthy)]),
    ]);
    let told = told(&[branch(&assignment, 1)]);
    // A quarter of its endpoints, overprovisioned by 1.4: 35 % of its share.
    assert_eq!((told[0].1, told[4].1), (22_937, 65_535));
}

#[test]
fn a_priority_is_used_when_those_before_it_have_nothing() {
    let spare = || locality(1, None, vec![endpoint(9, 2, Healthy)]);
    let alive = assignment(vec![spare(), locality(0, None, vec![endpoint(1, 1, Healthy)])]);
    assert_eq!(told(&[branch(&alive, 1)]), [(1, 1, Active)]);
    assert_eq!(unused_priority(branch(&alive, 1)), Some(0));

    let dead = assignment(vec![
        locality(
            0,
            None,
            vec![
                endpoint(1, 1, Health::Unhealthy),
                endpoint(2, 1, Health::Draining),
            ],
        ),
        spare(),
    ]);
    let expected = [(1, 1, Unhealthy), (2, 1, Draining), (9, 2, Active)];
    assert_eq!(
        told(&[branch(&dead, 1)]),
        expected,
        "what is connected stays known"
    );
    assert_eq!(unused_priority(branch(&dead, 1)), None);
}

#[test]
fn nothing_available_is_nothing_available() {
    let all = vec![
        endpoint(1, 1, Health::Unhealthy),
        endpoint(2, 3, Health::Draining),
    ];
    let assignment = assignment(vec![locality(2, None, all)]);
    let expected = [(1, 1, Unhealthy), (2, 3, Draining)];
    assert_eq!(told(&[branch(&assignment, 1)]), expected);
    assert_eq!(told(&[]), []);
}

#[test]
fn degraded_endpoints_serve_when_no_healthy_one_does() {
    let degraded = || endpoint(1, 1, Degraded);
    let mixed = assignment(vec![locality(0, None, vec![degraded(), endpoint(2, 1, Healthy)])]);
    assert_eq!(told(&[branch(&mixed, 1)]), [(1, 1, Draining), (2, 1, Active)]);
    let alone = assignment(vec![locality(0, None, vec![degraded()])]);
    assert_eq!(told(&[branch(&alone, 1)]), [(1, 1, Active)]);
}

#[test]
fn clusters_share_by_weight() {
    let stable = assignment(vec![locality(
        0,
        None,
        vec![
            endpoint(1, 1, Healthy),
            endpoint(2, 1, Healthy),
            endpoint(3, 5, Health::Draining),
        ],
    )]);
    let canary = assignment(vec![locality(0, None, vec![endpoint(4, 100, Healthy)])]);
    let told_of = told(&[branch(&stable, 90), branch(&canary, 10)]);
    assert_eq!((told_of[0].1, told_of[1].1, told_of[3].1), (45, 45, 10));
    assert_eq!(told_of[2].2, Draining);

    let empty = assignment(vec![]);
    let told_of = told(&[branch(&empty, 90), branch(&canary, 10)]);
    assert_eq!(
        told_of,
        [(4, 10, Active)],
        "the share of an empty cluster goes to the others"
    );
}

#[test]
fn an_endpoint_of_two_clusters_gets_both_shares() {
    let a = assignment(vec![locality(
        0,
        None,
        vec![endpoint(1, 1, Healthy), endpoint(2, 1, Healthy)],
    )]);
    let b = assignment(vec![locality(
        0,
        None,
        vec![endpoint(2, 1, Healthy), endpoint(1, 1, Health::Unhealthy)],
    )]);
    // 25 + 50 of 75, against 25.
    assert_eq!(
        told(&[branch(&a, 1), branch(&b, 1)]),
        [(1, 21_845, Active), (2, 65_535, Active)]
    );
}
