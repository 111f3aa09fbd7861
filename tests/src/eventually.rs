// SPDX-License-Identifier: Apache-2.0
//! Waiting for conditions, the only way in which tests wait.

use std::{
    fmt::Debug,
    sync::{Condvar, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// How long tests wait for something that should happen at once: long enough for a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// Pause between two looks.
const INTERVAL: Duration = Duration::from_millis(10);

/// Looks until `condition` holds.
pub fn wait_until(patience: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    let started = Instant::now();
    while !condition() {
        if started.elapsed() > patience {
            bail!("the condition did not hold within {patience:?}");
        }
        pause(INTERVAL);
    }
    Ok(())
}

/// Looks until `look` gives a value that `is_right` accepts, and gives it; panics with the last one after [`PATIENCE`].
pub fn eventually<T: Debug>(what: &str, mut look: impl FnMut() -> T, is_right: impl Fn(&T) -> bool) -> T {
    let started = Instant::now();
    loop {
        let value = look();
        if is_right(&value) {
            return value;
        }
        assert!(
            started.elapsed() < PATIENCE,
            "{what}: not within {PATIENCE:?}; last seen: {value:?}"
        );
        pause(INTERVAL);
    }
}

/// Lets other threads run for a while; a condition that nobody signals.
pub(crate) fn pause(interval: Duration) {
    let never = (Mutex::new(()), Condvar::new());
    let guard = never.0.lock().expect("the mutex is local");
    drop(never.1.wait_timeout(guard, interval).expect("the mutex is local"));
}
