// SPDX-License-Identifier: Apache-2.0
//! What is expected of the scenes after the story: the replica that freezes, the client outside the mesh, and the client that
//! is denied.

use std::time::Duration;

use super::{Expectation, expect};
use crate::demo::{
    denial::Denied,
    outside::Outside,
    wedge::{Stream, Wedged},
};

/// How soon a frozen replica is out.
const EJECTION_LIMIT: Duration = Duration::from_secs(3);
/// How soon it is back when it thaws.
const READMISSION_LIMIT: Duration = Duration::from_secs(2);

fn seconds(time: Option<Duration>) -> String {
    time.map_or("never".to_owned(), |time| {
        format!("after {:.2} s", time.as_secs_f64())
    })
}

pub(super) fn wedged_is_not_slow(wedged: &Wedged) -> Expectation {
    let silence = |streams: &[Stream]| {
        let quiet = streams.iter().map(|stream| stream.quiet);
        quiet.fold(0.0, f64::max)
    };
    let stalled = |streams: &[Stream]| streams.iter().filter(|stream| stream.stalled).count();
    let (frozen, slow) = (&wedged.frozen, &wedged.slow);
    let [top_frozen, top_slow] = wedged.top;
    expect(
        "nodemesh connections and top tell the frozen replica's streams from the slow one's",
        stalled(frozen) == frozen.len()
            && !frozen.is_empty()
            && stalled(slow) == 0
            && !slow.is_empty()
            && top_frozen > 0
            && top_slow == 0,
        format!(
            "frozen: {} of {} stalled, silent for up to {:.1} s; slow: {} of {}, {:.2} s; top: {top_frozen} and {top_slow} stalled",
            stalled(frozen),
            frozen.len(),
            silence(frozen),
            stalled(slow),
            slow.len(),
            silence(slow)
        ),
    )
}

pub(super) fn wedged_was_ejected(wedged: &Wedged) -> Expectation {
    let ejected = &wedged.ejected;
    let [own, others] = ejected.placed;
    expect(
        format!(
            "the replica that froze while its /health said 200 was ejected by both kernels within {} s and got no new connection from \
             then on",
            EJECTION_LIMIT.as_secs()
        ),
        ejected.health == 200
            && ejected.after.is_some_and(|after| after <= EJECTION_LIMIT)
            && own == 0
            && others > 0,
        format!(
            "/health said {}; ejected {}; then {own} connections were led there, {others} to others",
            ejected.health,
            seconds(ejected.after)
        ),
    )
}

pub(super) fn thawed_was_readmitted(wedged: &Wedged) -> Expectation {
    let ejected = &wedged.ejected;
    let (answered, others) = wedged.answered;
    expect(
        format!(
            "it was readmitted within {} s of thawing, and none of its streams was lost",
            READMISSION_LIMIT.as_secs()
        ),
        ejected.readmitted.is_some_and(|after| after <= READMISSION_LIMIT)
            && ejected.again > 0
            && answered > 0
            && others == 0,
        format!(
            "readmitted {}, {} new connections at once; {answered} requests answered, {others} not",
            seconds(ejected.readmitted),
            ejected.again
        ),
    )
}

pub(super) fn only_the_denied_was_denied(denied: &Denied) -> Expectation {
    let (batch, chat) = (&denied.batch, &denied.chat);
    expect(
        "under the policy the denied client's connect() failed with EACCES and nothing else, and the other client noticed nothing",
        batch.only_denied() && chat.is_undisturbed() && denied.again.is_some(),
        format!(
            "denied: {}; the other: {}; the denied one was served again {} without the policy",
            batch,
            chat,
            seconds(denied.again)
        ),
    )
}

pub(super) fn the_denial_was_told(denied: &Denied) -> Expectation {
    expect(
        "nodemesh policy explain names the rule, and nodemesh monitor the client",
        denied.is_explained && denied.told > 0,
        format!(
            "explain: {}; {} refusals told by events",
            if denied.is_explained {
                "denied by the rule"
            } else {
                "not the rule that was applied"
            },
            denied.told
        ),
    )
}

pub(super) fn strangers_are_served(outside: &Outside) -> Expectation {
    let (what, holds, numbers) = outside.expectation();
    expect(what, holds, numbers)
}
