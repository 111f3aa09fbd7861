// SPDX-License-Identifier: Apache-2.0
//! What the kernels do about a replica that freezes: when each ejects it, what it gets from then on, and when it is back.
//!
//! Invariant: times are between the stamps of the events, by the clock of the kernels, and that of the demo by the same clock.

use std::time::{Duration, Instant};

use anyhow::Result;
use nodemesh_agent::api::{BackendState, EventKind};

use super::{Interrupt, LOOK_INTERVAL, PATIENCE, Replica, Screen, operator, pause};
use crate::agent::Agent;

/// New connections elsewhere that show that an ejected replica is left alone, and how long they are waited for at least.
const ELSEWHERE: u64 = 6;
const WATCHED: Duration = Duration::from_millis(1200);

/// What became of it.
#[derive(Clone, Debug, Default)]
pub(in crate::demo) struct Ejected {
    /// Status of `/health` while it was frozen.
    pub(in crate::demo) health: u16,
    /// From the freeze until the last kernel ejected it for silence; `None` if one did not.
    pub(in crate::demo) after: Option<Duration>,
    /// New connections between then and the thaw: those placed on it, and those on all others.
    pub(in crate::demo) placed: [u64; 2],
    /// From the thaw until the last kernel readmitted it; `None` if one did not.
    pub(in crate::demo) readmitted: Option<Duration>,
    /// New connections that it got from then on.
    pub(in crate::demo) again: u64,
    /// Connections when the watch began, on it and on all others.
    before: [u64; 2],
}

/// Waits until every agent's kernel has ejected `replica`, which froze at `since`.
pub(super) fn wait(
    agents: [&Agent; 2],
    replica: &Replica,
    since: u64,
    interrupt: &Interrupt,
    screen: &mut Screen,
) -> Result<Ejected> {
    let after = reach(
        agents,
        replica,
        BackendState::Ejected,
        EventKind::Ejected,
        since,
        interrupt,
    )?;
    let before = placed(agents, replica)?;
    let address = replica.addresses()[0].to_string();
    let filters = ["--kind", "ejected", "--backend", &address];
    operator::show_events(agents[0], &filters, 1, screen)?;
    screen.say(&match after {
        Some(after) => format!(
            "\nBoth kernels have ejected {} {:.2} s after it froze: several of its streams are silent for longer than its own pace allows.",
            replica.cast.name,
            after.as_secs_f64()
        ),
        None => format!("\nA kernel has not ejected {} within {PATIENCE:?}.", replica.cast.name),
    });
    Ok(Ejected {
        after,
        before,
        ..Ejected::default()
    })
}

impl Ejected {
    /// Watches what the replica and the others get.
    pub(super) fn watch(self, agents: [&Agent; 2], replica: &Replica, interrupt: &Interrupt) -> Result<Self> {
        let began = Instant::now();
        loop {
            interrupt.check()?;
            let now = placed(agents, replica)?;
            let placed = [0, 1].map(|index| now[index] - self.before[index]);
            let is_enough = placed[1] >= ELSEWHERE && began.elapsed() > WATCHED;
            if is_enough || began.elapsed() > PATIENCE {
                return Ok(Self { placed, ..self });
            }
            pause(LOOK_INTERVAL);
        }
    }

    /// Waits until every kernel has readmitted the replica, which thawed at `since`, and leads somebody there.
    pub(super) fn readmission(
        self,
        agents: [&Agent; 2],
        replica: &Replica,
        since: u64,
        interrupt: &Interrupt,
        screen: &mut Screen,
    ) -> Result<Self> {
        let before = placed(agents, replica)?[0];
        let readmitted = reach(
            agents,
            replica,
            BackendState::Active,
            EventKind::Readmitted,
            since,
            interrupt,
        )?;
        let deadline = Instant::now() + PATIENCE;
        let mut again = 0;
        while again == 0 && Instant::now() < deadline {
            interrupt.check()?;
            pause(LOOK_INTERVAL);
            again = placed(agents, replica)?[0] - before;
        }
        let [own, others] = self.placed;
        screen.say(&format!(
            "Meanwhile {own} new connections were led there and {others} to others. {} thaws; {}",
            replica.cast.name,
            match readmitted {
                Some(after) => format!(
                    "both kernels have it back {:.2} s later, and lead clients there again.",
                    after.as_secs_f64()
                ),
                None => "a kernel does not take it back.".to_owned(),
            }
        ));
        Ok(Self {
            readmitted,
            again,
            ..self
        })
    }
}

/// Waits until `replica` is in `state` at every agent, and gives how long after `since` the last of them told of it by an event of `kind`;
/// `None` if one did not.
fn reach(
    agents: [&Agent; 2],
    replica: &Replica,
    state: BackendState,
    kind: EventKind,
    since: u64,
    interrupt: &Interrupt,
) -> Result<Option<Duration>> {
    let address = replica.addresses()[0].to_string();
    let mut latest = Duration::ZERO;
    let deadline = Instant::now() + PATIENCE;
    for agent in agents {
        loop {
            interrupt.check()?;
            let backends = agent.backends()?;
            let mut own = backends.iter().filter(|backend| backend.address == address);
            let is_there = own.all(|backend| backend.state == state);
            let events = operator::events(agent, kind, &["--backend", &address])?;
            let told = events
                .iter()
                .find_map(|event| event.monotonic_ns.checked_sub(since));
            if let Some(ns) = told.filter(|_| is_there) {
                latest = latest.max(Duration::from_nanos(ns));
                break;
            }
            if Instant::now() > deadline {
                return Ok(None);
            }
            pause(LOOK_INTERVAL);
        }
    }
    Ok(Some(latest))
}

/// Connections that all kernels have ever placed on `replica`, and on all others.
fn placed(agents: [&Agent; 2], replica: &Replica) -> Result<[u64; 2]> {
    let address = replica.addresses()[0].to_string();
    let mut sums = [0, 0];
    for agent in agents {
        let backends = agent.backends()?.into_iter();
        // Those that have left may vanish between two looks.
        for backend in backends.filter(|backend| backend.state != BackendState::Draining) {
            sums[usize::from(backend.address != address)] += backend.connections_total;
        }
    }
    Ok(sums)
}
