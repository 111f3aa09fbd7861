// SPDX-License-Identifier: Apache-2.0
//! The sweep's thread: reads rows and records, publishes what it saw, corrects what two passes agree on.
//!
//! Its own thread because a pass over many connections takes milliseconds. Invariant: it costs less than half a percent of a core,
//! however many connections there are: the more there are, the longer it waits.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use anyhow::Result;
use nix::time::{ClockId, clock_gettime};
use nodemesh_abi::{ListedConnection, Traffic, Vantage, traffic::SHARED_PAIR};
use tokio::sync::watch;
use tracing::warn;

use super::{
    RowActivity, StallLimits, Sweep, activity,
    correct::Correct,
    drift::{DriftWatch, Flow, Pass},
};
use crate::{
    datapath::{MapReader, clock::monotonic_ns, listing::ConnectionLister},
    health::SilenceWatch,
    reconcile::view::View,
};

/// Time between two passes.
const PERIOD: Duration = Duration::from_secs(1);
/// Least of it, where a silent backend is to be looked at again.
const SOONEST: Duration = Duration::from_millis(50);
/// A pass is followed by so many times the rest that it took time of a CPU.
const REST: u32 = 250;
/// How long a row is given to follow its records before it is read again.
const SETTLE: Duration = Duration::from_millis(20);

/// The thread's state.
pub struct Sweeper {
    lister: ConnectionLister,
    maps: MapReader,
    view: watch::Receiver<Arc<View>>,
    correct: Correct,
    silence: SilenceWatch,
    drift: DriftWatch,
    corrections: u64,
    failing: bool,
    published: watch::Sender<Arc<Sweep>>,
}

impl Sweeper {
    /// Sweeps with the iterator of `lister`.
    pub fn new(
        lister: ConnectionLister,
        maps: MapReader,
        view: watch::Receiver<Arc<View>>,
        correct: Correct,
        silence: SilenceWatch,
    ) -> (Self, watch::Receiver<Arc<Sweep>>) {
        let (published, receiver) = watch::channel(Arc::default());
        let sweeper = Self {
            lister,
            maps,
            view,
            correct,
            silence,
            drift: DriftWatch::default(),
            corrections: 0,
            failing: false,
            published,
        };
        (sweeper, receiver)
    }

    /// Sweeps until the other end of `stop` is gone.
    pub fn run(mut self, stop: &mpsc::Receiver<()>) {
        let mut rest = PERIOD;
        while stop.recv_timeout(rest) == Err(mpsc::RecvTimeoutError::Timeout) {
            let (started, cpu) = (Instant::now(), cpu_time());
            let result = self.pass(stop);
            if let Err(error) = &result
                && !self.failing
            {
                warn!(
                    error = format!("{error:#}"),
                    "cannot look at the open requests; trying again"
                );
            }
            self.failing = result.is_err();
            let period = result
                .ok()
                .flatten()
                .map_or(PERIOD, |wish| wish.clamp(SOONEST, PERIOD));
            rest = rest_after(period, cpu_time().saturating_sub(cpu), started.elapsed());
        }
    }

    /// Looks once; how soon to look again, if sooner than usual.
    fn pass(&mut self, stop: &mpsc::Receiver<()>) -> Result<Option<Duration>> {
        let started = Instant::now();
        let before = self.rows()?;
        let limits: HashMap<u32, StallLimits> = before
            .iter()
            .map(|(index, row)| (*index, StallLimits::of(row)))
            .collect();
        let mut records: Vec<ListedConnection> = Vec::new();
        self.lister.scan(|listed| records.push(*listed))?;
        let (of_row, now) = (
            |row| limits.get(&row).copied().unwrap_or_default(),
            monotonic_ns(),
        );
        let open = records.iter().map(|listed| &listed.connection);
        let rows = activity::by_row(open.filter(|connection| connection.meter.open > 0), of_row, now);
        let duration = started.elapsed();
        self.silence.follow(&self.view.borrow());
        let wish = self.silence.pass(&records, &before, now);
        self.reconcile(&before, &rows, stop)?;
        self.published.send_replace(Arc::new(Sweep {
            rows,
            limits,
            duration,
            corrections: self.corrections,
        }));
        Ok(wish)
    }

    /// Every row that has been used, by index.
    fn rows(&self) -> Result<BTreeMap<u32, Traffic>> {
        let view = self.view.borrow().clone();
        let live = view.frontends.iter().flat_map(|programmed| &programmed.backends);
        let live = live.map(|place| place.traffic);
        let retired = view.retired.iter().map(|(_, retired)| retired.row.traffic);
        let pairs: BTreeSet<u32> = live.chain(retired).chain([SHARED_PAIR]).collect();
        let mut rows = BTreeMap::new();
        for index in pairs
            .into_iter()
            .flat_map(|pair| Vantage::ALL.map(|vantage| vantage.row(pair)))
        {
            let row = self.maps.traffic(index)?;
            if row.connections_opened > 0 {
                rows.insert(index, row);
            }
        }
        Ok(rows)
    }

    /// Compares what rows and records say, and corrects what differed in the last pass too.
    fn reconcile(
        &mut self,
        before: &BTreeMap<u32, Traffic>,
        rows: &HashMap<u32, RowActivity>,
        stop: &mpsc::Receiver<()>,
    ) -> Result<()> {
        let mut passes = HashMap::new();
        for (index, row) in before {
            let (flow, held) = (Flow::of(row), rows.get(index).copied().unwrap_or_default());
            if (flow.in_flight, flow.request_bytes) != (held.open, held.held_bytes) {
                let pass = Pass {
                    before: flow,
                    after: flow,
                    open: held.open,
                    held_bytes: held.held_bytes,
                };
                passes.insert(*index, pass);
            }
        }
        // The last seconds of the agent are none to correct anything in.
        if !passes.is_empty() && stop.recv_timeout(SETTLE) != Err(mpsc::RecvTimeoutError::Timeout) {
            return Ok(());
        }
        for (index, pass) in &mut passes {
            pass.after = Flow::of(&self.maps.traffic(*index)?);
        }
        for (row, correction) in self.drift.judge(&passes) {
            warn!(
                row,
                in_flight = correction.in_flight.cast_signed(),
                request_bytes = correction.request_bytes.cast_signed(),
                "the number in flight had drifted from the records; corrected"
            );
            (self.correct)(row, correction)?;
            self.corrections += 1;
        }
        Ok(())
    }
}

/// How long to rest after a pass that took `elapsed` in all and `cpu` of a CPU, if the next is to begin after `period`.
fn rest_after(period: Duration, cpu: Duration, elapsed: Duration) -> Duration {
    period.saturating_sub(elapsed).max(cpu * REST)
}

/// Time that this thread has run, in the kernel and outside.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_pass_is_followed_by_a_longer_rest() {
        let ms = Duration::from_millis;
        assert_eq!(rest_after(PERIOD, ms(1), ms(1)), ms(999));
        assert_eq!(rest_after(PERIOD, ms(1), ms(21)), ms(979));
        assert_eq!(rest_after(PERIOD, ms(40), ms(60)), ms(10_000));
        assert_eq!(
            rest_after(PERIOD, ms(1), ms(5_000)),
            ms(250),
            "time asleep or without a CPU costs nothing"
        );
    }
}
