// SPDX-License-Identifier: Apache-2.0
//! What happens: the control plane dies and returns, a replica is killed, one joins, one leaves. Between these moments the story
//! looks at everything and draws the table.
//!
//! Invariant: it starts, kills and signals processes, and changes nothing else; whatever happens is said on the screen before the
//! next row of the table.

use std::{
    process::ExitStatus,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use super::{
    client::Client,
    facts::{Census, Facts, Joined, Killed, Left, Restart, Seen},
    kernels::Metered,
    latency::Bounds,
    mesh,
    replica::Replica,
    roles::{LEAVING, NEWCOMER, VICTIM},
    screen::{Frame, Screen},
    script::{Moment, Timing},
    stage::{Look, Stage},
    watch::Watch,
};
use crate::{eventually::pause, interrupt::Interrupt};

/// Pause between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(30);
/// How long to wait for something that should happen at once.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the last streams may take.
const LAST_STREAMS: Duration = Duration::from_secs(25);

/// The story in progress.
pub(super) struct Story<'a> {
    stage: &'a mut Stage,
    timing: Timing,
    interrupt: &'a Interrupt,
    screen: &'a mut Screen,
    began: Instant,
    look: Look,
    metered: (Vec<Metered>, Bounds),
    heard: Watch,
    /// When and how the replica that leaves has ended.
    ended: Option<(Instant, ExitStatus, Vec<String>)>,
    row: Row,
}

/// What the next row of the table starts from.
struct Row {
    at: Instant,
    look: Look,
    metered: Vec<Metered>,
    heard: Watch,
}

impl<'a> Story<'a> {
    /// Starts the clients.
    pub(super) fn new(
        stage: &'a mut Stage,
        timing: Timing,
        interrupt: &'a Interrupt,
        screen: &'a mut Screen,
    ) -> Result<Self> {
        let look = stage.look()?;
        let metered = stage.measure()?;
        stage.start_clients(timing.of(Moment::End))?;
        let began = Instant::now();
        let heard = Watch::default();
        let row = Row {
            at: began,
            look: look.clone(),
            metered: metered.0.clone(),
            heard: heard.clone(),
        };
        Ok(Self {
            stage,
            timing,
            interrupt,
            screen,
            began,
            look,
            metered,
            heard,
            ended: None,
            row,
        })
    }

    /// Plays it to the end.
    pub(super) fn play(mut self) -> Result<Facts> {
        let squatters = self.stage.squatters()?;
        self.tell("clients stream from all four replicas");
        self.until(Moment::ControlDies)?;
        let restart = self.restart()?;
        let killed = self.kill()?;
        self.until(Moment::Join)?;
        let joined = self.join()?;
        self.until(Moment::Leave)?;
        let (asked, drained) = self.leave()?;
        self.until(Moment::End)?;
        self.tell("the clients start no more requests and finish those that are open");
        self.finish()?;
        let ended = self.ended;
        Ok(Facts {
            squatters,
            restart,
            killed,
            joined,
            left: Left {
                asked,
                drained,
                ended,
            },
            at_end: self.look,
            heard: self.heard,
            metered: self.metered,
        })
    }

    /// The control plane dies and returns; goes on until the next change.
    fn restart(&mut self) -> Result<Restart> {
        let before = self.seen()?;
        let killed = Instant::now();
        self.stage.control.kill()?;
        self.tell(
            "the control plane is killed; the kernels have what they need, and streams and new connections go on",
        );
        let mut census = Census::default();
        self.take(&mut census, Moment::ControlReturns)?;
        self.stage.control.start(&[])?;
        let ready = Instant::now();
        let mut is_followed = false;
        while !is_followed && ready.elapsed() < PATIENCE {
            self.observe()?;
            census.add(&self.look);
            is_followed = self.stage.all_follow()?;
        }
        let followed = is_followed.then(|| ready.elapsed());
        let after = self.seen()?;
        self.tell(&format!(
            "it is ready again after {:.1} s on the same store, and {}; {} requests failed meanwhile",
            (ready - killed).as_secs_f64(),
            followed.map_or("an agent does not follow it".to_owned(), |followed| format!(
                "both agents follow it {} ms later",
                followed.as_millis()
            )),
            after.heard.failures() - before.heard.failures()
        ));
        self.take(&mut census, Moment::Kill)?;
        Ok(Restart {
            before,
            after,
            away: ready - killed,
            followed,
            census,
        })
    }

    /// Counts looks until a moment.
    fn take(&mut self, census: &mut Census, until: Moment) -> Result<()> {
        while self.began.elapsed() < self.timing.of(until) {
            self.observe()?;
            census.add(&self.look);
        }
        Ok(())
    }

    fn kill(&mut self) -> Result<Killed> {
        let before = self.seen()?;
        let at = Instant::now();
        self.stage.replicas[VICTIM].kill()?;
        self.tell(&format!(
            "replica-2 and its registration are killed: about {} streams break. Nobody tells the control plane, so connect()\n         \
             still leads some clients there, who are refused at once; a dead replica has no connections and looks idle",
            before.look.counts[VICTIM].active
        ));
        let is_out = self.wait(|look| look.listings[VICTIM].is_nowhere())?;
        let out = is_out.then(Instant::now);
        let failed = self.heard.failures();
        self.tell(&match out {
            Some(out) => format!(
                "its lease of {} s has run out, and no kernel leads anybody there any more, {:.2} s after the kill; {failed} \
                 requests had failed",
                mesh::LEASE.as_secs(),
                (out - at).as_secs_f64()
            ),
            None => format!("a kernel still has replica-2; {failed} requests have failed"),
        });
        Ok(Killed { at, before, out })
    }

