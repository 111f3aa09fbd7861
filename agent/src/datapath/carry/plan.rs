// SPDX-License-Identifier: Apache-2.0
//! What becomes of each map of another version of the ABI. Decided once, from what is pinned and the table of `shapes`.
//!
//! Invariant: the maps that count open connections and flows are taken over together with the records of these, or not at all.

use std::{collections::BTreeMap, io};

use aya_obj::generated::bpf_map_type;
use nodemesh_abi::{ABI_VERSION, names::map};
use tracing::{info, warn};

use crate::datapath::{
    pins::PinRoot,
    shapes::{COUNTS_OF_CONNECTIONS, Door, Layout, SHAPES, Shape, TABLE_OF_FLOWS},
    sys::rows::{Form, Rows},
};

/// What becomes of a map.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Choice {
    /// Both versions use the same one.
    Share,
    /// Its rows are translated.
    Rows(Translation),
    /// The records of sockets are copied, as many bytes as both versions know.
    Records(u32),
    /// It begins anew.
    Anew,
}

/// How a value of the other version becomes one of this.
#[derive(Clone, Copy, Debug)]
pub struct Translation {
    former: Layout,
    /// `None`: both begin alike, what only one has is cut off or zero.
    door: Option<Door>,
}

impl PartialEq for Translation {
    fn eq(&self, other: &Self) -> bool {
        (self.former, self.door.is_some()) == (other.former, other.door.is_some())
    }
}

impl Translation {
    /// The value of this version, of the length that `shape` has.
    pub fn apply(&self, shape: &Shape, value: &[u8]) -> Option<Vec<u8>> {
        if let Some(door) = self.door {
            return door(self.former, value).filter(|value| value.len() == shape.value);
        }
        let mut value = value.to_vec();
        value.resize(shape.value, 0);
        Some(value)
    }
}

/// What becomes of every map that the other version has.
#[derive(Debug)]
pub struct Plan {
    choices: BTreeMap<&'static str, Choice>,
}

impl Plan {
    /// Looks at what is pinned at `former`.
    pub fn new(former: &PinRoot) -> io::Result<Self> {
        let known = former.known_layouts()?;
        let mut choices = BTreeMap::new();
        for shape in SHAPES {
            if let Some(rows) = Rows::pinned(&former.map(shape.name))? {
                let layout = known
                    .get(shape.name)
                    .copied()
                    .or_else(|| untold(shape, former.version()));
                choices.insert(shape.name, choose(shape, rows.form, layout));
            }
        }
        Ok(Self {
            choices: shortcut(together(choices)),
        })
    }

    /// What becomes of a map; `None` if the other version has none of this name.
    pub fn choice(&self, name: &str) -> Option<Choice> {
        self.choices.get(name).copied()
    }

    /// Says in the log what is about to happen.
    pub fn tell(&self, version: u32) {
        let of = |wanted: fn(&Choice) -> bool| {
            let names = self.choices.iter().filter(|(_, choice)| wanted(choice));
            names.map(|(name, _)| *name).collect::<Vec<_>>().join(" ")
        };
        let shared = of(|choice| *choice == Choice::Share);
        let translated = of(|choice| matches!(choice, Choice::Rows(_) | Choice::Records(_)));
        info!(
            from = version,
            to = ABI_VERSION,
            shared,
            translated,
            "taking over from an agent of another ABI"
        );
        let anew = of(|choice| *choice == Choice::Anew);
        if anew.is_empty() {
            return;
        }
        if version > ABI_VERSION {
            warn!(
                maps = anew,
                "the running data path is of ABI {version}, from the future of this agent, which is of ABI {ABI_VERSION} and cannot read \
                 these maps: what is in them begins anew. Open connections live on"
            );
        } else {
            warn!(
                maps = anew,
                "maps of ABI {version} cannot be read by this agent, of ABI {ABI_VERSION}: what is in them begins anew"
            );
        }
    }
}

/// The layout that a map has in a version that did not tell: of one that is older than ours, what ours says of that time.
fn untold(shape: &Shape, version: u32) -> Option<Layout> {
    let Layout { base, since } = shape.layout;
    (version < ABI_VERSION).then(|| Layout {
        base: base.min(version),
        since: since.min(version),
    })
}

fn choose(shape: &Shape, rows: Form, former: Option<Layout>) -> Choice {
    let Some(former) = former else {
        return Choice::Anew;
    };
    let own = shape.layout;
    let is_same_size = (rows.key, rows.value) == (shape.key, shape.value);
    if former == own && is_same_size {
        return Choice::Share;
    }
    if rows.key != shape.key {
        return Choice::Anew;
    }
    let begins_alike = former.base == own.base && former != own;
    if rows.kind == bpf_map_type::BPF_MAP_TYPE_SK_STORAGE as u32 {
        return match shape.name {
            map::CONNECTIONS if begins_alike => Choice::Records(rows.value.min(shape.value) as u32),
            _ => Choice::Anew,
        };
    }
    if !rows.is_readable() {
        return Choice::Anew;
    }
    match shape.door {
        _ if begins_alike => Choice::Rows(Translation { former, door: None }),
        Some(door) if former.base < own.base => Choice::Rows(Translation {
            former,
            door: Some(door),
        }),
        _ => Choice::Anew,
    }
}

/// Lets the records, the flows and what counts them begin anew if one of them does. A version without a packet path has no flows.
fn together(mut choices: BTreeMap<&'static str, Choice>) -> BTreeMap<&'static str, Choice> {
    let group: Vec<&str> = COUNTS_OF_CONNECTIONS
        .into_iter()
        .chain([map::CONNECTIONS])
        .chain(TABLE_OF_FLOWS)
        .collect();
    let is_broken = group.iter().any(|name| match choices.get(name) {
        None => !TABLE_OF_FLOWS.contains(name),
        Some(choice) => *choice == Choice::Anew,
    });
    if is_broken {
        for (_, choice) in choices.iter_mut().filter(|(name, _)| group.contains(*name)) {
            *choice = Choice::Anew;
        }
    }
    choices
}

/// Lets the shortcut begin anew unless both versions can go on with the very maps of its ends and with the records of their connections:
/// what is handed over while rows are copied would be missing in the copies. Sockets that are in the former map stay there until they
/// are closed, and lose nothing.
fn shortcut(mut choices: BTreeMap<&'static str, Choice>) -> BTreeMap<&'static str, Choice> {
    const ENDS: [&str; 3] = [map::SHORT_SOCKS, map::SHORT_ENDS, map::SHORT_OFFERS];
    let goes_on = ENDS.iter().all(|name| choices.get(name) == Some(&Choice::Share))
        && choices.get(map::CONNECTIONS) != Some(&Choice::Anew);
    if !goes_on {
        for (_, choice) in choices.iter_mut().filter(|(name, _)| ENDS.contains(name)) {
            *choice = Choice::Anew;
        }
    }
    choices
}

#[cfg(test)]
mod tests;
