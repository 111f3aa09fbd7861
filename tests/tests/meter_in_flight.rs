// SPDX-License-Identifier: Apache-2.0
//! Requests in flight, whatever becomes of them: what the kernel counts is what the servers have open, and never less than nothing.

#[path = "meter_in_flight/chaos.rs"]
mod chaos;
#[path = "meter_in_flight/http2.rs"]
mod http2;
#[path = "meter_in_flight/mesh.rs"]
mod mesh;
#[path = "meter_in_flight/watch.rs"]
mod watch;

use chaos::Chaos;

#[test]
fn ten_thousand_streams_through_every_kind_of_change() {
    let chaos = Chaos {
        tls: false,
        agent: &[],
        servers: [
            "",
            "--half-close serve",
            "--early-headers=prelude",
            "--early-headers=headers --heartbeat 500ms",
            "--tail coalesced",
        ],
        concurrency: 2_500,
        requests: 5_000,
    };
    let outcome = chaos.run();
    assert!(
        outcome.requests >= 20_000 && outcome.at_once >= 7_500,
        "{outcome:?}"
    );
}

#[test]
fn a_thousand_streams_under_tls() {
    let chaos = Chaos {
        tls: true,
        agent: &[],
        servers: [
            "--tls-versions 1.3",
            "--tls-versions 1.3 --half-close serve",
            "--tls-versions 1.3 --early-headers=headers",
            "",
            "--tail split",
        ],
        concurrency: 150,
        requests: 300,
    };
    let outcome = chaos.run();
    assert!(outcome.requests >= 1_000, "{outcome:?}");
}

#[test]
fn a_thousand_streams_seen_in_packets() {
    let chaos = Chaos {
        tls: false,
        agent: &["--meter-path", "packet"],
        servers: [
            "",
            "--half-close serve",
            "--early-headers=prelude",
            "",
            "--tail coalesced",
        ],
        concurrency: 150,
        requests: 300,
    };
    let outcome = chaos.run();
    assert!(outcome.requests >= 1_000, "{outcome:?}");
}
