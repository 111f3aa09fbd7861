// SPDX-License-Identifier: Apache-2.0
//! What every store does: one suite, run against each of them by `embedded::tests` and `etcd::tests`.
//!
//! Invariant: a case uses a store of its own, and nothing but the trait. Other stores may share the server behind it, so revisions
//! grow by any number.

pub(in crate::store) mod leases;
pub(in crate::store) mod transactions;
pub(in crate::store) mod watches;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt as _;

use super::{Batch, Event, Item, Store, StoreError, Watch};

/// Makes a test of each case; `$open` is an async function that makes an empty store, and what it needs to live.
macro_rules! conformance {
    ($open:path: $($module:ident { $($case:ident),* $(,)? })*) => {
        $($(
            #[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                let (store, _alive) = $open().await;
                $crate::store::conformance::$module::$case(store).await;
            }
        )*)*
    };
    ($open:path) => {
        $crate::store::conformance::conformance! { $open:
            transactions {
                what_is_written_is_read,
                a_precondition_that_does_not_hold_stops_all,
                changes_of_a_transaction_share_a_revision,
                deleting_nothing_changes_nothing,
                malformed_transactions_are_refused,
                large_values_and_many_items_come_back,
                no_update_is_lost_between_writers,
            }
            watches {
                a_watch_tells_what_happened_after_its_revision,
                a_watch_hears_its_prefix_alone,
                a_revision_that_is_not_there_yet_is_refused,
                many_watches_of_many_writers_agree,
            }
            leases {
                keys_end_with_their_lease,
                a_renewed_lease_lives_on,
                revoking_deletes_and_tells,
                a_lease_that_is_gone_takes_no_keys,
                a_key_can_leave_its_lease,
                many_leases_are_renewed_at_once,
            }
        }
    };
}
pub(super) use conformance;

/// How long anything may take that is not about leases.
const PATIENCE: Duration = Duration::from_secs(20);

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn next(watch: &mut Watch) -> Result<Batch, StoreError> {
    let next = tokio::time::timeout(PATIENCE, watch.next()).await;
    next.expect("the watch should tell something")
        .expect("the watch should not end")
}

/// The next `count` events.
async fn events(watch: &mut Watch, count: usize) -> Vec<Event> {
    let mut events = Vec::new();
    while events.len() < count {
        let batch = next(watch).await.unwrap();
        assert!(!batch.events.is_empty());
        assert_eq!(Some(batch.revision), batch.events.last().map(Event::revision));
        events.extend(batch.events);
    }
    assert_eq!(events.len(), count, "{events:?}");
    events
}

async fn all(store: &Arc<dyn Store>) -> Vec<Item> {
    store.list("").await.unwrap().items
}

async fn keys(store: &Arc<dyn Store>, prefix: &str) -> Vec<String> {
    let listing = store.list(prefix).await.unwrap();
    listing.items.iter().map(|item| item.key.to_string()).collect()
}
