// SPDX-License-Identifier: Apache-2.0
//! Which object an item comes from when several would make one of the same name, or a policy of the same target.
//!
//! Used by `mesh`. Invariant: an item has one owner: a custom resource before an object of the cluster, which is told so.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;

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
    /// What each object makes: one or two items, as a rule.
    made: BTreeMap<ObjectId, Box<[Arc<str>]>>,
    /// Items by key, with all who make one, in their order: the first is the owner. As text: a tree of values is ten times as large.
    wanted: BTreeMap<Arc<str>, Vec<(Rank, Bytes)>>,
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
        let mut made: Vec<Arc<str>> = Vec::with_capacity(translation.documents.len());
        for document in translation.documents {
            let key = document.key();
            let content = Bytes::from(document.value.to_string().into_boxed_str().into_boxed_bytes());
            self.want(&key, &rank, content);
            touched.insert(Arc::clone(&key));
            made.push(key);
        }
        let former = self.made.remove(id).unwrap_or_default();
        for key in former.into_iter().filter(|key| !made.contains(key)) {
            if let Some(wanted) = self.wanted.get_mut(&key) {
                wanted.retain(|(other, _)| *other != rank);
                if wanted.is_empty() {
                    self.wanted.remove(&key);
                }
            }
            touched.insert(key);
        }
        if !made.is_empty() {
            self.made.insert(id.clone(), made.into());
        }
    }

    fn want(&mut self, key: &Arc<str>, rank: &Rank, content: Bytes) {
        let wanted = self
            .wanted
            .entry(Arc::clone(key))
            .or_insert_with(|| Vec::with_capacity(1));
        match wanted.binary_search_by(|(other, _)| other.cmp(rank)) {
            Ok(position) => wanted[position].1 = content,
            Err(position) => wanted.insert(position, (rank.clone(), content)),
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
        let Some((_, content)) = self.wanted.get(key).and_then(|wanted| wanted.first()) else {
            self.settled.remove(key)?;
            return Some(ItemChange::Delete(Arc::clone(key)));
        };
        if self.settled.get(key) == Some(content) {
            return None;
        }
        self.settled.insert(Arc::clone(key), content.clone());
        Some(ItemChange::Put(Arc::clone(key), content.clone()))
    }
}
