// SPDX-License-Identifier: Apache-2.0
//! Follows the store and publishes what it says: the only writer of the state.
//!
//! Started by [`super::Registry::open`]. Invariant: between two states nothing of the store is left out: where the watch cannot
//! tell, everything is listed again. While the store is away the last state stays.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use tokio::sync::watch;

use super::state::State;
use crate::store::{Batch, Store, StoreError, Watch};

/// Most batches that become one state.
const COALESCE: usize = 256;
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Lists everything.
pub(super) async fn listed(store: &dyn Store, previous: &State) -> Result<State, StoreError> {
    Ok(State::from_listing(previous, store.list("").await?))
}

/// Publishes each change until nobody is interested any more.
pub(super) async fn follow(store: Arc<dyn Store>, states: watch::Sender<Arc<State>>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let from = states.borrow().revision;
        let ended = match store.watch("", from).await {
            Ok(watch) => publish_all(watch, &states, &mut pause).await,
            Err(error) => Some(error),
        };
        let Some(error) = ended else { return };
        tracing::warn!(%error, "the watch of the store ended, listing again");
        loop {
            // Also where listing works: a store whose watch fails at once must not be asked without end.
            tokio::select! {
                () = states.closed() => return,
                () = tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            let previous = Arc::clone(&states.borrow());
            match listed(&*store, &previous).await {
                Ok(state) => {
                    states.send_replace(Arc::new(state));
                    break;
                }
                Err(error) => tracing::warn!(%error, "cannot list the store, the last state stays"),
            }
        }
    }
}

/// Publishes until the watch ends; `None` when nobody is interested any more.
async fn publish_all(
    watch: Watch,
    states: &watch::Sender<Arc<State>>,
    pause: &mut Duration,
) -> Option<StoreError> {
    let mut batches = watch.ready_chunks(COALESCE);
    loop {
        let next = tokio::select! {
            () = states.closed() => return None,
            next = batches.next() => next,
        };
        let Some(chunk) = next else {
            return Some(StoreError::Unavailable {
                op: "watch",
                reason: "the stream ended".to_owned(),
            });
        };
        let mut state = State::clone(&states.borrow());
        let before = state.revision;
        let mut error = None;
        for batch in chunk {
            match batch {
                Ok(Batch { events, revision }) => state.apply(events, revision),
                Err(reason) => error = Some(reason),
            }
        }
        if state.revision != before {
            *pause = FIRST_PAUSE;
            states.send_replace(Arc::new(state));
        }
        if error.is_some() {
            return error;
        }
    }
}
