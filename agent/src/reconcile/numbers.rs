// SPDX-License-Identifier: Apache-2.0
//! Numbers that stand for names in the kernel: identities of clients, rows of rules. Used by `admission`.
//!
//! A number outlives the agent: it is in records of connections and keys of counts, so what it stands for is kept in the map
//! `numbers`. Invariants: a number stands for one name at a time; 0 stands for none; a number that was given back is the last to be
//! given out again, since something may still remember it.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
};

use nodemesh_abi::{NumberKey, NumberKind};
use nodemesh_model::desired::name_hash;

/// The numbers of one kind.
#[derive(Debug)]
pub struct Numbers<N> {
    kind: NumberKind,
    capacity: u32,
    by_name: BTreeMap<N, u32>,
    /// What a former agent gave, by the hash of a name that was not asked for yet.
    adopted: HashMap<u64, u32>,
    /// Every number from here on was never given.
    fresh: u32,
    returned: VecDeque<u32>,
    /// Rows of `numbers` to write and to remove.
    news: Vec<(NumberKey, Option<u32>)>,
}

impl<N: Ord + Clone + fmt::Display> Numbers<N> {
    /// The numbers below `capacity` of `kind`, of which a former agent gave those in `rows`.
    pub fn adopt(kind: NumberKind, capacity: u32, rows: &[(NumberKey, u32)]) -> Self {
        let own = rows
            .iter()
            .filter(|(key, number)| key.kind == kind as u32 && (1..capacity).contains(number));
        let mut adopted = HashMap::new();
        let mut by_number: BTreeMap<u32, u64> = BTreeMap::new();
        let mut news = Vec::new();
        for (key, number) in own {
            // Two names of one number cannot be; the one that is found first keeps it.
            if by_number.contains_key(number) {
                news.push((*key, None));
            } else {
                by_number.insert(*number, key.name);
                adopted.insert(key.name, *number);
            }
        }
        let fresh = by_number.last_key_value().map_or(1, |(number, _)| number + 1);
        Self {
            kind,
            capacity,
            by_name: BTreeMap::new(),
            adopted,
            fresh,
            returned: (1..fresh)
                .filter(|number| !by_number.contains_key(number))
                .collect(),
            news,
        }
    }

    /// The number of `name`, given out now if it has none; `None` if there is none left.
    pub fn give(&mut self, name: &N) -> Option<u32> {
        if let Some(number) = self.by_name.get(name) {
            return Some(*number);
        }
        let hash = name_hash(&name.to_string());
        let number = if let Some(number) = self.adopted.remove(&hash) {
            number
        } else {
            let number = self.take()?;
            self.news.push((NumberKey::new(self.kind, hash), Some(number)));
            number
        };
        self.by_name.insert(name.clone(), number);
        Some(number)
    }

    fn take(&mut self) -> Option<u32> {
        if self.fresh < self.capacity {
            self.fresh += 1;
            return Some(self.fresh - 1);
        }
        self.returned.pop_front()
    }

    /// The number of `name`, if it has one.
    pub fn get(&self, name: &N) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    /// Names and numbers.
    pub fn iter(&self) -> impl Iterator<Item = (&N, u32)> {
        self.by_name.iter().map(|(name, number)| (name, *number))
    }

    /// Takes the numbers of all names that `is_wanted` does not want, and those that nobody asked for since a former agent; returns them.
    pub fn retain(&mut self, is_wanted: impl Fn(&N) -> bool) -> Vec<u32> {
        let mut gone = Vec::new();
        self.by_name.retain(|name, number| {
            let wanted = is_wanted(name);
            if !wanted {
                gone.push((name_hash(&name.to_string()), *number));
            }
            wanted
        });
        gone.extend(self.adopted.drain());
        for (hash, number) in &gone {
            self.news.push((NumberKey::new(self.kind, *hash), None));
            self.returned.push_back(*number);
        }
        gone.into_iter().map(|(_, number)| number).collect()
    }

    /// Every number that is given is below this.
    pub fn end(&self) -> u32 {
        self.fresh
    }

    /// How many are given, and how many there are.
    pub fn usage(&self) -> (u32, u32) {
        (
            (self.by_name.len() + self.adopted.len()) as u32,
            self.capacity - 1,
        )
    }

    /// Rows of `numbers` that changed since the last call: written, or removed where there is no number.
    pub fn news(&mut self) -> Vec<(NumberKey, Option<u32>)> {
        std::mem::take(&mut self.news)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(rows: &[(NumberKey, u32)]) -> Numbers<String> {
        Numbers::adopt(NumberKind::Identity, 4, rows)
    }

    fn name(text: &str) -> String {
        text.to_owned()
    }

    #[test]
    fn a_name_keeps_its_number_and_numbers_run_out() {
        let mut numbers = numbers(&[]);
        assert_eq!(
            ["a", "b", "a", "c", "d"].map(|text| numbers.give(&name(text))),
            [Some(1), Some(2), Some(1), Some(3), None]
        );
        assert_eq!(numbers.retain(|text| text != "b"), [2]);
        assert_eq!(numbers.give(&name("d")), Some(2));
    }

    #[test]
    fn the_next_agent_gives_the_same_numbers() {
        let mut former = numbers(&[]);
        former.give(&name("a"));
        former.give(&name("b"));
        former.retain(|text| text == "b");
        let mut rows = BTreeMap::new();
        for (key, number) in former.news() {
            match number {
                Some(number) => rows.insert(key, number),
                None => rows.remove(&key),
            };
        }
        let rows: Vec<_> = rows.into_iter().collect();
        let mut next = numbers(&rows);
        assert_eq!(next.give(&name("b")), Some(2));
        assert_eq!(next.news(), []);
        assert_eq!(next.give(&name("c")), Some(3));
        assert_eq!(next.give(&name("d")), Some(1));
    }

    #[test]
    fn rows_that_no_agent_can_have_written_do_no_harm() {
        let key = |hash| NumberKey::new(NumberKind::Identity, hash);
        let mut numbers = numbers(&[(key(7), 2), (key(8), 2), (key(9), u32::MAX), (key(10), 0)]);
        assert_eq!(numbers.usage(), (1, 3));
        let given = ["a", "b", "c"].map(|text| numbers.give(&name(text)));
        assert_eq!(given, [Some(3), Some(1), None]);
        assert_eq!(numbers.retain(|_| true), [2]);
        assert_eq!(numbers.give(&name("c")), Some(2));
    }
}
