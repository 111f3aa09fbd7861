// SPDX-License-Identifier: Apache-2.0
//! The agent is killed at random moments and upgraded under load, shortened: `cargo xtask bench chaos` runs it at full length.

use nodemesh_e2e::chaos::{self, Outcome, Plan};

const PLAN: Plan = Plan {
    streams: 60,
    tokens: 20,
    connects_per_second: 40,
    kills: 5,
    upgrades: 2,
    other_abi: false,
    placed_alone: 400,
    seed: 0,
};

fn run(plan: Plan) -> Outcome {
    let mut acts = Vec::new();
    let plan = Plan {
        seed: u64::from(std::process::id()),
        ..plan
    };
    let outcome = chaos::run(&plan, |act| acts.push(act.to_owned())).expect("the chaos runs");
    let faults = outcome.faults();
    assert!(faults.is_empty(), "{faults:#?}\n{outcome:#?}\n{acts:#?}");
    assert!(outcome.seen.ok > 0 && outcome.seen.tokens > 0, "{outcome:?}");
    outcome
}

#[test]
fn kills_and_upgrades_under_load_cost_no_connection_no_stream_and_no_count() {
    let outcome = run(PLAN);
    assert_eq!((outcome.kills, outcome.upgrades), (5, [2, 0]));
}

#[test]
fn another_abi_and_back_under_load_costs_no_connection_and_no_stream() {
    let outcome = run(Plan {
        kills: 1,
        upgrades: 4,
        other_abi: true,
        ..PLAN
    });
    assert_eq!((outcome.kills, outcome.upgrades), (1, [2, 2]));
}
