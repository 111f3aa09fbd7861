// SPDX-License-Identifier: Apache-2.0
//! Where a replica or a node is: region, zone and node.
//!
//! Invariant: a level that is not given is shared with nobody, so what is unknown is taken for far away.

use std::sync::Arc;

use serde_json::Value;

use crate::{
    invalid::{AdmissionProblem, Findings, Problem},
    keyword::Keyword,
    wire,
};

/// Longest name of a region, zone or node, bytes.
const MAX_LENGTH: usize = 253;

/// A place.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Locality {
    /// The region.
    pub region: Option<Arc<str>>,
    /// The zone, within its region.
    pub zone: Option<Arc<str>>,
    /// The node, within its zone.
    pub node: Option<Arc<str>>,
}

/// How near a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LocalityLevel {
    /// On the same node.
    Node,
    /// In the same zone of the same region.
    Zone,
    /// In the same region.
    Region,
}

impl Keyword for LocalityLevel {
    const WORDS: &'static [(Self, &'static str)] = &[
        (Self::Node, "node"),
        (Self::Zone, "zone"),
        (Self::Region, "region"),
    ];
}

impl Locality {
    /// The place with these names, each 1 to 253 printable characters.
    pub fn new(region: Option<&str>, zone: Option<&str>, node: Option<&str>) -> Result<Self, Problem> {
        Ok(Self {
            region: region.map(part).transpose()?,
            zone: zone.map(part).transpose()?,
            node: node.map(part).transpose()?,
        })
    }

    /// Whether both places are the same up to `level`.
    pub fn shares(&self, level: LocalityLevel, other: &Self) -> bool {
        type Name = Option<Arc<str>>;
        let is_same = |own: &Name, other: &Name| own.is_some() && own == other;
        let may_be_same = |own: &Name, other: &Name| own.is_none() || other.is_none() || own == other;
        match level {
            // A node's name is enough, as long as nothing says that another node has it too.
            LocalityLevel::Node => {
                is_same(&self.node, &other.node)
                    && may_be_same(&self.zone, &other.zone)
                    && may_be_same(&self.region, &other.region)
            }
            LocalityLevel::Zone => is_same(&self.zone, &other.zone) && self.region == other.region,
            LocalityLevel::Region => is_same(&self.region, &other.region),
        }
    }

    /// The field that it is read from.
    pub fn to_value(&self) -> Value {
        let levels = [
            ("region", &self.region),
            ("zone", &self.zone),
            ("node", &self.node),
        ];
        let given = levels
            .into_iter()
            .filter_map(|(name, level)| Some((name.to_owned(), (**level.as_ref()?).into())));
        Value::Object(given.collect())
    }

    /// Reads the field `spec.locality`; `None` if it names no level.
    pub(crate) fn read(
        wire: Option<wire::Locality>,
        field: &str,
        findings: &mut Findings,
    ) -> Option<Arc<Self>> {
        let wire = wire?;
        let mut read = |name: &str, text: Option<String>| {
            text.and_then(|text| findings.check(format_args!("{field}.{name}"), part(&text)))
        };
        let locality = Self {
            region: read("region", wire.region),
            zone: read("zone", wire.zone),
            node: read("node", wire.node),
        };
        (locality != Self::default()).then(|| Arc::new(locality))
    }
}

fn part(text: &str) -> Result<Arc<str>, Problem> {
    let is_printable = |char: char| !char.is_control() && !char.is_whitespace();
    if (1..=MAX_LENGTH).contains(&text.len()) && text.chars().all(is_printable) {
        Ok(text.into())
    } else {
        Err(AdmissionProblem::Locality {
            found: text.to_owned(),
        }
        .into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_within_its_region() {
        let place = |region, zone, node| Locality::new(region, zone, node).unwrap();
        let own = place(Some("r"), Some("a"), Some("n"));
        let shared = |other: &Locality| {
            [LocalityLevel::Node, LocalityLevel::Zone, LocalityLevel::Region].map(|l| own.shares(l, other))
        };
        assert_eq!(shared(&own), [true; 3]);
        assert_eq!(
            shared(&place(Some("r"), Some("a"), Some("m"))),
            [false, true, true]
        );
        assert_eq!(shared(&place(Some("s"), Some("a"), None)), [false, false, false]);
        assert_eq!(shared(&place(None, None, Some("n"))), [true, false, false]);
        assert_eq!(
            shared(&place(Some("r"), Some("b"), Some("n"))),
            [false, false, true]
        );
        assert_eq!(
            shared(&place(Some("s"), Some("a"), Some("n"))),
            [false; 3],
            "another cluster's"
        );
        assert_eq!(shared(&place(Some("s"), None, Some("n"))), [false; 3]);
        assert_eq!(shared(&Locality::default()), [false; 3]);
        assert!(
            !Locality::default().shares(LocalityLevel::Node, &Locality::default()),
            "unknown is nowhere"
        );
    }

    #[test]
    fn names_are_printable() {
        assert!(Locality::new(Some("eu west"), None, None).is_err());
        assert!(Locality::new(None, Some(""), None).is_err());
        assert!(Locality::new(None, None, Some(&"n".repeat(MAX_LENGTH + 1))).is_err());
    }
}
