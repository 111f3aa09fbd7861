// SPDX-License-Identifier: Apache-2.0
//! The agent is killed at random moments and upgraded under load, shortened: `cargo xtask bench chaos` runs it at full length.

use nodemesh_e2e::chaos::{self, Plan};

#[test]
fn kills_and_upgrades_under_load_cost_no_connection_no_stream_and_no_count() {
    let plan = Plan {
        streams: 60,
        tokens: 20,
        connects_per_second: 40,
        kills: 5,
        upgrades: 3,
        placed_alone: 400,
        seed: u64::from(std::process::id()),
    };
    let mut acts = Vec::new();
    let outcome = chaos::run(&plan, |act| acts.push(act.to_owned())).expect("the chaos runs");
    let faults = outcome.faults();
    assert!(faults.is_empty(), "{faults:#?}\n{outcome:#?}\n{acts:#?}");
    assert_eq!((outcome.kills, outcome.upgrades), (5, [2, 1]));
    assert!(outcome.seen.ok > 0 && outcome.seen.tokens > 0, "{outcome:?}");
}