    fn join(&mut self) -> Result<Joined> {
        self.stage.start_replica(NEWCOMER)?;
        let listening = Instant::now();
        let is_listed = self.wait(|look| look.listings[NEWCOMER].is_everywhere())?;
        let listed = is_listed.then(|| listening.elapsed());
        self.wait(|look| look.counts[NEWCOMER].total > 0)?;
        let first = self.first_connection(listening)?;
        let shown = |time: Option<Duration>| {
            time.map_or("never".to_owned(), |time| format!("{} ms", time.as_millis()))
        };
        self.tell(&format!(
            "replica-5 is started, and that is all; from when it listened it took {} until both kernels had it, and {} until its \
             first connection",
            shown(listed),
            shown(first)
        ));
        Ok(Joined { listed, first })
    }

    /// Time from `since` to the newcomer's first connection: by the age that the kernel gives it if it is still open, by
    /// the look that found it counted otherwise.
    fn first_connection(&self, since: Instant) -> Result<Option<Duration>> {
        if self.look.counts[NEWCOMER].total == 0 {
            return Ok(None);
        }
        let age = self.stage.age_of_first_connection(NEWCOMER)?.unwrap_or_default();
        Ok(Some(since.elapsed().saturating_sub(age)))
    }

    fn leave(&mut self) -> Result<(Instant, Option<(Instant, Look)>)> {
        let asked = Instant::now();
        self.stage.replicas[LEAVING].terminate()?;
        let is_drained = self.wait(|look| look.listings[LEAVING].is_nowhere())?;
        let at = Instant::now();
        let open = self.look.counts[LEAVING].active;
        self.tell(&if is_drained {
            format!(
                "replica-3's registration got SIGTERM: draining in both kernels {} ms later. Its {open} open connections go on, new \
                 ones go elsewhere",
                (at - asked).as_millis()
            )
        } else {
            "replica-3's registration got SIGTERM, and a kernel still leads clients there".to_owned()
        });
        Ok((asked, is_drained.then(|| (at, self.look.clone()))))
    }

    /// Waits for the last streams, for the kernel to have counted them down, and for the replica that leaves.
    fn finish(&mut self) -> Result<()> {
        let deadline = Instant::now() + LAST_STREAMS;
        while self.stage.clients.iter().any(|client| client.last.is_none()) {
            if Instant::now() > deadline {
                let complaints = self.stage.clients.iter().map(Client::complaints);
                bail!("clients did not end: {:?}", complaints.collect::<Vec<_>>());
            }
            self.observe()?;
        }
        let deadline = Instant::now() + PATIENCE;
        self.observe()?;
        let is_open = |story: &Self| story.look.counts.iter().any(|count| count.active > 0);
        while (is_open(self) || self.ended.is_none()) && Instant::now() < deadline {
            self.observe()?;
        }
        self.draw();
        Ok(())
    }

    /// Observes until a look `is_right`, and gives whether one was in time.
    fn wait(&mut self, is_right: impl Fn(&Look) -> bool) -> Result<bool> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.observe()?;
            if is_right(&self.look) {
                return Ok(true);
            }
            if Instant::now() > deadline {
                return Ok(false);
            }
        }
    }

    fn until(&mut self, moment: Moment) -> Result<()> {
        while self.began.elapsed() < self.timing.of(moment) {
            self.observe()?;
        }
        Ok(())
    }

    /// What is so now.
    fn seen(&mut self) -> Result<Seen> {
        self.observe()?;
        Ok(Seen {
            look: self.look.clone(),
            heard: self.heard.clone(),
        })
    }

    /// Looks at everything once, and draws if a row is due.
    fn observe(&mut self) -> Result<()> {
        self.interrupt.check()?;
        self.look = self.stage.look()?;
        self.metered = self.stage.measure()?;
        for client in &mut self.stage.clients {
            for heard in client.listen()? {
                self.heard.add(&heard);
                self.row.heard.add(&heard);
            }
            for (replica, seen) in client.log.news()? {
                self.heard.add_seen(&replica, &seen);
                self.row.heard.add_seen(&replica, &seen);
            }
        }
        if let Some((status, said)) = self.stage.replicas[LEAVING].ended()? {
            let lines: Vec<String> = said.iter().map(|line| format!("\n         {line}")).collect();
            self.tell(&format!("replica-3 has ended: {status}{}", lines.concat()));
            self.ended = Some((Instant::now(), status, said));
        }
        if self.row.at.elapsed() >= self.screen.row_interval() {
            self.draw();
        }
        pause(LOOK_INTERVAL);
        Ok(())
    }

    fn draw(&mut self) {
        let shown =
            |(index, replica): &(usize, &Replica)| replica.runs() || self.look.counts[*index].total > 0;
        let replicas = self.stage.replicas.iter().enumerate().filter(shown);
        let (metered, bounds) = &self.metered;
        self.screen.draw(&Frame {
            clock: self.began.elapsed(),
            elapsed: self.row.at.elapsed(),
            replicas: &replicas.collect::<Vec<_>>(),
            former: &self.row.look,
            look: &self.look,
            former_metered: &self.row.metered,
            metered,
            bounds,
            recent: &self.row.heard,
            heard: &self.heard,
        });
        self.row = Row {
            at: Instant::now(),
            look: self.look.clone(),
            metered: metered.clone(),
            heard: Watch::default(),
        };
    }

    fn tell(&mut self, what: &str) {
        self.screen
            .say(&format!("{:>5.1} s  {what}", self.began.elapsed().as_secs_f64()));
    }
}
