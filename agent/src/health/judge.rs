// SPDX-License-Identifier: Apache-2.0
//! Ejects and readmits backends through the program `judge`, which does it as the other programs do: in one step, within the share of
//! a service that may be ejected, and with an event.
//!
//! Invariant: what is asked of an id that has another owner by now does nothing.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    programs::{RawTracePoint, RawTracePointRunOptions, TestRun as _},
};
use nodemesh_abi::{BackendState, Ejection, backend::PROBE, names::program};

use crate::datapath::{MapReader, PinRoot, clock::monotonic_ns};

/// How long a backend is out at least, unless it is readmitted: longer than any pass or check takes.
const HOLD: Duration = Duration::from_secs(10);
/// With less than this share of its length to go, an ejection is extended.
const EXTEND: f64 = 0.8;

/// An incarnation of a backend id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Judged {
    /// Index into `backends`.
    pub id: u32,
    /// [`nodemesh_abi::Backend::generation`].
    pub generation: u32,
}

/// The judge.
pub struct Judge {
    ebpf: Arc<Mutex<Ebpf>>,
    maps: MapReader,
}

impl Judge {
    /// Judges with the program in `ebpf`.
    pub fn new(ebpf: Arc<Mutex<Ebpf>>, pins: &PinRoot) -> Result<Self> {
        Ok(Self {
            ebpf,
            maps: MapReader::open(pins)?,
        })
    }

    /// The state of a backend.
    pub fn state(&self, backend: Judged) -> Result<BackendState> {
        Ok(self.maps.backend_state(backend.id)?)
    }

    /// Ejects a backend for at least `least`, or extends its ejection before it ends; to be called again while the reason lasts. The
    /// kernel may leave it in: no more than a share of a service may be out. A failed health check becomes the reason in place of any
    /// other: what readmits for those does not disprove it.
    pub fn eject(&self, backend: Judged, reason: Ejection, least: Duration) -> Result<()> {
        let hold = HOLD.max(least);
        if is_done(&self.state(backend)?, reason, hold, monotonic_ns()) {
            return Ok(());
        }
        self.run(backend, hold, reason)
    }

    /// Readmits a backend if it is out for `reason`.
    pub fn readmit(&self, backend: Judged, reason: Ejection) -> Result<()> {
        if is_out(&self.state(backend)?, reason) {
            self.run(backend, Duration::ZERO, reason)?;
        }
        Ok(())
    }

    fn run(&self, backend: Judged, least: Duration, reason: Ejection) -> Result<()> {
        let ebpf = self.ebpf.lock().expect("no holder panics");
        let program: &RawTracePoint = ebpf
            .program(program::JUDGE)
            .context("the object lacks the program that judges")?
            .try_into()?;
        let mut options = RawTracePointRunOptions::new();
        let least_ns = least.as_nanos() as u64;
        options.args[..4].copy_from_slice(&[
            backend.id.into(),
            backend.generation.into(),
            least_ns,
            reason as u64,
        ]);
        // That the id has another owner by now is no error: what was to be judged is gone.
        program
            .test_run(options)
            .context("run the program that judges backends")?;
        Ok(())
    }
}

/// Whether a backend is ejected for `reason`.
pub fn is_out(state: &BackendState, reason: Ejection) -> bool {
    state.ejected_until_ns != 0 && state.ejected_for == reason as u64
}

/// Whether a backend is out for most of `hold`, and for a reason that `reason` does not outrank.
fn is_done(state: &BackendState, reason: Ejection, hold: Duration, now: u64) -> bool {
    let outranks = reason == Ejection::HealthCheck && !is_out(state, reason);
    !outranks && remaining(state, now).is_some_and(|remaining| remaining > hold.mul_f64(EXTEND))
}

/// How long a backend is out from now on; `None` if it is in, or gets a probe.
fn remaining(state: &BackendState, now: u64) -> Option<Duration> {
    let until = state.ejected_until_ns;
    (until != 0 && until & PROBE == 0).then(|| Duration::from_nanos(until.saturating_sub(now)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_in_has_no_time_to_go() {
        let mut state = BackendState::default();
        assert_eq!(remaining(&state, 5), None);
        assert!(!is_out(&state, Ejection::Connect));
        state.ejected_until_ns = 9;
        assert_eq!(remaining(&state, 5), None, "a probe is under way");
        state.ejected_until_ns = 8;
        state.ejected_for = Ejection::Silence as u64;
        assert_eq!(remaining(&state, 5), Some(Duration::from_nanos(3)));
        assert_eq!(remaining(&state, 9), Some(Duration::ZERO));
        assert!(is_out(&state, Ejection::Silence) && !is_out(&state, Ejection::HealthCheck));
    }

    #[test]
    fn a_failed_health_check_becomes_the_reason_of_an_ejection_at_once() {
        let hold = Duration::from_secs(10);
        let mut state = BackendState {
            ejected_until_ns: hold.as_nanos() as u64,
            ejected_for: Ejection::Connect as u64,
            ..BackendState::default()
        };
        let done = |state: &BackendState, reason, now| is_done(state, reason, hold, now);
        assert!(!done(&state, Ejection::HealthCheck, 0));
        assert!(done(&state, Ejection::Silence, 0));
        state.ejected_for = Ejection::HealthCheck as u64;
        assert!(done(&state, Ejection::HealthCheck, 0) && done(&state, Ejection::Silence, 0));
        assert!(
            !done(&state, Ejection::HealthCheck, 2_000_000_000),
            "extended in time"
        );
        assert!(!done(&state, Ejection::HealthCheck, u64::MAX), "long past");
    }
}
