// SPDX-License-Identifier: Apache-2.0
//! Which object an item comes from when several would make one of the same name, or a policy of the same target.
//!
//! Used by `mesh`. Invariant: an item has one owner: a custom resource before an object of the cluster, which is told so.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use serde_json::Value;

use super::{
    super::{
        finding::{Finding, ObjectId, ObjectKind, Reason},
        translate::Translation,
    },
    ItemChange,
};

/// Who wants which items.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// What each object makes.
    made: BTreeMap<ObjectId, BTreeSet<Arc<str>>>,
    /// Items by key, with all who make one: the first is the owner.
    wanted: BTreeMap<Arc<str>, BTreeMap<Rank, Value>>,
    /// Owner and content of each item as it was told.
    settled: BTreeMap<Arc<str>, Bytes>,
}

/// Custom resources come first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank(bool, ObjectId);

impl Rank {
    fn of(id: &ObjectId) -> Self {
        Self(!matches!(id.kind, ObjectKind::Custom(_)), id.clone())
    }
}

impl Claims {
    /// Notes what `id` makes now; adds the keys that may be different to `touched`.
    pub(super) fn claim(
        &mut self,
        id: &ObjectId,
        translation: Translation,
        touched: &mut BTreeSet<Arc<str>>,
    ) {
        if translation.keeps_former {
            return;
        }
        let rank = Rank::of(id);
        let mut made = BTreeSet::new();
        for document in translation.documents {
            let key = document.key();
            let wanted = self.wanted.entry(Arc::clone(&key)).or_default();
            wanted.insert(rank.clone(), document.value);
            touched.insert(Arc::clone(&key));
            made.insert(key);
        }
        let former = if made.is_empty() {
            self.made.remove(id)
        } else {
            self.made.insert(id.clone(), made.clone())
        };
        for key in former.into_iter().flatten().filter(|key| !made.contains(key)) {
            if let Some(wanted) = self.wanted.get_mut(&key) {
                wanted.remove(&rank);
                if wanted.is_empty() {
                    self.wanted.remove(&key);
                }
            }
            touched.insert(key);
        }
    }

    /// Whether `id` makes anything.
    pub(super) fn makes(&self, id: &ObjectId) -> bool {
        self.made.contains_key(id)
    }

    /// Everybody who makes the item `key`.
    pub(super) fn makers(&self, key: &str) -> impl Iterator<Item = &ObjectId> {
        self.wanted
            .get(key)
            .into_iter()
            .flatten()
            .map(|(Rank(_, id), _)| id)
    }

    /// The items that `id` makes and another one owns.
    pub(super) fn conflicts(&self, id: &ObjectId) -> Vec<Finding> {
        let made = self.made.get(id).into_iter().flatten();
        made.filter_map(|key| {
            let owner = self.makers(key).next().filter(|owner| *owner != id)?;
            Some(Finding::new(
                Reason::Conflict,
                format!(
                    "{key}: the custom resource {} says it; delete that to have it from here",
                    owner.name
                ),
            ))
        })
        .collect()
    }

    /// How the item `key` changes, if it does.
    pub(super) fn settle(&mut self, key: &Arc<str>) -> Option<ItemChange> {
        let Some((_, value)) = self.wanted.get(key).and_then(BTreeMap::first_key_value) else {
            self.settled.remove(key)?;
            return Some(ItemChange::Delete(Arc::clone(key)));
        };
        let content = Bytes::from(value.to_string());
        if self.settled.get(key) == Some(&content) {
            return None;
        }
        self.settled.insert(Arc::clone(key), content.clone());
        Some(ItemChange::Put(Arc::clone(key), content))
    }
}
