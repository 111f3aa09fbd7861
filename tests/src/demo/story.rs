// SPDX-License-Identifier: Apache-2.0
//! What happens when: a replica is killed and taken out, one joins, one is drained and ends. Between these moments the story
//! looks at everything and draws the table.
//!
//! Invariant: whatever happens is said on the screen before the next row of the table.

use std::{
    fmt,
    process::ExitStatus,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use nodemesh_agent::api::BackendState;

use super::{
    client::Client,
    latency::Bounds,
    replica::Replica,
    screen::{Frame, Screen},
    stage::{LEAVING, Look, Metered, NEWCOMER, Stage, VICTIM},
    watch::Watch,
};
use crate::{eventually::pause, interrupt::Interrupt};

/// Pause between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(30);
/// How long to wait for something that should happen at once.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the last streams may take.
const LAST_STREAMS: Duration = Duration::from_secs(25);

/// What happens, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    Kill,
    TakeOut,
    Join,
    Drain,
    Terminate,
    End,
}

/// Seconds of a story of 30 seconds.
const SCRIPT: [(Moment, f64, &str); 6] = [
    (Moment::Kill, 8.0, "replica-2 is killed"),
    (
        Moment::TakeOut,
        10.0,
        "replica-2 is marked unhealthy in the configuration",
    ),
    (
        Moment::Join,
        14.0,
        "replica-5 is started and added to the configuration",
    ),
    (Moment::Drain, 20.0, "replica-3 is marked draining"),
    (Moment::Terminate, 22.5, "replica-3 is asked to end"),
    (Moment::End, 28.0, "the clients start no more requests"),
];
const SCRIPT_SECONDS: f64 = 30.0;

/// When everything happens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    seconds: u32,
}

impl Timing {
    /// A story of `seconds`.
    pub(super) fn new(seconds: u32) -> Self {
        Self { seconds }
    }

    /// Time of a moment since the beginning.
    pub(super) fn of(self, moment: Moment) -> Duration {
        let second = SCRIPT
            .iter()
            .find(|(other, ..)| *other == moment)
            .map_or(SCRIPT_SECONDS, |(_, second, _)| *second);
        Duration::from_secs_f64(second / SCRIPT_SECONDS * f64::from(self.seconds))
    }
}

impl fmt::Display for Timing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = vec!["   0.0 s  steady traffic".to_owned()];
        for (moment, _, what) in SCRIPT {
            lines.push(format!("  {:>4.1} s  {what}", self.of(moment).as_secs_f64()));
        }
        f.write_str(&lines.join("\n"))
    }
}

/// What the verdict is about. `Look`s are in the order of the replicas.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// Who listened where nobody should.
    pub(super) squatters: Vec<String>,
    pub(super) killed_at: Instant,
    pub(super) before_kill: (Look, Watch),
    /// When the last kernel followed, and the counts then.
    pub(super) taken_out: (Instant, Look),
    /// From the edit to the first connection.
    pub(super) joined_after: Option<Duration>,
    /// From the edit to the last kernel's new configuration.
    pub(super) joined_applied: Duration,
    /// When the replica was drained in every kernel.
    pub(super) drained: (Instant, Look),
    /// Exit of the drained server and what it said; `None` if it did not end.
    pub(super) left: Option<(ExitStatus, Vec<String>)>,
    /// After the last stream.
    pub(super) at_end: Look,
    pub(super) heard: Watch,
    /// What the kernels measured then.
    pub(super) metered: (Vec<Metered>, Bounds),
    pub(super) ended_at: Instant,
}

