// SPDX-License-Identifier: Apache-2.0
//! The keeper's thread: switches the shortcut on and off, and takes the sockets out that shall leave.
//!
//! Bulk and unusual readers leave by themselves where TCP measures round trips (`ebpf/src/shortcut/leave.rs`); the keeper takes out what is
//! left of them, those of a service, or of a node, that was switched off, and those that an agent of another ABI enrolled, and lets
//! connections that are open join when it is switched on.
//! Invariant: a socket is taken out a second or more after the programs were told, so that nothing is on its way to it.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Arc, mpsc},
    time::Duration,
};

use nodemesh_abi::{ABI_VERSION, MeterPath, Port, shortcut::EndFlags};
use nodemesh_model::{Frontend, FrontendName, ResourceName};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::{
    gate::Gate,
    others::others,
    report::{Report, State},
};
use crate::{
    config::ShortcutChoice,
    datapath::{ends::Ends, listing::ConnectionLister},
    reconcile::{thread::Command, view::View},
};

/// How often the keeper looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// How many looks after a switch connections that are open are asked to join: those that were to leave are out by then, and those whose
/// packets came while they were looked at have been looked at again.
const LOOKS: u32 = 5;
/// How often they are asked in one look: a client offers, its server answers, the client joins.
const ROUNDS: usize = 3;

/// The thread's state.
pub struct Keeper {
    choice: ShortcutChoice,
    meter_path: MeterPath,
    gate: Gate,
    ends: Ends,
    rejoin: Option<ConnectionLister>,
    view: watch::Receiver<Arc<View>>,
    commands: mpsc::Sender<Command>,
    state: watch::Sender<Arc<State>>,
    /// Sockets that were to leave when the keeper looked last.
    leaving: HashSet<u64>,
    /// What the keeper saw last: whether the node has the shortcut switched on, and the generation of the configuration.
    seen: (bool, u64),
    /// Who had the shortcut switched on then.
    switched_on: SwitchedOn,
    /// How many more looks open connections are asked to join in.
    joining: u32,
}

/// Whether the shortcut may be taken on this node and why, as far as it is known without doing the self-test: `testing` if none of this
/// kernel and build is kept. What a start begins with, so that what a former agent left goes on; for whoever asks without an agent too.
pub fn assess(choice: ShortcutChoice, gate: &Gate, meter_path: MeterPath) -> State {
    decide(choice, meter_path, || gate.kept(), others)
}

/// What the operator, the kernel's tracepoints, other users and the self-test say together, asked in this order.
fn decide(
    choice: ShortcutChoice,
    meter_path: MeterPath,
    report: impl FnOnce() -> Option<Report>,
    others: impl FnOnce() -> Vec<String>,
) -> State {
    let state = |enabled, reason: &str, objections| State {
        choice,
        enabled,
        reason: reason.into(),
        objections,
        report: None,
    };
    if choice == ShortcutChoice::Off {
        return state(false, "off", Vec::new());
    }
    if meter_path != MeterPath::Tracepoint {
        let objection = "reads are not seen without the tracepoint sock_recv_length (Linux 6.3)".to_owned();
        return state(false, "meter-path", vec![objection]);
    }
    if choice == ShortcutChoice::Force {
        return state(true, "forced", others());
    }
    let others = others();
    if !others.is_empty() {
        return state(false, "others", others);
    }
    match report() {
        None => state(false, "testing", Vec::new()),
        Some(report) => State {
            enabled: report.permits(),
            reason: if report.permits() { "tested" } else { "self-test" }.into(),
            objections: report.objections(),
            report: Some(report),
            choice,
        },
    }
}

/// Who has the shortcut switched on.
#[derive(Debug, Default, PartialEq, Eq)]
struct SwitchedOn {
    /// Frontends, with the ports left out.
    frontends: BTreeSet<(FrontendName, Vec<u16>)>,
    /// Workloads, for the connections that they open.
    clients: BTreeSet<ResourceName>,
}

impl SwitchedOn {
    fn of(view: &View) -> Self {
        let short = |frontend: &Frontend| {
            let rules = &frontend.rules.kernel;
            (rules.shortcut != 0).then(|| rules.shortcut_except.map(Port::get).to_vec())
        };
        let frontends = view.desired.frontends.iter();
        let clients = view.desired.clients.iter();
        Self {
            frontends: frontends
                .filter_map(|(name, frontend)| Some((name.clone(), short(frontend)?)))
                .collect(),
            clients: clients
                .filter(|(_, client)| client.shortcut)
                .map(|(name, _)| name.clone())
                .collect(),
        }
    }
}

impl Keeper {
    /// The keeper, and what it finds. `rejoin` is the iterator that lets open connections join.
    pub fn new(
        choice: ShortcutChoice,
        meter_path: MeterPath,
        gate: Gate,
        (ends, rejoin): (Ends, Option<ConnectionLister>),
        view: watch::Receiver<Arc<View>>,
        commands: mpsc::Sender<Command>,
    ) -> (Self, watch::Receiver<Arc<State>>) {
        let unused = State {
            choice,
            reason: "unused".into(),
            ..State::default()
        };
        let (state, found) = watch::channel(Arc::new(unused));
        let keeper = Self {
            choice,
            meter_path,
            gate,
            ends,
            rejoin,
            view,
            commands,
            state,
            leaving: HashSet::new(),
            seen: (false, 0),
            switched_on: SwitchedOn::default(),
            joining: 0,
        };
        (keeper, found)
    }

