// SPDX-License-Identifier: Apache-2.0
//! What a reader of a message finds: what is invalid ([`Refusal`]), what is not supported ([`Notes`]), and where ([`Place`]).
//!
//! Invariant: a path is put into text only if there is something to tell of it, so that a valid endpoint costs no allocation.

use std::fmt;

use crate::xds::google::protobuf::{Any, BoolValue, Duration, UInt32Value};

/// Most notes of one resource; the others are counted.
const MAX_NOTES: usize = 16;

/// Effect of a field that is as good as absent.
pub(crate) const IGNORED: &str = "ignored";

/// Result of reading a message.
pub(crate) type Read<T> = Result<T, Refusal>;

/// Why a resource is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Path of the field.
    pub(crate) field: String,
    /// What is wrong, and the remedy.
    pub(crate) reason: String,
}

/// A field that nodemesh lacks, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Note {
    pub(crate) field: String,
    pub(crate) effect: &'static str,
}

/// The notes of one resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Notes {
    listed: Vec<Note>,
    omitted: usize,
}

/// A field within a resource.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    parent: Option<&'a Place<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Field(&'a str),
    Index(&'a str, usize),
    Key(&'a str, &'a str),
}

impl Notes {
    /// Notes `field` of `place` with its effect.
    pub(crate) fn add(&mut self, place: Place<'_>, field: &str, effect: &'static str) {
        if self.listed.len() >= MAX_NOTES {
            self.omitted += 1;
            return;
        }
        let field = place.field(field).to_string();
        self.listed.push(Note { field, effect });
    }

    /// Notes those of the fields of `place` that are set: they are ignored.
    pub(crate) fn ignored<const N: usize>(&mut self, place: Place<'_>, fields: [(&str, bool); N]) {
        for (field, is_set) in fields {
            if is_set {
                self.add(place, field, IGNORED);
            }
        }
    }

    /// The notes, with one more that tells how many were left out.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Note> + use<'_> {
        let omitted = (self.omitted > 0).then(|| Note {
            field: format!("and {} more fields", self.omitted),
            effect: IGNORED,
        });
        self.listed.iter().cloned().chain(omitted)
    }
}

impl Place<'_> {
    /// The resource as a whole.
    pub(crate) const ROOT: Self = Self {
        parent: None,
        step: Step::Root,
    };

    /// A field of this one; an empty name is this one itself.
    pub(crate) fn field<'b>(&'b self, name: &'b str) -> Place<'b> {
        self.then(Step::Field(name))
    }

    /// An element of a list of this one.
    pub(crate) fn index<'b>(&'b self, name: &'b str, index: usize) -> Place<'b> {
        self.then(Step::Index(name, index))
    }

    /// An entry of a map of this one; without a name, of this one itself.
    pub(crate) fn key<'b>(&'b self, name: &'b str, key: &'b str) -> Place<'b> {
        self.then(Step::Key(name, key))
    }

    fn then<'b>(&'b self, step: Step<'b>) -> Place<'b> {
        Place {
            parent: Some(self),
            step,
        }
    }

    fn is_below_root(&self) -> bool {
        match self.step {
            Step::Root => false,
            Step::Field("") => self.parent.is_some_and(Self::is_below_root),
            _ => true,
        }
    }

    /// Refuses the resource for what stands here.
    pub(crate) fn refuse<T>(&self, reason: impl fmt::Display) -> Read<T> {
        Err(self.refusal(reason))
    }

    /// The refusal of the resource for what stands here.
    pub(crate) fn refusal(&self, reason: impl fmt::Display) -> Refusal {
        Refusal {
            field: self.to_string(),
            reason: reason.to_string(),
        }
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_inner = match self.parent {
            None => return Ok(()),
            Some(parent) => {
                parent.fmt(f)?;
                parent.is_below_root()
            }
        };
        let dot = if is_inner { "." } else { "" };
        match self.step {
            Step::Root | Step::Field("") => Ok(()),
            Step::Field(name) => write!(f, "{dot}{name}"),
            Step::Index(name, index) => write!(f, "{dot}{name}[{index}]"),
            Step::Key("", key) => write!(f, "[{key:?}]"),
            Step::Key(name, key) => write!(f, "{dot}{name}[{key:?}]"),
        }
    }
}

/// Whether a switch is on.
pub(crate) fn on(switch: Option<BoolValue>) -> bool {
    switch.is_some_and(|switch| switch.value)
}

/// Whether a number is there and not 0.
pub(crate) fn some(number: Option<UInt32Value>) -> bool {
    number.is_some_and(|number| number.value != 0)
}

/// Whether a time is there and not 0, which turns timeouts off.
pub(crate) fn lasts(time: Option<Duration>) -> bool {
    time.is_some_and(|time| time != Duration::default())
}

/// The name of the message in `any`: `envoy.extensions.filters.network.rbac.v3.RBAC`.
pub(crate) fn message_name(any: &Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_read_like_paths() {
        let root = Place::ROOT;
        assert_eq!(root.to_string(), "");
        assert_eq!(root.field("").to_string(), "");
        let chain = root.index("filter_chains", 0);
        let filter = chain.index("filters", 2);
        assert_eq!(
            filter.field("name").to_string(),
            "filter_chains[0].filters[2].name"
        );
        assert_eq!(filter.field("").to_string(), "filter_chains[0].filters[2]");
        assert_eq!(
            filter.field("").field("x").to_string(),
            "filter_chains[0].filters[2].x"
        );
        assert_eq!(
            filter.key("", "rbac").to_string(),
            "filter_chains[0].filters[2][\"rbac\"]"
        );
        assert_eq!(root.key("fields", "a\"b").to_string(), "fields[\"a\\\"b\"]");
    }

    #[test]
    fn a_flood_of_notes_is_counted() {
        let mut notes = Notes::default();
        for _ in 0..MAX_NOTES + 5 {
            notes.add(Place::ROOT, "x", IGNORED);
        }
        let last = notes.iter().last().unwrap();
        assert_eq!(
            (notes.iter().count(), &*last.field),
            (MAX_NOTES + 1, "and 5 more fields")
        );
    }
}