/// The story in progress.
pub(super) struct Story<'a> {
    stage: &'a mut Stage,
    timing: Timing,
    interrupt: &'a Interrupt,
    screen: &'a mut Screen,
    began: Instant,
    look: Look,
    heard: Watch,
    left: Option<(ExitStatus, Vec<String>)>,
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
        stage.start_clients(timing.of(Moment::End))?;
        let began = Instant::now();
        let heard = Watch::default();
        let row = Row {
            at: began,
            look: look.clone(),
            metered: stage.metered()?.0,
            heard: heard.clone(),
        };
        Ok(Self {
            stage,
            timing,
            interrupt,
            screen,
            began,
            look,
            heard,
            left: None,
            row,
        })
    }

    /// Plays it to the end.
    pub(super) fn play(mut self) -> Result<Facts> {
        let squatters = self.stage.squatters()?;
        self.tell("clients stream from all four replicas");
        self.until(Moment::Kill)?;
        let (killed_at, before_kill) = self.kill()?;
        self.until(Moment::TakeOut)?;
        let taken_out = self.take_out()?;
        self.until(Moment::Join)?;
        let (joined_after, joined_applied) = self.join()?;
        self.until(Moment::Drain)?;
        let drained = self.drain()?;
        self.until(Moment::Terminate)?;
        self.terminate()?;
        self.until(Moment::End)?;
        self.tell("the clients start no more requests and finish those that are open");
        self.finish()?;
        let ended_at = Instant::now();
        Ok(Facts {
            squatters,
            killed_at,
            before_kill,
            taken_out,
            joined_after,
            joined_applied,
            drained,
            left: self.left,
            at_end: self.look,
            metered: self.stage.metered()?,
            heard: self.heard,
            ended_at,
        })
    }

    fn kill(&mut self) -> Result<(Instant, (Look, Watch))> {
        self.observe()?;
        let before = (self.look.clone(), self.heard.clone());
        let killed_at = Instant::now();
        self.stage.replicas[VICTIM].kill()?;
        let open = before.0.counts[VICTIM].active;
        self.tell(&format!(
            "replica-2 is killed: about {open} streams break. The agents are not told, so connect() still leads some \
             clients there,\n         who are refused at once; a dead replica has no connections and looks idle"
        ));
        Ok((killed_at, before))
    }

    fn take_out(&mut self) -> Result<(Instant, Look)> {
        let failed = self.heard.failures();
        let (edited, applied) = self.list(VICTIM, BackendState::Unhealthy)?;
        self.observe()?;
        self.tell(&format!(
            "the configuration now says that replica-2 is unhealthy, and both kernels follow within {} ms; {failed} requests \
             had failed",
            (applied - edited).as_millis()
        ));
        Ok((applied, self.look.clone()))
    }

    fn join(&mut self) -> Result<(Option<Duration>, Duration)> {
        self.stage.replicas[NEWCOMER].start()?;
        let (edited, applied) = self.list(NEWCOMER, BackendState::Active)?;
        let deadline = applied + PATIENCE;
        while self.look.counts[NEWCOMER].total == 0 && Instant::now() < deadline {
            self.observe()?;
        }
        let first = self.first_connection(edited)?;
        let when = first.map_or("no connection yet".to_owned(), |first| {
            format!(
                "its first connection came {} ms after the edit",
                first.as_millis()
            )
        });
        self.tell(&format!("replica-5 is started and listed; {when}"));
        Ok((first, applied - edited))
    }

    /// Time from the edit to the newcomer's first connection: by the age that the kernel gives it if it is still open, by
    /// the look that found it counted otherwise.
    fn first_connection(&self, edited: Instant) -> Result<Option<Duration>> {
        if self.look.counts[NEWCOMER].total == 0 {
            return Ok(None);
        }
        let age = self.stage.age_of_first_connection(NEWCOMER)?.unwrap_or_default();
        Ok(Some(edited.elapsed().saturating_sub(age)))
    }

    fn drain(&mut self) -> Result<(Instant, Look)> {
        let (_, applied) = self.list(LEAVING, BackendState::Draining)?;
        self.observe()?;
        let open = self.look.counts[LEAVING].active;
        self.tell(&format!(
            "replica-3 is draining: its {open} open connections go on, new ones go elsewhere"
        ));
        Ok((applied, self.look.clone()))
    }

    fn terminate(&mut self) -> Result<()> {
        self.stage.replicas[LEAVING].terminate()?;
        let open = self.look.counts[LEAVING].active;
        self.tell(&format!(
            "replica-3 gets SIGTERM with {open} connections left, those of keep-alive clients: it answers what is open \
             and closes them"
        ));
        Ok(())
    }

    /// Waits for the last streams and for the kernel to have counted them down.
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
        while self.look.counts.iter().any(|count| count.active > 0) && Instant::now() < deadline {
            self.observe()?;
        }
        self.draw()
    }

    /// Changes how a replica is listed.
    fn list(&mut self, replica: usize, state: BackendState) -> Result<(Instant, Instant)> {
        self.stage.replicas[replica].listed = Some(state);
        self.stage.edit()
    }

    fn until(&mut self, moment: Moment) -> Result<()> {
        while self.began.elapsed() < self.timing.of(moment) {
            self.observe()?;
        }
        Ok(())
    }

    /// Looks at everything once, and draws if a row is due.
    fn observe(&mut self) -> Result<()> {
        self.interrupt.check()?;
        self.look = self.stage.look()?;
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
        if let Some(ended) = self.stage.replicas[LEAVING].ended()? {
            self.tell(&format!("replica-3 has ended: {}", ended.0));
            self.left = Some(ended);
        }
        if self.row.at.elapsed() >= self.screen.row_interval() {
            self.draw()?;
        }
        pause(LOOK_INTERVAL);
        Ok(())
    }

    fn draw(&mut self) -> Result<()> {
        let shown = |(_, replica): &(usize, &Replica)| replica.listed.is_some();
        let replicas = self.stage.replicas.iter().enumerate().filter(shown);
        let (metered, bounds) = self.stage.metered()?;
        self.screen.draw(&Frame {
            clock: self.began.elapsed(),
            elapsed: self.row.at.elapsed(),
            replicas: &replicas.collect::<Vec<_>>(),
            former: &self.row.look,
            look: &self.look,
            former_metered: &self.row.metered,
            metered: &metered,
            bounds: &bounds,
            recent: &self.row.heard,
            heard: &self.heard,
        });
        self.row = Row {
            at: Instant::now(),
            look: self.look.clone(),
            metered,
            heard: Watch::default(),
        };
        Ok(())
    }

    fn tell(&mut self, what: &str) {
        self.screen
            .say(&format!("{:>5.1} s  {what}", self.began.elapsed().as_secs_f64()));
    }
}
