// SPDX-License-Identifier: Apache-2.0
//! What the story has seen, for the verdict and the summary. `Look`s are in the order of the replicas.

use std::{
    process::ExitStatus,
    time::{Duration, Instant},
};

use super::{kernels::Metered, latency::Bounds, roles::NEWCOMER, stage::Look, watch::Watch};

/// A look, and what the clients had said until then.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) look: Look,
    pub(super) heard: Watch,
}

/// The end and the return of the control plane.
#[derive(Clone, Debug)]
pub(super) struct Restart {
    /// Just before the kill.
    pub(super) before: Seen,
    /// When both agents followed it again, or the story went on without.
    pub(super) after: Seen,
    /// From the kill until it was ready again.
    pub(super) away: Duration,
    /// From then until both agents followed it; `None` if they did not.
    pub(super) followed: Option<Duration>,
    /// From the kill until the next change.
    pub(super) census: Census,
}

/// Looks at the kernels while four replicas run.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Census {
    pub(super) looks: u64,
    /// Those in which some kernel did not have some replica.
    pub(super) lapses: u64,
}

impl Census {
    /// Counts a look.
    pub(super) fn add(&mut self, look: &Look) {
        let is_whole = look.listings[..NEWCOMER]
            .iter()
            .all(|listing| listing.is_everywhere());
        self.looks += 1;
        self.lapses += u64::from(!is_whole);
    }
}

/// What became of a replica that was killed.
#[derive(Clone, Debug)]
pub(super) struct Killed {
    pub(super) at: Instant,
    pub(super) before: Seen,
    /// When the last kernel sent nobody there any more; `None` if one still did.
    pub(super) out: Option<Instant>,
}

/// How a replica was found, from when it listened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Joined {
    /// Until every kernel had it.
    pub(super) listed: Option<Duration>,
    /// Until its first connection.
    pub(super) first: Option<Duration>,
}

/// What became of a replica that was asked to leave.
#[derive(Clone, Debug)]
pub(super) struct Left {
    pub(super) asked: Instant,
    /// When it was draining in every kernel, and the counts then; `None` if one still sent connections there.
    pub(super) drained: Option<(Instant, Look)>,
    /// When and how it ended and what it said; `None` if it did not end.
    pub(super) ended: Option<(Instant, ExitStatus, Vec<String>)>,
}

/// All of it.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// Who listened where nobody should.
    pub(super) squatters: Vec<String>,
    pub(super) restart: Restart,
    pub(super) killed: Killed,
    pub(super) joined: Joined,
    pub(super) left: Left,
    /// After the last stream.
    pub(super) at_end: Look,
    pub(super) heard: Watch,
    /// What the kernels measured then.
    pub(super) metered: (Vec<Metered>, Bounds),
}
