// SPDX-License-Identifier: Apache-2.0
//! The keeper's thread: switches the shortcut on and off, and takes the sockets out that shall leave.
//!
//! Bulk and unusual readers leave by themselves (`ebpf/src/shortcut.rs`); the keeper takes out those of a service, or of a node, that was
//! switched off, and those that an agent of another ABI enrolled. Invariant: a socket is taken out a second or more after the programs were told, so that nothing is on its way to it.

use std::{
    collections::HashSet,
    sync::{Arc, mpsc},
    time::Duration,
};

use nodemesh_abi::{ABI_VERSION, MeterPath};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::{
    gate::Gate,
    others::others,
    report::{Report, State},
};
use crate::{
    config::ShortcutChoice,
    datapath::ends::Ends,
    reconcile::{thread::Command, view::View},
};

/// How often the keeper looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// The thread's state.
pub struct Keeper {
    choice: ShortcutChoice,
    meter_path: MeterPath,
    gate: Gate,
    ends: Ends,
    view: watch::Receiver<Arc<View>>,
    commands: mpsc::Sender<Command>,
    state: watch::Sender<Arc<State>>,
    /// Sockets that were to leave when the keeper looked last.
    leaving: HashSet<u64>,
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

impl Keeper {
    /// The keeper, and what it finds.
    pub fn new(
        choice: ShortcutChoice,
        meter_path: MeterPath,
        gate: Gate,
        ends: Ends,
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
            view,
            commands,
            state,
            leaving: HashSet::new(),
        };
        (keeper, found)
    }

    /// Keeps until the sender of `stopped` is gone.
    pub fn run(mut self, stopped: &mpsc::Receiver<()>) {
        loop {
            self.look(stopped);
            self.take_out();
            match stopped.recv_timeout(INTERVAL) {
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                _ => return,
            }
        }
    }

    /// Whether a policy in force asks for the shortcut.
    fn is_wanted(&self) -> bool {
        let view = self.view.borrow();
        let mut frontends = view.desired.frontends.values();
        frontends.any(|frontend| frontend.rules.kernel.shortcut != 0)
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

    /// Takes the sockets out of which the service or the node has the shortcut switched off since the last look.
    fn take_out(&mut self) {
        let state = self.state.borrow().clone();
        let enabled = state.enabled || state.reason == "unused";
        let shall_leave = |cookie: &u64| match self.ends.end(*cookie) {
            Some(end) => !enabled || !self.ends.is_on(&end) || end.version != ABI_VERSION,
            None => false,
        };
        let leaving: HashSet<u64> = self.ends.enrolled().into_iter().filter(shall_leave).collect();
        for cookie in leaving.intersection(&self.leaving) {
            match self.ends.take_out(*cookie) {
                Ok(left) => debug!(cookie, left, "a socket is to leave the shortcut"),
                Err(error) => warn!(%error, "could not take a socket out of the shortcut; trying again"),
            }
        }
        self.leaving = leaving;
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