    /// Keeps until the sender of `stopped` is gone.
    pub fn run(mut self, stopped: &mpsc::Receiver<()>) {
        loop {
            self.look(stopped);
            self.take_out();
            self.let_join();
            match stopped.recv_timeout(INTERVAL) {
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                _ => return,
            }
        }
    }

    /// Whether a policy in force or a workload asks for the shortcut.
    fn is_wanted(&self) -> bool {
        let view = self.view.borrow();
        let mut frontends = view.desired.frontends.values();
        let mut clients = view.desired.clients.values();
        frontends.any(|frontend| frontend.rules.kernel.shortcut != 0) || clients.any(|client| client.shortcut)
    }

    fn look(&self, stopped: &mpsc::Receiver<()>) {
        let former = self.state.borrow().clone();
        let state = if self.is_wanted() {
            let tested = || former.report.clone().or_else(|| self.gate.kept());
            let state = decide(self.choice, self.meter_path, tested, others);
            if state.reason == "testing" {
                self.publish(&former, state);
                let report = self.gate.report(stopped);
                decide(self.choice, self.meter_path, || Some(report), others)
            } else {
                state
            }
        } else {
            State {
                choice: self.choice,
                reason: "unused".into(),
                report: former.report.clone(),
                ..State::default()
            }
        };
        self.publish(&former, state);
    }

    fn publish(&self, former: &State, state: State) {
        if *former == state {
            return;
        }
        let (reason, objections) = (&*state.reason, state.objections.join("; "));
        match (state.enabled, objections.is_empty()) {
            (true, true) => info!(reason, "the shortcut may be taken"),
            (true, false) => warn!(
                reason,
                objections, "the shortcut may be taken in spite of what speaks against it"
            ),
            (false, true) => info!(reason, "the shortcut is off"),
            (false, false) => warn!(reason, objections, "a policy asks for the shortcut, which is off"),
        }
        // What nobody asks for may stay switched as it is, so that it is there at once when somebody does.
        if reason != "unused" {
            // The reconciler may have ended, and the keeper is about to.
            let _ended = self.commands.send(Command::Shortcut(state.enabled));
        }
        self.state.send_replace(Arc::new(state));
    }

    /// Takes the sockets out to which nothing has been handed since the last look: of which the service or the node has the shortcut
    /// switched off, which read or send in a way that is not for it, or whose peer is out.
    fn take_out(&mut self) {
        let state = self.state.borrow().clone();
        let enabled = state.enabled || state.reason == "unused";
        let enrolled: HashSet<u64> = self.ends.enrolled().into_iter().collect();
        let shall_leave = |cookie: &&u64| match self.ends.end(**cookie) {
            Some(end) => {
                let is_off = !enabled || !self.ends.is_on(&end) || end.version != ABI_VERSION;
                is_off || end.flags & EndFlags::OUT != 0 || !enrolled.contains(&end.peer)
            }
            None => false,
        };
        let leaving: HashSet<u64> = enrolled.iter().filter(shall_leave).copied().collect();
        for cookie in leaving.intersection(&self.leaving) {
            match self.ends.take_out(*cookie) {
                Ok(left) => debug!(cookie, left, "a socket is to leave the shortcut"),
                Err(error) => warn!(%error, "could not take a socket out of the shortcut; trying again"),
            }
        }
        self.leaving = leaving;
    }

    /// Lets connections that are open join, for some time after a service or the node was switched on.
    fn let_join(&mut self) {
        let Some(rejoin) = &self.rejoin else {
            return;
        };
        let view = self.view.borrow().clone();
        let seen = (self.state.borrow().enabled, view.generation);
        if seen != self.seen {
            let switched_on = if seen.0 {
                SwitchedOn::of(&view)
            } else {
                SwitchedOn::default()
            };
            if switched_on != self.switched_on {
                self.joining = LOOKS;
            }
            (self.seen, self.switched_on) = (seen, switched_on);
        }
        if self.joining == 0 {
            return;
        }
        self.joining -= 1;
        for _ in 0..ROUNDS {
            if let Err(error) = rejoin.scan(|_| {}) {
                warn!(%error, "connections that are open do not take the shortcut");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ShortcutChoice::{Auto, Force, Off};

    use super::*;
    use crate::shortcut::report::{Effect, Finding};

    fn report(failure: Option<&str>) -> Report {
        Report {
            findings: vec![Finding {
                property: "peek".into(),
                effect: Effect::Disables,
                failure: failure.map(Into::into),
            }],
            ..Report::default()
        }
    }

    #[test]
    fn force_overrides_the_test_and_others_and_nothing_overrides_off() {
        let by = |choice, report: Option<Report>, others: &[&str]| {
            let others = others.iter().map(|other| (*other).to_owned()).collect();
            let state = decide(choice, MeterPath::Tracepoint, || report, || others);
            (state.enabled, state.reason, state.objections.len())
        };
        let (good, bad) = (Some(report(None)), Some(report(Some("wrong"))));
        assert_eq!(by(Auto, good.clone(), &[]), (true, "tested".into(), 0));
        assert_eq!(by(Auto, bad.clone(), &[]), (false, "self-test".into(), 1));
        assert_eq!(by(Auto, good.clone(), &["sockmap"]), (false, "others".into(), 1));
        assert_eq!(by(Auto, None, &[]), (false, "testing".into(), 0));
        assert_eq!(by(Force, bad, &["sockmap"]), (true, "forced".into(), 1));
        assert_eq!(by(Off, good.clone(), &[]), (false, "off".into(), 0));
        let packets = decide(Force, MeterPath::Packet, || good, Vec::new);
        assert_eq!((packets.enabled, &*packets.reason), (false, "meter-path"));
    }
}
